"""The commands that make a run: prepare, train, tune."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from tagmask.cli.console import counter, say, training
from tagmask.cli.options import (
    DatasetName,
    Device,
    MaskLabels,
    Method,
    Override,
    Overwrite,
    Plane,
    PresetName,
    RunFolder,
    Seed,
    given,
    integers,
)
from tagmask.errors import ConfigError

__all__ = ["app"]

app = typer.Typer()


_BY_NAME = "Data sets by name"


@app.command(epilog="Example: tagmask prepare scans/labels.csv -o prepared/scans --plane axial --size 64")
def prepare(
    table: Annotated[
        Path,
        typer.Argument(
            metavar="TABLE|FOLDER",
            help="CSV (id, image, label, ...), a folder with one per split, or the folder of --dataset.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to make.")],
    dataset: Annotated[
        DatasetName | None,
        typer.Option(help="A public data set in its original layout.", rich_help_panel=_BY_NAME),
    ] = None,
    preset: Annotated[
        PresetName | None,
        typer.Option(help="A paper's preprocessing; other options override it.", rich_help_panel=_BY_NAME),
    ] = None,
    modalities: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="Of brats: flair,t1,t1ce,t2, or some.", rich_help_panel=_BY_NAME),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(help="Of chaos and abdomen-mr: kidney, liver, spleen, ...", rich_help_panel=_BY_NAME),
    ] = None,
    splits: Annotated[
        str | None,
        typer.Option(
            metavar="RULE|CSV",
            help="anofpdm, cdm-brats, cdm-chaos, drawn, or a table of patient and split.",
            rich_help_panel=_BY_NAME,
        ),
    ] = None,
    fold: Annotated[
        int | None, typer.Option(help="1 to 4, of the splits cdm-chaos.", rich_help_panel=_BY_NAME)
    ] = None,
    min_area_frac: Annotated[
        float | None,
        typer.Option(help="Drop test slices with less target than this.", rich_help_panel=_BY_NAME),
    ] = None,
    area_of: Annotated[
        Literal["slice", "body"] | None,
        typer.Option(help="What that share is of; by default the slice.", rich_help_panel=_BY_NAME),
    ] = None,
    plane: Annotated[
        Plane | None, typer.Option(help="Anatomical plane, or axis of the file; by default axial.")
    ] = None,
    size: Annotated[
        int | None, typer.Option(help="Edge of the square slices in pixels; by default 64.")
    ] = None,
    normalise: Annotated[
        Literal["volume", "slice", "window"] | None,
        typer.Option(help="Grey values; by default window if --window is given, else volume."),
    ] = None,
    percentiles: Annotated[
        tuple[float, float] | None, typer.Option(metavar="LOW HIGH", help="Of normalise = volume.")
    ] = None,
    window: Annotated[
        tuple[float, float] | None, typer.Option(metavar="LOW HIGH", help="Of normalise = window.")
    ] = None,
    channels: Annotated[
        str | None, typer.Option(metavar="N,N", help="Channels in order, from 0; by default all.")
    ] = None,
    tissue: Annotated[
        float | None,
        typer.Option(help="Keep the slices from the first to the last with more tissue, as 0.5."),
    ] = None,
    tag: Annotated[str, typer.Option(help="Column that holds the tag.")] = "label",
    supervised: Annotated[
        bool, typer.Option("--supervised", help="Prepare masks too, for networks that learn from them.")
    ] = False,
    untagged: Annotated[
        bool, typer.Option("--untagged", help="Ask for no tags, for networks that learn from pictures alone.")
    ] = False,
    masks: Annotated[
        Path | None, typer.Option(help="Folder of masks; goes before what the table names.")
    ] = None,
    mask_labels: MaskLabels = None,
    val_fraction: Annotated[
        float | None, typer.Option(help="Share of patients, where splits are drawn; by default 0.15.")
    ] = None,
    test_fraction: Annotated[
        float | None, typer.Option(help="Share of patients, where splits are drawn; by default 0.2.")
    ] = None,
    seed: Seed = 0,
    workers: Annotated[int, typer.Option(help="Studies read at a time.")] = 1,
    overwrite: Overwrite = False,
) -> None:
    """Cut the scans of a table of tags, or of a data set by name, into slices for training."""
    from tagmask.datasets.settings import DatasetSettings, default_slices, with_preset
    from tagmask.jobs.prepare import prepare as job

    wanted: dict[str, Any] = {
        "modalities": tuple(modalities.split(",")) if modalities is not None else None,
        "target": target,
        "splits": splits,
        "fold": fold,
        "min_area_frac": min_area_frac,
        "area_of": area_of,
    }
    if dataset is None and given(wanted):
        raise ConfigError(f"--{next(iter(given(wanted))).replace('_', '-')} needs --dataset.")
    chosen = None if dataset is None else DatasetSettings(dataset, **wanted)
    settings = default_slices(
        with_preset(chosen, preset),
        preset,
        plane=plane,
        size=size,
        normalise=normalise,
        percentiles=percentiles,
        window=window,
        channels=integers(channels, "--channels"),
        tissue=tissue,
    )
    if percentiles is not None and settings.normalise != "volume":
        raise ConfigError(
            f"--percentiles would not be read: grey values are normalised by {settings.normalise}.",
            repair="Leave it out, or use --normalise volume.",
        )
    with counter("preparing") as report:
        summary = job(
            table,
            out,
            dataset=chosen,
            preset=preset,
            settings=settings,
            tag=tag,
            supervised=supervised,
            untagged=untagged,
            masks=masks,
            mask_labels=integers(mask_labels, "--mask-labels"),
            val_fraction=val_fraction,
            test_fraction=test_fraction,
            seed=seed,
            workers=workers,
            overwrite=overwrite,
            report=report,
        )
    typer.echo(str(summary))
    raise typer.Exit(summary.exit_code)


@app.command(
    epilog="Example: tagmask train experiments/hippocampus.toml -o runs/hippocampus --set denoiser.dropout=0"
)
def train(
    experiment: Annotated[Path, typer.Argument(metavar="EXPERIMENT", help="TOML file.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Run folder; by default runs/ and the file's name.")
    ] = None,
    overrides: Override = None,
    only: Annotated[
        str | None, typer.Option(help="Train this network alone, by the name of its table, as denoiser.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, the GPU if there is one, or cpu.")] = "auto",
) -> None:
    """Train the networks of an experiment, or go on where a stopped training was.

    On several GPUs or nodes: torchrun --nproc-per-node 4 -m tagmask train ...
    Nodes share the run folder.
    """
    from tagmask.jobs.train import train as job

    out = out or Path("runs") / experiment.stem
    try:
        with training() as report:
            run = job(experiment, out=out, overrides=overrides or [], only=only, device=device, report=report)
    except KeyboardInterrupt:
        say(f"stopped. The same command goes on from the last checkpoint in {out}.")
        raise
    if os.environ.get("RANK", "0") == "0":
        typer.echo(f"trained -> {run.path}")


@app.command(
    epilog='Example: tagmask tune runs/hippocampus --grid "noise_level=[100, 200]" --grid "stages=[5, 10]"'
)
def tune(
    run: RunFolder,
    grid: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=[A, B]",
            help="A setting of the method and its values, or mask.NAME=[A, B] for one of its masks. May be "
            "repeated. Without one the method chooses as its paper does, if it says how.",
        ),
    ] = None,
    criterion: Annotated[
        Literal["auc", "own", "dice"],
        typer.Option(
            help="auc: tags decide. own: they decide as the method's paper says, under each setting of a grid. "
            "dice: masks decide, and one threshold for all slices is chosen."
        ),
    ] = "auc",
    masks: Annotated[
        Path | None, typer.Option(metavar="PREPARED", help="Folder prepared --supervised, for dice.")
    ] = None,
    method: Method = None,
    overrides: Override = None,
    split: Annotated[str, typer.Option(help="Split whose tags, or masks, decide.")] = "val",
    limit: Annotated[
        int | None,
        typer.Option(help="Look at this many slices at most: of either tag with auc, else altogether."),
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    batch: Annotated[int, typer.Option(help="Slices at once.")] = 16,
) -> None:
    """Choose a method's settings by the tags of the validation split. Masks are opened for dice alone."""
    from functools import partial

    from tagmask.config import override
    from tagmask.jobs.tune import tune as by_tags
    from tagmask.jobs.tune_masks import tune_masks as by_masks

    table = override({}, grid or [], option="--grid")
    masks_table = table.pop("mask", {})
    if not isinstance(masks_table, dict):
        raise ConfigError(
            f"mask = {masks_table}, but it is a table of settings.",
            where="--grid",
            repair='Name one, as --grid "mask.median=[1, 3]".',
        )
    of_masks = {f"mask.{key}": value for key, value in masks_table.items()}
    values = {k: v if isinstance(v, list) else [v] for k, v in {**table, **of_masks}.items()}
    if (criterion == "dice") != (masks is not None):
        raise ConfigError(
            f"criterion = {criterion} and {'no ' if masks is None else ''}masks.",
            repair="Give --criterion dice and --masks PREPARED together, or neither.",
        )
    job: Any = partial(by_tags, own=criterion == "own") if masks is None else partial(by_masks, masks=masks)
    with counter("tuning") as report:
        result = job(
            run,
            grid=values,
            method=method,
            overrides=overrides or [],
            split=split,
            limit=limit,
            seed=seed,
            device=device,
            batch=batch,
            report=report,
        )
    typer.echo(str(result))
