"""Finds what belongs to no session: the orphans that no session's own evidence can show.

  - processes of this home whose session is not registered, or whose keeper is gone
  - files of sessions without a record, unless they are so young that somebody may just be writing them
  - records to which nothing belongs: no launch, no checkpoint, no process

The home is recognised under any of its names (relative, through links, with ``..``, in another Unicode spelling), and nothing
below it is ever searched with patterns, so brackets and stars in its path mean nothing.
"""

from __future__ import annotations

import os
from pathlib import Path

from coordinator.config import START_TIMEOUT_S, SWEEP_AGE_S
from coordinator.errors import CrewkeepError
from coordinator.ids import ID_PATTERN
from coordinator.paths import Home
from coordinator.sessions.model import SessionRecord
from coordinator.sessions.registry import Registry
from coordinator.system import files, processes, scan
from coordinator.system.clock import SYSTEM, Clock
from recovery.manifest import DIRECTORY_PATTERN
from recovery.model import CheckpointSight, Evidence, OrphanKind, Stray
from recovery.stages import orphan


def gather_strays(home: Home, clock: Clock = SYSTEM) -> list[Stray]:
    """Return every stray of the home: processes, then files, then records. Raises nothing that a file can cause."""
    registry = Registry(home, clock)
    names = _list_names(home.sessions)
    strays = _find_processes(home, registry)
    busy = {stray.session for stray in strays}
    lonely = [name for name in names if name not in busy]
    return [*strays, *_find_files(home, names, clock), *_find_lonely_records(home, registry, lonely, clock)]


def _find_processes(home: Home, registry: Registry) -> list[Stray]:
    found = []
    records: dict[str, SessionRecord | CrewkeepError | None] = {}
    for identity, environment in scan.find_home_processes(home.path):
        session_id = environment.get("CREWKEEP_SESSION", "")
        if not session_id:
            continue  # a person who set the variable, a keeper, a patrol
        if session_id not in records:
            records[session_id] = _read_record(home, registry, session_id)
        kind = _judge_process(records[session_id], environment)
        if kind is not None and not processes.observe(identity).is_gone:
            name = processes.name_of(identity.pid)
            found.append(Stray(kind=kind, session=session_id, what=f"process {identity.pid} ({name})", pid=identity.pid))
    return found


def _judge_process(record: SessionRecord | CrewkeepError | None, environment: dict[str, str]) -> OrphanKind | None:
    if record is None:
        return OrphanKind.PROCESS_WITHOUT_RECORD
    if isinstance(record, CrewkeepError):
        return None  # registered, only not readable: that session's own evidence tells
    nonce = environment.get(scan.NONCE_VARIABLE)
    if not nonce:
        return None  # somebody only says that it belongs there
    if nonce not in (record.nonce, *record.unreaped_nonces):
        return OrphanKind.AGENT_WITHOUT_KEEPER  # of an incarnation that was reaped
    owner = processes.observe(record.owner)
    return OrphanKind.AGENT_WITHOUT_KEEPER if record.owner is not None and owner.is_gone else None


def _read_record(home: Home, registry: Registry, session_id: str) -> SessionRecord | CrewkeepError | None:
    if not ID_PATTERN.fullmatch(session_id) or not os.path.lexists(home.session(session_id).record):
        return None
    try:
        return registry.get(session_id)
    except CrewkeepError as error:
        return error


def _find_files(home: Home, names: list[str], clock: Clock) -> list[Stray]:
    found = []
    for name in names:
        path = home.sessions / name
        temporary = files.TEMPORARY_MARK in name
        if not temporary and not ID_PATTERN.fullmatch(name):
            continue  # not ours to judge
        if not temporary and os.path.lexists(home.session(name).record):
            continue
        age_s = clock.wall_s() - _find_newest_mtime(path)
        if age_s > SWEEP_AGE_S:
            session_id = None if temporary else name
            found.append(
                Stray(
                    kind=OrphanKind.FILES_WITHOUT_RECORD,
                    session=session_id,
                    what=str(path),
                    path=str(path),
                    age_s=round(age_s, 1),
                )
            )
    return found


def _find_newest_mtime(path: Path) -> float:
    """Return when the directory or anything in it was last written to; 0 if it is gone."""
    newest = 0.0
    try:
        newest = os.lstat(path).st_mtime
        for directory, names, others in os.walk(path):
            for name in (*names, *others):
                newest = max(newest, os.lstat(os.path.join(directory, name)).st_mtime)
    except OSError:
        pass  # somebody is at work in it, or it cannot be read: what was seen so far counts
    return newest


def _find_lonely_records(home: Home, registry: Registry, names: list[str], clock: Clock) -> list[Stray]:
    found = []
    for name in names:
        # A missing launch is what makes a record lonely, and costs one look to see.
        if not ID_PATTERN.fullmatch(name) or os.path.lexists(home.session(name).launch):
            continue
        record = _read_record(home, registry, name)
        if not isinstance(record, SessionRecord):
            continue
        checkpoints = [one for one in _list_names(home.session(name).checkpoints) if DIRECTORY_PATTERN.fullmatch(one)]
        evidence = Evidence(
            session=name,
            record=record,
            owner=processes.observe(record.owner),
            checkpoints=tuple(CheckpointSight(number=int(one), whole=True) for one in checkpoints),
            now_wall_s=clock.wall_s(),
            start_timeout_s=START_TIMEOUT_S,
        )
        if orphan.judge(evidence).reason == OrphanKind.RECORD_WITHOUT_ANYTHING:
            what = f"session {record.name} ({name})"
            found.append(Stray(kind=OrphanKind.RECORD_WITHOUT_ANYTHING, session=name, what=what, path=str(home.sessions / name)))
    return found


def _list_names(directory: Path) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except OSError:
        return []
