"""The journal of a session: an append-only record of what happened, one sealed line each.

It also holds every version of the session's record (kind ``record``), its launch (``launch``) and its conversation
(``conversation``): a damaged file of these is rebuilt from here. A line is written before the file that it
describes, so the journal is never behind by an acknowledged change.

Invariants:
  - lines are appended under the session's lock, by the current epoch only
  - a torn or damaged line spoils itself only: the next append begins on a line of its own
  - at most two files of ``JOURNAL_LIMIT_BYTES`` and one line; the newest line of each kept kind survives a rotation
Not promised: that an entry written with ``durable=False`` survives power loss.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from coordinator import sealed
from coordinator.config import JOURNAL_LIMIT_BYTES, LOCK_TIMEOUT_S, RECORD_LIMIT_BYTES
from coordinator.errors import Damaged, FormatTooNew, StorageError
from coordinator.paths import SessionPaths
from coordinator.sessions.fence import fenced
from coordinator.system import failpoints, files
from coordinator.system.clock import SYSTEM, Clock

JOURNAL_KIND, JOURNAL_FORMAT = "journal", 1
#: Kinds of which the newest entry is carried over a rotation, since files are rebuilt from them.
KEPT_KINDS = ("launch", "conversation", "record")
_READ_LIMIT_BYTES = JOURNAL_LIMIT_BYTES + 4 * RECORD_LIMIT_BYTES


@dataclass(frozen=True, kw_only=True, slots=True)
class JournalEntry:
    """One thing that happened."""

    #: Wall-clock seconds since 1970.
    at: float
    kind: str
    epoch: int
    body: sealed.Body


@dataclass(frozen=True, kw_only=True, slots=True)
class JournalDamage:
    """A line that cannot be believed."""

    path: str
    #: Offset of the line in its file.
    offset_bytes: int
    size_bytes: int
    #: One of the reasons of ``errors.Damaged``; ``truncated`` for a torn tail.
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class JournalContent:
    """What a journal holds, oldest first, and what of it is lost."""

    entries: tuple[JournalEntry, ...]
    damage: tuple[JournalDamage, ...]
    #: How many damaged lines follow the newest whole entry of each kept kind.
    damaged_after: dict[str, int]

    def find_last(self, kind: str) -> JournalEntry | None:
        """Return the newest entry of this kind."""
        return next((entry for entry in reversed(self.entries) if entry.kind == kind), None)


class Journal:
    """The journal of the session at ``paths``."""

    def __init__(self, paths: SessionPaths, clock: Clock = SYSTEM) -> None:
        self._paths, self._clock = paths, clock

    def append(
        self, kind: str, body: sealed.Body, *, epoch: int, durable: bool = False, timeout_s: float = LOCK_TIMEOUT_S
    ) -> None:
        """Append what happened, as the incarnation ``epoch``.

        Raises ``Superseded`` if a newer one exists, ``StorageError`` (then nothing of it stays), ``Busy``, ``Damaged``.
        """
        with fenced(self._paths, epoch, timeout_s=timeout_s):
            self.append_locked(kind, body, epoch=epoch, durable=durable)

    def append_locked(self, kind: str, body: sealed.Body, *, epoch: int, durable: bool = True) -> None:
        """Append under the session's lock, which the caller holds and with which it has checked the epoch."""
        line = encode_entry(JournalEntry(at=self._clock.wall_s(), kind=kind, epoch=epoch, body=body))
        path = self._paths.journal
        try:
            failpoints.hit("journal.open")
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StorageError.from_os(error, "write", path) from error
        try:
            size = os.fstat(fd).st_size
            if size > JOURNAL_LIMIT_BYTES:
                self._rotate()
                os.close(fd)
                fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
                size = os.fstat(fd).st_size
            if size and os.pread(fd, 1, size - 1) != b"\n":
                line = b"\n" + line  # the line before was torn by a death: it spoils itself only
            os.lseek(fd, size, os.SEEK_SET)
            try:
                failpoints.hit("journal.append")
                files.write_all(fd, line)
                if durable:
                    files.sync_file(fd)
            except OSError:
                _cut_quietly(fd, size)
                raise
        except OSError as error:
            if isinstance(error, StorageError):
                raise
            raise StorageError.from_os(error, "write", path) from error
        finally:
            os.close(fd)
        if durable and size == 0:
            files.sync_directory(path.parent)

    def read(self) -> JournalContent:
        """Return everything that is whole, and the damage. A missing journal is empty. Raises ``StorageError``."""
        entries: list[JournalEntry] = []
        damage: list[JournalDamage] = []
        damaged_after: dict[str, int] = {}
        for path in (self._old_path, self._paths.journal):
            for item in _iter_lines(path):
                if isinstance(item, JournalDamage):
                    damage.append(item)
                    for kind in damaged_after:
                        damaged_after[kind] += 1
                else:
                    entries.append(item)
                    if item.kind in KEPT_KINDS:
                        damaged_after[item.kind] = 0
        return JournalContent(entries=tuple(entries), damage=tuple(damage), damaged_after=damaged_after)

    def read_tail(self, limit_bytes: int = 1 << 16) -> JournalContent:
        """Return what the last ``limit_bytes`` hold (cheap; the first, cut line is left out, older ones are not there)."""
        items = list(_iter_lines(self._paths.journal, tail_bytes=limit_bytes))
        return JournalContent(
            entries=tuple(item for item in items if isinstance(item, JournalEntry)),
            damage=tuple(item for item in items if isinstance(item, JournalDamage)),
            damaged_after={},
        )

    @property
    def _old_path(self) -> Path:
        return self._paths.journal.with_name(self._paths.journal.name + ".1")

    def _rotate(self) -> None:
        """Keep the full file as ``.1`` and begin a new one that holds what files are rebuilt from.

        A link and two renames: at every instant both names hold whole files, or the journal is as it was.
        """
        content = self.read()
        kept = [entry for kind in KEPT_KINDS if (entry := content.find_last(kind))]
        spare = self._paths.journal.with_name(f".{self._paths.journal.name}{files.TEMPORARY_MARK}old")
        files.remove_quietly(spare)
        os.link(self._paths.journal, spare)
        os.replace(spare, self._old_path)
        files.replace_durably(self._paths.journal, b"".join(encode_entry(entry) for entry in kept))


