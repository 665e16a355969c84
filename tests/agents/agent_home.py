"""What the homes of all agent programs have: directories that know nobody, and the environment that leads there."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from support import skip_or_fail


@dataclass(frozen=True, kw_only=True, slots=True)
class AgentHome:
    """Directories of one test's program."""

    #: The command as users have it on their PATH: of a pinned program the wrapper that npm installed.
    command: str
    #: Where it works.
    work: Path
    #: The user's, in which it keeps what it knows.
    home: Path
    environment: dict[str, str]


def find_pinned(name: str) -> str:
    """Return the command of a pinned program; without it skip, or in CI fail."""
    command = Path(__file__).parent / "node_modules" / ".bin" / name
    if not command.exists():
        skip_or_fail(f"{name} is not installed below tests/agents; `make test-needs` installs it where npm is there")
    if shutil.which("node") is None:
        skip_or_fail("node is not installed")
    return str(command)


def make_base(command: str, home: Path) -> dict[str, str]:
    """Return the variables that every program needs."""
    path = os.pathsep.join([str(Path(command).parent), os.environ.get("PATH", os.defpath)])
    return {"PATH": path, "HOME": str(home), "TERM": "xterm-256color", "LANG": "C.UTF-8"}
