"""Names in a benchmark file: which are known, and those in braces that stand for something else."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from tagmask.errors import ConfigError, did_you_mean

__all__ = ["PLACES", "Place", "braces", "check_file_name", "fill", "known", "stem_of"]


class Place(NamedTuple):
    """A part of a data set: a set without folds has one called "", and what is the same in all draws has draw "".

    Examples
    --------
    >>> str(Place("toy", draw="0")), Place("toy", "b").fill("runs/{data}-{fold}")
    ('toy, draw 0', 'runs/toy-b')
    """

    data: str
    fold: str = ""
    draw: str = ""

    def __str__(self) -> str:
        """Name it for messages."""
        fold, draw = f", fold {self.fold}" if self.fold else "", f", draw {self.draw}" if self.draw else ""
        return self.data + fold + draw

    def fill(self, text: str) -> str:
        """Put set, fold and draw in the places of their names in braces."""
        return fill(text, self._asdict())


PLACES = Place._fields
"""What may stand in braces in the paths of a row, and in what its training overrides."""
_BRACES = re.compile(r"\{([A-Za-z_]\w*)\}")


def known(name: str, names: Iterable[str], what: str, where: str = "") -> None:
    """Refuse a name that is none of the known ones.

    Raises
    ------
    ConfigError
        With the nearest of them.
    """
    names = list(names)
    if name not in names:
        raise ConfigError(f"unknown {what} {name!r}.", where=where, repair=did_you_mean(name, names))


def check_file_name(name: str) -> None:
    """Refuse a name that files are not to be called by.

    Raises
    ------
    ConfigError
        It holds other things than letters, digits, dots, dashes and underscores.
    """
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise ConfigError(f"name = {name!r}.", repair="Use letters, digits, dots and dashes.")


def stem_of(name: str, data: str) -> str:
    """Give the stem of the files of one data set.

    Examples
    --------
    >>> stem_of("examples", "toy/set")
    'examples-toy-set'
    """
    return f"{name}-{re.sub(r'[^A-Za-z0-9.]+', '-', data)}"


def braces(text: str) -> list[str]:
    """Give the names in braces, in the order of the text.

    Examples
    --------
    >>> braces("runs/{data}-{draw}"), braces("members={cdm={draws=4}}")
    (['data', 'draw'], [])
    """
    return _BRACES.findall(text)


def fill(text: str, values: Mapping[str, object]) -> str:
    """Put values in the place of names in braces; other names stay.

    Examples
    --------
    >>> fill("runs/{data}-{shots}", {"shots": 5, "text": True})
    'runs/{data}-5'
    """
    return _BRACES.sub(lambda found: _text(values[found[1]]) if found[1] in values else found[0], text)


def _text(value: object) -> str:
    """Write a value as TOML does, but for the quotes of a text."""
    return str(value).lower() if isinstance(value, bool) else str(value)
