"""Class activation maps of an image classifier: Grad-CAM, Grad-CAM++, Score-CAM and LayerCAM.

Selvaraju et al., "Grad-CAM", ICCV 2017, https://arxiv.org/abs/1610.02391.
Chattopadhay et al., "Grad-CAM++", WACV 2018, https://arxiv.org/abs/1710.11063.
Wang et al., "Score-CAM", CVPR Workshops 2020, https://arxiv.org/abs/1910.01279.
Jiang et al., "LayerCAM", IEEE TIP 2021, https://doi.org/10.1109/TIP.2021.3089943.
Hu et al. 2023 (the CDM paper) compare with all four, with both smoothings. What they leave open, and where the
formulas depart from the common library's: docs/adr/0010-cam-choices.md.

    A_k(u), G_k(u)  ->  a, g    activations of channel k at place u, and ∂S/∂A_k(u) of the class score S
    w_k, M_k, L     ->  w, m, the sum of `weighted` over k
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tagmask.diffusion.noise import gaussian
from tagmask.diffusion.schedule import NoiseSchedule
from tagmask.errors import ConfigError
from tagmask.networks.classifier import Classifier
from tagmask.networks.cnn import CNN
from tagmask.types import ABSENT, PRESENT, Batch, Prediction

__all__ = ["CAM", "CAMSettings", "Kind", "grad_cam", "grad_cam_pp", "layer_cam", "principal", "score_cam"]

Kind = Literal["grad_cam", "grad_cam_pp", "score_cam", "layer_cam"]
BLACK = -1.0


@dataclass(frozen=True)
class CAMSettings:
    """What the four share; which of them it is, is the name under which it runs.

    Parameters
    ----------
    network
        "classifier", the one of noisy images, or "cnn", the one of clean images.
    layer
        Whose activations are read: the last block's as they are "pooled"; the same before the norm that follows
        it, "middle"; or those of the last block of a level, 0, 1, ..., finest first.
    class_score
        S: the "logit" of tag 1, as all four papers take it, or the "margin", that logit less the other one. The
        margin is the log-odds; a logit alone may move where the odds do not.
    aug_smooth
        Average over the slice and its mirror image, each as it is and with 0.9 and 1.1 times the contrast.
    eigen_smooth
        Take the first principal component of the weighted activations instead of their sum.
    step
        t >= 0 of the noise that the classifier of noisy images sees the slice through; 0 is the clean slice.
    batch
        Masked images that go through the network at once. Read by Score-CAM alone; the map does not depend on it.
    """

    network: Literal["classifier", "cnn"] = "classifier"
    layer: Literal["pooled", "middle"] | int = "pooled"
    class_score: Literal["logit", "margin"] = "logit"
    aug_smooth: bool = True
    eigen_smooth: bool = True
    step: int = 0
    batch: int = 64

    def __post_init__(self) -> None:
        if self.step < 0 or (self.network == "cnn" and self.step > 0):
            raise ConfigError(
                f"step = {self.step} and network = {self.network!r}, but a step is at least 0, and a cnn knows "
                "clean images alone.",
                repair='Use step = 0, or network = "classifier".',
            )
        if self.batch < 1:
            raise ConfigError(f"batch = {self.batch}, but it must be at least 1.", repair="Use 64.")


@dataclass(frozen=True)
class CAM:
    """Find the places whose activations speak for tag 1.

    Parameters
    ----------
    network
        p_φ(y | x_t) or p(y | x), as `settings.network` says.
    schedule
        The noise; nothing is drawn from it at step 0.
    kind
        Which of the four.
    settings
        Layer, class score, smoothings.
    """

    network: Classifier | CNN
    schedule: NoiseSchedule
    kind: Kind
    settings: CAMSettings = CAMSettings()

    def __post_init__(self) -> None:
        self.network.layer(self.settings.layer)  # refuses a level that is not there
        if self.settings.step > self.schedule.steps:
            raise ConfigError(
                f"step = {self.settings.step}, but the network was trained with {self.schedule.steps} steps.",
                repair="Use 0, the clean slice.",
            )

    @torch.no_grad()
    def predict(self, batch: Batch, seed: int = 0) -> Prediction:
        """Give the map, in [0, 1] within each slice, and p(tag 1) of the clean slice.

        The map of one slice is scaled by itself, so it says nothing of whether the target is there; `score` does.
        `seed` has an effect with `step` > 0 alone.
        """
        x, step = batch.image, self.settings.step
        noise = gaussian(batch, seed) if step else torch.zeros_like(x)
        maps = []
        for contrast in (1.0, 0.9, 1.1) if self.settings.aug_smooth else (1.0,):
            view = BLACK + contrast * (x - BLACK)
            maps.append(self.map_of(view, noise))
            if self.settings.aug_smooth:
                maps.append(self.map_of(view.flip(-1), noise).flip(-1))
        p = self._logits(x, noise, step=0).softmax(dim=1)[:, PRESENT]
        return Prediction(torch.stack(maps).mean(dim=0), score=p, present=p >= 0.5)

    def map_of(self, x: Tensor, noise: Tensor) -> Tensor:
        """Give the map of images as they are: (B, C, S, S) and their noise -> (B, 1, S, S) in [0, 1]."""
        if self.kind == "score_cam":
            a, _ = self._activations(x, noise)
            weighted = score_cam(a, self._scores(x, a, noise))
        else:
            with torch.enable_grad():
                a, score = self._activations(x, noise)
                (g,) = torch.autograd.grad(score.sum(), a)  # no slice sees another: each has its own gradient
            weighted = WEIGHTED[self.kind](a.detach(), g)
        found = principal(weighted) if self.settings.eigen_smooth else weighted.sum(dim=1, keepdim=True)
        return scaled(_enlarge(scaled(found.relu()), x))

    def _activations(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Give A, cut off from what made it, and S as a function of it: (B, K, h, w) and (B,)."""
        kept: list[Tensor] = []

        def cut(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
            kept.append(output.detach().requires_grad_())
            return kept[-1]

        handle = self.network.layer(self.settings.layer).register_forward_hook(cut)
        try:
            score = self._class_score(x, noise)
        finally:
            handle.remove()
        return kept[0], score

    def _scores(self, x: Tensor, a: Tensor, noise: Tensor) -> Tensor:
        """S of x seen through each M_k, (B, K); -inf where A_k is constant. A baseline would cancel in the softmax."""
        scores = torch.full(a.shape[:2], -torch.inf, device=a.device)
        i, k = (a.amax(dim=(2, 3)) > a.amin(dim=(2, 3))).nonzero(as_tuple=True)
        size = self.settings.batch
        for rows, channels in zip(torch.split(i, size), torch.split(k, size), strict=True):
            m = _enlarge(a[rows, channels][:, None], x)
            low, high = m.amin(dim=(2, 3), keepdim=True), m.amax(dim=(2, 3), keepdim=True)
            m = (m - low) / (high - low).clamp(min=torch.finfo(m.dtype).tiny)
            scores[rows, channels] = self._class_score(BLACK + (x[rows] - BLACK) * m, noise[rows])
        return scores

    def _class_score(self, x: Tensor, noise: Tensor) -> Tensor:
        logits = self._logits(x, noise, step=self.settings.step)
        return logits[:, PRESENT] - (logits[:, ABSENT] if self.settings.class_score == "margin" else 0)

    def _logits(self, x: Tensor, noise: Tensor, *, step: int) -> Tensor:
        """(B, 2) float32 of x at a step; at 0 the noise is not looked at."""
        if self.settings.network == "cnn":
            logits: Tensor = self.network(x)
        else:
            logits = self.network(self.schedule.add_noise(x, step, noise) if step else x, step)
        return logits.float()


def grad_cam(a: Tensor, g: Tensor) -> Tensor:
    """w_k A_k with w_k the mean of G_k (Grad-CAM, Eq. 1).

    Parameters
    ----------
    a, g : (B, K, h, w) float32
        Activations, and the gradient of the class score in them.

    Returns
    -------
    Tensor : (B, K, h, w) float32
        The sum over k is the map, before what is negative is cut off.
    """
    return g.mean(dim=(2, 3), keepdim=True) * a


def grad_cam_pp(a: Tensor, g: Tensor) -> Tensor:
    """w_k A_k with w_k = Σ_u α_k relu(G_k) (Grad-CAM++, Eq. 19); arguments and result as `grad_cam`."""
    denominator = 2 * g**2 + a.sum(dim=(2, 3), keepdim=True) * g**3 + 1e-6
    alpha = torch.where((g != 0) & (denominator != 0), g**2 / denominator, 0)
    return (alpha * g.relu()).sum(dim=(2, 3), keepdim=True) * a


def layer_cam(a: Tensor, g: Tensor) -> Tensor:
    """relu(G_k) A_k, a weight for every place (LayerCAM); arguments and result as `grad_cam`."""
    return g.relu() * a


def score_cam(a: Tensor, scores: Tensor) -> Tensor:
    """w_k A_k with w the softmax of the scores over k (Score-CAM); a score of -inf drops its channel.

    Parameters
    ----------
    a : (B, K, h, w) float32
    scores : (B, K) float32

    Returns
    -------
    Tensor : (B, K, h, w) float32
        Zero where every channel is dropped.
    """
    w = torch.where(scores.isneginf().all(dim=1, keepdim=True), 0, scores.softmax(dim=1))
    return w[:, :, None, None] * a


WEIGHTED: Mapping[Kind, Callable[[Tensor, Tensor], Tensor]] = {
    "grad_cam": grad_cam,
    "grad_cam_pp": grad_cam_pp,
    "layer_cam": layer_cam,
}


def principal(weighted: Tensor) -> Tensor:
    """Eigen-smooth: the places' first principal component, its sign that of the correlation with the sum over k.

    With X the places by channels, columns centred, it is X v of the first right singular vector v, and equals
    λ^½ times the first eigenvector of X Xᵀ. So the smaller of XᵀX and X Xᵀ is taken apart, and no full basis is made.

    Parameters
    ----------
    weighted : (B, K, h, w) float32

    Returns
    -------
    Tensor : (B, 1, h, w) float32
    """
    # float64, since a Gram matrix squares the condition; on the CPU, for not every device has it.
    x = weighted.flatten(2).mT.to("cpu", torch.float64)
    x = x - x.mean(dim=1, keepdim=True)
    places, channels = x.shape[1:]
    if places < channels:
        value, vector = torch.linalg.eigh(x @ x.mT)
        projection = vector[..., -1:] * value[..., -1:, None].clamp(min=0).sqrt()
    else:
        projection = x @ torch.linalg.eigh(x.mT @ x)[1][..., -1:]
    agreement = (projection * x.sum(dim=2, keepdim=True)).sum(dim=1, keepdim=True)
    signed = torch.where(agreement < 0, -projection, projection)
    return signed.reshape(len(x), 1, *weighted.shape[2:]).to(weighted)


def scaled(maps: Tensor) -> Tensor:
    """Bring each map of (B, 1, h, w) to [0, 1]; a constant one to 0."""
    low = maps - maps.amin(dim=(2, 3), keepdim=True)
    return low / (low.amax(dim=(2, 3), keepdim=True) + 1e-7)


def _enlarge(maps: Tensor, x: Tensor) -> Tensor:
    return F.interpolate(maps, x.shape[-2:], mode="bilinear", align_corners=False)
