"""Looks at the machine and the home, and says what limits crewkeep here and what to do about it. Changes nothing.

``bad`` is what breaks a promise or hides a session, ``warn`` what works by a fallback or will break later.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from coordinator.config import PATROL_CHECK_S, PATROL_SILENCE_S, find_origins, find_unknown
from coordinator.errors import CrewkeepError, Damaged, FormatTooNew
from coordinator.paths import Home
from coordinator.sessions.registry import Damage, Registry
from coordinator.system.clock import SYSTEM, Clock
from coordinator.system.mounts import NETWORK_FILE_SYSTEMS, find_file_system

Level = Literal["ok", "warn", "bad"]

#: Below so much free space a checkpoint or a full output log no longer fits. Arbitrary.
_LOW_SPACE_BYTES = 256 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    level: Level
    message: str
    #: The next step, empty where there is none to take.
    hint: str = ""


def examine(home: Home, project: Path | None, clock: Clock = SYSTEM) -> list[Check]:
    """Return every check, in the order in which one reads them. Never raises for what it finds."""
    looks: list[Callable[[], Iterator[Check]]] = [
        _check_python,
        lambda: _check_home(home),
        lambda: _check_space(home),
        _check_processes,
        lambda: _check_settings(project),
        lambda: _check_sessions(home, clock),
        lambda: _check_contexts(home),
        lambda: _check_services(home),
        lambda: _check_patrol(home),
        lambda: _check_service(home),
        lambda: _check_quarantine(home),
    ]
    found: list[Check] = []
    for look in looks:
        try:
            found.extend(look())
        except (CrewkeepError, OSError) as error:
            hint = error.hint if isinstance(error, CrewkeepError) else ""
            found.append(Check(name="look", level="bad", message=str(error), hint=hint))
    return found


def _check_python() -> Iterator[Check]:
    version = platform.python_version()
    yield Check(name="system", level="ok", message=f"Python {version}, {platform.system()} {platform.release()}")
    if sys.platform not in ("linux", "darwin"):
        yield Check(name="system", level="warn", message=f"{sys.platform} is not tested", hint="Linux and macOS are")


def _check_home(home: Home) -> Iterator[Check]:
    if not home.path.exists():
        yield Check(name="home", level="ok", message=f"{home.path} (made with the first session)")
        return
    status = home.path.stat()
    mode = status.st_mode & 0o777
    if not home.path.is_dir():
        yield Check(name="home", level="bad", message=f"{home.path} is not a directory", hint="choose another CREWKEEP_HOME")
    elif status.st_uid != os.getuid():
        yield Check(name="home", level="bad", message=f"{home.path} belongs to another user", hint="choose another CREWKEEP_HOME")
    elif mode & 0o077:
        yield Check(
            name="home", level="bad", message=f"{home.path} can be read by others (mode {mode:o})", hint=f"chmod 700 {home.path}"
        )
    elif not os.access(home.path, os.W_OK):
        yield Check(name="home", level="bad", message=f"{home.path} cannot be written", hint="check its file system and mode")
    else:
        yield Check(name="home", level="ok", message=str(home.path))
    kind = find_file_system(home.path)
    if kind in NETWORK_FILE_SYSTEMS:
        yield Check(
            name="file system",
            level="bad",
            message=f"{home.path} is on {kind}; locks and durability are not promised on network file systems",
            hint="set CREWKEEP_HOME to a local disk",
        )
    elif kind == "tmpfs":
        yield Check(
            name="file system",
            level="warn",
            message=f"{home.path} is on tmpfs; nothing survives a reboot",
            hint="set CREWKEEP_HOME to a disk",
        )
    elif kind:
        yield Check(name="file system", level="ok", message=kind)


def _check_space(home: Home) -> Iterator[Check]:
    place = next(path for path in (home.path, *home.path.parents) if path.exists())
    status = os.statvfs(place)
    free = status.f_bavail * status.f_frsize
    level: Level = "ok" if free >= _LOW_SPACE_BYTES else "bad"
    hint = "" if level == "ok" else "free some space; what failed to write resumes by itself"
    yield Check(name="space", level=level, message=f"{free >> 20} MiB free", hint=hint)
    if status.f_files and not status.f_favail:
        yield Check(name="space", level="bad", message="no inodes are left", hint="remove files")


def _check_processes() -> Iterator[Check]:
    from coordinator.system.processes import identify_self

    identity = identify_self()
    if sys.platform == "linux":
        if not hasattr(os, "pidfd_open"):
            yield Check(
                name="processes", level="warn", message="this Python has no pidfd_open", hint="use a newer Python or kernel"
            )
        elif identity.pidfd_inode is None:
            yield Check(
                name="processes",
                level="warn",
                message="the kernel has no pidfd inodes (before 6.9): identity rests on start ticks and nonce",
            )
        else:
            yield Check(name="processes", level="ok", message="proven by pidfd inode, start ticks, boot and nonce")
        from coordinator.system import cgroup

        probe = cgroup.create_group(f"crewkeep-doctor-{os.getpid()}")
        if probe is None:
            yield Check(
                name="control groups",
                level="warn",
                message="not writable: process trees are found by parents, sessions and nonce instead",
            )
        else:
            cgroup.remove(probe)
            yield Check(name="control groups", level="ok", message="each agent can have one of its own")


def _check_settings(project: Path | None) -> Iterator[Check]:
    turned = {name: found for name, found in find_origins(project=project).items() if found.origin != "default"}
    told = ", ".join(f"{name} = {found.value} ({found.origin})" for name, found in turned.items())
    yield Check(name="settings", level="ok", message=told or "all at their defaults")
    for name, source in find_unknown(project=project):
        yield Check(name="settings", level="warn", message=f"{source}: there is no setting {name!r}", hint="see docs/cli.md")


def _check_sessions(home: Home, clock: Clock) -> Iterator[Check]:
    if not home.sessions.is_dir():
        yield Check(name="sessions", level="ok", message="none yet")
        return
    sessions = Registry(home, clock).list_all()
    damaged = [one for one in sessions if isinstance(one, Damage)]
    yield Check(name="sessions", level="ok", message=f"{len(sessions) - len(damaged)} whole records")
    for one in damaged:
        hint = one.error.hint if isinstance(one.error, FormatTooNew) else f"crewkeep recover {one.id}"
        yield Check(name="sessions", level="bad", message=str(one.error), hint=hint)
    from recovery.strays import gather_strays

    for stray in gather_strays(home):
        yield Check(name="strays", level="warn", message=f"{stray.kind}: {stray.what}", hint="crewkeep recover --all")


def _check_contexts(home: Home) -> Iterator[Check]:
    from coordinator.context import SharedContext

    places = sorted(home.contexts.iterdir()) if home.contexts.is_dir() else []
    places = [path for path in (*places, home.crew) if path.is_dir() and not path.name.startswith(".")]
    whole = 0
    for directory in places:
        try:
            context = SharedContext.open(directory, must_exist=True)
        except (Damaged, FormatTooNew) as error:
            yield Check(name="shared context", level="bad", message=str(error), hint=error.hint)
            continue
        try:
            findings = [one for one in context.check() if not one.repaired]
        finally:
            context.close()
        whole += not findings
        for finding in findings:
            yield Check(name="shared context", level="bad", message=finding.message, hint="crewkeep context check --repair")
    if places:
        yield Check(name="shared context", level="ok", message=f"{whole} whole")


def _check_services(home: Home) -> Iterator[Check]:
    from coordinator.services.breaker import Breaker

    state = str(Breaker(home).state())
    if state == "closed":
        yield Check(name="breaker", level="ok", message="closed")
    else:
        yield Check(
            name="breaker", level="warn", message=f"{state}: coordinator threads are quiet", hint="crewkeep breaker close"
        )


def _check_patrol(home: Home) -> Iterator[Check]:
    from coordinator.sessions.model import Phase
    from crewkeep.patrol_client import ask_patrol
    from crewkeep.patrol_rousing import find_patrol

    answer = ask_patrol(home, "status")
    records = [one for one in Registry(home).list_all() if not isinstance(one, Damage)] if home.sessions.is_dir() else []
    living = [one for one in records if one.phase not in (Phase.ENDED, Phase.PARKED)]
    if answer is not None:
        yield Check(name="patrol", level="ok", message="watches")
    elif (found := find_patrol(home)) is not None:
        identity, liveness = found
        yield Check(
            name="patrol",
            level="bad",
            message=f"process {identity.pid} is {liveness} and does not answer; who crashes stays down meanwhile",
            hint=f"living sessions replace it within {PATROL_SILENCE_S + PATROL_CHECK_S:g} s; or: kill -CONT {identity.pid}",
        )
    elif living:
        yield Check(
            name="patrol",
            level="bad",
            message=f"does not run, with {len(living)} sessions to watch",
            hint="crewkeep recover --all --yes",
        )
    else:
        yield Check(name="patrol", level="ok", message="not needed: no session runs")


def _check_service(home: Home) -> Iterator[Check]:
    from crewkeep import service

    status = service.read_status(home)
    if status.installed and not status.current:
        yield Check(
            name="service", level="warn", message=f"{status.path} is of another home or version", hint="crewkeep service install"
        )
    elif status.installed:
        yield Check(name="service", level="ok", message=status.path)
    else:
        yield Check(name="service", level="ok", message="not installed; after a reboot: crewkeep recover --all --yes")


def _check_quarantine(home: Home) -> Iterator[Check]:
    if not home.quarantine.is_dir():
        return
    kept = [path for path in home.quarantine.iterdir() if not path.name.startswith(".")]
    if kept:
        size = sum(path.lstat().st_size for path in kept if path.is_file())
        yield Check(
            name="quarantine",
            level="warn",
            message=f"{len(kept)} damaged files were set aside ({size} bytes)",
            hint=f"read the reasons in {home.quarantine}; remove what you do not need",
        )
