"""The commands that compare: benchmark and ablate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from tagmask.cli.console import comparing, counter
from tagmask.cli.options import Device, MaskLabels, Method, Override, Overwrite, RunFolder, integers
from tagmask.errors import ConfigError

__all__ = ["app"]

app = typer.Typer()
Batch = Annotated[int | None, typer.Option(help="Slices at once; by default found out while working.")]


@app.command(epilog="Example: tagmask benchmark experiments/bench/brain-mri.toml -o results/bench-brain-mri")
def benchmark(
    bench: Annotated[
        Path, typer.Argument(metavar="BENCH", help="TOML file: protocol, data sets, rows, figures.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for tables, figures and cells/.")],
    overrides: Override = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ROW", help="Train and make this row alone, or the rows of this line. May be repeated."
        ),
    ] = None,
    device: Device = "auto",
    batch: Batch = None,
) -> None:
    """Compare methods over data sets, folds, draws and noise seeds, in the form of the papers' tables and figures.

    Rows that name an experiment are trained first, where that is not done. The same command goes on after a stop;
    what is finished is not made again.
    """
    from tagmask.jobs.benchmark import benchmark as job

    with comparing() as (report, show):
        result = job(
            bench,
            out=out,
            overrides=overrides or [],
            only=only or [],
            device=device,
            batch=batch,
            report=report,
            training=show,
        )
    typer.echo(str(result))
    raise typer.Exit(result.exit_code)


@app.command(
    epilog='Example: tagmask ablate runs/brain-mri R data/test --truth data/test -o figures --values "[1, 5, 10]"'
)
def ablate(
    run: RunFolder,
    kind: Annotated[
        str,
        typer.Argument(
            metavar="KIND",
            help="Q, R, tau, s (CDM); w, end, threshold, curves, size, regions, sam (AnoFPDM); stride (of the "
            "reconstructing methods); steps (of training).",
        ),
    ],
    inputs: Annotated[
        list[Path],
        typer.Argument(metavar="INPUT...", help="Tables, folders or files, as of tagmask segment."),
    ],
    truth: Annotated[
        Path, typer.Option(help="Truth, as of tagmask evaluate. It is read to draw, not to choose.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for figures, numbers and evaluations.")],
    values: Annotated[
        str | None,
        typer.Option(metavar="[A, B]", help="Values of the setting; by default some of each size."),
    ] = None,
    method: Method = None,
    overrides: Override = None,
    seeds: Annotated[str, typer.Option(metavar="N,N", help="Seeds of the noise.")] = "0",
    tags: Annotated[
        Literal["given", "predicted", "none"], typer.Option(help="As of tagmask segment.")
    ] = "given",
    mask_labels: MaskLabels = None,
    device: Device = "auto",
    batch: Batch = None,
    overwrite: Overwrite = False,
) -> None:
    """Draw how the numbers change with one setting, from as few walks through the networks as serve it."""
    from tagmask.config import override
    from tagmask.jobs.ablate import ablate as job
    from tagmask.jobs.evaluate import EvaluateSettings

    given = None if values is None else override({}, [f"values={values}"])["values"]
    if given is not None and not (
        isinstance(given, list) and all(isinstance(value, int | float) for value in given)
    ):
        raise ConfigError(
            f"{values!r} is no list of numbers.", where="--values", repair="Write it as [1, 5]."
        )
    with counter("values") as report:
        result = job(
            run,
            kind,
            inputs,
            truth=truth,
            out=out,
            values=given,
            method=method,
            overrides=overrides or [],
            seeds=integers(seeds, "--seeds") or (),
            tags=tags,
            device=device,
            batch=batch,
            settings=EvaluateSettings(mask_labels=integers(mask_labels, "--mask-labels")),
            overwrite=overwrite,
            report=report,
        )
    typer.echo(str(result))
