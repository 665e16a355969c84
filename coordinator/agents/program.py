"""Which words of a command line start an agent program: its own command, Node with its script, npx with its package."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from coordinator.agents.options import table
from coordinator.sessions.model import LaunchSpec

_NODE = table("node nodejs bun")
_NPX = table("npx bunx")
#: Options that take the next word as their value.
_NODE_WITH_VALUE = table("-r --require --import --loader --experimental-loader -C --conditions --env-file --title")
_NPX_WITH_VALUE = table("-p --package -c --call")
#: With these Node runs what follows them rather than a script.
_NODE_WITHOUT_SCRIPT = table("-e --eval -p --print -pe -i --interactive")


@dataclass(frozen=True, kw_only=True, slots=True)
class Program:
    """The names of one agent program."""

    #: What its command is called.
    commands: frozenset[str]
    #: What else a script of it is called that Node runs.
    scripts: frozenset[str] = frozenset()
    #: Its npm package.
    package: str
    #: Whether npx, which is given a command instead of a package, starts this program; another package may have the name.
    is_known_to_npx: bool = True

    def is_started_by(self, argv: Sequence[str]) -> bool:
        """Tell from the words alone whether they start the program."""
        program, _ = split_program(argv)
        if len(program) < 2:
            return bool(program) and os.path.basename(program[0]) in self.commands
        if os.path.basename(program[0]) in _NPX:
            named = {_strip_version(word.removeprefix("--package=")) for word in program[1:]}
            return self.package in named or (self.is_known_to_npx and not self.commands.isdisjoint(named))
        return self.is_script(program[-1]) and _NODE_WITHOUT_SCRIPT.isdisjoint(program)

    def is_script(self, path: str) -> bool:
        """Tell whether a path for Node's is that of the program."""
        return os.path.basename(path) in self.commands | self.scripts or f"/{self.package}/" in f"/{path}"


def split_program(argv: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the words that name the program and the rest: ``codex``, ``node [OPTIONS] .../codex.js``, ``npx [-y] PACKAGE``.

    Node or npx that is given no name is the program itself.
    """
    name = os.path.basename(argv[0]) if argv else ""
    end = 1
    if name in _NODE | _NPX:
        with_value = _NODE_WITH_VALUE if name in _NODE else _NPX_WITH_VALUE
        while end < len(argv) and argv[end].startswith("-"):
            end += 2 if argv[end] in with_value else 1
        end = end + 1 if end < len(argv) else 1
    return tuple(argv[:end]), tuple(argv[end:])


def find_file(program: Sequence[str], launch: LaunchSpec) -> str | None:
    """Return the path of the file that the words of ``program`` name, ``None`` if it is not found, or npx would choose it."""
    if not program or len(program) > 2 or os.path.basename(program[0]) in _NPX:
        return None
    if os.sep in program[-1]:
        return os.path.join(launch.cwd, program[-1])
    import shutil  # pulls in archive formats; wanted once a start

    return shutil.which(program[-1], path=launch.environment.get("PATH", os.defpath))


def is_executable(path: Path) -> bool:
    """Tell whether there is a file that may be run."""
    try:
        return stat.S_ISREG(path.stat().st_mode) and os.access(path, os.X_OK)
    except OSError:
        return False


def _strip_version(package: str) -> str:
    """Return a package's name for npx without ``@VERSION``; its scope begins with the same sign."""
    return package[:1] + package[1:].partition("@")[0]
