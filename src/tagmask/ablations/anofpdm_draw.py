"""Drawings of what an AnoFPDM walk put aside: Figs. 2 and 3 of Che et al. 2024."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from tagmask.ablations.kinds import Drawing, Scored, Value
from tagmask.drawing.charts import SweepLine, bands, cloud, panel, stack
from tagmask.errors import InputError
from tagmask.scoring.slice_records import read_slices

__all__ = ["SamSlice", "draw_curves", "draw_regions", "draw_sam", "draw_size"]

CURVES = ("M_t", "MSE^h_t", "MSE^0_t")
READS = "test masks, to draw"
REGIONS = {
    "M_t": "M_t",
    "target": "RMS of the SAM",
    "rest of the body": "RMS of the SAM",
    "target / rest": "ratio",
}
"""Curves, and the axis that each is drawn on."""
REGION_SLICES = 200  # as many as the paper's


class SamSlice(NamedTuple):
    """One slice at one step.

    Parameters
    ----------
    peak
        max_t M_t, the largest of its modalities.
    end
        t_e of each modality.
    image, sam, gradient : (S, S) float32
        Means over modalities; `gradient` is (∇ log p(h | x_t))², exact where predictions are not clipped.
    """

    peak: float
    end: tuple[int, ...]
    image: np.ndarray
    sam: np.ndarray
    gradient: np.ndarray


def draw_curves(kind: str, axis: str, scored: Sequence[Scored]) -> Sequence[Drawing]:
    """Draw mean ± sd of the curves over healthy and unhealthy slices (Figs. 2a, 2b).

    Slices of all seeds are taken together. The sd has n - 1; of one slice there is none.
    """
    lines, shown = [], {}
    several = len({one.value for one in scored}) > 1
    groups: dict[tuple[Value, str], list[np.ndarray]] = {}
    for one in scored:
        for record in read_slices(one.evaluation):
            steps, curves = one.seen[record.name, one.seed, one.value]
            groups.setdefault((one.value, "unhealthy" if record.positive else "healthy"), []).append(curves)
    for (w, group), members in sorted(groups.items()):
        table = np.stack(members).astype(float)
        mean = table.mean(axis=0)
        sd = table.std(axis=0, ddof=1) if len(table) > 1 else np.full_like(mean, np.nan)
        for curve, of, by in zip(CURVES, mean, sd, strict=True):
            title = f"{curve}, {group}" + (f", w = {w:g}" if several else "")
            shown[title] = SweepLine(np.asarray(steps), of, of - by, of + by)
            for t, middle, spread in zip(steps, of, by, strict=True):
                head = {"w": w, "t": t, "slices_are": group, "curve": curve}
                lines.append({**head, "mean": middle, "sd": spread, "n": len(table), "reads": READS})
    return [Drawing(kind, bands(shown, x=axis, y="mean over slices"), tuple(lines[0]), lines)]


def draw_size(kind: str, axis: str, scored: Sequence[Scored]) -> Sequence[Drawing]:
    """Draw max_t M_t (of the mean over modalities) over the size of the target, with Pearson's r (Fig. 2d).

    Slices with a target, of the first seed alone: others would count each of them again.

    Raises
    ------
    InputError
        No such slice.
    """
    first = min(one.seed for one in scored)
    points: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    lines: list[dict[str, object]] = []
    for one in (one for one in scored if one.seed == first):
        shown = [r for r in read_slices(one.evaluation) if r.positive]
        found = [(r.name, r.truth_pixels, _peak(one, r.name)) for r in shown]
        if not found:
            raise InputError("no slice shows the target.", where=one.evaluation, repair="Give some that do.")
        x, y = (np.array(column, dtype=float) for column in list(zip(*found, strict=True))[1:])
        r = float(np.corrcoef(x, y)[0, 1]) if np.ptp(x) > 0 and np.ptp(y) > 0 else float("nan")
        points[f"w = {one.value:g}, {len(x):,} slices: r = {r:.3f}"] = (x, y)
        for name, size, peak in found:
            head = {"w": one.value, "slice": name, "truth_pixels": size, "m_max": peak}
            lines.append({**head, "pearson_r": r, "reads": READS})
    return [Drawing(kind, cloud(points, x=axis, y="max M"), tuple(lines[0]), lines)]


def _peak(one: Scored, name: str) -> float:
    curves: np.ndarray = one.seen[name, one.seed, one.value][1]
    return float(curves[0].max())


def draw_regions(kind: str, axis: str, scored: Sequence[Scored]) -> Sequence[Drawing]:
    """Draw M_t and the magnitude of the SAM in target and rest of the body over t / t_e (Fig. 2c).

    Means ± sd (n - 1) over the positive slices with a target and a rest, of the first seed alone; of more than
    200 those whose names have the smallest SHA-256. The ratio is that of each slice, where the rest is not zero.
    The magnitudes are those that `evaluate` writes: root mean square of the SAM's pixels on the scan's own grid.

    Raises
    ------
    InputError
        No such slice.
    """
    first = min(one.seed for one in scored)
    mine = [one for one in scored if one.seed == first]
    names, lines = _drawn(_regions(mine[0])), []
    if not names:
        what, repair = "no slice shows the target within a body.", "Give some that do, with their images."
        raise InputError(what, where=mine[0].evaluation, repair=repair)
    found: dict[str, list[tuple[float, float, float]]] = {curve: [] for curve in REGIONS}
    for one in mine:
        rms = _regions(one)
        there = [name for name in names if (name, first, one.value) in one.seen]  # t within T'
        m = np.array([one.seen[name, first, one.value] for name in there], dtype=float)
        target, rest = np.array([rms[name] for name in there], dtype=float).reshape(-1, 2).T
        ratio = target[rest > 0] / rest[rest > 0]
        for curve, values in zip(REGIONS, (m, target, rest, ratio), strict=True):
            mean = float(values.mean()) if len(values) else float("nan")
            sd = float(values.std(ddof=1)) if len(values) > 1 else float("nan")
            found[curve].append((one.value, mean, sd))
            head = {"t_over_t_e": one.value, "curve": curve}
            lines.append({**head, "mean": mean, "sd": sd, "n": len(values), "reads": READS})
    shown: dict[str, dict[str, SweepLine]] = {}
    for curve, points in found.items():
        x, mean_of, by = np.array(points).T
        shown.setdefault(REGIONS[curve], {})[curve] = SweepLine(x, mean_of, mean_of - by, mean_of + by)
    return [Drawing(kind, stack(shown, x=axis, mark=1.0), tuple(lines[0]), lines)]


def _regions(one: Scored) -> dict[str, tuple[float, float]]:
    """Give (target, rest) by name of the positive slices in which `evaluate` found both."""
    both = {r.name: (r.rms_target, r.rms_rest) for r in read_slices(one.evaluation) if r.positive}
    return {name: pair for name, pair in both.items() if np.isfinite(pair).all()}


def _drawn(names: Iterable[str]) -> list[str]:
    """Draw at most `REGION_SLICES` by their names alone: neither order nor company nor size of target matters."""
    return sorted(names, key=lambda name: hashlib.sha256(name.encode(errors="backslashreplace")).digest())[
        :REGION_SLICES
    ]


def draw_sam(kind: str, axis: str, scored: Sequence[Scored]) -> Sequence[Drawing]:
    """Draw SAMs and squared gradients of the slices with the largest M at each step (Fig. 3).

    Each map has a scale of its own; the CSV says where it ends, and how the SAM of a step scores as a map.
    """
    first = min(one.seed for one in scored)
    mine = [one for one in scored if one.seed == first]
    steps = [one.value for one in mine]
    seen = mine[0].seen
    names = sorted({name for name, seed, _ in seen if seed == first})
    rows, lines = [], []
    for name in names:
        each = [seen[name, first, t] for t in steps]
        image = ("image", each[0].image)
        for what in ("sam", "gradient"):
            tiles = [(f"t = {t:g}", getattr(kept, what)) for t, kept in zip(steps, each, strict=True)]
            rows.append((f"{name}\n{what}", [image, *tiles]))
        for one, kept in zip(mine, each, strict=True):
            cell = next(r for r in one.summary["rows"] if r["row"] == "method")["positives"]["image"]["dice"]
            line: dict[str, object] = {"slice": name, "t": one.value, "t_e": " ".join(map(str, kept.end))}
            for what in ("sam", "gradient"):
                values = getattr(kept, what)
                line |= {
                    f"{what}_min": values.min(),
                    f"{what}_mean": values.mean(),
                    f"{what}_max": values.max(),
                }
            lines.append({**line, "dice_of_step": cell["value"], "reads": READS})
    return [Drawing(kind, panel(rows), tuple(lines[0]), lines)]
