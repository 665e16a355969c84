"""Starts the keeper of one incarnation and waits until its agent runs.

The keeper is a process of its own: its own OS session, no terminal, not a child of ours. Secrets go to it through its
environment and nowhere else. What it may not inherit is who *we* are: every ``CREWKEEP_*`` variable is dropped, so that
a session started from inside another is not taken for a part of it.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from coordinator.config import START_TIMEOUT_S, Settings, is_secret
from coordinator.errors import CrewkeepError, Superseded, TimedOut
from coordinator.paths import Home
from coordinator.sessions.model import Phase, SessionRecord
from coordinator.sessions.registry import Registry
from coordinator.system.processes import observe
from coordinator.system.scan import ROLE_VARIABLE
from coordinator.system.spawn import spawn_detached

#: How often the record's file is looked at; a look costs 2 us.
_LOOK_S = 0.003
_LOG_TAIL_BYTES = 2000


def start_keeper(
    home: Home, record: SessionRecord, secrets: Mapping[str, str], settings: Settings, *, rows: int = 24, columns: int = 80
) -> SessionRecord:
    """Start a keeper for ``record`` at its epoch; return the record once it says that the agent runs, ended or is parked.

    Raises ``Superseded`` if a newer epoch came meanwhile, ``TimedOut`` after ``START_TIMEOUT_S``, or ``CrewkeepError``
    with the keeper's own last words if it ended before that. A keeper that timed out is left to whoever reaps the epoch.
    """
    del settings  # a keeper reads its own from the launch, so that it has the same whoever starts it
    paths = home.session(record.id)
    log_start = _size_of(paths.keeper_log)
    keeper = spawn_detached(
        build_own_command("crewkeep.keeper", str(home.path), record.id, str(record.epoch), str(rows), str(columns)),
        environment=build_own_environment(home, "keeper", secrets),
        log=paths.keeper_log,
    )
    registry = Registry(home)
    deadline_s = time.monotonic() + START_TIMEOUT_S
    seen: tuple[int, int] | None = None
    while True:
        gone = observe(keeper).is_gone  # before the look, so that its last write is not missed
        if (now := _stamp_of(paths.record)) != seen or gone:
            seen = now
            current = registry.get(record.id)
            if current.epoch != record.epoch:
                raise Superseded(record.id, record.epoch, current.epoch)
            if current.phase in (Phase.RUNNING, Phase.ENDED, Phase.PARKED, Phase.STOPPING):
                return current
            if gone:
                raise CrewkeepError(
                    f"the keeper of {record.name} ended before its agent ran{_last_words(paths.keeper_log, log_start)}",
                    hint=f"see {paths.keeper_log}",
                    session=record.id,
                )
        if time.monotonic() >= deadline_s:
            raise TimedOut(f"{record.name} did not start within {START_TIMEOUT_S:g} s", hint=f"crewkeep why {record.name}")
        time.sleep(_LOOK_S)


def build_own_command(module: str, *arguments: str) -> Sequence[str]:
    """Return the argv that runs a module of ours in this Python, never one that lies in the current directory."""
    return [sys.executable, "-P", "-m", module, *arguments]


def build_own_environment(home: Home, role: str, secrets: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a process of crewkeep's own: ours, without who we are and without our secrets."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CREWKEEP_") and not is_secret(name)}
    if failpoints := os.environ.get(f"CREWKEEP_{role.upper()}_FAILPOINTS"):  # for tests: arms that role only
        environment["CREWKEEP_FAILPOINTS"] = failpoints
    return {**environment, **secrets, "CREWKEEP_HOME": str(home.path), ROLE_VARIABLE: role}


def _stamp_of(path: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def _size_of(path: Path) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def _last_words(log: Path, start: int) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(start, _size_of(log) - _LOG_TAIL_BYTES) if _size_of(log) >= start else 0)
            lines = [line for line in file.read(_LOG_TAIL_BYTES).decode(errors="replace").splitlines() if line.strip()]
    except OSError:
        return ""
    return f": {lines[-1].strip()}" if lines else ""
