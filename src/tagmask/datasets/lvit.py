"""Pictures with a sentence and a mask each, in the layout of LViT (Li et al., IEEE TMI 2023): three sets.

    Train_Folder/img/TCGA-18-5592-01Z-00-DX1.tif         the picture (also Val_Folder, Test_Folder)
    Train_Folder/labelcol/TCGA-18-5592-01Z-00-DX1.png    its mask
    Train_Folder/Train_text.xlsx                         columns Image, the name of the MASK, and Description

In QaTa-COV19 the mask of covid_1.png is mask_covid_1.png. One Train_Val_text.xlsx may serve two splits. The
splits are the data set's own, and every picture shows the target: so nothing has to be opened to tag it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tagmask.data.cohort import Problem
from tagmask.data.table import SPLITS, Case
from tagmask.data.xlsx import read_sheet
from tagmask.datasets.layouts import Listing, folders, listing
from tagmask.errors import InputError, TableError
from tagmask.io import case_files, stem

__all__ = ["LAYOUT", "find_lvit", "list_lvit"]

LAYOUT = "{Train,Val,Test}_Folder/ with img/, labelcol/ and {Train,Val,Test}_text.xlsx"
_DEPTH = 3
_IMAGE, _TEXT = "Image", "Description"


@dataclass(frozen=True)
class _Kind:
    """One of the sets: its title, how it is told from the others, and who the person of a picture is."""

    title: str
    person: re.Pattern[str]


_KINDS = {
    "monuseg": _Kind("MoNuSeg, with LViT's texts", re.compile(r"TCGA-\w\w-\w{4}")),
    "qata-cov19": _Kind("QaTa-COV19, with LViT's texts", re.compile(r"sub-[^_]+")),
    "mosmeddata": _Kind("MosMedData+, with LViT's texts", re.compile(r"(?:Jun|Morozov)_.+(?=_\d)")),
}


def find_lvit(folder: Path, name: str) -> str | None:
    """Tell whether a folder holds one of the sets: "monuseg", "qata-cov19" or "mosmeddata"."""
    found = _roots(folder, name)
    return _KINDS[name].title if found else None


def list_lvit(folder: Path, name: str) -> Listing:
    """List the pictures below a folder, with their splits and texts.

    A description of no picture and a picture without a description are told in `skipped`; the picture stays,
    without a text.

    Raises
    ------
    InputError
        No picture, the set twice, a picture twice, or a table that is about other pictures altogether.
    TableError
        A table that cannot be used, or two descriptions of one picture.
    ResourceError
        A table that would unpack to more than is allowed.
    """
    roots = _roots(folder, name)
    if len(roots) != 1:
        what = (
            "No case was found." if not roots else f"The set is there {len(roots)} times, also in {roots[1]}."
        )
        raise InputError(what, where=folder, repair="Give the folder that holds Train_Folder.")
    root, kind = roots[0], _KINDS[name]
    pictures = {split: _pictures(root, split) for split in SPLITS}
    texts, problems = _texts(root, pictures)
    cases = [_case(path, split, root, texts.get(path)) for split in SPLITS for path in pictures[split]]
    cases, shared = _with_persons(cases, kind.person)
    if shared:
        what = (
            f"{len(shared)} persons are in two splits, as {', '.join(shared[:3])}: the published splits are of "
            "pictures and are kept, so that a test is not of unknown persons alone."
        )
        problems.append(Problem("warning", "", str(root), what, "Say so beside the figures."))
    return listing(kind.title, [(case.patient, case) for case in cases], problems)


def _roots(folder: Path, name: str) -> list[Path]:
    found = folders(folder, lambda p: any(_home(p, split, "img").is_dir() for split in SPLITS), _DEPTH)
    return [root for root in found if _kind(root) == name]


def _home(root: Path, split: str, *parts: str) -> Path:
    return Path(root, f"{split.capitalize()}_Folder", *parts)


def _kind(root: Path) -> str | None:
    """Tell the set by the names of a picture and a mask."""
    for split in SPLITS:
        image, mask = (next(iter(_files(_home(root, split, part))), None) for part in ("img", "labelcol"))
        if mask is not None and mask.name.startswith("mask_"):
            return "qata-cov19"
        if image is not None:
            return "monuseg" if image.name.startswith("TCGA-") else "mosmeddata"
    return None


def _files(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError:
        return []


def _pictures(root: Path, split: str) -> list[Path]:
    folder = _home(root, split, "img")
    return case_files(folder) if _files(folder) else []


def _aliases(image: Path) -> tuple[str, ...]:
    """Give what the mask of a picture may be called, which is also what a table calls the picture."""
    name, bare = image.name, stem(image)
    return f"mask_{name}", f"mask_{bare}.png", f"{bare}.png", name


def _case(image: Path, split: str, root: Path, text: str | None) -> Case:
    masks = (_home(root, split, "labelcol", alias) for alias in _aliases(image))
    mask = next((path for path in masks if path.is_file()), None)
    name = stem(image)
    return Case(name, name, (image,), label=1, patient=name, text=text, split=split, mask=mask, source=root)


def _with_persons(cases: Iterable[Case], person: re.Pattern[str]) -> tuple[list[Case], list[str]]:
    """Name the person of each picture; those in two splits are left unnamed and given as well."""
    known = [(case, found[0] if (found := person.match(case.id)) else case.id) for case in cases]
    splits: dict[str, set[str | None]] = {}
    for case, name in known:
        splits.setdefault(name, set()).add(case.split)
    shared = sorted(name for name, where in splits.items() if len(where) > 1)
    return [case if name in shared else replace(case, patient=name) for case, name in known], shared


def _texts(root: Path, pictures: Mapping[str, Sequence[Path]]) -> tuple[dict[Path, str], list[Problem]]:
    """Read the tables of all splits: texts by picture, and what is doubtful."""
    texts: dict[Path, str] = {}
    problems: list[Problem] = []
    served: dict[Path, list[Path]] = {}
    for split in SPLITS:
        if not pictures[split]:
            continue
        table = next((path for path in _tables(root, split) if path.is_file()), None)
        if table is None:
            what = f"There are no texts for {split}: no {split.capitalize()}_text.xlsx."
            problems.append(Problem("warning", "", str(_home(root, split)), what, "Fetch it."))
        else:
            served.setdefault(table, []).extend(pictures[split])
    for table, images in served.items():
        found, strange = _read(table, images)
        texts.update(found)
        silent = [image.name for image in images if image not in found]
        for names, what in (
            (strange, "descriptions are of no picture here"),
            (silent, "pictures have no description"),
        ):
            if names:
                shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
                text = f"{len(names)} {what}: {shown}."
                problems.append(
                    Problem("warning", "", str(table), text, "Compare the names with the masks'.")
                )
    return texts, problems


def _tables(root: Path, split: str) -> list[Path]:
    """List where the table of a split may lie."""
    both = ["Train_Val_text.xlsx"] if split in ("train", "val") else []
    homes = (_home(root, split), root, _home(root, "train"))
    return [home / name for name in (f"{split.capitalize()}_text.xlsx", *both) for home in homes]


def _read(table: Path, images: Sequence[Path]) -> tuple[dict[Path, str], list[str]]:
    """Give the texts of a table by picture, and the names it has of no picture."""
    by_alias = {alias: image for image in reversed(images) for alias in _aliases(image)}
    texts: dict[Path, str] = {}
    rows: dict[Path, int] = {}
    strange, known = [], False
    for number, fields in read_sheet(table, (_IMAGE, _TEXT)):
        image, text = by_alias.get(fields[_IMAGE]), fields[_TEXT]
        known = known or image is not None
        if image is None:
            strange.append(fields[_IMAGE] or f"row {number}")
        elif text and texts.setdefault(image, text) != text:
            raise TableError(
                f"{fields[_IMAGE]} has two descriptions, also in row {rows[image]}.",
                where=f"{table}, row {number}",
                repair="Find out which is of another picture, and delete it.",
            )
        elif text:
            rows.setdefault(image, number)
    if not known:
        first = f"; the first is of {strange[0]}" if strange else ""
        raise InputError(
            f"None of its {len(strange)} descriptions is of a picture here{first}.",
            where=table,
            repair="Put the table of these pictures there.",
        )
    return texts, strange
