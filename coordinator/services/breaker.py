"""The breaker: when the disk fails again and again, every coordinator thread of the home leaves it alone for a while.

Closed: work as usual. Open: threads do not touch the shared context; sessions, heartbeats and the agents go on. It opens
by itself after ``BREAKER_FAILURES`` I/O failures in a row, or on request. One that opened by itself is probed: once it has
been open for ``BREAKER_PROBE_S``, one thread of the whole home tries (half-open), and closes or opens it anew. One that
was opened on request stays open until it is closed on request.

Invariants:
  - of all threads and processes of a home at most one probes at a time (a lock that dies with it)
  - the state is seen at the cost of one ``stat``; a thread looks at least every ``BREAKER_QUIET_S``
  - where the state itself cannot be written, the process that met the failures is quiet alone
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from coordinator import sealed
from coordinator.config import BREAKER_FAILURES, BREAKER_PROBE_S, LOCK_TIMEOUT_S
from coordinator.errors import Busy, CrewkeepError, Damaged, StorageError
from coordinator.paths import Home
from coordinator.services.features import keep_damaged
from coordinator.system import failpoints, files, locks
from coordinator.system.clock import SYSTEM, Clock

BREAKER_KIND, BREAKER_FORMAT = "breaker", 1


class BreakerState(StrEnum):
    """What coordinator threads may do."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


@dataclass(frozen=True, kw_only=True, slots=True)
class BreakerStatus:
    """The breaker as it stands."""

    state: BreakerState = BreakerState.CLOSED
    #: Why it is open, for people.
    reason: str | None = None
    #: Whether a person opened it; then nothing closes it but a person.
    by_request: bool = False
    #: Wall-clock seconds since 1970.
    changed_at: float | None = None
    #: How often it opened by itself since it was last closed on request.
    trips: int = 0

    def encode(self) -> sealed.Body:
        return {
            "state": str(self.state),
            "reason": self.reason,
            "by_request": self.by_request,
            "changed_at": self.changed_at,
            "trips": self.trips,
        }

    @classmethod
    def decode(cls, body: dict[str, Any]) -> BreakerStatus:
        """Raises ``KeyError``, ``TypeError`` or ``ValueError`` on a wrong shape."""
        changed_at = body.get("changed_at")
        return cls(
            state=BreakerState(body["state"]),
            reason=None if body.get("reason") is None else str(body["reason"]),
            by_request=bool(body.get("by_request")),
            changed_at=None if changed_at is None else float(changed_at),
            trips=int(body.get("trips", 0)),
        )


