"""Fencing the shared contexts of a session: from then on its older incarnations can write nothing there.

The fence is a durable line in each shard, looked at under the shard's own lock, so it holds against a writer that was paused
anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from coordinator.config import LOCK_TIMEOUT_S
from coordinator.context import SharedContext
from coordinator.errors import Busy, Damaged
from coordinator.paths import Home
from coordinator.sessions.model import SessionRecord
from coordinator.sessions.workspace import workspace_id
from coordinator.system import failpoints

#: A stopped process of the old incarnation may hold a shard's lock: then the fence waits for that one's end, not for the lock.
_TRY_TIMEOUT_S = 0.5


def list_contexts(home: Home, record: SessionRecord) -> list[Path]:
    """Return the directories of the shared contexts of every workspace that the session may have written to."""
    return [home.context(workspace_id(name)) for name in dict.fromkeys((record.workspace, *record.other_workspaces))]


def list_fenced(home: Home, record: SessionRecord) -> list[Path]:
    """Return the directories of all contexts in which an older incarnation must not write any more: also the crew's."""
    return [*list_contexts(home, record), home.crew]


def try_fence(record: SessionRecord, contexts: Sequence[Path]) -> list[Path]:
    """Fence the session's older epochs in these contexts, for good; return those whose lock could not be had quickly.

    Raises ``StorageError`` and ``FormatTooNew``.
    """
    unfenced = []
    for directory in contexts:
        try:
            _fence(record, directory, _TRY_TIMEOUT_S)
        except Busy:
            unfenced.append(directory)
    return unfenced


def fence(record: SessionRecord, contexts: Sequence[Path]) -> None:
    """As ``try_fence``, but wait for the locks: raises ``Busy`` after ``LOCK_TIMEOUT_S``."""
    for directory in contexts:
        _fence(record, directory, LOCK_TIMEOUT_S)


def _fence(record: SessionRecord, directory: Path, timeout_s: float) -> None:
    failpoints.hit("recover.fence")
    try:
        # One that is not there yet is made: else its first write could be that of a process that is reaped too late.
        context = SharedContext.open(directory, lock_timeout_s=timeout_s)
        try:
            context.fence(record.id, record.epoch)
        finally:
            context.close()
    except Damaged:
        return  # what is damaged takes no writes, and the session must come back to see it mended
