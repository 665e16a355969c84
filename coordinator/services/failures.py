"""What went wrong on a coordinator thread and did not end it: kept in memory, and the first of it in the journal."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from coordinator.errors import CrewkeepError
from coordinator.sessions.journal import Journal
from coordinator.system.clock import Clock

_KEPT = 100
#: Reports of one thread that go to the journal; the rest are only counted. Arbitrary.
_JOURNALLED = 50
#: A report never holds up the heartbeat for longer.
_JOURNAL_TIMEOUT_S = 0.5
_MESSAGE_LIMIT = 4000


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """One thing that went wrong."""

    #: Wall-clock seconds since 1970.
    at: float
    #: ``watcher`` | ``io`` | ``record`` | ``bug``
    kind: str
    message: str


class FailureLog:
    """The failures of one thread."""

    def __init__(self, journal: Journal, clock: Clock) -> None:
        self._journal, self._clock = journal, clock
        self._last: deque[Failure] = deque(maxlen=_KEPT)
        #: How many there were.
        self.count = 0
        self._journalled = 0

    @property
    def last(self) -> tuple[Failure, ...]:
        """The newest ones, oldest first."""
        return tuple(self._last)

    def note(self, kind: str, message: str, *, epoch: int) -> None:
        """Keep a failure. Never raises: a report must not become a failure of its own."""
        failure = Failure(at=self._clock.wall_s(), kind=kind, message=message[:_MESSAGE_LIMIT])
        self.count += 1
        if self._last and (self._last[-1].kind, self._last[-1].message) == (failure.kind, failure.message):
            self._last[-1] = failure  # the same again, each turn: told once
            return
        self._last.append(failure)
        self._journalled += 1
        if self._journalled > _JOURNALLED:
            return
        body = {"kind": failure.kind, "message": failure.message}
        try:
            self._journal.append("thread-failure", body, epoch=epoch, timeout_s=_JOURNAL_TIMEOUT_S)
        except (CrewkeepError, OSError):
            return  # it stands in `last`
