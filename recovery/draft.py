"""A checkpoint that is being filled: aside, under a name that no reader looks at, until it is whole and durable.

Invariants:
  - a part's size and digest are those of the bytes that were written, taken on the way
  - files stay open until they are durable, so that no write error of theirs can get lost
  - what was not promoted is removed again, by whoever filled it or by the next sweep
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from coordinator.digests import sha256
from coordinator.errors import CrewkeepError, StorageError
from coordinator.system import failpoints, files
from recovery.manifest import Part

CHUNK_BYTES = 1 << 20


class Draft:
    """The parts of a checkpoint that is being filled."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.parts: list[Part] = []
        #: For people: what was left out or taken over, and why.
        self.notes: list[str] = []
        self._open: dict[str, int] = {}

    def add_json(self, name: str, value: Any) -> None:
        """Write a part of JSON."""
        self.add(name, json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii"))

    def add(self, name: str, data: bytes) -> None:
        """Write a part."""
        self.write(name, data)
        self.parts.append(Part(name=name, bytes=len(data), digest=sha256(data).hexdigest()))

    def copy(self, name: str, source: int, length: int) -> Part:
        """Write a part from the first ``length`` bytes of an open file, or what there is of them."""
        digest, done = sha256(), 0
        fd = self._create(name)
        while done < length and (chunk := os.pread(source, min(CHUNK_BYTES, length - done), done)):
            files.write_all(fd, chunk)
            digest.update(chunk)
            done += len(chunk)
        part = Part(name=name, bytes=done, digest=digest.hexdigest())
        self.parts.append(part)
        return part

    def take_over(self, part: Part, directory: Path) -> None:
        """Write a part that another checkpoint has in ``directory``, unless it proves damaged on the way."""
        try:
            source = os.open(directory / part.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return  # it was dropped meanwhile
        try:
            copied = self.copy(part.name, source, part.bytes)
        finally:
            os.close(source)
        if copied != part:
            self.drop(part.name)
            self.notes.append(f"{part.name} of checkpoint {directory.name.lstrip('0')} is damaged and was not taken over")

    def write(self, name: str, data: bytes) -> None:
        """Write a file that is no part of the manifest: the manifest itself."""
        files.write_all(self._create(name), data)

    def drop(self, name: str) -> None:
        """Remove a file again."""
        os.close(self._open.pop(name))
        os.unlink(self.directory / name)
        self.parts = [part for part in self.parts if part.name != name]

    def make_durable(self) -> None:
        """Fsync every file, then the directory. All writes come first: one flush of the journal then serves them all."""
        for fd in self._open.values():
            files.sync_file(fd)
        files.sync_directory(self.directory)

    def close(self) -> None:
        """Let go of the files."""
        while self._open:
            os.close(self._open.popitem()[1])

    def _create(self, name: str) -> int:
        failpoints.hit("checkpoint.part")
        fd = os.open(self.directory / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        self._open[name] = fd
        return fd


@contextmanager
def fill_aside(checkpoints: Path) -> Iterator[Draft]:
    """Make a directory below ``checkpoints`` to fill; it is removed again unless it was renamed. Raises ``StorageError``."""
    directory = checkpoints / f"{files.TEMPORARY_MARK}{os.urandom(6).hex()}"
    draft = Draft(directory)
    try:
        failpoints.hit("checkpoint.mkdir")
        os.mkdir(directory, 0o700)
        yield draft
    except OSError as error:
        if isinstance(error, CrewkeepError):
            raise
        raise StorageError.from_os(error, "write a checkpoint below", checkpoints) from error
    finally:
        draft.close()
        shutil.rmtree(directory, ignore_errors=True)
