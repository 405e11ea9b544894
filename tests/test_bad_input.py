"""The battery of bad input, end to end: corrupted files, bombs, geometry, grey values, cohorts.

Whatever is wrong with a file: the others are done, the message names case, file, fault and repair, nothing is
written by half, and nobody sees a traceback.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import hashlib
import inspect
import io
import itertools
import json
import logging
import re
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tagmask.cli import main
from tagmask.io import read_mask, read_scores, read_study
from tests.io.files import AFFINE, nifti_bytes, png_bytes, save_dicom, save_series, slice_dataset
from tests.random_run import write_run

SIDE = 16


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


def tagmask(*arguments: object) -> Outcome:
    """Run the command line in this process."""
    log = logging.getLogger("tagmask")
    before = log.handlers[:], log.level
    out, err = io.StringIO(), io.StringIO()
    try:
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            pytest.raises(SystemExit) as leaving,
        ):
            main([str(argument) for argument in arguments])
    finally:
        log.handlers[:], log.level = before
    assert isinstance(leaving.value.code, int)
    return Outcome(leaving.value.code, out.getvalue(), err.getvalue())


def files(folder: Path) -> set[str]:
    """Every file below a folder, hidden ones too: a temporary file that is left would be seen."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def noise(seed: int, shape: tuple[int, ...] = (SIDE, SIDE)) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 255, shape).astype(np.uint8)


def picture(path: Path, array: np.ndarray, mode: str | None = None, **options: Any) -> Path:
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def changed(data: bytes, place: int) -> bytes:
    """Turn one byte over; places count from the end where negative."""
    array = bytearray(data)
    array[place] ^= 0xFF
    return bytes(array)


def nifti(seed: int = 0, shape: tuple[int, ...] = (6, 7, 3), **fields: Any) -> bytes:
    return nifti_bytes(noise(seed, shape).astype(np.int16), **fields)


def zipped_nifti(seed: int = 0) -> bytes:
    return gzip.compress(nifti(seed), mtime=0)


