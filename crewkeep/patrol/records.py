"""The records of a home as the patrol's sweep sees them: each is read again only when its file changed.

A look at a hundred sessions of which none changed costs a hundred ``stat`` calls, so that an idle crew stays idle.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from coordinator.config import Settings
from coordinator.errors import CrewkeepError, Damaged
from coordinator.ids import ID_PATTERN
from coordinator.paths import Home
from coordinator.sessions.model import Phase, SessionRecord
from coordinator.sessions.registry import Registry
from crewkeep.session_settings import settings_of

#: Phases in which something still happens, or should.
LIVE_PHASES = frozenset({Phase.STARTING, Phase.RUNNING, Phase.RECOVERING, Phase.STOPPING})


@dataclass(slots=True)
class _Known:
    stamp: tuple[int, int, int]
    record: SessionRecord | None
    error: CrewkeepError | None = None


class Records:
    """All records of a home, kept as long as their files do not change."""

    def __init__(self, home: Home, registry: Registry) -> None:
        self._home, self._registry = home, registry
        self._known: dict[str, _Known] = {}
        self._settings: dict[str, Settings] = {}
        #: Ids of sessions whose record was damaged or missing at the last ``list_live``.
        self.damaged: list[str] = []

    def list_live(self) -> list[SessionRecord]:
        """Return the records of sessions that have not ended and may go on by themselves.

        One that cannot be read is in ``damaged`` instead.
        """
        live = []
        self.damaged = []
        for session_id in self._iter_ids():
            known = self._look(session_id)
            if known is not None and known.record is not None and _may_go_on(known.record):
                live.append(known.record)
            elif known is None or isinstance(known.error, Damaged):
                self.damaged.append(session_id)
        for gone in self._known.keys() - set(self._iter_ids()):
            del self._known[gone]
            self._settings.pop(gone, None)
        return live

    def get_settings(self, session_id: str) -> Settings:
        """Return the session's own settings, the defaults where its launch cannot tell."""
        if session_id not in self._settings:
            try:
                self._settings[session_id] = settings_of(self._registry.get_launch(session_id))
            except CrewkeepError:
                return Settings()
        return self._settings[session_id]

    def _iter_ids(self) -> Iterator[str]:
        try:
            names = os.listdir(self._home.sessions)
        except OSError:
            return
        yield from (name for name in names if ID_PATTERN.fullmatch(name))

    def _look(self, session_id: str) -> _Known | None:
        try:
            status = os.stat(self._home.session(session_id).record)
        except OSError:
            return None
        stamp = status.st_ino, status.st_mtime_ns, status.st_size
        known = self._known.get(session_id)
        if known is None or known.stamp != stamp:
            try:
                known = _Known(stamp, self._registry.get(session_id))
            except CrewkeepError as error:
                known = _Known(stamp, None, error)
            self._known[session_id] = known
        return known


def _may_go_on(record: SessionRecord) -> bool:
    return record.phase in LIVE_PHASES or record.resumes_at is not None
