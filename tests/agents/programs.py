"""Codex, Gemini CLI and OpenCode, each told in the same few words, for tests that hold of all three."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from conftest import CodexHome
from gemini_home import find_gemini_command, make_gemini_home
from opencode_home import find_opencode, make_opencode_home


class AgentHome(Protocol):
    """What the homes of all programs have."""

    @property
    def work(self) -> Path: ...
    @property
    def environment(self) -> dict[str, str]: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Program:
    """One agent program."""

    name: str
    #: Its full-screen interface, with every tool allowed.
    interactive: tuple[str, ...]
    #: One turn without a person; the prompt comes last.
    headless: tuple[str, ...]
    #: What stands in its empty input line.
    ready: str
    #: Whether it goes on with a turn that its death cut, without anybody typing.
    goes_on: bool


CODEX = Program(
    name="codex",
    interactive=("codex", "-s", "danger-full-access", "-a", "never"),
    headless=("codex", "exec", "--skip-git-repo-check", "-s", "danger-full-access"),
    ready="Ask Codex to do anything",
    goes_on=True,
)
GEMINI = Program(
    name="gemini",
    interactive=("gemini", "--approval-mode=yolo"),
    headless=("gemini", "--approval-mode=yolo", "-p"),
    ready="Type your message",
    goes_on=True,
)
OPENCODE = Program(
    name="opencode",
    interactive=("opencode",),
    headless=("opencode", "run"),
    ready="Build · scripted",  # its line of examples goes away with the first message
    goes_on=False,
)
PROGRAMS = (CODEX, GEMINI, OPENCODE)

MakeCodexHome = Callable[[str], CodexHome]


def make_home(program: Program, root: str, tmp_path: Path, make_codex_home: MakeCodexHome) -> AgentHome:
    """Prepare a program for the model at ``root`` (of ``ModelServer``); without the program skip, or in CI fail."""
    if program is CODEX:
        return make_codex_home(f"{root}/v1")
    if program is GEMINI:
        return make_gemini_home(root, tmp_path, find_gemini_command())
    return make_opencode_home(f"{root}/v1", tmp_path, find_opencode())
