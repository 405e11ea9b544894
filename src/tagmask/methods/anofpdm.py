"""AnoFPDM: anomaly detection with the forward process of diffusion models.

Y. Che, F. Rafsani, J. Shah, M. M. Rahman Siddiquee, T. Wu, 2024, https://arxiv.org/abs/2404.15683 (v3).
Read beside Sect. 4 and Algorithm 1. Where paper and published code part ways: docs/adr/0008-anofpdm-paper-and-code.md.
Guidance strength, healthy threshold and M_max are chosen by tags in `anofpdm_choice`.

    x_0, x_t, w, T'              ->  batch.image, x, guidance, forward_steps
    ε(x_t, t, h), ε(x_t, t, ∅)   ->  e_h, e_0: the noise under "healthy" and under no condition
    X^h_t, X^0_t                 ->  hgp, ugp: the healthy-guided and the unguided prediction of x_0
    M_t, MSE^h_t, MSE^0_t        ->  m, mse_h, mse_0: one number a slice and modality
    SAM_t, AAM, t_e              ->  sam, maps, end
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from tagmask.diffusion.guidance import classifier_free_guidance
from tagmask.diffusion.noise import gaussian
from tagmask.diffusion.schedule import NoiseSchedule
from tagmask.errors import ConfigError
from tagmask.methods.anofpdm_passage import Gatherer, Passage, Step
from tagmask.methods.anofpdm_settings import AnoFPDMSettings
from tagmask.networks.denoiser import Denoiser
from tagmask.types import ABSENT, Batch, Prediction

__all__ = ["AnoFPDM", "AnoFPDMSettings"]

SLICES_AT_ONCE = 16  # that the stochastic encoding sends through the network unless told otherwise
BACKGROUND = -0.95  # the published code's: a pixel whose mean over channels lies above it is foreground


@dataclass(frozen=True)
class AnoFPDM:
    """Find the pixels that "healthy" would change while the image dissolves in noise, and stop in time.

    Parameters
    ----------
    denoiser, schedule
        ε_θ, trained on slices of both tags with some of the tags hidden, and its schedule.
    settings
        w, T', what was chosen by tags, and the published deviations.

    Raises
    ------
    ConfigError
        More forward steps than the schedule has, or a denoiser to which "healthy" and no condition are one.
    """

    denoiser: Denoiser
    schedule: NoiseSchedule
    settings: AnoFPDMSettings = AnoFPDMSettings()

    def __post_init__(self) -> None:
        top = self.schedule.steps - self.settings.offset
        if self.settings.forward_steps > top:
            raise ConfigError(
                f"forward_steps = {self.settings.forward_steps}, but the network was trained with "
                f"{self.schedule.steps} steps.",
                where="[methods.anofpdm]",
                repair=f"Go at most {top} steps forward.",
            )
        with torch.no_grad():
            if torch.equal(self.denoiser.embed(ABSENT), self.denoiser.embed(None)):
                raise ConfigError(
                    "this denoiser makes no difference between tag 0 and no tag.",
                    where="[methods.anofpdm]",
                    repair="Train one with classes = 2 and label_dropout > 0.",
                )

    @torch.no_grad()
    def predict(self, batch: Batch, seed: int = 0) -> Prediction:
        """Sect. 4: the map, its threshold (Algorithm 1), and whether the slice shows a target at all (Sect. 4.2).

        `threshold` is None while M_max is unknown, `present` while the healthy threshold is; `tagmask tune`
        chooses both. The map needs neither, and is not emptied where the slice looks healthy.
        """
        return self.conclude(self.sweep(batch, seed)[0], batch)

    @torch.no_grad()
    def predict_all(self, batch: Batch, seed: int, settings: Sequence[AnoFPDMSettings]) -> list[Prediction]:
        """Give what `predict` says under each of these settings, from one walk: they differ in `READ_OFF` alone."""
        passages = self._passages(batch, seed, settings)
        return [replace(self, settings=s).conclude(p, batch) for s, p in zip(settings, passages, strict=True)]

    def conclude(self, passage: Passage, batch: Batch) -> Prediction:
        """Give the prediction that follows from a passage of `sweep` through this batch."""
        s, device, similarity = self.settings, passage.maps.device, passage.similarity
        return Prediction(
            score_map=passage.maps.mean(dim=1, keepdim=True),
            threshold=None if s.m_max is None else self._threshold(passage, batch),
            score=(1 - similarity).float().to(device),
            present=None if s.healthy_threshold is None else (similarity <= s.healthy_threshold).to(device),
        )

    def _threshold(self, passage: Passage, batch: Batch) -> Tensor:
        """Algorithm 1, averaged over modalities: (B,) float32."""
        inside = torch.ones_like(batch.image[:, 0], dtype=torch.bool)
        if self.settings.quantile_domain == "foreground":
            inside = batch.image.mean(dim=1) > BACKGROUND
            inside |= ~inside.flatten(1).any(dim=1)[:, None, None]  # nothing but background: all of it
        found = [
            [torch.quantile(aam[pixels], q) for aam, q in zip(maps, levels, strict=True)]
            for maps, levels, pixels in zip(passage.maps, self.quantile(passage.peak), inside, strict=True)
        ]
        return torch.stack([torch.stack(slice_).mean() for slice_ in found])

    def quantile(self, peak: Tensor) -> Tensor:
        """Algorithm 1: which quantile of a map is its threshold; a smaller one where the target is larger.

        Parameters
        ----------
        peak : (B, C) float32
            max_t M_t.

        Returns
        -------
        Tensor : (B, C) float32
            0.98 at M = 0 to 0.90 at M >= M_max.

        Raises
        ------
        ConfigError
            `m_max` has not a value for each modality.
        """
        s, m_max = self.settings, self.settings.m_max or ()
        if len(m_max) != peak.shape[1]:
            raise ConfigError(
                f"m_max has {len(m_max)} values, but {peak.shape[1]} modalities are looked at.",
                where="[methods.anofpdm]",
                repair="Let tagmask tune choose it, or give a value for each.",
            )
        rho = (peak / torch.tensor(m_max, device=peak.device)).clamp(0, 1)
        k = rho.round(decimals=2) * 100 if s.quantile_index == "truncate" else (rho * 100).round()
        return torch.linspace(*s.quantiles, 101, device=peak.device)[k.long()]

    @torch.no_grad()
    def sweep(
        self, batch: Batch, seed: int = 0, weights: Sequence[float] | None = None
    ) -> tuple[Passage, ...]:
        """Walk the forward process once, for any number of guidance strengths.

        The encoding is unguided, so all strengths read the same two noises a step: one more costs no evaluation
        of the network, and its passage is what it would be alone. The sum of the SAMs is kept whenever M exceeds
        its largest value so far, so that memory does not grow with the number of steps.

        Parameters
        ----------
        weights
            Guidance strengths; the one of the settings by default.
        """
        weights = (self.settings.guidance,) if weights is None else weights
        return self._passages(batch, seed, [replace(self.settings, guidance=w) for w in weights])

    def _passages(self, batch: Batch, seed: int, settings: Sequence[AnoFPDMSettings]) -> tuple[Passage, ...]:
        """Walk once, or twice where maps do not end at t_e, for settings that differ in `READ_OFF` alone."""
        x0, weights = self._modalities(batch.image), [s.guidance for s in settings]
        passages = self._gather(batch, seed, weights, [Gatherer(s, x0) for s in settings])
        if self.settings.end_ratio == 1:
            return passages
        ends = [self.last(p.end, s.end_ratio) for s, p in zip(settings, passages, strict=True)]
        known = [Gatherer(s, x0, end) for s, end in zip(settings, ends, strict=True)]
        again = self._gather(batch, seed, weights, known)
        return tuple(replace(p, maps=q.maps) for p, q in zip(passages, again, strict=True))

    @torch.no_grad()
    def ends(self, batch: Batch, seed: int, ratios: Sequence[float]) -> tuple[Passage, ...]:
        """Aggregate up to several multiples of t_e: one walk finds t_e, a second serves every ratio but 1.

        Each passage is what `sweep` gives with this `end_ratio`.
        """
        at_end = replace(self, settings=replace(self.settings, end_ratio=1.0))
        (passage,) = at_end.sweep(batch, seed)
        x0, others = self._modalities(batch.image), [r for r in ratios if r != 1]
        known = [Gatherer(self.settings, x0, self.last(passage.end, r)) for r in others]
        for (step,) in self.trace(batch, seed) if others else ():
            for gatherer in known:
                gatherer.add(step)
        maps = {r: g.passage(passage.guidance).maps for r, g in zip(others, known, strict=True)}
        return tuple(replace(passage, maps=maps.get(r, passage.maps)) for r in ratios)

    def _gather(
        self, batch: Batch, seed: int, weights: Sequence[float], gatherers: Sequence[Gatherer]
    ) -> tuple[Passage, ...]:
        for steps in self.trace(batch, seed, weights):
            for gatherer, step in zip(gatherers, steps, strict=True):
                gatherer.add(step)
        return tuple(g.passage(w) for g, w in zip(gatherers, weights, strict=True))

    def last(self, end: Tensor, ratio: float) -> Tensor:
        """Give the last visited step that is aggregated when t_e is scaled by this ratio; 0 or less: none is.

        Parameters
        ----------
        end : (B, C) int64
            t_e.
        ratio
            Above 0. What lies beyond T' is T'.

        Returns
        -------
        Tensor : (B, C) int64
            Among the steps visited, the one at or before `ratio` t_e, rounded.
        """
        s, out = self.settings, int(self.settings.end_exclusive)
        last = ((end - out) * ratio).round().long().clamp(1 - out, s.steps[-1])
        return 1 + (last - 1).div(s.stride, rounding_mode="floor") * s.stride

    @torch.no_grad()
    def trace(
        self, batch: Batch, seed: int = 0, weights: Sequence[float] | None = None
    ) -> Iterator[tuple[Step, ...]]:
        """Yield what every step shows, one `Step` a guidance strength, and keep nothing.

        All that Figs. 2 to 5 of the paper are drawn from.
        """
        s, x0 = self.settings, self._modalities(batch.image)
        for t, *states in self._encode(batch, seed):
            x, e_h, e_0 = map(self._modalities, states)
            ugp = self._clean(x, t, e_0 if s.ugp == "null" else e_h)  # Eq. 10
            mse_0 = _mean((ugp - x0) ** 2)  # Eq. 16
            steps = []
            for w in (s.guidance,) if weights is None else weights:
                hgp = self._clean(x, t, classifier_free_guidance(e_h, e_0, w))  # Eqs. 6, 7
                shift, error = hgp - ugp, (hgp - x0) ** 2
                sam = error if s.sam == "error" else self._sam(t, w, x, shift)
                steps.append(Step(t, _mean(shift**2), _mean(error), mse_0, sam, shift))  # Eqs. 12, 14
            yield tuple(steps)

    def _modalities(self, x: Tensor) -> Tensor:
        """Give the channels looked at: (B, C, S, S)."""
        chosen, there = self.settings.modalities, x.shape[1]
        if chosen is None:
            return x
        if max(chosen) >= there:
            raise ConfigError(
                f"modalities = {list(chosen)}, but the slices have {there} channels, counted from 0.",
                where="[methods.anofpdm]",
                repair="Name channels that the data was prepared with.",
            )
        return x[:, list(chosen)]

    def _encode(self, batch: Batch, seed: int) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
        """Yield t, x_t, ε(x_t, t, h) and ε(x_t, t, ∅) of every step, the two noises from one batch of 2B."""
        s, q, n = self.settings, self.schedule.add_noise, len(batch)
        if s.encoding == "ddpm":
            chunk = s.chunk or max(1, SLICES_AT_ONCE // n)
            for i in range(0, len(s.steps), chunk):
                ts = s.steps[i : i + chunk]
                x = torch.cat([q(batch.image, t, gaussian(batch, seed, t)) for t in ts])  # Eq. 2
                e_h, e_0 = self._noises(x, torch.tensor(ts, device=x.device).repeat_interleave(n))
                yield from zip(ts, *(each.chunk(len(ts)) for each in (x, e_h, e_0)), strict=True)
            return
        x = batch.image if s.start == "image" else q(batch.image, 1, gaussian(batch, seed))
        e_h, e_0 = self._noises(x, 1)
        yield 1, x, e_h, e_0
        for before, t in pairwise(s.steps):
            if s.offset:  # x under label t, moved to level t + 1, though it is at level t - 1 or t
                null = self.denoiser.embed(None)
                x = self._invert(x, self.denoiser(x, t, null), t, t + 1)
            else:
                x = self._invert(x, e_0, before, t)
            e_h, e_0 = self._noises(x, t)
            yield t, x, e_h, e_0

    def _noises(self, x: Tensor, t: int | Tensor) -> tuple[Tensor, Tensor]:
        """ε under "healthy" and under no condition, from one evaluation."""
        n, f = len(x), self.denoiser.embed
        e = torch.cat([f(ABSENT).expand(n, -1), f(None).expand(n, -1)])
        both = self.denoiser(x.repeat(2, 1, 1, 1), t.repeat(2) if isinstance(t, Tensor) else t, e)
        return both[:n], both[n:]

    def _invert(self, x: Tensor, eps: Tensor, t: int, s: int) -> Tensor:
        """Eq. 4: from step t to the noisier step s."""
        return self.schedule.ddim(x, self.schedule.clip(x, t, eps) if self.settings.clip else eps, t, s)

    def _clean(self, x: Tensor, t: int, eps: Tensor) -> Tensor:
        """Eq. 2 solved for x_0."""
        x0 = self.schedule.clean(x, t, eps)
        return x0.clamp(-1, 1) if self.settings.clip else x0

    def _sam(self, t: int, w: float, x: Tensor, shift: Tensor) -> Tensor:
        """Eq. 19, of X^h - X^0 as it is or of the bare gradient."""
        return (shift if self.settings.sam == "weighted" else shift / self.gradient_weight(t, w, x)) ** 2

    def gradient_weight(self, t: int, w: float, like: Tensor) -> Tensor:
        """What the bare gradient is multiplied by in X^h - X^0: (1 + w) B_t (Eqs. 8 and 11)."""
        signal, sigma = self.schedule.signal_noise(t, like)
        return (1 + w if self.settings.ugp == "null" else w) * sigma**2 / signal


def _mean(squares: Tensor) -> Tensor:
    """Mean over the pixels of each modality: (B, C)."""
    return squares.mean(dim=(2, 3))
