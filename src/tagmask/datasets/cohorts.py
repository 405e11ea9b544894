"""From a folder and the name of its data set, or from a table, to the rows that are prepared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tagmask.data.cohort import Problem, random_splits
from tagmask.data.table import TAG, Case, read_table
from tagmask.datasets.layouts import Listing
from tagmask.datasets.registry import meant, not_found
from tagmask.datasets.settings import DatasetSettings
from tagmask.datasets.splits import RULES, by_file, by_rule
from tagmask.datasets.tables import check_paths
from tagmask.datasets.tags import Each, TagSettings, tag_slices
from tagmask.errors import ConfigError, InputError
from tagmask.grids import Plane

__all__ = ["Cohort", "SplitShares", "open_cohort"]


@dataclass(frozen=True)
class SplitShares:
    """Shares and seed of splits that are drawn."""

    val: float = 0.15
    test: float = 0.2
    seed: int = 0


@dataclass(frozen=True)
class Cohort:
    """Rows that are ready to be prepared.

    Parameters
    ----------
    cases
        As `read_table` gives them; with a split each, unless the table has none.
    tag
        The column of the tag.
    mask_labels
        Values of masks that are the target; None is all above 0.
    from_masks
        Whether the tags were taken from masks.
    listed
        Whether the rows were made from a folder's files, and stand in no table yet.
    failed, warnings
        Cases left out, and doubts.
    split_seed
        The seed, if the splits were drawn.
    origin
        For the record: data set, release, target, modalities, splits.
    note
        The same in a sentence.
    """

    cases: list[Case]
    tag: str = TAG
    mask_labels: tuple[int, ...] | None = None
    from_masks: bool = False
    listed: bool = False
    failed: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()
    split_seed: int | None = None
    origin: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""

    def record(self, *, supervised: bool) -> dict[str, Any]:
        """Give what settings.json says of it."""
        read = supervised or self.from_masks
        labels = list(self.mask_labels) if read and self.mask_labels is not None else None
        found: dict[str, Any] = {"mask_labels": labels, "drawn": self.split_seed}
        if self.from_masks:
            found["tags_from"] = "masks"
        if self.origin:
            found["origin"] = dict(self.origin)
        return found


def open_cohort(
    source: Path,
    dataset: DatasetSettings | None,
    *,
    plane: Plane,
    preset: str | None = None,
    tag: str = TAG,
    mask_labels: tuple[int, ...] | None = None,
    shares: SplitShares = SplitShares(),
    each: Each[Case, list[Case] | Problem] = map,
) -> Cohort:
    """Turn a table or a data set's folder into rows with splits.

    Parameters
    ----------
    source
        A table as for `read_table`; a data set's folder as it was unpacked, or some levels above.
    dataset
        Which, and what of it; None for a table.
    plane
        Of the slices that are tagged.
    preset
        For the record.
    tag
        The column of the tag, in a table.
    mask_labels
        Values of masks that are the target, instead of those of `dataset.target`.
    shares
        For splits that are drawn.
    each
        How to go through cases, as `map`.

    Raises
    ------
    InputError
        The folder holds something else, or nothing that could be used.
    TableError
        A table or split file that cannot be used.
    """
    if dataset is not None and dataset.dataset.find(source) is None:
        raise not_found(dataset.name, source)
    if dataset is not None and dataset.dataset.lists and tag != TAG:
        raise ConfigError(f"{dataset.name} has no column {tag!r}.", where="tag", repair="Use dataset.target.")
    if dataset is not None and dataset.tags_from_masks:
        cohort = _converted(source, dataset, plane, mask_labels, shares, each)
    elif dataset is not None and dataset.dataset.pictures is not None:
        found = dataset.dataset.pictures(source)
        check_paths(found.cases)
        cohort = Cohort(
            list(found.cases),
            mask_labels=mask_labels,
            listed=True,
            failed=found.refused,
            warnings=found.skipped,
            origin={"dataset": dataset.name, "layout": found.layout},
            note=f"{found.layout}: splits and texts are its own; every picture counts as one that shows the target.",
        )
    else:
        if dataset is not None:
            tag = dataset.aim.tag if tag == TAG else tag
            mask_labels = dataset.aim.labels if mask_labels is None else mask_labels
        origin = {} if dataset is None else {"dataset": dataset.name}
        try:
            cases = read_table(source, tag=tag)
        except InputError as error:
            raise (meant(source, error) if dataset is None and source.is_dir() else error) from None
        cohort = Cohort(cases, tag, mask_labels, origin=origin)
    if preset is not None:
        cohort = replace(cohort, origin={**cohort.origin, "preset": preset})
    if all(case.split is None for case in cohort.cases):
        drawn = random_splits(cohort.cases, val=shares.val, test=shares.test, seed=shares.seed)
        cohort = replace(cohort, cases=drawn, split_seed=shares.seed)
    return cohort


def _converted(
    folder: Path,
    dataset: DatasetSettings,
    plane: Plane,
    mask_labels: tuple[int, ...] | None,
    shares: SplitShares,
    each: Each[Case, list[Case] | Problem],
) -> Cohort:
    """Give the slices of a data set without tags, tagged by its masks."""
    list_cases, modalities = dataset.dataset.cases, dataset.modalities or dataset.dataset.modalities
    assert list_cases is not None
    found = list_cases(folder, modalities)
    check_paths(found.cases)
    volumes, doubts, splits = _split(found, dataset, shares)
    labels = dataset.aim.labels if mask_labels is None else mask_labels
    settings = TagSettings(plane, labels, dataset.min_area_frac or 0.0, dataset.area_of or "slice")
    rows, failed, dropped = tag_slices(volumes, settings, each)
    failed = [*found.refused, *failed]
    if not rows:
        first = next(iter([*failed, *found.skipped]), "the split file leaves all out")
        raise InputError(f"No case of {found.layout} can be used. The first problem: {first}", where=folder)
    target = dataset.target or next(iter(dataset.dataset.targets))
    return Cohort(
        cases=rows,
        mask_labels=labels,
        from_masks=True,
        listed=True,
        failed=tuple(failed),
        warnings=(*found.skipped, *doubts, *dropped),
        split_seed=shares.seed if splits == "drawn" else None,
        origin={
            "dataset": dataset.name,
            "layout": found.layout,
            "target": target,
            "modalities": list(modalities),
            "splits": splits,
            "min_area_frac": settings.min_area_frac,
            "area_of": settings.area_of,
        },
        note=f"{found.layout}: tags of {target} are from the segmentations, splits: {splits}.",
    )


def _split(
    found: Listing, dataset: DatasetSettings, shares: SplitShares
) -> tuple[list[Case], list[Problem], str]:
    """Give the cases with their splits, doubts about them, and what the splits are called."""
    rule = dataset.splits or dataset.dataset.splits
    if rule == "drawn":
        drawn = random_splits(found.cases, val=shares.val, test=shares.test, seed=shares.seed)
        return drawn, [], "drawn"
    if rule in RULES:
        fold = dataset.fold or 1
        splits = by_rule(str(rule), found.patients, fold)
        name = f"{rule}, fold {fold}" if rule == "cdm-chaos" else str(rule)
        return [replace(case, split=splits[case.patient]) for case in found.cases], [], name
    if not Path(rule).is_file():
        raise ConfigError(
            f"{str(rule)!r} is neither a rule nor a file.",
            where="dataset.splits",
            repair=f"Use {', '.join(RULES)}, or a CSV file with the columns patient and split.",
        )
    cases, doubts = by_file(Path(rule), found.cases)
    return cases, doubts, f"of {Path(rule).name}"
