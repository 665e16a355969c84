"""What every command begins with: the home, its registry, the settings in force, and the session that was meant."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from coordinator.config import Settings, load_settings
from coordinator.errors import CrewkeepError, Damaged
from coordinator.paths import Home
from coordinator.sessions.model import SessionRecord
from coordinator.sessions.registry import Damage, Registry
from coordinator.system.clock import SYSTEM, Clock
from crewkeep.cli import output


@dataclass(frozen=True, kw_only=True, slots=True)
class House:
    """One home, opened for a command."""

    home: Home
    registry: Registry
    settings: Settings
    clock: Clock


def open_house(overrides: Mapping[str, str] | None = None) -> House:
    """Return the home that this command works on. ``overrides``: ``CREWKEEP_*`` settings that flags gave."""
    # Flags go the way of the environment, so that keeper and patrol, which this command may start, see them too.
    os.environ.update(overrides or {})
    home = Home.find()
    return House(home=home, registry=Registry(home, SYSTEM), settings=load_settings(project=find_directory()), clock=SYSTEM)


def settings_of(house: House, record: SessionRecord | None) -> Settings:
    """Return the settings that hold for one session: those it was launched with; the home's where that cannot be read."""
    from crewkeep.session_settings import settings_of as read

    if record is None:
        return house.settings
    try:
        return read(house.registry.get_launch(record.id))
    except CrewkeepError:
        return house.settings  # `why` tells what is wrong with the launch


def find_directory() -> Path | None:
    """Return the working directory, ``None`` if it was removed."""
    try:
        return Path.cwd()
    except OSError:
        return None


def find_sessions(house: House, names: list[str]) -> list[SessionRecord]:
    """Return the sessions that ``names`` mean, each once, in their order. Raises ``NotFound`` naming the first unknown."""
    found = {record.id: record for record in (house.registry.find(name) for name in names)}
    return list(found.values())


def read_record(house: House, session_id: str) -> SessionRecord | None:
    """Return the session's record, ``None`` if it cannot be read."""
    try:
        return house.registry.get(session_id)
    except CrewkeepError:
        return None


def find_ids(house: House, names: list[str]) -> list[str]:
    """Return the ids that ``names`` mean, also of sessions whose record cannot be read (those by their id only)."""
    return list(dict.fromkeys(_find_id(house, name) for name in names))


def _find_id(house: House, name: str) -> str:
    try:
        return house.registry.find(name).id
    except Damaged:
        damaged = [found.id for found in house.registry.list_all() if isinstance(found, Damage) and found.id.startswith(name)]
        if len(damaged) != 1:
            raise
        return damaged[0]


def list_records(house: House) -> list[SessionRecord]:
    """Return every session of which a record is known, from its journal where it is damaged."""
    known = (found.known if isinstance(found, Damage) else found for found in house.registry.list_all())
    return [record for record in known if record is not None]


def mend_record(house: House, record: SessionRecord) -> SessionRecord:
    """Return the record in force; a damaged one is rebuilt from its journal first, so that it can be changed."""
    try:
        return house.registry.get(record.id)
    except Damaged as error:
        rebuilt = house.registry.rebuild_record(record.id)
        if rebuilt is None:
            raise
        output.note(f"{record.name}: {error}; it was set aside and rebuilt from its journal")
        return rebuilt
