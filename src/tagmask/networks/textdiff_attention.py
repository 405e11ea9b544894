"""How TextDiff's features and a sentence meet: Eq. 3, the published block around it, and what ablations have instead.

C.-M. Feng, TextDiff, MICCAI 2024, Sect. 2.2 and 3.2; docs/adr/0014-textdiff-paper-and-code.md.

    h_z, t̂, H_z         ->  h, text, what `forward` gives
    W_q, W_k, W_v, d    ->  w_q, w_k, w_v, head_width

Every way reads the sentence once a picture (`read`) and then meets the pixels of each scale z (`forward`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tagmask.types import TextTokens

__all__ = ["CrossAttention", "EquationThree", "Fusion", "MeanToken", "SharedBlock"]

KeysValues = tuple[Tensor, Tensor, Tensor]


class CrossAttention(nn.Module):
    """Softmax(h W_q (t̂ W_k)ᵀ / √d) t̂ W_v of every pixel (Eq. 3), with several heads and a linear map behind.

    Parameters
    ----------
    width, text_width
        Channels of h and of t̂.
    heads, head_width
        How many heads, and d of each.
    """

    def __init__(self, width: int, text_width: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.w_q = nn.Linear(width, heads * head_width, bias=False)
        self.w_k = nn.Linear(text_width, heads * head_width, bias=False)
        self.w_v = nn.Linear(text_width, heads * head_width, bias=False)
        self.out = nn.Linear(heads * head_width, width)

    def read(self, text: TextTokens) -> KeysValues:
        """Give t̂ W_k and t̂ W_v of every head (B, heads, L, d), and which tokens count (B, 1, 1, L)."""
        k, v = (self._parted(layer(text.embedding)) for layer in (self.w_k, self.w_v))
        return k, v, text.mask[:, None, None]

    def forward(self, h: Tensor, said: KeysValues) -> Tensor:
        """Give what each pixel of h (B, N, width) takes from the sentence: (B, N, width)."""
        k, v, counts = said
        tokens, d = k.shape[2:]
        if tokens > d:
            taken = F.scaled_dot_product_attention(self._parted(self.w_q(h)), k, v, attn_mask=counts)
            return self.out(taken.transpose(1, 2).flatten(2))
        # A sentence is short: W_q (t̂ W_k)ᵀ and (t̂ W_v) W_out are smaller than W_q and W_out, so they are
        # multiplied first, once for all pixels. The same products, in another order.
        w_q = self.w_q.weight.reshape(self.heads, d, -1)
        w_out = self.out.weight.reshape(-1, self.heads, d)
        asked = torch.einsum("bnld,ndw->bwnl", k, w_q).flatten(2) / d**0.5
        scores = (h @ asked).reshape(*h.shape[:2], self.heads, tokens).masked_fill(~counts, -torch.inf)
        answers = torch.einsum("bnld,wnd->bnlw", v, w_out).flatten(1, 2)
        return scores.softmax(dim=-1).flatten(2) @ answers + self.out.bias

    def _parted(self, x: Tensor) -> Tensor:
        """(B, L, heads * d) -> (B, heads, L, d)."""
        return x.reshape(*x.shape[:2], self.heads, -1).transpose(1, 2)


class Fusion(nn.Module, ABC):
    """A way for features and a sentence to meet."""

    @abstractmethod
    def read(self, text: TextTokens) -> Any:
        """Give what `forward` wants to know of the sentences, for all scales at once."""

    @abstractmethod
    def forward(self, h: Tensor, said: Any, z: int) -> Tensor:
        """Give H_z (B, N, width) for the N pixels h (B, N, C) of scale z."""


class SharedBlock(Fusion):
    """M_cro as the code has it, one for all scales: attentions, then a feed-forward layer, each with a residual.

    Without attentions it is the paper's ζ1. It never turns into attention among the pixels.

    Parameters
    ----------
    attentions
        Published: 2. The norm inside their residual is published too.
    """

    def __init__(self, width: int, text_width: int, heads: int, head_width: int, *, attentions: int) -> None:
        super().__init__()
        self.before = nn.ModuleList(nn.LayerNorm(width) for _ in range(attentions))
        self.attend = nn.ModuleList(
            CrossAttention(width, text_width, heads, head_width) for _ in range(attentions)
        )
        self.after = nn.ModuleList(nn.LayerNorm(width) for _ in range(attentions))
        self.feed = _feed(width)

    def read(self, text: TextTokens) -> tuple[KeysValues, ...]:
        """Give keys and values of each attention."""
        return tuple(cast(CrossAttention, attend).read(text) for attend in self.attend)

    def forward(self, h: Tensor, said: tuple[KeysValues, ...], z: int) -> Tensor:
        """Give H_z; every z is treated alike."""
        for before, attend, after, words in zip(self.before, self.attend, self.after, said, strict=True):
            h = h + after(attend(before(h), words))
        return h + self.feed(h)


class MeanToken(Fusion):
    """The paper's ζ2: the mean of the tokens that count joins every pixel of every scale; then the feed-forward layer.

    Parameters
    ----------
    concat
        Join by a linear map of both side by side, instead of adding a linear map of the token.
    """

    def __init__(self, width: int, text_width: int, *, concat: bool) -> None:
        super().__init__()
        self.concat = concat
        self.join = nn.Linear(text_width + width * concat, width)
        self.feed = _feed(width)

    def read(self, text: TextTokens) -> Tensor:
        """Give the mean token (B, 1, text_width)."""
        counts = text.mask[:, :, None].to(text.embedding.dtype)
        return (text.embedding * counts).sum(dim=1, keepdim=True) / counts.sum(dim=1, keepdim=True)

    def forward(self, h: Tensor, said: Tensor, z: int) -> Tensor:
        """Give H_z; every z is treated alike."""
        both = torch.cat([h, said.expand(-1, h.shape[1], -1)], dim=2) if self.concat else said
        h = self.join(both) if self.concat else h + self.join(both)
        return h + self.feed(h)


class EquationThree(Fusion):
    """Eq. 3 as printed: one head, no norm, no residual, and W_q, W_k, W_v of each scale's own.

    Parameters
    ----------
    widths
        C_z of each scale: h comes as the backbone gives it.
    """

    def __init__(self, widths: tuple[int, ...], width: int, text_width: int) -> None:
        super().__init__()
        self.w_q = nn.ModuleList(nn.Linear(c, width, bias=False) for c in widths)
        self.w_k = nn.ModuleList(nn.Linear(text_width, width, bias=False) for _ in widths)
        self.w_v = nn.ModuleList(nn.Linear(text_width, width, bias=False) for _ in widths)

    def read(self, text: TextTokens) -> tuple[KeysValues, ...]:
        """Give keys and values of each scale."""
        t = text.embedding
        return tuple((k(t), v(t), text.mask[:, None]) for k, v in zip(self.w_k, self.w_v, strict=True))

    def forward(self, h: Tensor, said: tuple[KeysValues, ...], z: int) -> Tensor:
        """Give H_z."""
        k, v, counts = said[z]
        return F.scaled_dot_product_attention(self.w_q[z](h), k, v, attn_mask=counts)


def _feed(width: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(width), nn.GELU(), nn.Linear(width, width))
