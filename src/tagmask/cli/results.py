"""The commands that use a run: segment, evaluate, report; and doctor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from tagmask.cli.console import counter, say
from tagmask.cli.options import (
    Device,
    MaskLabels,
    Method,
    Override,
    Overwrite,
    Plane,
    RunFolder,
    Seed,
    given,
    integers,
)
from tagmask.errors import InputError

__all__ = ["app"]

app = typer.Typer()


@app.command(
    epilog="Example: tagmask segment runs/hippocampus scans/ more/scan.nii.gz -o results/hippocampus"
)
def segment(
    run: RunFolder,
    inputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="INPUT...", help="Tables, folders or files (NIfTI, DICOM folders, PNG, JPEG, TIFF)."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for masks, score maps and the manifest.")],
    method: Method = None,
    overrides: Override = None,
    snapshot: Annotated[
        int | None, typer.Option(help="Use the weights after this many training steps.")
    ] = None,
    val_masks: Annotated[
        bool,
        typer.Option(
            "--val-masks", help="Use what tune --criterion dice chose; results are stamped with val masks."
        ),
    ] = False,
    tags: Annotated[
        Literal["given", "predicted", "none"],
        typer.Option(
            help="given: by the table, missing ones by the classifier. predicted: all by the method where it "
            "decides, else by the classifier. none: segment every slice."
        ),
    ] = "given",
    tag: Annotated[
        str | None, typer.Option(help="Column of the tag; by default that of the run's training data.")
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    batch: Annotated[
        int | None, typer.Option(help="Slices at once; by default found out while working.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a mask and a score map for every scan, on the scan's own grid."""
    from tagmask.jobs.segment import segment as job

    with counter("segmenting") as report:
        result = job(
            run,
            inputs,
            out=out,
            method=method,
            overrides=overrides or [],
            snapshot=snapshot,
            val_masks=val_masks,
            seed=seed,
            tags=tags,
            tag=tag,
            device=device,
            batch=batch,
            overwrite=overwrite,
            report=report,
        )
    typer.echo(str(result))
    raise typer.Exit(InputError.exit_code if result.failed else 0)


_CONVENTIONS = "Conventions"


@app.command(
    epilog="Example: tagmask evaluate results/hippocampus scans/test -o results/hippocampus-evaluation"
)
def evaluate(
    results: Annotated[
        Path, typer.Argument(metavar="RESULTS", help="Folder made by tagmask segment, or a folder of masks.")
    ],
    truth: Annotated[
        Path,
        typer.Argument(
            metavar="TRUTH",
            help="Folder of masks, CSV with a column mask, or folder with labels.csv and masks.",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder to write; by default RESULTS-evaluation.")
    ] = None,
    table: Annotated[
        Path | None, typer.Option(help="Tags, patients and slices of a folder of masks.")
    ] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of the source images.")] = None,
    val: Annotated[
        Path | None, typer.Option(help="Truth of other patients, to choose the intensity threshold on.")
    ] = None,
    prepared: Annotated[
        Path | None,
        typer.Option("--train", help="Prepared folder, for the rows of slice position and mean mask."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Title of the method's row.")] = None,
    plane: Annotated[
        Plane | None, typer.Option(help="By default that of the results.", rich_help_panel=_CONVENTIONS)
    ] = None,
    mask_labels: MaskLabels = None,
    tag: Annotated[
        str, typer.Option(help="Column that holds the tag.", rich_help_panel=_CONVENTIONS)
    ] = "label",
    positives: Annotated[
        Literal["truth", "tag"],
        typer.Option(help="What makes a slice positive.", rich_help_panel=_CONVENTIONS),
    ] = "truth",
    min_area_frac: Annotated[
        float,
        typer.Option(help="Drop slices with less target than this share.", rich_help_panel=_CONVENTIONS),
    ] = 0.0,
    area_of: Annotated[
        Literal["slice", "body"], typer.Option(help="What the share is of.", rich_help_panel=_CONVENTIONS)
    ] = "slice",
    empty_hd: Annotated[
        Literal["exclude", "diagonal", "zero"],
        typer.Option(help="HD95 where one mask is empty.", rich_help_panel=_CONVENTIONS),
    ] = "exclude",
    ap_over: Annotated[
        Literal["image", "body", "slice_body"],
        typer.Option(help="Pixels of AUPRC.", rich_help_panel=_CONVENTIONS),
    ] = "image",
    resamples: Annotated[int, typer.Option(help="Bootstrap resamples.", rich_help_panel=_CONVENTIONS)] = 2000,
    seed: Seed = 0,
) -> None:
    """Compare masks with the truth, beside the rows that know next to nothing."""
    from tagmask.config import build
    from tagmask.jobs.evaluate import EvaluateSettings
    from tagmask.jobs.evaluate import evaluate as job

    conventions = {
        "plane": plane,
        "mask_labels": integers(mask_labels, "--mask-labels"),
        "tag": tag,
        "positives": positives,
        "min_area_frac": min_area_frac,
        "area_of": area_of,
        "empty_hd": empty_hd,
        "ap_over": ap_over,
        "resamples": resamples,
        "seed": seed,
    }
    settings = build(EvaluateSettings, given(conventions), where="tagmask evaluate")
    out = out or results.absolute().with_name(f"{results.absolute().name}-evaluation")
    found = job(
        results,
        truth,
        out=out,
        table=table,
        images=images,
        val=val,
        train=prepared,
        name=name,
        settings=settings,
    )
    typer.echo((found.out / "summary.md").read_text(encoding="utf-8"))
    typer.echo(f"evaluated -> {found.out}")
    for case, problem in found.failed:
        say(f"failed: {case}: {problem}")
    raise typer.Exit(InputError.exit_code if found.failed else 0)


@app.command(epilog="Example: tagmask combine results/seed0-evaluation results/seed1-evaluation")
def combine(
    evaluations: Annotated[
        list[Path], typer.Argument(metavar="EVALUATION...", help="Folders made by tagmask evaluate.")
    ],
) -> None:
    """Average evaluations of the same slices, such as several noise seeds: mean and standard deviation."""
    from tagmask.scoring.scoreboard import combine as job
    from tagmask.scoring.scoreboard import combined_markdown

    paths = [folder / "summary.json" for folder in evaluations]
    for path in paths:
        if not path.is_file():
            raise InputError(
                "is no evaluation: it has no summary.json.",
                where=path.parent,
                repair="Give folders made by tagmask evaluate.",
            )
    typer.echo(combined_markdown(job(paths)))


@app.command(epilog="Example: tagmask report results/hippocampus-evaluation -o report.html")
def report(
    results: Annotated[
        list[Path], typer.Argument(metavar="RESULTS...", help="Folders made by tagmask evaluate.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write.")] = Path("report.html"),
) -> None:
    """Write one HTML file with tables, pictures, curves and the exact commands."""
    from tagmask.jobs.report import report as job

    typer.echo(str(job(results, out=out)))


@app.command(epilog="Example: tagmask doctor --json")
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what is broken in this installation, and what this machine offers."""
    from tagmask.doctor import examine

    diagnosis = examine()
    typer.echo(json.dumps(diagnosis.record(), indent=2) if as_json else str(diagnosis))
    raise typer.Exit(1 if diagnosis.broken else 0)