class Breaker:
    """The breaker of a home, and this process's count of failures."""

    def __init__(self, home: Home, clock: Clock = SYSTEM) -> None:
        self._home, self._clock = home, clock
        self._mark: files.Mark = None
        self._status = BreakerStatus()
        #: Set where the file cannot be written: this process alone is quiet.
        self._own: BreakerStatus | None = None
        #: I/O failures in a row met by this process.
        self.failures = 0

    def status(self) -> BreakerStatus:
        """Return the breaker as it stands. Never raises; an unreadable file counts as closed and says so."""
        if self._own is not None:
            return self._own
        mark = files.mark_file(self._home.breaker)
        if mark != self._mark:
            self._status, self._mark = (self._load() if mark else BreakerStatus()), mark
        return self._status

    def state(self) -> BreakerState:
        """Return its state."""
        return self.status().state

    def check(self) -> None:
        """Raise ``Busy`` unless it is closed."""
        status = self.status()
        if status.state is not BreakerState.CLOSED:
            raise Busy(f"the breaker is {status.state}: {status.reason}", hint="crewkeep breaker status; crewkeep breaker close")

    def open(self, reason: str) -> BreakerStatus:
        """Open it on request. Raises ``StorageError``, ``Busy``."""
        return self._change(lambda before: self._make(BreakerState.OPEN, reason, by_request=True, trips=before.trips))

    def close(self) -> BreakerStatus:
        """Close it on request: threads go on from where they were. Raises ``StorageError``, ``Busy``."""
        self.failures, self._own = 0, None
        return self._change(lambda before: self._make(BreakerState.CLOSED, None, trips=0))

    def note_success(self) -> None:
        """Note that I/O worked: failures are counted anew."""
        self.failures = 0

    def note_failure(self, error: BaseException) -> bool:
        """Count an I/O failure; tell whether that opened the breaker. Never raises."""
        self.failures += 1
        if self.failures < BREAKER_FAILURES or self.state() is not BreakerState.CLOSED:
            return False
        self._trip(f"{self.failures} I/O failures in a row; the last: {error}")
        return True

    def probe_if_due(self, probe: Callable[[], None]) -> bool:
        """Try ``probe`` if it is time and nobody else of the home does; tell whether the breaker is closed after.

        Whatever ``CrewkeepError`` or ``OSError`` the probe raises opens the breaker anew.
        """
        if not self._is_due(self.status()):
            return self.state() is BreakerState.CLOSED
        if self._own is not None:
            return self._probe(probe)
        try:
            fd = locks.open_lock(self._lock_path)
        except StorageError:
            return False
        try:
            if not locks.try_acquire(fd, self._lock_path):
                return False  # somebody else probes
            if self._is_due(self.status()):
                self._write_quietly(self._make(BreakerState.HALF_OPEN, self._status.reason, trips=self._status.trips))
                return self._probe(probe)
            return self.state() is BreakerState.CLOSED
        except StorageError:
            return False
        finally:
            os.close(fd)

    @property
    def _lock_path(self) -> Any:
        return self._home.breaker.with_name(self._home.breaker.name + ".lock")

    def _probe(self, probe: Callable[[], None]) -> bool:
        """Runs under the probe's lock (or alone)."""
        try:
            self._try_disk()
            probe()
        except (CrewkeepError, OSError) as error:
            self._trip(f"the probe failed: {error}")
            return False
        self.failures, trips = 0, self.status().trips
        self._own = None
        self._write_quietly(self._make(BreakerState.CLOSED, None, trips=trips))
        self._ring_all()
        return self.state() is BreakerState.CLOSED

    def _try_disk(self) -> None:
        """Create, write, fsync, rename, remove: the truth about a disk that statistics do not tell."""
        failpoints.hit("breaker.probe")
        trial = self._home.path / f".probe-{os.getpid()}"
        files.replace_durably(trial, b"probe\n")
        files.remove_quietly(trial)

    def _is_due(self, status: BreakerStatus) -> bool:
        if status.state is BreakerState.CLOSED or status.by_request:
            return False
        # A half-open state whose prober died is due as well: the lock is free then, and only then.
        age_s = self._clock.wall_s() - (status.changed_at or 0)
        return not 0 <= age_s < BREAKER_PROBE_S  # a wall clock that was set back must not hold it open

    def _trip(self, reason: str) -> None:
        status = self._make(BreakerState.OPEN, reason, trips=self.status().trips + 1)
        self._write_quietly(status)
        self._ring_all()

    def _make(self, state: BreakerState, reason: str | None, *, by_request: bool = False, trips: int) -> BreakerStatus:
        return BreakerStatus(state=state, reason=reason, by_request=by_request, changed_at=self._clock.wall_s(), trips=trips)

    def _change(self, make: Callable[[BreakerStatus], BreakerStatus]) -> BreakerStatus:
        files.make_directory(self._home.path)
        with locks.locked(self._lock_path, timeout_s=LOCK_TIMEOUT_S):
            status = make(self.status())
            self._write(status)
        self._own = None
        self._ring_all()
        return status

    def _write_quietly(self, status: BreakerStatus) -> None:
        try:
            self._write(status)
        except (CrewkeepError, OSError):
            # The very disk that fails: this process is quiet (or goes on) alone.
            self._own = None if status.state is BreakerState.CLOSED else status

    def _write(self, status: BreakerStatus) -> None:
        try:
            sealed.read_sealed(self._home.breaker, BREAKER_KIND, BREAKER_FORMAT)
        except Damaged as error:
            if error.reason != "missing":
                keep_damaged(self._home.breaker)
        sealed.write_sealed(self._home.breaker, BREAKER_KIND, BREAKER_FORMAT, status.encode())

    def _load(self) -> BreakerStatus:
        try:
            return BreakerStatus.decode(sealed.read_sealed(self._home.breaker, BREAKER_KIND, BREAKER_FORMAT))
        except CrewkeepError as error:
            return BreakerStatus(reason=f"{error}; taken as closed")
        except (KeyError, TypeError, ValueError):
            return BreakerStatus(reason=f"{self._home.breaker} has the wrong shape; taken as closed")

    def _ring_all(self) -> None:
        """Wake every coordinator thread of the home. One that cannot be rung looks by itself in time."""
        from coordinator.system.wakeup import WORDS, Bell

        try:
            contexts = os.listdir(self._home.contexts)
        except OSError:
            return
        for name in contexts:
            path = self._home.context(name) / "bell"
            if path.is_file():
                try:
                    bell = Bell(path)
                except StorageError:
                    continue
                bell.ring(*range(WORDS))
                bell.close()
