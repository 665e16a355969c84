"""One checkpoint as it lies on disk: looked at, proven against its manifest, read.

Each way of being damaged has its word (those of ``errors.Damaged.reason``), after the name of the part.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coordinator import sealed
from coordinator.config import PART_VERIFY_BYTES
from coordinator.digests import sha256
from coordinator.errors import Damaged, FormatTooNew, Refused, StorageError
from coordinator.system import files
from recovery import manifest
from recovery.draft import CHUNK_BYTES
from recovery.manifest import Manifest, Part


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointInfo:
    """One checkpoint as it lies on disk."""

    number: int
    #: ``None`` when the manifest cannot be read.
    manifest: Manifest | None
    path: Path
    #: Why it is not whole, beginning with the part's name; empty if it is.
    damage: str = ""
    #: A newer crewkeep took it: it cannot be used here, and is left alone.
    too_new: bool = False

    @property
    def whole(self) -> bool:
        return not self.damage

    def find_part(self, name: str) -> Part | None:
        """Return the manifest's part of that name."""
        return self.manifest.find_part(name) if self.manifest is not None else None

    def encode(self) -> dict[str, Any]:
        """Return an element of ``checkpoints --json`` (``at`` in seconds since 1970)."""
        found = self.manifest
        return {
            "number": self.number,
            "at": found.at if found else None,
            "epoch": found.epoch if found else None,
            "bytes": found.bytes if found else None,
            "whole": self.whole,
            "parts": [{"name": part.name, "bytes": part.bytes, "digest": part.digest} for part in found.parts] if found else [],
            "why": found.why if found else None,
            "damage": self.damage or None,
            "notes": list(found.notes) if found else [],
        }


def look_at_checkpoint(directory: Path, number: int, session_id: str, *, deep: bool) -> CheckpointInfo:
    """Verify a checkpoint; of parts above ``PART_VERIFY_BYTES`` only the size, unless ``deep``. Raises ``StorageError``."""
    path = directory / manifest.MANIFEST_NAME
    try:
        found = Manifest.decode(sealed.read_sealed(path, manifest.MANIFEST_KIND, manifest.MANIFEST_FORMAT))
    except Damaged as error:
        return CheckpointInfo(number=number, manifest=None, path=directory, damage=f"manifest: {error.reason}")
    except FormatTooNew as error:
        damage = f"manifest: format {error.format} of a newer crewkeep"
        return CheckpointInfo(number=number, manifest=None, path=directory, damage=damage, too_new=True)
    except Refused:  # a symbolic link, a directory, or larger than any manifest
        return CheckpointInfo(number=number, manifest=None, path=directory, damage="manifest: wrong-shape")
    except (KeyError, TypeError, ValueError):
        return CheckpointInfo(number=number, manifest=None, path=directory, damage="manifest: wrong-shape")
    if found.number != number or found.session != session_id:
        damage = f"manifest: is that of checkpoint {found.number} of session {found.session}"
        return CheckpointInfo(number=number, manifest=found, path=directory, damage=damage)
    for part in found.parts:
        if fault := _look_at_part(directory / part.name, part, deep=deep):
            return CheckpointInfo(number=number, manifest=found, path=directory, damage=f"{part.name}: {fault}")
    return CheckpointInfo(number=number, manifest=found, path=directory)


def read_part(checkpoint: CheckpointInfo, name: str) -> bytes | None:
    """Return a part's bytes, proven against the manifest, ``None`` if there is no such part. Raises ``Damaged``."""
    part = checkpoint.find_part(name)
    if part is None:
        return None
    path = checkpoint.path / name
    try:
        data = files.read_bounded(path, part.bytes)
    except (FileNotFoundError, Refused) as error:
        raise _damaged(path, f"{name}: missing", "missing") from error
    if len(data) != part.bytes or sha256(data).hexdigest() != part.digest:
        reason = "wrong-digest" if len(data) == part.bytes else "truncated"
        raise _damaged(path, f"{name}: {reason}", reason)
    return data


def read_json(checkpoint: CheckpointInfo, name: str) -> Any:
    """Return a part's JSON, ``None`` if there is no such part. Raises ``Damaged``, ``StorageError``."""
    data = read_part(checkpoint, name)
    if data is None:
        return None
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:  # its digest is right: somebody wrote this, but not we
        raise _damaged(checkpoint.path / name, f"{name}: unreadable", "unreadable") from error


def find_part_path(checkpoint: CheckpointInfo, name: str) -> Path | None:
    """Return the file of a part after proving all of it, ``None`` if there is no such part. Raises ``Damaged``."""
    part = checkpoint.find_part(name)
    if part is None:
        return None
    path = checkpoint.path / name
    if fault := _look_at_part(path, part, deep=True):
        raise _damaged(path, f"{name}: {fault}", fault)
    return path


def _look_at_part(path: Path, part: Part, *, deep: bool) -> str:
    """Return what is wrong with a part's file, in a word of ``errors.Damaged.reason``; empty if nothing is."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return "missing"
    except OSError as error:
        if error.errno == errno.ELOOP:
            return "wrong-shape"  # a symbolic link
        raise StorageError.from_os(error, "read", path) from error
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            return "wrong-shape"
        if status.st_size != part.bytes:
            return "empty" if status.st_size == 0 else "truncated" if status.st_size < part.bytes else "trailing"
        if not deep and part.bytes > PART_VERIFY_BYTES:
            return ""
        digest, zeros, at = sha256(), True, 0
        while chunk := os.pread(fd, CHUNK_BYTES, at):
            digest.update(chunk)
            zeros = zeros and not chunk.strip(b"\0")
            at += len(chunk)
    except OSError as error:
        raise StorageError.from_os(error, "read", path) from error
    finally:
        os.close(fd)
    if digest.hexdigest() == part.digest:
        return ""
    return "zero-filled" if zeros else "wrong-digest"


def _damaged(path: Path, what: str, reason: str) -> Damaged:
    return Damaged(f"{path} is damaged ({what})", hint="the checkpoint before it is used", path=str(path), reason=reason)