def encode_entry(entry: JournalEntry) -> bytes:
    """Return the entry's line."""
    body = {"at": entry.at, "kind": entry.kind, "epoch": entry.epoch, "body": entry.body}
    return sealed.encode_sealed(JOURNAL_KIND, JOURNAL_FORMAT, body)


def _decode_entry(line: bytes, path: Path) -> JournalEntry:
    body = sealed.decode_sealed(line, JOURNAL_KIND, JOURNAL_FORMAT, path=path)
    at, kind, epoch, inner = (body.get(name) for name in ("at", "kind", "epoch", "body"))
    if not (isinstance(at, (int, float)) and isinstance(kind, str) and isinstance(epoch, int) and isinstance(inner, dict)):
        raise Damaged(f"{path} has a line of the wrong shape", path=str(path), reason="wrong-shape")
    return JournalEntry(at=float(at), kind=kind, epoch=epoch, body=inner)


def _iter_lines(path: Path, *, tail_bytes: int | None = None) -> Iterator[JournalEntry | JournalDamage]:
    try:
        if tail_bytes is None:
            data, offset = files.read_bounded(path, _READ_LIMIT_BYTES), 0
        else:
            data, offset = _read_tail(path, tail_bytes)
    except FileNotFoundError:
        return
    while data:
        line, newline, data = data.partition(b"\n")
        size = len(line) + len(newline)
        if line or newline:
            try:
                yield _decode_entry(line + newline, path)
            except Damaged as error:
                yield JournalDamage(path=str(path), offset_bytes=offset, size_bytes=size, reason=error.reason)
            except FormatTooNew:
                pass  # a newer program's line: not ours to judge
        offset += size


def _read_tail(path: Path, limit_bytes: int) -> tuple[bytes, int]:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StorageError.from_os(error, "read", path) from error
    try:
        start = max(0, os.fstat(fd).st_size - limit_bytes)
        data = os.pread(fd, limit_bytes + RECORD_LIMIT_BYTES, start)
    except OSError as error:
        raise StorageError.from_os(error, "read", path) from error
    finally:
        os.close(fd)
    if start:
        cut = data.find(b"\n") + 1
        data, start = data[cut:], start + cut
    return data, start


def _cut_quietly(fd: int, size: int) -> None:
    try:
        os.ftruncate(fd, size)
    except OSError:
        return  # the torn line stays and is told as damage; the next append begins on a line of its own
