"""What a person sees while a job runs and when it fails. Results go to stdout, all of this to stderr."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from tagmask.errors import DISK_FULL, InputError, ResourceError, TagmaskError

if TYPE_CHECKING:
    from tagmask.training.progress import Progress as TrainingProgress

__all__ = ["FAULT", "Log", "comparing", "counter", "explain", "say", "training"]

FAULT = 70


def say(text: str) -> None:
    """Print one message."""
    sys.stderr.write(f"tagmask: {text}\n")
    sys.stderr.flush()


class Log(logging.Handler):
    """Print what the package logs: one line each, with the traceback only for who debugs."""

    def __init__(self, *, tracebacks: bool) -> None:
        super().__init__()
        self.tracebacks = tracebacks

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record."""
        say(self.format(record) if self.tracebacks else record.getMessage())


def explain(error: Exception) -> tuple[int, str]:
    """Give the exit code and the one message of an error that ended a job."""
    if isinstance(error, TagmaskError):
        return error.exit_code, str(error)
    # torch's own error has no base but RuntimeError, and torch must not be imported to find out.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return (
            ResourceError.exit_code,
            f"memory does not suffice: {error}. Use a smaller --batch (train: --set train.NETWORK.micro_batch=N) "
            "or smaller slices.",
        )
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        code = ResourceError.exit_code if error.errno in DISK_FULL else InputError.exit_code
        return code, f"{where}{error.strerror}. Check that it exists, may be used, and has room."
    what = f"{type(error).__name__}: {error}"
    return (
        FAULT,
        f"this is a fault of Tagmask: {what}\nRun the command with --debug and report what it prints.",
    )


@contextmanager
def counter(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show how many of all are done, where a person looks on.

    Yields
    ------
    callable
        To be called with (done, all).
    """
    with _bar() as bar:
        yield _count(bar, what)


@contextmanager
def comparing() -> Iterator[tuple[Callable[[int, int], None], Callable[[TrainingProgress], None]]]:
    """Show the cells of a benchmark, and its trainings.

    Yields
    ------
    callable, callable
        As :func:`counter` and :func:`training` give them.
    """
    with _bar() as bar:
        yield _count(bar, "cells"), _lesson(bar)


@contextmanager
def training() -> Iterator[Callable[[TrainingProgress], None]]:
    """Show each network's step, loss and time left: as a bar to a person, as lines in a log file.

    Yields
    ------
    callable
        To be called with each `tagmask.training.progress.Progress`.
    """
    with _bar() as bar:
        yield _lesson(bar)


def _count(bar: Progress, what: str) -> Callable[[int, int], None]:
    task = bar.add_task(what, total=None)
    return lambda done, total: bar.update(task, completed=done, total=total)


def _lesson(bar: Progress) -> Callable[[TrainingProgress], None]:
    tasks: dict[str, TaskID] = {}

    def show(p: TrainingProgress) -> None:
        speed = f"{p.images_per_second:.1f} images/s  {_duration(p.seconds_left)} left"
        text = f"{p.network}  loss {p.loss:.4f}  {speed}"
        if not sys.stderr.isatty():
            say(f"{text}  step {p.step}/{p.steps}")
            return
        if p.network not in tasks:
            tasks[p.network] = bar.add_task(text, total=p.steps)
        bar.update(tasks[p.network], completed=p.step, description=text)

    return show


def _bar() -> Progress:
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True)


def _duration(seconds: float) -> str:
    """Give a time as a person says it.

    Examples
    --------
    >>> _duration(42), _duration(754), _duration(5 * 3600 + 120)
    ('42 s', '13 min', '5 h 2 min')
    """
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
