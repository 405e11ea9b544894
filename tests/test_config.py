from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tagmask.config import build, override, plain, read_toml, write_toml
from tagmask.errors import ConfigError


@dataclass(frozen=True)
class Inner:
    tau: float = 0.95
    widths: tuple[int, ...] = (1, 2)

    def __post_init__(self) -> None:
        if self.tau > 1:
            raise ConfigError(f"tau = {self.tau} is above 1.", where="[inner]", repair="Use 0.95.")


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner = field(default_factory=Inner)
    other: Inner | None = None
    folder: Path | None = None
    free: dict[str, int] = field(default_factory=dict)


def test_a_table_becomes_the_dataclass_and_back() -> None:
    table = {"name": "a", "inner": {"tau": 0.5, "widths": [3]}, "folder": "x/y", "free": {"b": 1}}
    made = build(Outer, table)
    assert made == Outer("a", Inner(0.5, (3,)), None, Path("x/y"), {"b": 1})
    assert build(Outer, tomllib.loads(write_toml(plain(made)))) == made


@pytest.mark.parametrize(
    "value", ["scans/🧠 ü", 'a"b\\c\n', "\x7f\x00", float("inf"), float("-inf"), 1e-30, True]
)
def test_what_is_written_as_toml_is_read_back(value: object) -> None:
    assert tomllib.loads(write_toml({"table": {"key": value, "list": [value]}})) == {
        "table": {"key": value, "list": [value]}
    }
    assert math.isnan(tomllib.loads(write_toml({"key": float("nan")}))["key"])


@pytest.mark.parametrize(
    "table,words",
    [
        ({"name": "a", "iner": {}}, ["iner", "Did you mean inner"]),
        ({"name": "a", "inner": {"taus": 1}}, ["inner.taus", "inner.tau"]),
        ({"name": "a", "other": {"tao": 1}}, ["other.tao", "other.tau"]),
        ({"name": "a", "zzz": 1}, ["zzz", "Known here"]),
        ({"name": "a", "inner": {"tau": "0.5"}}, ["inner.tau", "0.5"]),
        ({"name": 3}, ["name", "3"]),
        ({}, ["name"]),
        ({"name": "a", "inner": {"tau": 2.0}}, ["tau = 2.0", "[inner]", "Use 0.95"]),
    ],
)
def test_a_bad_table_is_refused_by_name(table: dict[str, object], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        build(Outer, table, where="exp.toml")
    for word in [*words, "exp.toml"]:
        assert word in str(caught.value)


def test_overrides_are_typed_and_leave_the_table_alone() -> None:
    table = {"a": {"b": 1}}
    assert override(table, ["a.b=2.5", "a.c=[1, 2]", "d.e=text", "d.f=true"]) == {
        "a": {"b": 2.5, "c": [1, 2]},
        "d": {"e": "text", "f": True},
    }
    assert table == {"a": {"b": 1}}


@pytest.mark.parametrize("text", ["a.b", "=1", "a.b.c=1"])
def test_a_malformed_override_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        override({"a": {"b": 1}}, [text])


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such settings file"):
        read_toml(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("a = [1\n")
    with pytest.raises(ConfigError, match=r"bad\.toml.*TOML"):
        read_toml(tmp_path / "bad.toml")
    (tmp_path / "bytes.toml").write_bytes(b"a = '\xff'")
    with pytest.raises(ConfigError, match=r"bytes\.toml"):
        read_toml(tmp_path / "bytes.toml")


def test_none_is_not_written() -> None:
    with pytest.raises(TypeError, match="None"):
        write_toml({"a": {"b": [1, None]}})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "name = 2026-05-01",
            'name = 2026-05-01 is a date, and no setting is one. Put it in quotes: name = "2026',
        ),
        ("[inner]\ntau = 2026-05-01T07:32:00", "inner.tau = 2026-05-01 07:32:00 is a date"),
        ("[inner]\nwidths = [1, [07:32:00]]", "inner.widths = 07:32:00 is a time"),
    ],
)
def test_a_date_without_quotes_is_named(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_toml(tmp_path / "a.toml")
    assert str(caught.value).startswith(f"{tmp_path / 'a.toml'}: ") and says in str(caught.value)
    for table in (lambda t: override({}, t.splitlines()[-1:]), lambda t: build(Outer, tomllib.loads(t))):
        with pytest.raises(ConfigError, match=r"is a (date|time), and no setting is one\. Put it in quotes"):
            table(text)


def test_an_assignment_of_a_date_is_named() -> None:
    with pytest.raises(ConfigError) as caught:
        override({"a": {"b": 1}}, ["a.b=1979-05-27"], option="--grid")
    assert str(caught.value).startswith("--grid: a.b = 1979-05-27 is a date")
    assert override({}, ['a="1979-05-27"']) == {"a": "1979-05-27"}


def test_a_byte_order_mark_is_no_setting(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_bytes(b'\xef\xbb\xbfname = "a"\n')
    assert read_toml(tmp_path / "a.toml") == {"name": "a"}


@pytest.mark.parametrize("value", ["[" * 5000, "1" * 5000])
def test_what_toml_gives_up_on_is_no_fault(value: str, tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(f"a = {value}")
    with pytest.raises(ConfigError, match=r"a\.toml: cannot be read as TOML"):
        read_toml(tmp_path / "a.toml")
    assert override({}, [f"a={value}"]) == {"a": value}
