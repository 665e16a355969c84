"""The keeper's link to the patrol, kept from the keeper's own loop."""

from __future__ import annotations

from collections.abc import Mapping

from coordinator.paths import Home
from coordinator.sessions.model import SessionRecord
from crewkeep.loop import READ, Loop, Timer
from crewkeep.patrol_client import PatrolLink
from crewkeep.process_log import say


class PatrolSide:
    """Lets a ``PatrolLink`` do what is due, and watches what it wants watched."""

    def __init__(self, loop: Loop, home: Home, record: SessionRecord, secrets: Mapping[str, str]) -> None:
        self._loop, self._link = loop, PatrolLink(home, record, secrets, tell=say)
        self._fd: int | None = None
        self._timer: Timer | None = None
        self._keep()

    def follow(self, record: SessionRecord) -> None:
        """Tell the patrol of a new epoch of the same keeper."""
        self._link.follow(record)
        self._keep()

    def leave(self) -> None:
        """The session ended in order: nobody needs to look."""
        self._stop_watching()
        self._link.leave()

    def close(self) -> None:
        """This keeper ends and its session does not: the patrol is to look."""
        self._stop_watching()
        self._link.close()

    def _keep(self) -> None:
        pause_s = self._link.maintain()
        fd = self._link.fileno()
        if fd != self._fd:
            self._stop_watching()
            if fd is not None:
                self._loop.watch(fd, READ, self._on_readable)
            self._fd = fd
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if pause_s is None else self._loop.call_later(pause_s, self._keep)

    def _on_readable(self, ready: int) -> None:
        fd = self._fd
        self._link.on_readable()
        if self._link.fileno() is None and fd is not None:
            self._stop_watching()
        self._keep()

    def _stop_watching(self) -> None:
        if self._fd is not None:
            self._loop.forget(self._fd)
            self._fd = None
