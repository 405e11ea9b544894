"""GLoRIA's pretraining: pictures and sentences of a pair are drawn together, as wholes and region by word.

S.-C. Huang, L. Shen, M. P. Lungren, S. Yeung, "GLoRIA: a multimodal global-local representation learning framework for
label-efficient medical image recognition", ICCV 2021, https://doi.org/10.1109/ICCV48922.2021.00391. No mask is read.
`load_encoder` hands what `GloriaPair` has learnt to the segmenter. Where paper and published code part ways:
docs/adr/0015-rivals-of-textdiff.md.

    v_g, v_l, t_g, t_l  ->  picture, regions, sentence, words        a_ij, c_i  ->  attention, seen
    τ1, τ2, τ3          ->  tau1, tau2, tau3, all of them factors    Z          ->  match
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tagmask.errors import ConfigError, RunError
from tagmask.networks.adm_checkpoint import fill
from tagmask.networks.checks import check_image
from tagmask.networks.gloria import Encoder, Gloria, check_encoder
from tagmask.types import TextTokens

__all__ = ["GloriaPair", "GloriaPairSettings", "global_loss", "load_encoder", "local_loss"]


@dataclass(frozen=True)
class GloriaPairSettings:
    """The shape of the network that learns from pairs; `size` to `blocks` as in `GloriaSettings`.

    Parameters
    ----------
    text_width
        W, the width of the text encoder's tokens.
    joint
        Width of the space in which pictures and texts meet.
    tau1, tau2, tau3
        How sharply a word looks for its place, how much the best word of a sentence counts, and how sharply pairs are
        told apart; all > 0.
    convention
        "code" or "formula"; see `local_loss`.
    """

    size: int = 224
    channels: int = 3
    width: int = 64
    blocks: tuple[int, int, int, int] = (3, 4, 6, 3)
    text_width: int = 768
    joint: int = 768
    tau1: float = 4.0
    tau2: float = 5.0
    tau3: float = 10.0
    convention: Literal["code", "formula"] = "code"

    def __post_init__(self) -> None:
        check_encoder(
            "gloria_pair", size=self.size, channels=self.channels, width=self.width, blocks=self.blocks
        )
        for name in ("text_width", "joint"):
            if (value := getattr(self, name)) < 1:
                raise ConfigError(
                    f"gloria_pair.{name} = {value}, but it must be at least 1.", repair=f"Set {name}."
                )
        for name, usual in (("tau1", 4), ("tau2", 5), ("tau3", 10)):
            if (value := getattr(self, name)) <= 0:
                raise ConfigError(
                    f"gloria_pair.{name} = {value}, but it must be positive.",
                    repair=f"The paper has {usual}.",
                )

    @property
    def reads_text(self) -> bool:
        """It learns from sentences."""
        return True


class GloriaPair(nn.Module):
    """Encoder of pictures and projections of words, learnt from pairs by `forward`, which gives the loss.

    Parameters
    ----------
    settings : GloriaPairSettings

    Examples
    --------
    >>> net = GloriaPair(GloriaPairSettings(size=32, width=4, blocks=(1, 1, 1, 1), text_width=6, joint=8))
    >>> text = TextTokens(torch.randn(3, 5, 6), torch.ones(3, 5, dtype=torch.bool))
    >>> net(torch.randn(3, 3, 32, 32), text).shape
    torch.Size([])
    """

    def __init__(self, settings: GloriaPairSettings) -> None:
        super().__init__()
        self.settings = s = settings
        self.encoder = Encoder(s.channels, s.width, s.blocks)
        *_, local, last = self.encoder.widths
        self.picture = nn.Linear(last, s.joint)
        self.regions = nn.Conv2d(local, s.joint, 1, bias=False)
        self.sentence = nn.Linear(s.text_width, s.joint)
        self.words = nn.Linear(s.text_width, s.joint)

    def forward(self, x: Tensor, text: TextTokens) -> Tensor:
        """Give the loss: both losses, both ways. Pictures without a sentence are left out.

        Parameters
        ----------
        x : (B, C, S, S) float
            Images, in [-1, 1].
        text : B sentences of width W

        Returns
        -------
        () float32

        Raises
        ------
        ConfigError
            If x or the text has another shape than the settings say, or fewer than two pictures have a sentence.
        """
        s = self.settings
        check_image("gloria_pair", x, s.channels, s.size)
        if text.embedding.shape[::2] != (len(x), s.text_width):
            raise ConfigError(
                f"{len(x)} pictures need as many sentences of width {s.text_width}, not {len(text)} of width "
                f"{text.embedding.shape[2]}.",
                repair="Set gloria_pair.text_width to the text encoder's.",
            )
        told = text.mask.any(dim=1)
        if told.sum() < 2:
            raise ConfigError(
                f"{int(told.sum())} of {len(x)} pictures have a sentence, but pairs are told apart from others.",
                repair="Train with a batch of at least 2 pictures with text.",
            )
        picture, regions = self.embed_pictures(x[told])
        sentence, words = self.embed_texts(text[told])
        taus = (s.tau1, s.tau2, s.tau3)
        local = local_loss(regions, words, text.mask[told], *taus, convention=s.convention)
        return global_loss(picture, sentence, s.tau3) + local

    def embed_pictures(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Give v_g (B, joint) and v_l (B, R, joint), a vector for each of R = (S / 16)² regions, rows first."""
        *_, local, last = self.encoder(x)
        regions = self.regions(local).flatten(2).transpose(1, 2)
        return self.picture(last.mean(dim=(2, 3))).float(), regions.float()

    def embed_texts(self, text: TextTokens) -> tuple[Tensor, Tensor]:
        """Give t_g (B, joint), from the mean of the words that count, and t_l (B, L, joint)."""
        counts = text.mask[..., None].to(text.embedding.dtype)
        mean = (text.embedding * counts).sum(dim=1) / counts.sum(dim=1).clamp(min=1)
        return self.sentence(mean).float(), self.words(text.embedding).float()


