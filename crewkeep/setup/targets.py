"""Where agent programs keep their configuration, and how a part of ours stands in it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from coordinator.errors import CrewkeepError, InvalidInput
from crewkeep.setup.edits import Edit


class Installed(StrEnum):
    """How a part stands in one agent's configuration."""

    YES = "yes"
    NO = "no"
    #: There is one of ours, but not this.
    OUTDATED = "outdated"
    #: The configuration cannot be read.
    UNREADABLE = "unreadable"


@dataclass(frozen=True, kw_only=True, slots=True)
class Status:
    """What stands in one agent's configuration."""

    agent: str
    installed: Installed
    path: Path
    problem: str | None = None


def judge(agent: str, path: Path, plan: Callable[[bool], Edit]) -> Status:
    """Return how a part stands, from what installing (``plan(True)``) or removing it would change.

    Never raises for what it finds.
    """
    try:
        installing, removing = plan(True), plan(False)
    except CrewkeepError as error:
        return Status(agent=agent, installed=Installed.UNREADABLE, path=path, problem=error.message)
    found = Installed.YES if not installing.changes else Installed.OUTDATED if removing.changes else Installed.NO
    return Status(agent=agent, installed=found, path=path)


def check_agent(agent: str, known: Mapping[str, object], what: str) -> None:
    """Raise ``InvalidInput`` for an agent that takes no ``what``."""
    if agent not in known:
        raise InvalidInput(f"the agent {agent!r} takes no {what}", hint=f"one of: {', '.join(known)}", agent=agent)


def find_home(environment: Mapping[str, str]) -> Path:
    """Return the user's home directory."""
    return Path(environment.get("HOME") or os.path.expanduser("~"))


def find_codex_home(environment: Mapping[str, str]) -> Path:
    """Return the directory of Codex's configuration."""
    return Path(environment.get("CODEX_HOME") or find_home(environment) / ".codex")


def find_gemini_home(environment: Mapping[str, str]) -> Path:
    """Return the directory of Gemini CLI's configuration."""
    return Path(environment.get("GEMINI_CLI_HOME") or find_home(environment)) / ".gemini"


def find_opencode_config(environment: Mapping[str, str]) -> Path:
    """Return the directory of OpenCode's configuration."""
    config = Path(environment.get("XDG_CONFIG_HOME") or find_home(environment) / ".config")
    return Path(environment.get("OPENCODE_CONFIG_DIR") or config / "opencode")
