"""A session's raw output on disk: a few segments, the oldest dropped when there is too much.

Offsets count bytes since the session's birth and never start anew, through every restart. A segment is named by the
offset of its first byte; each opening for writing begins a new one, so the late write of a suspended keeper cannot land
among its successor's.

Invariants:
  - a segment's bytes end where the next one begins, whatever else its file holds
  - segments together stay below ``limit_bytes`` (and one segment more for a moment)
  - ``append`` never raises for the disk: output that cannot be kept is counted and leaves a gap, the agent goes on
Not promised: output of the last seconds before power loss (nothing here is synced).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from coordinator.errors import StorageError
from coordinator.system import failpoints, files

#: A log is cut into so many segments, so that dropping the oldest loses little at once.
_SEGMENT_COUNT = 8
#: Each restart begins a segment; with more than so many, small neighbours are joined.
_JOIN_ABOVE = 32
_SUFFIX = ".raw"
_READ_LIMIT_BYTES = 1 << 20
_SIZE_NAME = "size"


class Chunk(NamedTuple):
    """Bytes that were printed at ``start``; behind a gap ``start`` is more than was asked for."""

    start: int
    data: bytes

    @property
    def end(self) -> int:
        return self.start + len(self.data)


class OutputLog:
    """The kept output of one session. One writer; any number of readers, in any process."""

    def __init__(self, directory: Path, limit_bytes: int) -> None:
        self._directory = directory
        self._limit_bytes = limit_bytes
        self._segment_bytes = max(limit_bytes // _SEGMENT_COUNT, 1)
        self._fd: int | None = None
        self._start = 0
        #: Where the next byte goes; ``None`` until this object writes.
        self._end: int | None = None
        #: Why the newest output could not be kept; ``None`` while it can.
        self.trouble: StorageError | None = None

    @property
    def end_offset(self) -> int:
        """The offset behind the newest byte; 0 if there was none."""
        if self._end is not None:
            return self._end
        return max((start + size for start, size in self._list_segments()), default=0)

    @property
    def start_offset(self) -> int:
        """The offset of the oldest byte that is still kept."""
        return min((start for start, size in self._list_segments() if size), default=self.end_offset)

    def begin(self) -> int:
        """Be who writes from now on; return the offset of the next byte. It holds whatever becomes of the directory."""
        self._end = self.end_offset
        return self._end

    def append(self, data: bytes) -> None:
        """Keep ``data``. What cannot be kept is skipped: ``trouble`` tells why, offsets go on."""
        end = self.end_offset
        self._end = end + len(data)
        try:
            if self._fd is None or end - self._start >= self._segment_bytes:
                self._begin_segment(end)
            assert self._fd is not None
            failpoints.hit("output.append")
            files.write_all(self._fd, data)
            self.trouble = None
        except OSError as error:
            self.trouble = StorageError.from_os(error, "keep output in", self._directory)
            self._close_segment()

    def read_from(self, offset: int, limit_bytes: int = _READ_LIMIT_BYTES) -> bytes:
        """Return bytes from ``offset`` on; empty at the end. Over a gap use ``read_chunk``, which tells where it went on."""
        return self.read_chunk(offset, limit_bytes).data

    def read_chunk(self, offset: int, limit_bytes: int = _READ_LIMIT_BYTES) -> Chunk:
        """Return at most ``limit_bytes`` from ``offset`` on, or from the first kept byte behind it; empty at the end."""
        parts: list[bytes] = []
        start = at = offset
        rest = limit_bytes
        for segment_start, size in self._list_segments():
            if segment_start + size <= at or not rest:
                continue
            if segment_start > at:
                if parts:
                    break  # a gap: what lies behind it is the next chunk
                start = at = segment_start
            part = self._read_segment(segment_start, at - segment_start, min(rest, segment_start + size - at))
            parts.append(part)
            at += len(part)
            rest -= len(part)
            if at < segment_start + size:
                break
        return Chunk(start, b"".join(parts))

    def tail(self, limit_bytes: int) -> bytes:
        """Return the newest bytes, at most ``limit_bytes``; gaps are left out."""
        at = max(self.end_offset - limit_bytes, 0)
        parts = []
        while (chunk := self.read_chunk(at)).data:
            parts.append(chunk.data)
            at = chunk.end
        return b"".join(parts)[-limit_bytes:] if limit_bytes > 0 else b""

    def note_size(self, rows: int, columns: int) -> None:
        """Remember the terminal's size for whoever renders later; a hint, never an error."""
        try:
            files.make_directory(self._directory, parents=False)
            files.replace_durably(self._directory / _SIZE_NAME, f"{rows} {columns}\n".encode(), durable=False)
        except (StorageError, OSError):
            return

    def find_size(self) -> tuple[int, int] | None:
        """Return rows and columns of the terminal that the newest output was meant for, if known."""
        try:
            rows, columns = files.read_bounded(self._directory / _SIZE_NAME, 64).split()
            return int(rows), int(columns)
        except (OSError, ValueError, StorageError):
            return None

    def close(self) -> None:
        """Give back the descriptor; the log can still be read."""
        self._close_segment()

    def _list_segments(self) -> list[tuple[int, int]]:
        """Return (start, bytes up to the next one's start), oldest first."""
        found = []
        try:
            with os.scandir(self._directory) as entries:
                for entry in entries:
                    stem, suffix = os.path.splitext(entry.name)
                    if suffix == _SUFFIX and stem.isascii() and stem.isdigit():
                        try:
                            found.append((int(stem), entry.stat(follow_symlinks=False).st_size))
                        except FileNotFoundError:
                            continue  # dropped by the writer meanwhile
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise StorageError.from_os(error, "read", self._directory) from error
        found.sort()
        limits = [start for start, _ in found[1:]] + [1 << 62]
        return [(start, min(size, limit - start)) for (start, size), limit in zip(found, limits, strict=False)]

    def _read_segment(self, start: int, skip: int, count: int) -> bytes:
        try:
            fd = os.open(self._path(start), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise StorageError.from_os(error, "read", self._path(start)) from error
        try:
            parts, rest = [], count
            while rest and (part := os.pread(fd, rest, skip)):
                parts.append(part)
                rest -= len(part)
                skip += len(part)
            return b"".join(parts)
        except OSError as error:
            raise StorageError.from_os(error, "read", self._path(start)) from error
        finally:
            os.close(fd)

    def _begin_segment(self, start: int) -> None:
        self._close_segment()
        try:
            os.mkdir(self._directory, 0o700)  # never its parents: a session that was moved away must not come back as a husk
        except FileExistsError:
            pass
        self._join_small()
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        self._fd = os.open(self._path(start), flags, 0o600)
        os.ftruncate(self._fd, 0)  # one of this name holds nothing of ours: no byte is known at or behind `start`
        self._start = start
        self._drop_oldest()

    def _join_small(self) -> None:
        """Put small neighbours into one file. The first grows before the second goes: readers see each byte once."""
        segments = self._list_segments()
        if len(segments) <= _JOIN_ABOVE:
            return
        at, held = segments[0]
        for start, size in segments[1:]:
            if at + held == start and held + size <= self._segment_bytes:
                data = self._read_segment(at, 0, held) + self._read_segment(start, 0, size)
                files.replace_durably(self._path(at), data, durable=False)
                files.remove_quietly(self._path(start))
                held += size
            else:
                at, held = start, size

    def _drop_oldest(self) -> None:
        """Make room for the segment that begins."""
        segments = self._list_segments()
        total = sum(size for _, size in segments) + self._segment_bytes
        for start, size in segments[:-1]:
            if total <= self._limit_bytes and size:
                continue
            files.remove_quietly(self._path(start))
            total -= size

    def _close_segment(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _path(self, start: int) -> Path:
        return self._directory / f"{start:016d}{_SUFFIX}"
