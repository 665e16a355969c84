"""Fixtures for tests that drive a real agent program: a home of its own for each, and the program itself on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # the model server is a program's neighbour, not a package

import claude_home
import codex_home
import gemini_home
import opencode_home
from running import Running, Start

from coordinator.sessions.model import LaunchSpec


@pytest.fixture
def make_codex_home(tmp_path: Path) -> Callable[[str], codex_home.CodexHome]:
    """Return a function that prepares Codex for the model at a URL; without the program skip, or in CI fail."""
    return partial(codex_home.make_codex_home, tmp_path=tmp_path)


@pytest.fixture
def make_gemini_home(tmp_path: Path) -> Callable[[str], gemini_home.GeminiHome]:
    """Return a function that prepares Gemini CLI for the model at a root."""
    return partial(gemini_home.make_gemini_home, tmp_path=tmp_path)


@pytest.fixture
def make_opencode_home(tmp_path: Path) -> Callable[[str], opencode_home.OpenCodeHome]:
    """Return a function that prepares OpenCode for the model at a URL."""
    return partial(opencode_home.make_opencode_home, tmp_path=tmp_path)


@pytest.fixture
def make_claude_home(tmp_path: Path) -> Callable[[str], claude_home.ClaudeHome]:
    """Return a function that prepares Claude Code for the model at a root; without the program skip."""
    return partial(claude_home.make_claude_home, tmp_path=tmp_path)


@pytest.fixture
def start() -> Iterator[Start]:
    """Return a function that starts a program without a keeper."""
    running: list[Running] = []

    def begin(launch: LaunchSpec, argv: tuple[str, ...] | None = None) -> Running:
        running.append(Running(argv or launch.argv, launch))
        return running[-1]

    yield begin
    for one in running:
        one.kill()
