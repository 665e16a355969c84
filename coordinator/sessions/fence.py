"""The session lock, and the check that whoever holds it may still act for the session.

Every write on a session's behalf happens inside ``fenced``: the lock is taken, then the record's epoch is read, and a
writer of an older incarnation is refused. Checking first and locking later would let a pause fall in between.
``EpochLook`` is no fence, only the cheap look by which an incarnation learns that it should stop.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from coordinator import sealed
from coordinator.config import LOCK_TIMEOUT_S
from coordinator.errors import Damaged, NotFound, StorageError, Superseded
from coordinator.paths import SessionPaths
from coordinator.sessions.model import RECORD_FORMAT, RECORD_KIND
from coordinator.system import files, locks


@contextmanager
def session_lock(paths: SessionPaths, *, timeout_s: float = LOCK_TIMEOUT_S) -> Iterator[None]:
    """Hold the session's lock. Raises ``NotFound`` if the session has no directory, ``Busy`` after ``timeout_s``."""
    try:
        with locks.locked(paths.lock, timeout_s=timeout_s):
            yield
    except StorageError as error:
        if error.operation == "lock" and not paths.path.is_dir():
            raise NotFound(f"there is no session {paths.path.name}", hint="see `crewkeep ps -a`") from error
        raise


@contextmanager
def fenced(paths: SessionPaths, epoch: int, *, timeout_s: float = LOCK_TIMEOUT_S) -> Iterator[sealed.Body]:
    """Hold the session's lock as the incarnation ``epoch``; yields the record's body.

    Raises ``Superseded`` if a newer incarnation exists, ``Damaged`` if the record cannot be read or went back in time,
    ``NotFound``, ``Busy``.
    """
    with session_lock(paths, timeout_s=timeout_s):
        body = sealed.read_sealed(paths.record, RECORD_KIND, RECORD_FORMAT)
        check_epoch(paths, body, epoch)
        yield body


def check_epoch(paths: SessionPaths, body: sealed.Body, epoch: int) -> None:
    """Refuse an epoch that is not the record's. Call it under the session's lock."""
    current = body.get("epoch")
    if not isinstance(current, int):
        raise Damaged(f"{paths.record} has no epoch", hint="run `crewkeep recover`", path=str(paths.record), reason="wrong-shape")
    if current > epoch:
        raise Superseded(paths.path.name, epoch, current)
    if current < epoch:
        raise Damaged(
            f"{paths.record} says epoch {current}, but epoch {epoch} is at work",
            hint="run `crewkeep recover`",
            path=str(paths.record),
            reason="rolled-back",
        )


class EpochLook:
    """Looks whether a newer incarnation exists, at the cost of one ``stat`` while the record stays the same."""

    def __init__(self, paths: SessionPaths) -> None:
        self._paths = paths
        self._mark: files.Mark = None
        self._epoch: int | None = None

    def find_newer(self, epoch: int) -> Superseded | None:
        """Return the error for ``epoch`` if the record is beyond it.

        Raises ``Damaged``, ``FormatTooNew`` or ``StorageError`` once for each state of the record that cannot be read.
        """
        mark = files.mark_file(self._paths.record)
        if mark != self._mark or (mark is None and self._epoch is not None):
            self._mark, self._epoch = mark, None
            body = sealed.read_sealed(self._paths.record, RECORD_KIND, RECORD_FORMAT)
            found = body.get("epoch")
            self._epoch = found if isinstance(found, int) else None
        if self._epoch is not None and self._epoch > epoch:
            return Superseded(self._paths.path.name, epoch, self._epoch)
        return None
