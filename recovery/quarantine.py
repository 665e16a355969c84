"""Damaged things are evidence: they are set aside with a reason, never overwritten, never deleted, never taken for empty.

Below the home's ``quarantine/<session>/`` a thing keeps its name plus ``.damaged-<n>``, and a note beside it says why it is
there and where it was. Setting aside is one rename: after a crash the thing is in one place or the other.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from coordinator.errors import NotFound, Refused, StorageError
from coordinator.paths import Home
from coordinator.sessions.registry import set_aside
from coordinator.system import files

_NAME_PATTERN = re.compile(r"(?P<name>.+)\.damaged-(?P<count>[0-9]+)")
_NOTE_SUFFIX = ".reason"
_NOTE_LIMIT_BYTES = 1 << 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Quarantined:
    """One thing that was set aside."""

    session: str
    #: Where it is now.
    path: Path
    #: Its name before.
    name: str
    #: Why it is here and where it was, as the note says; empty if the note is lost.
    reason: str


def quarantine(home: Home, path: Path, reason: str, session_id: str) -> Path | None:
    """Set ``path`` aside; returns where it is now, ``None`` if it was not there any more. Raises ``StorageError``."""
    try:
        return set_aside(home, path, reason, session_id)
    except StorageError as error:
        if error.cause == "ENOENT" and not os.path.lexists(path):
            return None  # another recoverer was quicker
        raise


def list_quarantined(home: Home, session_id: str) -> list[Quarantined]:
    """Return what was set aside of one session, by name."""
    directory = home.quarantine / session_id
    try:
        names = sorted(os.listdir(directory))
    except OSError:
        return []
    found = []
    for name in names:
        if (match := _NAME_PATTERN.fullmatch(name)) and not name.endswith(_NOTE_SUFFIX):
            reason = _read_note(directory / (name + _NOTE_SUFFIX))
            found.append(Quarantined(session=session_id, path=directory / name, name=match["name"], reason=reason))
    return found


def reinstate(thing: Quarantined, path: Path) -> None:
    """Put a thing back at ``path``, where nothing may be now. Raises ``Refused``, ``NotFound``, ``StorageError``."""
    if os.path.lexists(path):
        raise Refused(f"{path} is in the way", hint="move it aside first")
    try:
        os.rename(thing.path, path)
    except FileNotFoundError as error:
        raise NotFound(f"{thing.path} is not there any more", hint="look into the quarantine directory") from error
    except OSError as error:
        raise StorageError.from_os(error, "put back", path) from error
    files.sync_directory(path.parent)
    files.remove_quietly(thing.path.with_name(thing.path.name + _NOTE_SUFFIX))


def _read_note(path: Path) -> str:
    try:
        return files.read_bounded(path, _NOTE_LIMIT_BYTES).decode("utf-8", "replace").strip()
    except (OSError, Refused):
        return ""
