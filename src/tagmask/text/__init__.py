"""Sentences in, token embeddings out: the frozen text encoder of the text-guided methods."""

from __future__ import annotations

from tagmask.text.encoder import TextEncoder, TextSettings

__all__ = ["TextEncoder", "TextSettings"]
