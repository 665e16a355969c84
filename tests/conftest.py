"""Fixtures for every test: a home of its own, and proof that nothing of it lives on afterwards."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import end_home_processes

from coordinator.paths import Home

# A shell starts what it puts into the background with these ignored, nohup the last, and every program below inherits that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def _no_crewkeep_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep the settings, home and session of whoever runs the tests out of them."""
    for name in list(os.environ):
        if name.startswith("CREWKEEP_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """A fresh home; every process that carries it is ended after the test."""
    home = Home.at(tmp_path / "home")
    home.path.mkdir(mode=0o700)
    yield home
    end_home_processes(home)
