"""Fixtures for tests that drive a real agent program: its pinned installation, a home of its own, a model on loopback."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # the model server is a program's neighbour, not a package

import codex_home
from codex_home import CodexHome

__all__ = ["CodexHome"]


@pytest.fixture(scope="session")
def codex_command() -> str:
    """Return the pinned Codex; without it skip, or in CI fail."""
    return codex_home.find_codex()


@pytest.fixture
def make_codex_home(codex_command: str, tmp_path: Path) -> Callable[[str], CodexHome]:
    """Return a function that prepares Codex for the model at a URL."""
    return lambda url: codex_home.make_codex_home(url, tmp_path, codex_command)
