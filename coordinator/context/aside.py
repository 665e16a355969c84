"""Setting aside: what is damaged is kept below ``set-aside``, with the reason in its name. Nothing here is ever deleted."""

from __future__ import annotations

import os
import time
from pathlib import Path

from coordinator.errors import StorageError
from coordinator.system import files

ASIDE_NAME = "set-aside"


def set_aside(context: Path, what: str, reason: str, data: bytes, *, now_s: float) -> Path:
    """Keep these bytes, and return where. Raises ``StorageError``."""
    path = _name(context, what, reason, now_s)
    files.replace_durably(path, data)
    return path


def link_aside(context: Path, what: str, reason: str, path: Path, *, now_s: float) -> Path | None:
    """Give a file a second name that stays when the first is replaced; ``None`` if there is no file. Raises ``StorageError``.

    A link takes no space, so that a full disk cannot keep anybody from repairing.
    """
    kept = _name(context, what, reason, now_s)
    try:
        os.link(path, kept)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError.from_os(error, "set aside", path) from error
    files.sync_directory(kept.parent)
    return kept


def move_aside(context: Path, what: str, reason: str, path: Path, *, now_s: float) -> Path:
    """Take away what stands where something else must, whatever it is, and keep it. Raises ``StorageError``."""
    # What stands in the place of the very directory for such things is kept beside it.
    kept = _name(context, what, reason, now_s) if path.name != ASIDE_NAME else path.with_name(_stamp(what, reason, now_s))
    try:
        os.rename(path, kept)
    except OSError as error:
        raise StorageError.from_os(error, "set aside", path) from error
    files.sync_directory(kept.parent)
    files.sync_directory(path.parent)
    return kept


def _name(context: Path, what: str, reason: str, now_s: float) -> Path:
    directory = context / ASIDE_NAME
    files.make_directory(directory)
    return directory / _stamp(what, reason, now_s)


def _stamp(what: str, reason: str, now_s: float) -> str:
    return f"{what}.{reason}.{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(now_s))}.{os.urandom(3).hex()}"
