"""Which images there are and what is known of them: a CSV file, a folder per split, or a folder of images.

A table has the columns `id` and `image`, and usually `label`, the tag. Optional are `patient`, `slice`,
`text`, `split` and `mask`; other columns are left alone. A row is a slice, or a whole volume where `slice` is
empty.
Nothing here opens an image or a mask.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tagmask.data.csv_rows import read_rows
from tagmask.errors import InputError, TableError
from tagmask.io import case_files, stem

__all__ = ["SPLITS", "TAG", "Case", "alike", "by_study", "read_inputs", "read_table"]

SPLITS = ("train", "val", "test")
TAG = "label"
"""The column of the tag, unless another is named."""
_LABELS = "labels.csv"
_TABLES = (".csv", ".tsv", ".txt")
_TAGS = {"": None, "0": 0, "1": 1, "0.0": 0, "1.0": 1}
_WHOLE = re.compile(r"(\d{1,9})(\.0+)?", re.ASCII)


@dataclass(frozen=True)
class Case:
    """One row: a slice, a picture, or a whole volume.

    Parameters
    ----------
    id
        As in the table; unique.
    study
        Name of the image, shared by the rows of one volume: its file's name without the suffix. It names the
        results.
    images
        One file or DICOM folder for each channel. Whether they exist is not checked here.
    slice
        Index along the slice axis of the file, from 0; for pictures, the order within the patient. None: the
        row is about the whole image.
    label
        The tag: 1 target present, 0 absent, None not known.
    patient
        The study where the table does not say.
    text, split, mask
        As in the table; None where it does not say. No split name is refused here.
    row, source
        Number of the row as a spreadsheet counts it, the header being row 1, and the table; 0 and the folder that was
        listed for images without a table.
    named
        Whether the table names the patient.
    """

    id: str
    study: str
    images: tuple[Path, ...]
    slice: int | None = None
    label: int | None = None
    patient: str = ""
    text: str | None = None
    split: str | None = None
    mask: Path | None = None
    row: int = 0
    source: Path = Path()
    named: bool = False

    @property
    def where(self) -> str:
        """Where a person finds the row, for messages."""
        return f"{self.source}, row {self.row}" if self.row else str(self.images[0])


def read_table(path: str | os.PathLike[str], *, tag: str = TAG, needed: bool = True) -> list[Case]:
    r"""List the cases of a table or folder, in its order.

    Parameters
    ----------
    path
        A CSV file (comma, semicolon or tab; a byte order mark and any line ends are accepted), a folder with
        labels.csv, a folder with <split>/labels.csv for each split, a folder with images in train, val and
        test, or a folder of images. Image and mask paths are relative to their CSV; several channels are
        joined with ";".
    tag
        The column that holds the tag: 0, 1 or empty.
    needed
        Whether a table without a column of that name is refused, if it is not `TAG`.

    Returns
    -------
    list of Case
        At least one. Cases of folders without a CSV have no tag.

    Raises
    ------
    InputError
        Nothing there that could be listed.
    TableError
        A table that is not one, or a row that contradicts itself or another; the message has its number.

    Examples
    --------
    >>> import tempfile
    >>> table = Path(tempfile.mkdtemp()) / "table.csv"
    >>> _ = table.write_text("id,image,label\na,scans/a.nii.gz,1\n")
    >>> [(case.id, case.study, case.label) for case in read_table(table)]
    [('a', 'a', 1)]
    """
    path = Path(path)
    if path.is_dir():
        cases, root = _read_folder(path, tag, needed), path
    else:
        cases, root = list(_read_csv(path, tag, needed)), path.parent
    _refuse_twins(cases)
    cases = _named(cases, root)
    _check_studies(cases)
    return cases


def read_inputs(path: str | os.PathLike[str], *, tag: str = TAG, needed: bool = True) -> list[Case]:
    """List the cases of a table or folder, or the one case of an image file or DICOM folder.

    Parameters
    ----------
    path, tag, needed
        As in :func:`read_table`; a file whose name does not end in .csv, .tsv or .txt is an image.

    Raises
    ------
    InputError, TableError
        As :func:`read_table`.
    """
    path = Path(path)
    if path.is_dir() or path.suffix.lower() in _TABLES:
        return read_table(path, tag=tag, needed=needed)
    if not os.path.lexists(path):
        raise InputError("There is no such file or folder.", where=path, repair="Check the path.")
    return [_image_case(path, None, path.parent)]


def by_study(cases: Iterable[Case]) -> dict[str, list[Case]]:
    """Group the rows of one image, in order of appearance, so that each file is read once."""
    groups: dict[str, list[Case]] = {}
    for case in cases:
        groups.setdefault(case.study, []).append(case)
    return groups


def _read_folder(folder: Path, tag: str, needed: bool) -> list[Case]:
    if (folder / _LABELS).is_file():
        return list(_read_csv(folder / _LABELS, tag, needed))
    tables = sorted(folder.glob(f"*/{_LABELS}"))
    if tables:
        return [
            replace(case, split=_agreed_split(case, table.parent.name))
            for table in tables
            for case in _read_csv(table, tag, needed)
        ]
    parts = [folder / name for name in SPLITS if (folder / name).is_dir()]
    return [
        _image_case(image, part.name if parts else None, folder)
        for part in parts or [folder]
        for image in case_files(part / "images" if (part / "images").is_dir() else part)
    ]


def _agreed_split(case: Case, folder: str) -> str:
    if case.split not in (None, folder):
        raise TableError(
            f"The split is {case.split!r}, but the table lies in the folder {folder!r}.",
            where=case.where,
            repair="Empty the column split, or move the row to its folder's table.",
        )
    return folder


def _image_case(path: Path, split: str | None, source: Path) -> Case:
    name = stem(path)
    return Case(name, name, (path,), patient=name, split=split, source=source)


def _read_csv(path: Path, tag: str, needed: bool) -> Iterator[Case]:
    columns = ("id", "image", *([tag] if needed and tag != TAG else []))
    for number, fields in read_rows(path, columns):
        yield _case(fields, path, number, tag)


def _case(fields: dict[str, str], path: Path, number: int, tag: str) -> Case:
    where = f"{path}, row {number}"
    images = tuple(path.parent / part.strip() for part in fields["image"].split(";") if part.strip())
    for column, given in (("id", fields["id"]), ("image", images)):
        if not given:
            raise TableError(f"The {column} is empty.", where=where, repair="Fill it in, or delete the row.")
    label, index = fields.get(tag, ""), fields.get("slice", "")
    if label not in _TAGS:
        raise TableError(
            f"The tag is {label!r} (column {tag}).", where=where, repair="Use 0, 1, or leave it empty."
        )
    whole = _WHOLE.fullmatch(index)
    if index and whole is None:
        raise TableError(
            f"The slice is {index!r}.", where=where, repair="Give its index in the file, counted from 0."
        )
    return Case(
        id=fields["id"],
        study=stem(images[0]),
        images=images,
        slice=int(whole[1]) if whole else None,
        label=_TAGS[label],
        patient=fields.get("patient", ""),
        named=bool(fields.get("patient")),
        text=fields.get("text") or None,
        split=fields.get("split") or None,
        mask=path.parent / fields["mask"] if fields.get("mask") else None,
        row=number,
        source=path,
    )


def alike(name: str) -> str:
    """Give what a disk or a careless eye sees of a name: two spellings that agree here are one."""
    return unicodedata.normalize("NFC", name).casefold()


def _refuse_twins(cases: Sequence[Case]) -> None:
    """Refuse ids that are the same, or differ in case alone."""
    seen: dict[str, Case] = {}
    for case in cases:
        if not case.row:  # named after its image, and kept apart with it
            continue
        first = seen.setdefault(alike(case.id), case)
        if first is not case:
            what = "used twice" if first.id == case.id else f"too like {first.id!r}"
            raise TableError(
                f"The id {case.id!r} is {what} ({first.where}).",
                where=case.where,
                repair="Rename one of the two.",
            )


def _named(cases: list[Case], root: Path) -> list[Case]:
    """Give each image a name of its own: the stem, else the path below `root`, else that with the suffix."""
    names = {case.images: stem(case.images[0]) for case in cases}

    def path_name(images: tuple[Path, ...]) -> str:
        # Results under a name that begins with a dot would be hidden; "." is the root itself.
        name = Path(os.path.relpath(images[0], root)).as_posix().replace("/", "_").lstrip("._")
        return name or names[images]

    for rename in (lambda images: stem(path_name(images)), path_name):
        count = Counter(alike(name) for name in names.values())
        names = {
            images: name if count[alike(name)] == 1 else rename(images) for images, name in names.items()
        }
    return [_renamed(case, names[case.images]) for case in cases]


def _renamed(case: Case, name: str) -> Case:
    id_ = case.id if case.row else name
    patient = case.patient if case.row and case.patient else name
    return replace(case, study=name, id=id_, patient=patient)


def _check_studies(cases: Sequence[Case]) -> None:
    """Refuse rows of one image that contradict each other, and two images under one name."""
    spelled: dict[str, Case] = {}
    for rows in by_study(cases).values():
        first, slices = rows[0], set[int | None]()
        clash = spelled.setdefault(alike(first.study), first)
        if clash is not first:
            raise TableError(
                f"The image would be called {first.study!r}, too like that of {clash.where}.",
                where=first.where,
                repair="Rename one of the two files.",
            )
        for case in rows:
            for name in ("images", "patient", "split", "mask"):
                if getattr(case, name) != getattr(first, name):
                    raise TableError(
                        f"The {name} differs from that of {first.where}, which is about the same image "
                        f"({first.study}).",
                        where=case.where,
                        repair="Make the rows of one image agree.",
                    )
            if case.slice in slices or (case.slice is None) != (first.slice is None):
                about = "the whole image" if case.slice is None else f"slice {case.slice}"
                raise TableError(
                    f"The row is about {about} of {first.study}, as another row is already.",
                    where=case.where,
                    repair="Keep one row for each slice, or one for the whole image.",
                )
            slices.add(case.slice)
