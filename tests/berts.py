"""A BERT of two layers and a few words, on the disk as it is distributed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

WORDS = (
    "the",
    "nuclei",
    "density",
    "in",
    "upper",
    "lower",
    "left",
    "right",
    "is",
    "high",
    "lung",
    "##s",
    ".",
)
POSITIONS = 16


def write_bert(folder: Path, **changes: Any) -> Path:
    """Save it by transformers from its pretraining form; its width is 8."""
    from transformers import BertConfig, BertForPreTraining
    from transformers.utils import logging

    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    config = BertConfig(
        **{
            "vocab_size": len(vocabulary),
            "hidden_size": 8,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 16,
            "max_position_embeddings": POSITIONS,
            **changes,
        }
    )
    torch.manual_seed(0)
    model = BertForPreTraining(config)
    for weight in model.parameters():  # initialised so small that all sentences would look alike
        weight.data.normal_(0, 0.5)
    logging.disable_progress_bar()
    model.save_pretrained(folder)
    logging.enable_progress_bar()
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True}))
    return folder