def global_loss(picture: Tensor, sentence: Tensor, tau3: float = 10.0) -> Tensor:
    """-log p(its own sentence | picture) - log p(its own picture | sentence), mean over pairs.

    Parameters
    ----------
    picture, sentence : (B, D) float
        v_g and t_g; row k of one belongs to row k of the other. Their lengths do not matter.

    Returns
    -------
    () of their dtype; 2 log B if nothing is told apart.
    """
    return _both_ways(tau3 * F.normalize(picture, dim=1) @ F.normalize(sentence, dim=1).T)


def local_loss(
    regions: Tensor,
    words: Tensor,
    mask: Tensor,
    tau1: float = 4.0,
    tau2: float = 5.0,
    tau3: float = 10.0,
    *,
    convention: Literal["code", "formula"] = "code",
) -> Tensor:
    """Tell pairs apart by whether a picture has, for each word, regions that look like it.

    Parameters
    ----------
    regions : (B, R, D) float
        v_l, of each picture.
    words : (B, L, D) float
        t_l, of each sentence.
    mask : (B, L) bool
        Which words count; at least one in each sentence.
    convention
        "formula": a_ij = softmax over regions of τ1 t_i·v_j, and Z = 1/τ2 log Σ_i exp(τ2 cos(c_i, t_i)), which is the
        paper's with its temperatures written as factors. "code": what the authors' code computes, and what their
        values of τ are for; t_i·v_j first goes through a softmax over the words, so that τ1 multiplies a number
        in [0, 1], and Z is not divided by τ2.

    Returns
    -------
    () of their dtype: the sum of both ways, each the mean over pairs.
    """
    counts = mask[None, :, :, None]  # dimensions: picture b, sentence s, word i, region j
    scores = torch.einsum("sid,bjd->bsij", words, regions)
    if convention == "code":
        scores = scores.masked_fill(~counts, -torch.inf).softmax(dim=2)
    attention = (tau1 * scores).softmax(dim=3)  # a_ij
    seen = torch.einsum("bsij,bjd->bsid", attention, regions)  # c_i
    likeness = tau2 * F.cosine_similarity(seen, words[None], dim=3)
    match = likeness.masked_fill(~mask[None], -torch.inf).logsumexp(dim=2)  # Z
    return _both_ways(tau3 * match / (tau2 if convention == "formula" else 1))


def _both_ways(scores: Tensor) -> Tensor:
    """Cross-entropy of the diagonal of (B, B) scores, over rows and over columns."""
    pairs = torch.arange(len(scores), device=scores.device)
    return F.cross_entropy(scores, pairs) + F.cross_entropy(scores.T, pairs)


def load_encoder(net: Gloria, state: Mapping[str, Tensor], *, where: object = "") -> None:
    """Give a segmenter the encoder that a `GloriaPair` has learnt; its decoder stays as it is.

    Parameters
    ----------
    net
        Changed in place.
    state
        The tensors of a `GloriaPair`, by name.
    where
        The file they come from, for messages.

    Raises
    ------
    RunError
        If a tensor is unknown, missing, of another shape, or not finite. The message names it; `net` is as it was.
    """
    projections = ("picture.weight", "picture.bias", "regions.weight", "sentence.weight", "sentence.bias")
    encoder = {}
    for name, tensor in state.items():
        if name.startswith("encoder."):
            encoder[name.removeprefix("encoder.")] = tensor
        elif name not in (*projections, "words.weight", "words.bias"):
            raise RunError(
                f"the tensor {name} belongs to no layer of a gloria_pair.",
                where=where,
                repair="Give the weights of a gloria_pair.",
            )
    s = net.settings
    with torch.device("meta"):
        checked = Encoder(s.channels, s.width, s.blocks)
    fill(checked, encoder, where=where)
    net.encoder.load_state_dict(checked.state_dict())
