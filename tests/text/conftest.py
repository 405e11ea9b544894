"""A BERT of two layers and forty words, on the disk as it is distributed."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tests.berts import write_bert


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small BERT, saved by transformers from its pretraining form. Read only."""
    return write_bert(tmp_path_factory.mktemp("encoder") / "bert")


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail where anything asks for the network."""

    def refuse(*arguments: Any, **_: Any) -> NoReturn:
        raise AssertionError(f"asked for the network: {arguments}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
