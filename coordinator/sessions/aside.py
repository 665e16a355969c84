"""Sets damaged files of a session aside: one rename into the home's quarantine, with a note of the reason."""

from __future__ import annotations

import os
from pathlib import Path

from coordinator.errors import Damaged, Refused, StorageError
from coordinator.paths import Home
from coordinator.system import files


def set_aside(home: Home, path: Path, reason: str, session_id: str) -> Path:
    """Move a damaged file to the home's quarantine, durably, with a note of the reason; returns where it is now."""
    directory = home.quarantine / session_id
    files.make_directory(directory)
    number = 1
    while (target := directory / f"{path.name}.damaged-{number}").exists():
        number += 1
    files.replace_durably(target.with_name(target.name + ".reason"), f"{reason}: was {path}\n".encode("utf-8", "surrogateescape"))
    try:
        os.rename(path, target)
    except OSError as error:
        raise StorageError.from_os(error, "set aside", path) from error
    files.sync_directory(directory)
    files.sync_directory(path.parent)
    return target


def name_damage(error: Damaged | Refused) -> str:
    """Return the reason for setting aside what could not be read: also a directory or a link in a file's place."""
    return error.reason if isinstance(error, Damaged) else "wrong-shape"
