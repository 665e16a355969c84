"""Whose MCP server this is: agents start their servers with next to no environment, so the session is read from theirs.

The variables that name a session are inherited by every process of it. An agent that hands on only some of its variables still
has them all itself, so the nearest ancestor that has them tells.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from coordinator.system import scan
from coordinator.system.procfs import read_stat

_NAMES = ("CREWKEEP_HOME", "CREWKEEP_WORKSPACE", "CREWKEEP_SESSION", "CREWKEEP_EPOCH")
#: Between a server and its agent stand a few processes at most (a shell, a package runner).
_DEPTH_LIMIT = 16


def find_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the session's variables: ours if we have them, else those of the nearest ancestor that does; else none."""
    if environment.get("CREWKEEP_SESSION"):
        return _choose(environment)
    pid = os.getppid()
    for _ in range(_DEPTH_LIMIT):
        if pid <= 1:
            break
        found = scan.read_environment(pid) or {}
        if found.get("CREWKEEP_SESSION"):
            return _choose(found)
        row = read_stat(pid)
        pid = 0 if row is None else row.parent
    return _choose(environment)


def _choose(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: environment[name] for name in _NAMES if environment.get(name)}
