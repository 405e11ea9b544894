"""TextDiff: a sentence tells the frozen features of a diffusion model what to look for.

C.-M. Feng, "Enhancing label-efficient medical image segmentation with text-guided diffusion models", MICCAI 2024,
https://arxiv.org/abs/2407.05323. Read beside Sect. 2, with `textdiff_attention` for Eq. 3; where the paper and its
published code part ways: docs/adr/0014-textdiff-paper-and-code.md.

    x, t̂ = E_Te(t)      ->  x, text         the picture, and its sentence's tokens from a frozen encoder
    h_z                 ->  h               features of decoder block z, all its steps t side by side
    M_cro, H_z          ->  fuse, fused     cross-modal attention, and what it gives
    H                   ->  gather          never held: its part of each scale z goes into the first convolution
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from tagmask.errors import ConfigError, InputError
from tagmask.networks.head import FeatureHead, HeadSettings, initialise, upsampled_convolution
from tagmask.networks.norms import Norm, check_norm, norm_layer
from tagmask.networks.textdiff_attention import EquationThree, Fusion, MeanToken, SharedBlock
from tagmask.types import TextTokens

__all__ = ["TextDiff", "TextDiffSettings", "dice_on_logits"]

_CHOICES = {
    "text": ("cross", "mean", "none"),
    "join": ("add", "concat"),
    "block": ("published", "paper_minimal"),
    "projections": ("shared", "each"),
}


@dataclass(frozen=True)
class TextDiffSettings(HeadSettings):
    """The head: as published, then its ablations, then what sentences need in practice.

    Parameters
    ----------
    features
        The backbone, its blocks and steps.
    feature_channels
        C_z, the channels of the features of every block. Empty until `resolved` has asked the backbone.
    size, channels
        S and C of the picture.
    text_width
        Width of the text encoder's tokens: 768 for Clinical BioBERT, 384 for MiniLM.
    width
        Channels to which the features of every block are brought.
    heads, head_width
        Of the attention; d = head_width.
    decoder
        Channels of the pixel classifier's hidden 3 x 3 convolutions.
    text
        "cross": the paper's cross-modal attention. "mean": its ζ2, the mean token, through a linear map, joins the
        features of every block. "none": its ζ1, no text.
    join
        How the mean token does so: "add", or "concat" and a linear map back to `width`. Read by "mean" alone.
    block
        "published": the code's block, two attentions and a feed-forward layer with norms and residuals, one for all
        scales. "paper_minimal": Eq. 3 to the letter, one head, each scale with its own W_q, W_k and W_v.
    projections
        Who brings features to `width`: "shared", one layer for the first block and one for all later, as published;
        "each", a layer for each block. Blocks that have that width need none.
    norm
        Of the decoder: "batch" as published, "instance" or "group". With batches of one picture, as published, "batch"
        learns with the picture's own statistics and answers with running ones, and "instance" takes away what is the
        same at every pixel of a channel; see `tagmask.networks.norms.norm_layer`.
    null_text
        Keep a learnt token for pictures without a text. Off as published.
    """

    text_width: int = 768
    width: int = 768
    heads: int = 8
    head_width: int = 64
    decoder: tuple[int, int] = (128, 32)
    text: Literal["cross", "mean", "none"] = "cross"
    join: Literal["add", "concat"] = "add"
    block: Literal["published", "paper_minimal"] = "published"
    projections: Literal["shared", "each"] = "shared"
    norm: Norm = "batch"
    null_text: bool = False

    section: ClassVar[str] = "textdiff"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_positive("text_width", "width", "heads", "head_width", "decoder")
        for name, allowed in _CHOICES.items():
            if (chosen := getattr(self, name)) not in allowed:
                raise ConfigError(
                    f'textdiff.{name} = "{chosen}".', repair=f"Use one of {', '.join(allowed)}."
                )
        check_norm("textdiff", self.norm, self.size)
        if self.block == "paper_minimal" and self.text != "cross":
            raise ConfigError(
                f'textdiff.block = "paper_minimal" with text = "{self.text}", but that block is nothing but attention.',
                repair='Use block = "published".',
            )
        if self.null_text and self.text == "none":
            raise ConfigError(
                'textdiff.null_text = true with text = "none", but a head that reads no text misses none.',
                repair="Leave null_text out.",
            )
        later = {c for c in self.feature_channels[1:] if c != self.width}
        if self.projections == "shared" and self.block == "published" and len(later) > 1:
            raise ConfigError(
                f"textdiff.feature_channels = {list(self.feature_channels)}, but the published head has one "
                "projection for all blocks after the first.",
                repair='Set textdiff.projections = "each", or choose blocks of equal width.',
            )

    @property
    def reads_text(self) -> bool:
        """Whether a sentence can change the answer."""
        return self.text != "none"


class TextDiff(FeatureHead):
    """Pixel logits of the target, from frozen features and a sentence.

    Parameters
    ----------
    settings : TextDiffSettings
        Resolved: the features' channels are known.

    Notes
    -----
    As published there are two output channels, background and target; what is given is their difference, whose
    sigmoid is the softmax's probability of the target. Memory grows with pixels times tokens, never with pixels
    times pixels.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tagmask.networks.features import FeatureSettings
    >>> features = FeatureSettings(Path("denoiser.safetensors"), blocks=(2, 3))
    >>> head = TextDiff(TextDiffSettings(features, (12, 8), width=8, text_width=5, decoder=(4, 4)))
    >>> sentence = TextTokens(torch.zeros(1, 3, 5), torch.ones(1, 3, dtype=torch.bool))
    >>> head.decode([torch.zeros(1, 12, 4, 4), torch.zeros(1, 8, 8, 8)], 16, sentence).shape
    torch.Size([1, 1, 16, 16])
    """

    settings: TextDiffSettings

    def __init__(self, settings: TextDiffSettings) -> None:
        super().__init__(settings)
        s = self.settings
        self.fuse, self.down = _fusion(s), nn.ModuleDict()
        for z, channels in enumerate(s.feature_channels):
            if channels != s.width and s.block == "published" and self._layer(z) not in self.down:
                self.down[self._layer(z)] = nn.Conv2d(channels, s.width, 1)
        first, second = s.decoder
        self.gather = nn.Conv2d(len(s.feature_channels) * s.width, first, 3, padding=1)
        self.classify = nn.Sequential(
            norm_layer(s.norm, first), nn.ReLU(),
            nn.Conv2d(first, second, 3, padding=1), norm_layer(s.norm, second), nn.ReLU(),
            nn.Conv2d(second, 2, 3, padding=1),
        )  # fmt: skip
        initialise(self)
        # Channels last, as the features lie: a training step takes two thirds of the time.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.null = nn.Parameter(0.02 * torch.randn(s.text_width)) if s.null_text else None

    def decode(self, features: Sequence[Tensor], size: int, text: TextTokens | None = None) -> Tensor:
        """Give the logit of every pixel from features that were kept.

        Parameters
        ----------
        features : one (B, C_z, s_z, s_z) float32 for each block
        size
            S.
        text : TextTokens, optional

        Returns
        -------
        (B, 1, S, S), dtype of the features.

        Raises
        ------
        ConfigError
            Features or tokens of other channels than the head was built for.
        InputError
            A picture without a text, where no `null_text` was learnt.
        """
        z = self.class_logits(features, size, text)
        return (z[:, 1:] - z[:, :1]).to(features[0].dtype)

    def class_logits(self, features: Sequence[Tensor], size: int, text: TextTokens | None = None) -> Tensor:
        """Give both logits, background and target, (B, 2, S, S); the arguments are those of `decode`."""
        self.check_features(features)
        said = self.fuse.read(self._tokens(text, features[0])) if self.settings.reads_text else ()
        # The convolution of the concatenated scales is the sum of the convolutions of each.
        weights = self.gather.weight.chunk(len(features), dim=1)
        total = cast(Tensor, self.gather.bias)[:, None, None]
        for z, (h, weight) in enumerate(zip(features, weights, strict=True)):
            if h.shape[1] != self.settings.width and self.down:
                h = self.down[self._layer(z)](h)
            fused = self.fuse(h.flatten(2).transpose(1, 2), said, z)  # H_z, Eq. 3
            fused = fused.transpose(1, 2).unflatten(2, h.shape[-2:])
            total = total + upsampled_convolution(fused, weight, size)
        return self.classify(total)

    def _layer(self, z: int) -> str:
        """Name the projection of block z."""
        return str(min(z, 1) if self.settings.projections == "shared" else z)

    def _tokens(self, text: TextTokens | None, like: Tensor) -> TextTokens:
        """Give a sentence for every picture; one without a text says the null token."""
        count, width = len(like), self.settings.text_width
        if text is None:
            nothing = like.new_zeros(count, 0, width)
            text = TextTokens(nothing, nothing[:, :, 0].bool())
        if len(text) != count or text.embedding.shape[-1] != width:
            raise ConfigError(
                f"{count} pictures came with {len(text)} sentences of tokens of width {text.embedding.shape[-1]}, but "
                f"this textdiff reads one sentence a picture, of width {width}.",
                repair="Set textdiff.text_width to the width of the text encoder that [text] names.",
            )
        silent = ~text.mask.any(dim=1, keepdim=True)
        if self.null is None:
            if bool(silent.any()):
                rows = silent[:, 0].nonzero()[:, 0].tolist()
                raise InputError(
                    f"{len(rows)} of {count} pictures have no text (the first is number {rows[0]} of its batch), and "
                    "this textdiff was not trained to do without.",
                    repair="Give each picture a text, or train with textdiff.null_text = true and text_dropout > 0.",
                )
            return text
        null = self.null.expand(count, 1, -1)
        return TextTokens(torch.cat([null, text.embedding], dim=1), torch.cat([silent, text.mask], dim=1))


def _fusion(s: TextDiffSettings) -> Fusion:
    if s.block == "paper_minimal":
        return EquationThree(s.feature_channels, s.width, s.text_width)
    if s.text == "mean":
        return MeanToken(s.width, s.text_width, concat=s.join == "concat")
    attentions = 2 if s.text == "cross" else 0
    return SharedBlock(s.width, s.text_width, s.heads, s.head_width, attentions=attentions)


def dice_on_logits(logits: Tensor, mask: Tensor) -> Tensor:
    """The published Dice term: raw logits in the place of probabilities, squares below, the mean of both classes.

    It lies in [0, 2] and is least where the logits are the one-hot mask itself, so it pulls against the
    cross-entropy, which wants them far apart. The published loss adds 1.5 of it; `decode`'s difference of logits
    does not determine it, so it takes `class_logits`.

    Parameters
    ----------
    logits : (B, 2, S, S) float
        Background, target.
    mask : (B, 1, S, S) float in {0, 1}

    Returns
    -------
    Tensor : (), dtype of the logits.

    Examples
    --------
    >>> mask = torch.tensor([[[[0.0, 1.0]]]])
    >>> float(dice_on_logits(torch.cat([1 - mask, mask], dim=1), mask))
    0.0
    """
    z, y = logits, torch.cat([1 - mask, mask], dim=1).to(logits.dtype)
    over, smooth = (0, 2, 3), 1e-5
    shared, sizes = (z * y).sum(dim=over), (z * z).sum(dim=over) + (y * y).sum(dim=over)
    return (1 - (2 * shared + smooth) / (sizes + smooth)).mean()
