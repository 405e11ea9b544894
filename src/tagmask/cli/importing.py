"""The command that takes in what others trained: import-weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tagmask.cli.options import Override, Overwrite

__all__ = ["app"]

app = typer.Typer()


@app.command(
    name="import-weights",
    epilog="Example: tagmask import-weights 256x256_diffusion_uncond.pt -o weights/imagenet-256.safetensors",
)
def import_weights(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Published ADM denoiser, .pt or safetensors.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Weights file to make, .safetensors.")],
    settings: Annotated[
        str,
        typer.Option(
            metavar="NAME|TOML",
            help="Its shape: imagenet-256, or a file with a [denoiser] table as for train.",
        ),
    ] = "imagenet-256",
    overrides: Override = None,
    key: Annotated[
        str | None,
        typer.Option(help="Where in the file the tensors lie, as model or state_dict, if not at its top."),
    ] = None,
    new_attention_order: Annotated[
        bool, typer.Option("--new-attention-order", help="It was trained with use_new_attention_order.")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Make a denoiser's weights file out of a published checkpoint, for features.

    A .pt file is read by a confined process that opens it as a table of tensors, and not at all if it is more.
    """
    from tagmask.jobs.import_weights import import_weights as job

    result = job(
        file,
        out,
        settings=settings,
        overrides=overrides or [],
        key=key,
        new_attention_order=new_attention_order,
        overwrite=overwrite,
    )
    typer.echo(str(result))
