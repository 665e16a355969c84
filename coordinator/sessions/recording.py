"""The recorder: writes down, live, what is said and done in a session.

A record is one ``write`` to a file of the writer's own. Rejected: a mapped file, ten times quicker a record, because a full
disk, a truncated file or a read error would then be SIGBUS in the middle of the user's program instead of an error.

Promised:
  - what was recorded survives kill -9 of the program at once; it survives power loss after the next ``sync``, for which the
    coordinator thread comes by at least every second, or after ``flush``
  - an incarnation that was superseded records nothing more: its call raises ``Superseded``, and nothing of it stays
  - what could not be written raises, and nothing of it stays; what stood before is whole
  - of a recording beyond its limit the oldest goes, and readers are told how much

How the fence works without a lock (leases, after Gray & Cheriton 1989). A writer acknowledges a record only if the epoch was
looked at less than ``RECORDING_LOOK_S`` before the record was *finished*, else it looks again first. A newer incarnation
waits for twice that time since it began, then notes the sizes of all older segments in its own first head: whatever was
acknowledged lies within, and readers believe nothing beyond.

Several threads share a recorder; several processes have each their own file. Not promised: that a program killed with -9
whose machine loses power within the kernel's write-back time (some 30 s) keeps its last second.
"""

from __future__ import annotations

import errno
import math
import os
import threading
import time
import weakref
from os import write
from time import monotonic as monotonic_s
from time import time as wall_s
from zlib import crc32

from orjson import dumps

from coordinator.config import RECORDED_LIMIT_BYTES, RECORDING_LOOK_S, RECORDING_SEGMENTS
from coordinator.errors import CrewkeepError, InvalidInput, NotFound, StorageError
from coordinator.paths import SessionPaths
from coordinator.sessions.fence import EpochLook
from coordinator.sessions.history import Role
from coordinator.sessions.recordable import ROLES, encode_message
from coordinator.sessions.segments import (
    FRAME,
    MARK,
    Segment,
    SegmentHead,
    encode_body,
    encode_record,
    list_segments,
    name_segment,
    read_head,
)
from coordinator.system import failpoints, files, locks

#: On the quick path a look into a module for each of its functions would be a tenth of the time.
pack = FRAME.pack
#: A write that took longer met a disk that holds writers back; for a while no event loop is put through that. Arbitrary, but
#: longer than a busy machine lets a process wait for its turn: a thread for each record would make that worse.
_SLOW_S, _SLOW_FOR_S = 0.05, 0.25
_FLAGS = os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC


