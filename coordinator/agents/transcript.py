"""What adapters share for transcripts that are lines of JSON, appended to a file: read what is new, put a copy back.

Logs whose lines are of another kind are read the same way, with a function that understands them.

Not promised: transcripts that a program rewrites in place. Their adapters must replay, not append.
"""

from __future__ import annotations

import datetime
import json
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from coordinator.errors import StorageError
from coordinator.system import files

#: How much one look may read, so that a long transcript read for the first time cannot hold up a heartbeat.
READ_LIMIT_BYTES = 4 << 20


class Tail:
    """Reads a growing file of JSON lines; remembers where it stopped."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        from_end_bytes: int | None = None,
        parse: Callable[[bytes], dict[str, Any] | None] | None = None,
    ) -> None:
        """With ``from_end_bytes`` the first look begins at the first whole line within so much of the file's end.

        ``parse`` returns what a line says, ``None`` for one to pass over; without it lines are JSON objects.
        """
        self.path = path
        self._parse = parse or parse_line
        self._from_end_bytes = from_end_bytes
        self._file: tuple[int, int] | None = None
        self._offset_bytes = 0
        self._skipping = False

    def iter_new(self, limit_bytes: int = READ_LIMIT_BYTES) -> Iterator[dict[str, Any]]:
        """Yield the whole lines appended since the last call, as far as ``limit_bytes`` go.

        A torn last line is left for the next call; a line that is not a JSON object is passed over. A file that was
        replaced or has shrunk is read again from its start. Nothing is yielded when the file cannot be read.
        """
        try:
            found = os.stat(self.path)
            if (found.st_dev, found.st_ino) != self._file or found.st_size < self._offset_bytes:
                begin = 0 if self._file or self._from_end_bytes is None else max(0, found.st_size - self._from_end_bytes)
                self._file, self._offset_bytes, self._skipping = (found.st_dev, found.st_ino), begin, begin > 0
            if found.st_size == self._offset_bytes or not stat.S_ISREG(found.st_mode):
                return
            data = _read(self.path, self._offset_bytes, min(found.st_size - self._offset_bytes, limit_bytes))
        except OSError:
            return
        end = data.rfind(b"\n") + 1
        if not end:
            end = self._pass_over(data, limit_bytes)
            self._offset_bytes += end
            return
        lines = data[:end].split(b"\n")
        if self._skipping:
            self._skipping = False
            lines = lines[1:]
        self._offset_bytes += end
        for line in lines:
            if (entry := self._parse(line)) is not None:
                yield entry

    def iter_all(self) -> Iterator[dict[str, Any]]:
        """Yield every line that ``iter_new`` would yield over as many calls as it takes."""
        while True:
            before = self._offset_bytes
            yield from self.iter_new()
            if self._offset_bytes == before:
                return

    def _pass_over(self, data: bytes, limit_bytes: int) -> int:
        """Return how much of a part without a line end to pass over: nothing, unless the line fills a whole look."""
        if len(data) < limit_bytes:
            return 0
        self._skipping = True
        return len(data)


def iter_lines(path: str | os.PathLike[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each line that is a JSON object, as it stands in the file and as that object.

    What is torn, or no object, is passed over. Nothing more is yielded when the file cannot be read.
    """
    try:
        with open(path, "rb") as file:
            for line in file:
                if (entry := parse_line(line)) is not None:
                    yield line.decode(errors="replace").rstrip("\n"), entry
    except OSError:
        return


def parse_line(line: bytes) -> dict[str, Any] | None:
    """Return the JSON object in ``line``, ``None`` for anything else."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) else None


def list_texts(content: object, *names: str, hidden: str = "") -> list[str]:
    """Return the plain texts in ``content``, however deep: a text, a list of such, or an object with one under one of ``names``.

    An object in which the field ``hidden`` is set holds none.
    """
    found, waiting = [], [content]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            found.append(one)
        elif isinstance(one, list):
            waiting.extend(reversed(one))
        elif isinstance(one, dict) and not one.get(hidden):
            waiting.append(next((one[name] for name in names if one.get(name)), ""))
    return found


def read_first_line(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Return the first line's object, ``None`` if it is missing, torn or too long."""
    try:
        data = _read(path, 0, READ_LIMIT_BYTES)
    except OSError:
        return None
    line, newline, _ = data.partition(b"\n")
    return parse_line(line) if newline else None


def is_cut_short(path: Path, saved: Path) -> bool:
    """Tell whether ``path`` holds less than ``saved`` and nothing else: an append-only transcript that lost its end."""
    try:
        with open(path, "rb") as own, open(saved, "rb") as copy:
            own_bytes = os.fstat(own.fileno()).st_size
            if own_bytes >= os.fstat(copy.fileno()).st_size:
                return False
            while part := own.read(1 << 20):
                if part != copy.read(len(part)):
                    return False
    except OSError:
        return False
    return True


def holds_zeros(path: Path) -> bool:
    """Tell whether a NUL byte stands in the file: a hole that a power loss left, never part of JSON."""
    try:
        with open(path, "rb") as file:
            while part := file.read(1 << 20):
                if b"\0" in part:
                    return True
    except OSError:
        return False
    return False


def holds_text(path: str | os.PathLike[str], text: str) -> bool | None:
    """Tell whether the file holds ``text`` anywhere, ``None`` if it cannot be read."""
    wanted, end = text.encode(), b""
    try:
        with open(path, "rb") as file:
            while part := file.read(1 << 20):
                if wanted in end + part:
                    return True
                end = part[-len(wanted) :]
    except OSError:
        return None
    return False


def set_aside(path: Path) -> Path:
    """Rename a damaged transcript to a name beside it that no agent looks for, and return that. Raises ``StorageError``."""
    aside = path.with_name(f"{path.name}.damaged-{time.time_ns()}")
    try:
        os.rename(path, aside)
    except OSError as error:
        raise StorageError.from_os(error, "set aside", path) from error
    return aside


def parse_time(text: object) -> float | None:
    """Return the wall-clock second since 1970 of an ISO time that names its zone, ``None`` for anything else."""
    try:
        then = datetime.datetime.fromisoformat(text) if isinstance(text, str) else None
        return None if then is None or then.tzinfo is None else then.timestamp()
    except (ValueError, OverflowError):
        return None


def put_back(saved: Path, path: Path, *, first_bytes: int | None = None) -> None:
    """Let ``path`` hold a durable copy of ``saved``, or of its first bytes; directories that are missing are made.

    Raises ``StorageError``.
    """
    files.make_directory(path.parent)
    temporary = path.with_name(files.name_temporary(path.name))
    try:
        with open(saved, "rb") as source:
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                left = first_bytes
                while part := source.read(1 << 20 if left is None else min(1 << 20, left)):
                    files.write_all(fd, part)
                    left = None if left is None else left - len(part)
                files.sync_file(fd)
            finally:
                os.close(fd)
        os.replace(temporary, path)
    except OSError as error:
        files.remove_quietly(temporary)
        raise StorageError.from_os(error, "put back", path) from error
    files.sync_directory(path.parent)


def _read(path: str | os.PathLike[str], offset_bytes: int, count: int) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        return os.pread(fd, count, offset_bytes)
    finally:
        os.close(fd)