def encoded(format: str, seed: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(noise(seed)).save(buffer, format=format)
    return buffer.getvalue()


def placed(affine: np.ndarray) -> dict[str, Any]:
    """Header fields that put a volume by its sform alone."""
    return {"srow_x": affine[0], "srow_y": affine[1], "srow_z": affine[2], "qform_code": 0}


def spaced(*edges: float) -> dict[str, Any]:
    """Header fields that give voxel edges and no affine."""
    return {"pixdim": [1, *edges, 0, 0, 0, 0], "sform_code": 0, "qform_code": 0}


def with_values(*values: float, dtype: Any = np.float32) -> bytes:
    array = noise(2, (6, 7, 3)).astype(dtype)
    array.ravel()[: len(values)] = values
    return nifti_bytes(array)


def nested_zip() -> bytes:
    """A zip in a zip, which unpacks to a hundred times its size."""
    inner, outer = io.BytesIO(), io.BytesIO()
    for stream, name, data in ((inner, "zeros", bytes(10**6)), (outer, "inner.zip", inner)):
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(name, data if isinstance(data, bytes) else data.getvalue())
    return outer.getvalue()


def with_text_bomb(data: bytes) -> bytes:
    """Put a compressed comment of 100 MB before the pixels of a PNG."""
    body = b"zTXt" + b"Comment\0\0" + zlib.compress(bytes(100 * 2**20))
    chunk = (len(body) - 4).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")
    return data[:33] + chunk + data[33:]


def pages(format: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(noise(18)).save(buffer, format, save_all=True, append_images=[Image.fromarray(noise(19))])
    return buffer.getvalue()


def in_mode(format: str, mode: str, seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(noise(seed, (SIDE, SIDE, 3))).convert(mode).save(buffer, format)
    return buffer.getvalue()


def turned() -> bytes:
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise(22)).save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


def transparent() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(noise(15, (SIDE, SIDE, 4))).save(buffer, "PNG")
    return buffer.getvalue()


def two_series(folder: Path) -> None:
    save_series(folder, noise(9, (2, 8, 8)), [0, 3])
    save_dicom(folder / "other.dcm", slice_dataset(noise(10, (8, 8)), 0, series="1.2.3.5"))


def cut_series(folder: Path) -> None:
    save_series(folder, noise(11, (3, 8, 8)), [0, 3, 6])
    member = sorted(folder.iterdir())[1]
    member.write_bytes(member.read_bytes()[:-60])


SINGULAR = np.array([[1.0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0]])
SHEARED = np.array([[1.0, 0.3, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]])
TILTED = np.array([[0.8, -0.6, 0, 7], [0.6, 0.8, 0, -11], [0, 0, 3, 2.5]])
Maker = bytes | Callable[[], bytes] | Callable[[Path], object]
"""What a file holds, or what gives it, or what makes a folder or link at a path."""


def made(make: Maker, path: Path) -> None:
    if isinstance(make, bytes):
        path.write_bytes(make)
    elif "path" in inspect.signature(make).parameters or "folder" in inspect.signature(make).parameters:
        make(path)  # type: ignore[call-arg]
    else:
        path.write_bytes(make())  # type: ignore[call-arg, arg-type]


# name -> what it is, and what must be said of it
BAD: dict[str, tuple[Maker, str]] = {
    # F1, corrupted
    **{f"empty-{suffix}.{suffix}": (b"", r"0 bytes") for suffix in ("nii", "nii.gz", "png", "jpg", "tif")},
    "gz10.nii.gz": (lambda: zipped_nifti()[:30], r"file is cut"),
    "gz50.nii.gz": (lambda: zipped_nifti()[: len(zipped_nifti()) // 2], r"file is cut"),
    "gz99.nii.gz": (lambda: zipped_nifti()[:-4], r"file is cut"),
    "gz-checksum.nii.gz": (lambda: changed(zipped_nifti(), -6), r"damaged"),
    "gz-stream.nii.gz": (lambda: changed(zipped_nifti(), 60), r"damaged"),
    "gz-of-text.nii.gz": (lambda: gzip.compress(b"hello" * 100), r"not NIfTI"),
    "short.nii": (lambda: nifti()[:-50], r"declares 252 bytes of voxels, the file holds 202"),
    "header-cut.nii": (lambda: nifti()[:200], r"ends inside its header"),
    "tail.nii": (lambda: nifti() + b"garbage" * 9, r"More data follows"),
    "magic.nii": (lambda: nifti(magic=b"abc"), r"magic number"),
    "pair.nii": (lambda: nifti(magic=b"ni1"), r"half of a \.hdr/\.img pair"),
    "text.nii": (b"These are not the voxels you look for. " * 20, r"none of NIfTI"),
    "zip.nii": (nested_zip, r"zip archive"),
    "offset.nii": (lambda: nifti(vox_offset=1e9), r"voxels begin at byte 1e\+09|ends early|holds"),
    "cut-png.png": (lambda: encoded("PNG")[:-60], r"damaged"),
    "cut-jpg.jpg": (lambda: encoded("JPEG")[:-200], r"damaged"),
    "cut-tif.tif": (lambda: encoded("TIFF")[:100], r"cut|damaged"),
    "checksum.png": (lambda: changed(encoded("PNG"), 60), r"damaged"),
    "signature-only.png": (b"\x89PNG\r\n\x1a\n", r"damaged"),
    "pickle.nii": (b"\x80\x04\x95\x10" + bytes(500), r"none of NIfTI"),
    "nowhere.png": (lambda path: path.symlink_to("gone.png"), r"link leads nowhere"),
    "loop.png": (lambda path: path.symlink_to(path.name), r"cannot be reached"),
    "gap-series": (lambda path: save_series(path, noise(7, (4, 8, 8)), [0, 3, 6, 12]), r"slices are missing"),
    "twice-series": (lambda path: save_series(path, noise(8, (3, 8, 8)), [0, 3, 3]), r"in the same place"),
    "two-series": (two_series, r"2 series"),
    "cut-series": (cut_series, r"damaged|pixels"),
    # F2, bombs
    "bomb-nii.nii.gz": (lambda: gzip.compress(nifti() + bytes(30 * 2**20), 1), r"More data follows"),
    "claims-much.nii.gz": (
        lambda: gzip.compress(nifti(dim=[3, 512, 512, 1024, 1, 1, 1, 1])), r"declares [\d,]{11} bytes.*at most",
    ),
    "claims-all.nii": (lambda: nifti(dim=[3, 32767, 32767, 32767, 1, 1, 1, 1]), r"more than the [\d,]+ voxels"),
    "bomb-png.png": (lambda: png_bytes(noise(1), 0, 8, size=(65000, 65000)), r"4225000000|65,000 x 65,000"),
    "text-bomb.png": (lambda: with_text_bomb(encoded("PNG")), r"damaged.*large"),
    # F3, geometry
    "singular.nii": (lambda: nifti(**placed(SINGULAR)), r"singular"),
    "nan-affine.nii": (lambda: nifti(**placed(np.full((3, 4), np.nan))), r"NaN or infinity"),
    "sheared.nii": (lambda: nifti(**placed(SHEARED)), r"not at right angles"),
    "contradiction.nii": (lambda: nifti(qoffset_x=50.0), r"disagree by"),
    "zero-spacing.nii": (lambda: nifti(**spaced(0, 1, 1)), r"edges are 0, 1, 1 mm"),
    "negative-spacing.nii": (lambda: nifti(**spaced(1, -1, 1)), r"edges are 1, -1, 1 mm"),
    "micro.nii": (lambda: nifti(**placed(1e-6 * np.eye(4))), r"edges of 1e-06"),
    "mega.nii": (lambda: nifti(**placed(1e6 * np.eye(4))), r"edges of 1e\+06"),
    "metres.nii": (lambda: nifti(xyzt_units=1), r"measures in metres"),
    "one-axis.nii": (lambda: nifti(shape=(9,)), r"one axis"),
    "many-volumes.nii": (lambda: nifti(shape=(5, 5, 2, 4)), r"4 volumes"),
    "five-axes.nii": (lambda: nifti(shape=(5, 5, 2, 1, 3)), r"5 axes"),
    "no-edge.nii": (lambda: nifti(dim=[3, 6, 0, 3, 1, 1, 1, 1]), r"6 x 0 x 3 is empty"),
    "nine-axes.nii": (lambda: nifti(dim=[9, 6, 7, 3, 1, 1, 1, 1]), r"9 axes|damaged"),
    # F4, grey values and types
    "one-nan.nii": (lambda: with_values(np.nan), r"1 of 126 voxels are NaN"),
    "all-nan.nii": (lambda: with_values(*[np.nan] * 126), r"126 of 126 voxels are NaN"),
    "infinite.nii": (lambda: with_values(np.inf, -np.inf), r"2 of 126 voxels"),
    "beyond-float.nii": (lambda: with_values(1e300, dtype=np.float64), r"1 of 126 voxels.*beyond float32"),
    "complex.nii": (lambda: with_values(1.0, dtype=np.complex64), r"complex.*no grey value"),
    "rgb.nii": (lambda: nifti(datatype=128, bitpix=24), r"RGB.*no grey value"),
    "scaling.nii": (lambda: nifti(scl_slope=np.inf, scl_inter=0), r"scaling of grey values"),
    "colour.png": (lambda: in_mode("PNG", "RGB", 13), r"3 channels"),
    "opaque-rgba.png": (lambda: in_mode("PNG", "RGBA", 14), r"3 channels"),
    "transparent.png": (transparent, r"partly transparent"),
    "cmyk-jpg.jpg": (lambda: in_mode("JPEG", "CMYK", 16), r"kind CMYK"),
    "cmyk-tif.tif": (lambda: in_mode("TIFF", "CMYK", 17), r"4 samples"),
    "pages.tif": (lambda: pages("TIFF"), r"2 pages"),
    "animated.png": (lambda: pages("PNG"), r"several frames"),
    "turned.jpg": (turned, r"stored turned"),
}  # fmt: skip


def grey_picture(format: str, seed: int, mode: str = "L") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(noise(seed)).convert(mode).save(buffer, format)
    return buffer.getvalue()


def flips() -> Iterator[tuple[str, np.ndarray]]:
    """The eight ways in which a scanner may count."""
    for signs in itertools.product((1, -1), repeat=3):
        affine = np.diag([*(s * edge for s, edge in zip(signs, (2.0, 1.5, 3.0), strict=True)), 1.0])
        yield "".join("+-"[s < 0] for s in signs), affine


# odd, but every one of them a picture or a volume of one channel
FINE: dict[str, Maker] = {
    **{
        f"flip{n}.nii": nifti_bytes(noise(30 + n, (9, 7, 3)), affine) for n, (_, affine) in enumerate(flips())
    },
    "tilted.nii": (lambda: nifti(40, **placed(TILTED))),
    "no-affine.nii": (lambda: nifti(41, **spaced(1, 1, 2))),
    "volume-of-4d.nii": (lambda: nifti(42, shape=(6, 7, 3, 1))),
    "two-axes.nii": (lambda: nifti(43, shape=(6, 7))),
    "one-slice.nii.gz": (lambda: gzip.compress(nifti(44, shape=(17, 23, 1)))),
    "gz-named-nii.nii": (lambda: zipped_nifti(45)),
    "nii-named-gz.nii.gz": (lambda: nifti(46)),
    "slope-0.nii": (lambda: nifti(47, scl_slope=0, scl_inter=9)),
    **{
        f"{np.dtype(kind).name}.nii": nifti_bytes(noise(50 + n, (6, 7, 3)).astype(kind))
        for n, kind in enumerate((np.uint8, np.uint16, np.int32, np.float32, np.float64))
    },
    "constant.nii": nifti_bytes(np.full((6, 7, 3), 9, np.int16)),
    "black.png": (lambda: png_bytes(np.zeros((9, 11), np.uint8), 0, 8)),
    "deep.png": (lambda: png_bytes(noise(60).astype(np.uint16), 0, 16)),
    "grey-alpha.png": (lambda: grey_picture("PNG", 61, "LA")),
    "palette.png": (lambda: grey_picture("PNG", 62, "P")),
    "one-bit.png": (lambda: grey_picture("PNG", 63, "1")),
    "jpeg-named.png": (lambda: grey_picture("JPEG", 64)),
    "float.tif": (lambda: grey_picture("TIFF", 65, "F")),
    "series": (lambda path: save_series(path, noise(66, (3, 9, 8)), [6, 0, 3])),
}


def stem(name: str) -> str:
    return name.removesuffix(".gz").rpartition(".")[0] or name


@pytest.fixture(scope="module")
def battery(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of scans, most of them bad, and a table of them. Read only."""
    folder = tmp_path_factory.mktemp("battery") / "scans"
    folder.mkdir()
    for name, make in {**{name: make for name, (make, _) in BAD.items()}, **FINE}.items():
        made(make, folder / name)
    # In an order in which good and bad ones take turns.
    names = sorted({**BAD, **FINE}, key=lambda name: hashlib.sha256(name.encode()).digest())
    # prepare takes the number of channels from the first case that can be read
    names.sort(key=lambda name: name not in FINE or name == "constant.nii")
    lines = ["id,image,label,patient,split"]
    for n, name in enumerate(names):
        lines.append(f"{stem(name)},scans/{name},{n % 2},P{n},{'train' if n % 3 else 'test'}")
    (folder.parent / "table.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def segmented(battery: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, Path]:
    folder = tmp_path_factory.mktemp("segmented")
    run = write_run(folder / "run")
    outcome = tagmask("segment", run, battery, "-o", folder / "out", "--device", "cpu", "--tags", "none")
    assert files(folder) == {f"run/{f}" for f in files(run)} | {f"out/{f}" for f in files(folder / "out")}
    return outcome, folder / "out"


@pytest.fixture(scope="module")
def prepared_battery(battery: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, Path]:
    folder = tmp_path_factory.mktemp("prepared")
    out = folder / "out"
    outcome = tagmask("prepare", battery.parent / "table.csv", "-o", out, "--size", SIDE, "--window", 0, 255)
    assert [path.name for path in folder.iterdir()] == ["out"]
    return outcome, out


def test_segment_does_the_others_and_says_which_failed(segmented: tuple[Outcome, Path]) -> None:
    outcome, out = segmented
    assert outcome.code == 2
    assert "Traceback" not in outcome.out + outcome.err
    assert f"{len(FINE)} cases segmented" in outcome.out
    failed = {row["case"]: row["problem"] for row in rows_of(out / "failed.csv")}
    assert failed.keys() == {stem(name) for name in BAD}
    for case, problem in failed.items():
        assert f"failed: {case}: {problem}" in outcome.out
    pictures = {name for name in FINE if name.endswith(("png", "tif"))}
    assert files(out) == {
        *("manifest.json", "slices.csv", "failed.csv"),
        *(f"masks/{stem(n)}.{'png' if n in pictures else 'nii.gz'}" for n in FINE),
        *(f"scores/{stem(n)}.{'tif' if n in pictures else 'nii.gz'}" for n in FINE),
    }
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["status"] == "finished"
    assert {c["case"]: c["status"] for c in manifest["cases"]} == {
        **{stem(name): "failed" for name in BAD}, **{stem(name): "done" for name in FINE},
    }  # fmt: skip


def check_problem(problem: str, name: str, says: str) -> None:
    """It names the file, says what is wrong, and then, in a sentence of its own, what to do."""
    assert name in problem
    found = re.search(says, problem)
    assert found, problem
    repair = problem[found.end() :].rpartition(". ")[2]
    assert re.fullmatch(r"[A-Z][^.]{4,}.*\.", repair) and repair != problem, problem
    assert "\n" not in problem and not re.search(r"\w+Error\b|Traceback|object at", problem), problem


@pytest.mark.parametrize("name", BAD)
def test_segment_names_case_file_fault_and_repair(
    name: str, battery: Path, segmented: tuple[Outcome, Path]
) -> None:
    (problem,) = (r["problem"] for r in rows_of(segmented[1] / "failed.csv") if r["case"] == stem(name))
    check_problem(problem, str(battery / name), BAD[name][1])


@pytest.mark.parametrize("name", FINE)
def test_what_is_odd_but_fine_comes_back_on_its_grid(
    name: str, battery: Path, segmented: tuple[Outcome, Path]
) -> None:
    study = read_study(battery / name, id=name)
    (mask,) = (path for path in (segmented[1] / "masks").iterdir() if stem(path.name) == stem(name))
    (scores,) = (path for path in (segmented[1] / "scores").iterdir() if stem(path.name) == stem(name))
    assert read_mask(mask).array.shape == study.shape == read_scores(scores).shape
    assert np.isfinite(read_scores(scores)).all()
    if study.affine is not None:
        # A NIfTI input's affine is kept bit for bit; that of a series becomes float32.
        np.testing.assert_allclose(read_mask(mask).affine, study.affine, rtol=1e-6 if name == "series" else 0)


def test_prepare_does_the_others_and_says_which_failed(
    battery: Path, prepared_battery: tuple[Outcome, Path]
) -> None:
    outcome, out = prepared_battery
    assert outcome.code == 2
    assert "Traceback" not in outcome.out + outcome.err
    problems = [row for row in rows_of(out / "problems.csv") if row["level"] == "failed"]
    assert {row["case"] for row in problems} == {stem(name) for name in BAD}
    assert f"{len(BAD)} failed" in outcome.out
    for name, (_, says) in BAD.items():
        (row,) = (row for row in problems if row["case"] == stem(name))
        assert row["file"].startswith(str(battery / name)), row
        assert re.search(says, row["what"]) and row["repair"].endswith("."), row
    assert {row["study"] for row in rows_of(out / "index.csv")} == {stem(name) for name in FINE}
    slices = np.load(out / "slices.npy", mmap_mode="r")
    assert slices.shape[1:] == (1, SIDE, SIDE) and np.isfinite(slices).all() and np.abs(slices).max() <= 1
    assert files(out) == {
        *("commands.txt", "index.csv", "slices.npy", "settings.json", "fingerprint.json", "problems.csv")
    }


def test_the_battery_stays_what_it_is() -> None:
    """Should a case be dropped, this says so."""
    assert len(BAD) >= 60 and len(FINE) >= 25


# cases that a table names


def test_a_table_of_files_that_are_not_there(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", noise(0))
    (tmp_path / "t.csv").write_text("id,image\n1,a.png\n2,gone.png\n3,scan.nii;other.nii\n")
    outcome = tagmask("segment", write_run(tmp_path / "run"), tmp_path / "t.csv", "-o", tmp_path / "out")
    assert outcome.code == 2 and "1 cases segmented" in outcome.out
    assert re.search(r"failed: gone: .*gone\.png: There is no such file\. Check the path\.", outcome.out)
    assert re.search(r"failed: scan: .*scan\.nii: There is no such file\. Check the path\.", outcome.out)
    assert (tmp_path / "out/masks/a.png").is_file()


def test_a_resource_that_does_not_suffice_is_a_failed_case_too(tmp_path: Path) -> None:
    """The others are done, so the code is that of a failed case, not that of a job that had to stop."""
    (tmp_path / "bomb.png").write_bytes(png_bytes(noise(1), 0, 8, size=(65000, 65000)))
    outcome = tagmask("segment", write_run(tmp_path / "run"), tmp_path / "bomb.png", "-o", tmp_path / "out")
    assert outcome.code == 2 and "0 cases segmented" in outcome.out and "failed: bomb: " in outcome.out


# F5, labels and cohorts

PARTS = ("train", "train", "train", "val", "val", "test")


def cohort(folder: Path, count: int = 6) -> list[dict[str, str]]:
    """Pictures of a patient each, tagged in turn: the rows of a table without fault."""
    folder.mkdir(parents=True, exist_ok=True)
    for n in range(count):
        picture(folder / f"i{n}.png", noise(100 + n))
    return [
        {"id": f"r{n}", "image": f"i{n}.png", "label": str(n % 2), "patient": f"P{n}", "split": PARTS[n]}
        for n in range(count)
    ]


def text_of(rows: list[dict[str, str]], separator: str = ",", end: str = "\n") -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]), delimiter=separator, lineterminator=end)
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def prepare(table: Path, *options: object) -> Outcome:
    outcome = tagmask(
        "prepare", table, "-o", table.parent / "out", "--size", SIDE, "--window", 0, 255, *options
    )
    assert "Traceback" not in outcome.out + outcome.err
    assert not [path for path in table.parent.iterdir() if path.name.startswith(".")]
    return outcome


def put(column: str, *values: str) -> Callable[[list[dict[str, str]]], None]:
    """Overwrite a column of the first rows; one value goes to all."""

    def change(rows: list[dict[str, str]]) -> None:
        given = values * len(rows) if len(values) == 1 else values
        for row, value in zip(rows, given, strict=False):
            row[column] = value

    return change


def drop(column: str) -> Callable[[list[dict[str, str]]], None]:
    def change(rows: list[dict[str, str]]) -> None:
        for row in rows:
            del row[column]

    return change


def copied(first: str, second: str) -> Callable[[list[dict[str, str]]], None]:
    """Mark that a picture is to be a copy of another."""

    def change(rows: list[dict[str, str]]) -> None:
        next(row for row in rows if row["image"] == second)["_copy"] = first

    return change


Change = Callable[[list[dict[str, str]]], None]
COHORT_FAULTS: dict[str, tuple[Change, str]] = {
    "tag missing in train": (put("label", "0", ""), r"row 3: .*tag"),
    "tag 2": (put("label", "0", "2"), r"row 3: The tag is '2'.*Use 0, 1"),
    "tag in words": (put("label", "0", "yes"), r"row 3: The tag is 'yes'"),
    "column of tags missing": (drop("label"), r"tag"),
    "column of images missing": (drop("image"), r"no column 'image'.*id, label"),
    "image empty": (put("image", "i0.png", ""), r"row 3: The image is empty"),
    "id empty": (put("id", "r0", ""), r"row 3: The id is empty"),
    "id twice": (put("id", "r0", "r0"), r"row 3: The id 'r0' is used twice.*row 2"),
    "ids that differ in case": (put("id", "r0", "R0"), r"row 3: The id 'R0' is too like 'r0'"),
    "patient in two splits": (put("patient", "A", "B", "C", "A"), r"row 5: The patient 'A' is in val, and in train"),
    "patients that differ in case": (put("patient", "a", "B", "C", "A"), r"row 5: The patient 'A' is in val"),
    "all healthy": (put("label", "0"), r"3 rows of train have the tag 0: there is nothing to learn"),
    "all diseased": (put("label", "1"), r"3 rows of train have the tag 1: there is nothing to learn"),
    "unknown split": (put("split", "train", "training"), r"row 3: .*split 'training'.*train, val, test"),
    "split missing": (put("split", "train", ""), r"row 3: .*no split, but others do"),
    "same pixels in two splits": (copied("i0.png", "i5.png"), r"same pixels.*r5 \(test\) and r0 \(train\)"),
    "same image under two ids": (put("image", "i0.png", "i0.png"), r"row 3: The patient differs"),
    "slice in words": (put("slice", "first"), r"row 2: The slice is 'first'"),
    "slice negative": (put("slice", "-1"), r"row 2: The slice is '-1'"),
    "no image is there": (put("image", *(f"../gone{n}.png" for n in range(6))), r"could be read"),
}  # fmt: skip


@pytest.mark.parametrize("name", COHORT_FAULTS)
def test_a_cohort_that_cannot_be_learnt_from_is_refused(name: str, tmp_path: Path) -> None:
    change, says = COHORT_FAULTS[name]
    rows = cohort(tmp_path)
    change(rows)
    for row in rows:
        if original := row.pop("_copy", ""):
            shutil.copy(tmp_path / original, tmp_path / row["image"])
    (tmp_path / "t.csv").write_text(text_of(rows))
    outcome = prepare(tmp_path / "t.csv")
    assert (outcome.code, outcome.out) == (2, "")
    assert re.match(r"tagmask: \S*t\.csv", outcome.err) and re.search(says, outcome.err), outcome.err
    assert outcome.err.count("\n") == 1 and outcome.err.endswith(".\n")
    assert files(tmp_path) == {"t.csv", *(f"i{n}.png" for n in range(6))}


FILE_FAULTS: dict[str, tuple[Callable[[str], bytes], str]] = {
    "nothing": (lambda text: b"", r"table is empty"),
    "header alone": (lambda text: text.partition("\n")[0].encode(), r"no rows"),
    "no header": (lambda text: text.partition("\n")[2].encode(), r"no column 'id'"),
    "Latin-1": (lambda text: text.replace("r0", "Größe").encode("latin-1"), r"no UTF-8 text \(byte \d+\).*CSV"),
    "UTF-16": (lambda text: text.encode("utf-16"), r"no UTF-8 text|zero bytes"),
    "spreadsheet": (lambda text: b"PK\x03\x04" + bytes(99), r"spreadsheet.*Save it as CSV"),
    "zero bytes": (lambda text: text.encode().replace(b"r3", b"\0\0"), r"zero bytes"),
    "short row": (lambda text: text.replace("r2,", "").encode(), r"row 4: The row has 4 fields, but the header has 5"),
    "open quote": (lambda text: text.replace("r2", '"r2').encode(), r"row \d: The row cannot be read"),
    "column twice": (lambda text: text.replace("split", "label", 1).encode(), r"Two columns are called 'label'"),
    "image for a table": (lambda text: encoded("PNG"), r"no UTF-8 text"),
}  # fmt: skip


@pytest.mark.parametrize("command", ["prepare", "segment"])
@pytest.mark.parametrize("name", FILE_FAULTS)
def test_a_table_that_is_none_is_refused(name: str, command: str, tmp_path: Path) -> None:
    change, says = FILE_FAULTS[name]
    (tmp_path / "t.csv").write_bytes(change(text_of(cohort(tmp_path))))
    run = [write_run(tmp_path / "run")] if command == "segment" else []
    outcome = tagmask(command, *run, tmp_path / "t.csv", "-o", tmp_path / "out")
    assert (outcome.code, outcome.out) == (2, "")
    assert re.match(r"tagmask: \S*t\.csv", outcome.err) and re.search(says, outcome.err), outcome.err
    assert outcome.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


DIALECTS: dict[str, Callable[[list[dict[str, str]]], bytes]] = {
    "BOM": lambda rows: b"\xef\xbb\xbf" + text_of(rows).encode(),
    "semicolon": lambda rows: text_of(rows, ";").encode(),
    "tab": lambda rows: text_of(rows, "\t").encode(),
    "CRLF": lambda rows: text_of(rows, end="\r\n").encode(),
    "all of it": lambda rows: b"\xef\xbb\xbf" + text_of(rows, ";", "\r\n").encode() + b";;;;\r\n\r\n",
    "spaces": lambda rows: text_of(rows).replace(",", " , ").encode(),
    "tags of floats": lambda rows: text_of([{**row, "label": f"{row['label']}.0"} for row in rows]).encode(),
    "columns in another order": lambda rows: text_of([dict(sorted(row.items())) for row in rows]).encode(),
    "columns of others": lambda rows: text_of([{**row, "age": "7", "Größe": "ü"} for row in rows]).encode(),
    "text that is empty": lambda rows: text_of([{**row, "text": ""} for row in rows]).encode(),
}


def test_tables_as_people_write_them_are_one_cohort(tmp_path: Path) -> None:
    rows = cohort(tmp_path)

    def fingerprint(data: bytes) -> str:
        (tmp_path / "t.csv").write_bytes(data)
        outcome = prepare(tmp_path / "t.csv", "--overwrite")
        assert outcome.code == 0, outcome.err
        found: str = json.loads((tmp_path / "out/fingerprint.json").read_text())["fingerprint"]
        return found

    plain = fingerprint(text_of(rows).encode())
    for name, write in DIALECTS.items():
        assert fingerprint(write(rows)) == plain, name
    others = [text_of([{**row, "label": str(1 - int(row["label"]))} for row in rows])]
    for text in ("腫瘍は\n見え, ません 😀", "x, y\n" * 2000):
        others.append(text_of([{**row, "text": text} for row in rows]))
    assert len({plain, *(fingerprint(other.encode()) for other in others)}) == 4


def test_doubts_are_said_and_do_not_stop(tmp_path: Path) -> None:
    rows = [{**row, "patient": "P", "split": "train"} for row in cohort(tmp_path)]
    shutil.copy(tmp_path / "i0.png", tmp_path / "i4.png")
    (tmp_path / "t.csv").write_text(text_of(rows))
    outcome = prepare(tmp_path / "t.csv")
    assert outcome.code == 0
    found = {row["what"]: row for row in rows_of(tmp_path / "out/problems.csv")}
    assert all(row["level"] == "warning" and row["repair"] for row in found.values())
    text = " ".join(found)
    assert "one patient (P)" in text and "r4 and r0" in text and "The split val is empty" in text


def test_some_images_missing(tmp_path: Path) -> None:
    rows = cohort(tmp_path)
    (tmp_path / "i1.png").write_bytes(b"")
    rows[3]["image"] = "gone.png"
    rows.append({**rows[0], "id": "r6", "image": "i6.png", "patient": "P6", "label": "1"})
    picture(tmp_path / "i6.png", noise(106))
    (tmp_path / "t.csv").write_text(text_of(rows))
    outcome = prepare(tmp_path / "t.csv")
    assert outcome.code == 2
    assert "gone.png: There is no such file" in outcome.out and "i1.png: The file is empty" in outcome.out
    assert len(rows_of(tmp_path / "out/index.csv")) == 5


# masks, which a supervised preparation alone reads


def mask(path: Path, inside: object = 255, **fields: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    array = np.zeros((6, 7, 3), np.float32)
    array[2:4, 2:4, 1] = inside
    path.write_bytes(nifti_bytes(array, **fields))


SOFT = np.array([[0.2, 0.7], [0.9, 0.4]])
MASK_FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: path.unlink(), r"no such file"),
    "empty file": (lambda path: path.write_bytes(b""), r"0 bytes"),
    "soft": (lambda path: mask(path, SOFT), r"mask is soft.*Threshold it"),
    "not finite": (lambda path: mask(path, np.nan), r"NaN"),
    "another shape": (lambda path: path.write_bytes(nifti_bytes(np.ones((6, 7, 4), np.int16))),
                      r"mask is 6 x 7 x 4, its image is 6 x 7 x 3"),
    "negative": (lambda path: mask(path, -1), r"values below 0, down to -1.*--mask-labels"),
    "elsewhere": (lambda path: mask(path, affine=AFFINE + np.eye(4, k=3) * 0.1), r"elsewhere than its image"),
}  # fmt: skip


def volumes(folder: Path) -> Path:
    """Six volumes, a slice of each tagged 1, with their masks."""
    lines = ["id,image,label,slice,patient,split,mask"]
    for n, part in enumerate(PARTS):
        (folder / f"v{n}.nii").write_bytes(nifti(70 + n))
        mask(folder / "masks" / f"v{n}.nii")
        lines += [f"v{n}/{k},v{n}.nii,{int(k == 1)},{k},P{n},{part},masks/v{n}.nii" for k in range(3)]
    (folder / "t.csv").write_text("\n".join(lines) + "\n")
    return folder / "t.csv"


@pytest.mark.parametrize("name", MASK_FAULTS)
def test_a_bad_mask_fails_its_case_where_masks_are_read(name: str, tmp_path: Path) -> None:
    change, says = MASK_FAULTS[name]
    table = volumes(tmp_path)
    change(tmp_path / "masks/v1.nii")
    outcome = prepare(table, "--supervised")
    assert outcome.code == 2
    (row,) = (row for row in rows_of(tmp_path / "out/problems.csv") if row["level"] == "failed")
    assert row["case"] == "v1" and re.search(says, f"{row['what']} {row['repair']}"), row
    assert "v1.nii" in row["file"] and row["repair"]
    assert len(rows_of(tmp_path / "out/index.csv")) == 15
    # From tags alone nobody looks at it.
    assert prepare(table, "--overwrite").code == 0


@pytest.mark.parametrize("inside", [1, 255, 0.5, 3])
def test_masks_of_any_two_values_are_the_same(inside: float, tmp_path: Path) -> None:
    table = volumes(tmp_path)
    for n in range(6):
        # within 1e-3 mm, as rounding leaves it
        mask(tmp_path / "masks" / f"v{n}.nii", inside, affine=AFFINE + np.eye(4, k=3) * 5e-4)
    assert prepare(table, "--supervised").code == 0
    found = np.load(tmp_path / "out/masks.npy")
    assert found.reshape(len(found), -1).any(axis=1).tolist() == [False, True, False] * 6
    assert not rows_of(tmp_path / "out/problems.csv") if (tmp_path / "out/problems.csv").exists() else True


def test_tags_that_masks_contradict_are_doubted(tmp_path: Path) -> None:
    table = volumes(tmp_path)
    table.write_text(
        table.read_text().replace("v0/0,v0.nii,0", "v0/0,v0.nii,1").replace("v1/1,v1.nii,1", "v1/1,v1.nii,0")
    )
    outcome = prepare(table, "--supervised")
    assert outcome.code == 0
    found = [(row["case"], row["what"]) for row in rows_of(tmp_path / "out/problems.csv")]
    assert ("v0", "1 slices have tag 1, but empty masks: 0.") in found
    assert ("v1", "1 slices have tag 0, but their masks are not empty: 1.") in found


def test_an_output_that_cannot_be_written_stops_with_one_message(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    image = picture(tmp_path / "a.png", noise(0))
    (tmp_path / "file").write_text("x")
    outcome = tagmask("segment", run, image, "-o", tmp_path / "file" / "out")
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.count("\n") == 1 and "file" in outcome.err
    assert (tmp_path / "file").read_text() == "x"