class Recorder:
    """Records for one incarnation of a session, in one process. Any thread may call its methods."""

    def __init__(self, paths: SessionPaths, session: str, epoch: int, *, limit_bytes: int) -> None:
        self._paths, self._session, self._epoch = paths, session, epoch
        self._limit_bytes = limit_bytes
        # So that what is too long never fits and is met where files are prepared: the quick path need not look for it.
        self._segment_bytes = min(limit_bytes // RECORDING_SEGMENTS, RECORDED_LIMIT_BYTES)
        self._began_s = time.monotonic()
        self._lock = threading.Lock()
        self._sync_lock = threading.Lock()
        self._fd = -1
        self._segment: Segment | None = None
        #: Of the open file; without one as if it were full.
        self._size = self._segment_bytes
        #: Descriptors of segments that are full and not yet durable.
        self._retired: list[int] = []
        self._names_are_durable = True
        self._look = EpochLook(paths)
        self._look_at_s = -math.inf
        self._slow_until_s = 0.0
        self._error: CrewkeepError | None = None
        self._is_paused = False
        #: Records written by this recorder.
        self.count = 0
        self._synced_count = 0
        _living.add(self)

    # Recording

    def record_message(
        self, role: Role | str, text: str, at: float | None = None, id: str | None = None, raw: str | None = None
    ) -> bool:
        """Write a message down; ``False`` if it was left out because of a pause. Raises as ``append``, ``encode_message``."""
        # As `append(encode_message(...))`, in one piece: at this rate two calls are a tenth of the time.
        if at is None and id is None and raw is None and isinstance(role, str) and role in ROLES and isinstance(text, str):
            try:
                data = dumps((ROLES[role], wall_s(), text))
            except TypeError:
                data = encode_body((ROLES[role], time.time(), text))
            record = pack(MARK, len(data), crc32(data)) + data
        else:
            record = encode_message(role, text, at, id, raw)
        with self._lock:
            if self._is_paused:
                return False
            self._write(record)
            return True

    def append(self, record: bytes, *, wait: bool = True) -> bool | None:
        """Write a record (see ``recordable``); tell whether it was, or left out because of a pause.

        ``None`` with ``wait=False``: it would have to wait for another thread or for a new file; nothing was done. Raises
        ``Superseded``, ``InvalidInput`` for one that is too long, ``NotFound`` if the session was removed, ``StorageError``
        (a full disk: ``cause`` is ``ENOSPC``): then nothing of it stays, and the next call tries again.
        """
        if not self._lock.acquire(wait):
            return None
        try:
            if self._is_paused:
                return False
            if not wait:
                if self._size + len(record) > self._segment_bytes:
                    return None
                began_s = time.monotonic()
                self._write(record)
                self._slow_until_s = self._is_slow_since(began_s)
                return True
            self._write(record)
            return True
        finally:
            self._lock.release()

    def _write(self, record: bytes) -> None:
        """The quick path, under the lock: one write, one look at the clock."""
        size = len(record)
        if self._size + size > self._segment_bytes:
            self._prepare(size)
        try:
            if failpoints.armed:
                failpoints.hit("recording.write")
            if write(self._fd, record) != size:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # what cuts a write to a file short
        except OSError as error:
            self._take_back()
            raise StorageError.from_os(error, "record in", self._paths.recording) from error
        if monotonic_s() >= self._look_at_s:
            self._look_again()
        self._size += size
        self.count += 1

    def pause(self) -> bool:
        """Record nothing from now on until ``resume``; tell whether it was recording. The pause itself is recorded.

        Raises as ``append``; then it goes on recording.
        """
        with self._lock:
            if self._is_paused:
                return False
            self._write(encode_record({"kind": "pause", "at": time.time()}))
            self._is_paused = True
            return True

    def resume(self) -> bool:
        """Go on recording; tell whether it was paused. Raises as ``append``; then it stays paused."""
        with self._lock:
            if not self._is_paused:
                return False
            self._write(encode_record({"kind": "resume", "at": time.time()}))
            self._is_paused = False
            return True

    @property
    def is_slow(self) -> bool:
        """Whether the disk lately made a write wait that could not be waited for."""
        return time.monotonic() < self._slow_until_s

    def _is_slow_since(self, began_s: float) -> float:
        now_s = time.monotonic()
        return now_s + _SLOW_FOR_S if now_s - began_s > _SLOW_S else 0.0

    @property
    def is_paused(self) -> bool:
        """Whether recording is paused."""
        return self._is_paused

    # Durability

    def sync(self) -> None:
        """Make durable what was recorded by now. Costs nothing if that was nothing. Raises ``StorageError``, once.

        What failed is never tried again on the same file, since the kernel may have dropped it: the next record begins
        another one.
        """
        with self._sync_lock:
            with self._lock:
                count, current, retired = self.count, self._fd, self._retired
                if count == self._synced_count and not retired:
                    return
                self._retired, names_are_durable, self._names_are_durable = [], self._names_are_durable, True
            try:
                for fd in retired:
                    files.sync_data(fd)
                if current >= 0:  # closed by nobody but us: what is full is retired first
                    files.sync_data(current)
                if not names_are_durable:
                    files.sync_directory(self._paths.recording)
                    files.sync_directory(self._paths.path)
            except OSError as error:
                with self._lock:
                    self._synced_count = count
                    if self._fd == current:
                        self._retire()
                    if current in self._retired:
                        self._retired.remove(current)
                        os.close(current)
                if not self._paths.path.is_dir():
                    return  # the session was removed: there is nothing to keep
                if isinstance(error, StorageError):
                    raise
                raise StorageError.from_os(error, "make durable", self._paths.recording) from error
            finally:
                for fd in retired:
                    os.close(fd)
            self._synced_count = count

    def close(self, why: CrewkeepError | None = None) -> None:
        """Make everything durable and let go of the files. Raises ``StorageError``.

        A later record opens them again, or raises ``why`` if that is given.
        """
        try:
            self.sync()
        finally:
            with self._sync_lock, self._lock:
                self._error = self._error or why
                self._retire()
                for fd in self._retired:
                    os.close(fd)
                self._retired = []

    # Files, all under the lock

    def _prepare(self, size: int) -> None:
        """Open the file that the next record goes to."""
        if self._error is not None:
            raise self._error
        if size > RECORDED_LIMIT_BYTES + FRAME.size:
            raise InvalidInput(
                f"a record of {size} bytes is too long; at most {RECORDED_LIMIT_BYTES}",
                hint="record it in parts, or where it is kept",
            )
        self._look_again()
        try:
            if self._fd >= 0:
                self._begin_next(size)
            else:
                self._begin(size)
        except OSError as error:
            if isinstance(error, StorageError):
                raise
            raise StorageError.from_os(error, "record in", self._paths.recording) from error

    def _begin(self, size: int) -> None:
        """Go on in a file of this epoch that nobody writes to any more, or begin a chain of our own."""
        directory = self._paths.recording
        try:
            failpoints.hit("recording.open")
            os.mkdir(directory, 0o700)
        except FileExistsError:
            pass
        except FileNotFoundError as error:
            raise self._gone() from error
        segments = list_segments(directory)
        mine = [one for one in segments if one.epoch == self._epoch]
        for found in _find_last(mine):
            if self._adopt(found, size):
                return
        if any(one.epoch < self._epoch for one in segments):
            # Whoever of an older incarnation looked at the epoch before we began has finished its record by then.
            time.sleep(max(0.0, self._began_s + 2 * RECORDING_LOOK_S - time.monotonic()))
        self._create(os.urandom(6).hex(), 1, size, segments)

    def _begin_next(self, size: int) -> None:
        assert self._segment is not None, "a file that is open has a name"
        self._create(self._segment.chain, self._segment.number + 1, size, list_segments(self._paths.recording))

    def _create(self, chain: str, number: int, size: int, segments: list[Segment]) -> None:
        """Begin a file. The one before is let go only when this one is ours."""
        seals = find_seals([one for one in segments if one.epoch < self._epoch], segments)
        dropped_bytes = self._make_room(size)
        segment = name_segment(self._paths.recording, self._epoch, chain, number)
        head = SegmentHead(session=self._session, epoch=self._epoch, seals=seals, dropped_bytes=dropped_bytes)
        record = encode_record(head.encode())
        failpoints.hit("recording.create")
        fd = os.open(segment.path, _FLAGS | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            locks.try_acquire(fd, segment.path)
            files.write_all(fd, record)
        except BaseException:
            os.close(fd)
            files.remove_quietly(segment.path)
            raise
        self._retire()
        self._fd, self._segment, self._size, self._names_are_durable = fd, segment, len(record), False

    def _adopt(self, segment: Segment, size: int) -> bool:
        """Take over a file whose writer is gone, if there is room in it."""
        try:
            fd = os.open(segment.path, _FLAGS)
        except FileNotFoundError:
            return False
        if locks.try_acquire(fd, segment.path):
            found = os.fstat(fd).st_size
            newest = [one for one in list_segments(self._paths.recording) if one.chain == segment.chain][-1:]
            if newest == [segment] and found + size <= self._segment_bytes and read_head(segment) is not None:
                self._fd, self._segment, self._size, self._names_are_durable = fd, segment, found, False
                return True
        os.close(fd)
        return False

    def _make_room(self, size: int) -> int:
        """Drop the oldest segments that nobody writes to until another one fits; return the bytes dropped so far."""
        segments = []
        for one in list_segments(self._paths.recording):
            try:
                status = one.path.stat()
            except FileNotFoundError:
                continue
            segments.append((one.epoch, status.st_mtime_ns, one.number, status.st_size, one))
        total = sum(found[3] for found in segments) + max(size, self._segment_bytes)
        dropped = max((head.dropped_bytes for found in segments if (head := read_head(found[4]))), default=0)
        for *_, found_size, one in sorted(segments, key=lambda found: found[:3]):
            if total <= self._limit_bytes:
                break
            if one != self._segment and _drop(one):
                total, dropped = total - found_size, dropped + found_size
        return dropped

    def _retire(self) -> None:
        """Let go of the current file: the next ``sync`` makes it durable and closes it."""
        if self._fd >= 0:
            locks.release(self._fd)  # from now on it may be dropped for room
            self._retired.append(self._fd)
            self._fd, self._segment, self._size = -1, None, self._segment_bytes

    def _take_back(self) -> None:
        """Cut off what was written of a record that is not acknowledged."""
        try:
            os.ftruncate(self._fd, self._size)
        except OSError:
            self._size = os.fstat(self._fd).st_size  # it stays as a gap, which readers get past

    # The right to record

    def _look_again(self) -> None:
        """See whether a newer incarnation exists or the session was removed; then nothing of what was just written stays."""
        looked_s = time.monotonic()
        refused: CrewkeepError | None = None
        try:
            refused = self._look.find_newer(self._epoch)
        except CrewkeepError:
            if not self._paths.path.is_dir():
                refused = self._gone()
            # Else unreadable: nobody can have raised the epoch; a repair writes it anew, and then we look again.
        if refused is not None:
            if self._fd >= 0:
                self._take_back()
            self._retire()
            self._error = refused  # for good: the look tells of a record that is gone only once
            raise refused
        self._look_at_s = looked_s + RECORDING_LOOK_S

    def _gone(self) -> NotFound:
        return NotFound(f"session {self._session} was removed; nothing can be recorded for it", hint="see `crewkeep ps -a`")

    def _forget_files(self) -> None:
        """In a fork: the files are the parent's. Another chain begins if anything is recorded here."""
        self._lock, self._sync_lock = threading.Lock(), threading.Lock()
        for fd in (self._fd, *self._retired):
            if fd >= 0:
                os.close(fd)
        self._fd, self._segment, self._size, self._retired = -1, None, self._segment_bytes, []


def find_seals(older: list[Segment], segments: list[Segment]) -> dict[str, int]:
    """Return how many bytes of each of the ``older`` segments count, by what is there now and by every head that says less."""
    heads = [head for one in segments if (head := read_head(one)) is not None]
    seals = {}
    for one in older:
        try:
            size = one.path.stat().st_size
        except FileNotFoundError:
            continue
        seals[one.name] = min([size, *(head.seals.get(one.name, 0) for head in heads if head.epoch > one.epoch)])
    return seals


def _find_last(segments: list[Segment]) -> list[Segment]:
    """Return the newest segment of each chain."""
    return list({one.chain: one for one in segments}.values())


def _drop(segment: Segment) -> bool:
    """Remove a segment unless somebody writes to it; tell whether it was."""
    try:
        fd = os.open(segment.path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        if not locks.try_acquire(fd, segment.path):
            return False
        os.unlink(segment.path)
        return True
    except OSError:
        return False
    finally:
        os.close(fd)


_living: weakref.WeakSet[Recorder] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for recorder in list(_living):
        recorder._forget_files()


os.register_at_fork(after_in_child=_after_fork_in_child)
