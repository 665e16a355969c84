"""Features that can be turned down one by one, without touching data.

``sync``: on | off (off: coordinator threads leave the shared context alone; heartbeats go on).
``recovery``: on | observe | off (observe: judge and tell, change nothing).

One sealed file in the home, read at the cost of one ``stat``. A damaged file, or a level this program does not know, gives
the level that touches least while sessions go on (``sync`` on, ``recovery`` observe), and says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from coordinator import sealed
from coordinator.config import LOCK_TIMEOUT_S
from coordinator.errors import CrewkeepError, Damaged, InvalidInput
from coordinator.paths import Home
from coordinator.system import files, locks

FEATURES_KIND, FEATURES_FORMAT = "features", 1

Level = TypeVar("Level", bound=StrEnum)


class Sync(StrEnum):
    """What coordinator threads do with the shared context."""

    ON = "on"
    OFF = "off"


class Recovery(StrEnum):
    """What is done about a dead session."""

    ON = "on"
    OBSERVE = "observe"
    OFF = "off"


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureLevels:
    """The levels in force."""

    sync: Sync = Sync.ON
    recovery: Recovery = Recovery.ON
    #: Why they are not what the file says, for people; empty when they are.
    note: str = ""


_LEVELS: dict[str, type[StrEnum]] = {"sync": Sync, "recovery": Recovery}


class Features:
    """The features of a home."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._mark: files.Mark = None
        self._levels = FeatureLevels()

    def read(self) -> FeatureLevels:
        """Return the levels in force. Never raises."""
        mark = files.mark_file(self._home.features)
        if mark != self._mark:
            self._levels = self._load() if mark else FeatureLevels()
            self._mark = mark
        return self._levels

    def set(self, feature: str, level: str) -> FeatureLevels:
        """Turn one feature, durably; running sessions follow within a second.

        Raises ``InvalidInput`` with what there is to choose from, ``FormatTooNew``, ``StorageError``, ``Busy``.
        """
        if feature not in _LEVELS:
            raise InvalidInput(f"there is no feature {feature!r}", hint=f"choose one of {', '.join(_LEVELS)}")
        try:
            chosen = _LEVELS[feature](level)
        except ValueError as error:
            raise InvalidInput(f"{feature} cannot be {level!r}", hint=f"choose one of {', '.join(_LEVELS[feature])}") from error
        files.make_directory(self._home.path)
        with locks.locked(self._home.sessions_lock, timeout_s=LOCK_TIMEOUT_S):
            try:
                body = sealed.read_sealed(self._home.features, FEATURES_KIND, FEATURES_FORMAT)
            except Damaged as error:
                if error.reason != "missing":
                    keep_damaged(self._home.features)
                body = {}
            body[feature] = str(chosen)
            sealed.write_sealed(self._home.features, FEATURES_KIND, FEATURES_FORMAT, body)
        return self.read()

    def _load(self) -> FeatureLevels:
        try:
            body = sealed.read_sealed(self._home.features, FEATURES_KIND, FEATURES_FORMAT)
        except CrewkeepError as error:
            if isinstance(error, Damaged) and error.reason == "missing":
                return FeatureLevels()
            return FeatureLevels(sync=Sync.ON, recovery=Recovery.OBSERVE, note=f"{error}; recovery only observes")
        notes: list[str] = []
        sync = _pick(body, "sync", Sync, Sync.ON, notes)
        recovery = _pick(body, "recovery", Recovery, Recovery.OBSERVE, notes)
        return FeatureLevels(sync=sync, recovery=recovery, note="; ".join(notes))


def keep_damaged(path: Path) -> None:
    """Set a damaged file of the home's aside under a name of its own, so that a whole one can take its place."""
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    path.rename(aside)


def _pick(body: sealed.Body, feature: str, levels: type[Level], safe: Level, notes: list[str]) -> Level:
    if feature not in body:
        return next(iter(levels))
    try:
        return levels(body[feature])
    except ValueError:
        notes.append(f"{feature} is set to {body[feature]!r:.40}, which this crewkeep does not know; taken as {safe}")
        return safe
