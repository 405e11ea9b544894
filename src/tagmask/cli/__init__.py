"""The command line: parse, call one job, print what it says.

    exit code  0   done
               1   `tagmask doctor` found something broken
               2   an input or a setting is wrong; some cases failed, and the others are done
               3   memory or disk does not suffice
               4   a file asks for more trust than Tagmask gives
              70   a fault of Tagmask
             130   stopped by Ctrl-C

Jobs are imported inside their commands: `tagmask --help` must not wait for them.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from typing import Annotated, NoReturn

import typer

from tagmask import __version__
from tagmask.cli import comparing, importing, results, training
from tagmask.cli.console import Log, explain, say

__all__ = ["app", "main"]

app = typer.Typer(
    name="tagmask",
    help="From image tags to pixel masks. Research use only. Not a medical device.",
    epilog="In this order: prepare, train, segment, evaluate, report; each has an example in its --help. "
    "Example: tagmask segment demo/run demo/hippocampus/labels.csv -o results/demo --val-masks",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

app.add_typer(training.app)
app.add_typer(results.app)
app.add_typer(comparing.app)
app.add_typer(importing.app)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tagmask {__version__}")
        raise typer.Exit


@app.callback()
def tagmask(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more of what is done.")] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show where an error came from. May stand anywhere.")
    ] = False,
) -> None:
    """Set up what all commands share."""
    log = logging.getLogger("tagmask")
    log.handlers[:] = [Log(tracebacks=debug)]
    log.setLevel(logging.INFO if verbose else logging.WARNING)


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and leave with its exit code; see the top of the module.

    Parameters
    ----------
    argv
        Arguments without the program's name; those of the process by default.
    """
    for stream in (sys.stdout, sys.stderr):  # a file name may hold what the terminal cannot show
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    args = list(sys.argv[1:] if argv is None else argv)
    if debug := "--debug" in args:
        args = ["--debug", *(a for a in args if a != "--debug")]
    try:
        typer.main.get_command(app)(args, prog_name="tagmask")
    except Exception as error:
        if debug:
            raise
        code, message = explain(error)
        say(message)
        raise SystemExit(code) from None
    raise SystemExit(0)
