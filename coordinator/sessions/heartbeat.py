"""A session's sign of life: one small file, written over in place by one ``pwrite``.

The beat carries a counter of *observed agent progress*, since a timer of our own would keep a hung agent looking alive.
It is fixed in size, checksummed, and never fsynced: after a reboot it is worth nothing, and its boot id says so.

Invariants:
  - a beat of an older epoch never replaces one of a newer epoch that is already there
  - a reader gets a whole beat, nothing (no file yet), or ``Damaged``
Not promised: that a writer which was stopped between its look and its write is refused. Readers therefore ignore beats
whose epoch is not the record's.
"""

from __future__ import annotations

import os
import struct
import threading
import time
import zlib
from pathlib import Path

from coordinator.errors import Damaged, FormatTooNew, Refused, StorageError, Superseded
from coordinator.sessions.model import Beat
from coordinator.system import failpoints, files
from coordinator.system.clock import SYSTEM, Clock

BEAT_SIZE_BYTES = 192
BEAT_FORMAT = 1
_MAGIC = b"CKHB"
#: magic, format, flags, session, epoch, seq, boot id, monotonic, boottime, wall, progress count, its two times, output
_LAYOUT = struct.Struct("<4sHH16sQQ40sdddQddQ")
_CHECKSUM = struct.Struct("<I")
_PADDING = bytes(BEAT_SIZE_BYTES - _LAYOUT.size - _CHECKSUM.size)
_AT_PROMPT, _NEEDS_USER, _FRUITFUL = 1, 2, 4
#: A reader that meets a write half-way looks again so often.
_READ_TRIES = 5
_READ_LIMIT_BYTES = 1 << 16
#: Writes between two looks whether the file was set aside by somebody.
_CHECK_EVERY = 3


class HeartbeatFile:
    """The heartbeat at ``path``. One writer thread; any number of readers in any process."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd: int | None = None
        self._inode = 0
        self._writes_unchecked = 0

    def write(self, beat: Beat) -> None:
        """Replace the beat. Raises ``Superseded`` if a newer epoch beats already, ``StorageError``."""
        data = encode_beat(beat)
        try:
            fd = self._open()
            if fd is None:
                files.replace_durably(self._path, data, durable=False)
                return
            failpoints.hit("heartbeat.write")
            before = _decode_quietly(os.pread(fd, BEAT_SIZE_BYTES + 1, 0), self._path)
            if before is None:  # damaged: it is set aside, and a new file begins
                self._set_aside()
                files.replace_durably(self._path, data, durable=False)
                return
            if before.session == beat.session and before.epoch > beat.epoch:
                raise Superseded(beat.session, beat.epoch, before.epoch)
            os.pwrite(fd, data, 0)
        except OSError as error:
            if isinstance(error, StorageError):
                raise
            raise StorageError.from_os(error, "write", self._path) from error

    def read(self) -> Beat | None:
        """Return the last beat, ``None`` if there was none yet. Raises ``Damaged``, ``FormatTooNew``, ``StorageError``."""
        for tries_left in range(_READ_TRIES - 1, -1, -1):
            try:
                data = files.read_bounded(self._path, _READ_LIMIT_BYTES)
            except FileNotFoundError:
                return None
            except Refused as error:  # a directory, a link, far too long
                raise _damaged(self._path, "wrong-shape") from error
            try:
                return decode_beat(data, self._path)
            except Damaged:
                if not tries_left or len(data) != BEAT_SIZE_BYTES:
                    raise
                time.sleep(0)  # let a write in flight finish
        raise AssertionError("unreachable")

    def close(self) -> None:
        """Let go of the file."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _open(self) -> int | None:
        """Return the descriptor of what is at the path now, ``None`` if nothing is.

        Whether the file is still that one is looked at every few writes only: a look costs as much as a beat.
        """
        if self._fd is not None and self._writes_unchecked < _CHECK_EVERY:
            self._writes_unchecked += 1
            return self._fd
        self._writes_unchecked = 0
        try:
            inode = os.stat(self._path, follow_symlinks=False).st_ino
        except FileNotFoundError:
            self.close()
            return None
        if self._fd is None or inode != self._inode:
            self.close()
            self._fd = os.open(self._path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            self._inode = os.fstat(self._fd).st_ino
        return self._fd

    def _set_aside(self) -> None:
        self.close()
        for number in range(1, 100):
            aside = self._path.with_name(f"{self._path.name}.damaged-{number}")
            if not aside.exists():
                os.rename(self._path, aside)
                return
        # A hundredth damaged beat tells nothing that the others do not.


class Progress:
    """Counts what was seen of the agent's own work. Any thread may note; the coordinator thread reads."""

    def __init__(self, clock: Clock = SYSTEM) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self.count = 0
        self.monotonic_s = clock.monotonic_s()
        self.wall_s = clock.wall_s()
        #: The agent waits for input at its terminal.
        self.at_prompt = False
        #: The agent waits for the user's decision.
        self.needs_user = False
        #: The incarnation brought the work further (a commit, a checkpoint of its own, a longer transcript).
        self.fruitful = False
        #: Bytes of output since the session's birth.
        self.output_bytes = 0
        self._commits: dict[int, int] = {}

    def note(self, count: int = 1, *, fruitful: bool = False) -> None:
        """Note ``count`` signs of the agent's own work."""
        with self._lock:
            self.count += count
            self.monotonic_s = self._clock.monotonic_s()
            self.wall_s = self._clock.wall_s()
            self.fruitful = self.fruitful or fruitful

    def note_commit(self, shard: int, revision: int) -> None:
        """Note a commit of the session's own to the shared context, once however often it is seen."""
        if revision > self._commits.get(shard, 0):
            self._commits[shard] = revision
            self.note(fruitful=True)

    def begin_incarnation(self) -> None:
        """Forget what only the last incarnation brought; counts go on."""
        with self._lock:
            self.fruitful = self.at_prompt = self.needs_user = False

    def note_output(self, size_bytes: int) -> None:
        """Note that the agent wrote so many bytes."""
        self.output_bytes += size_bytes
        self.note()

    def make_beat(self, *, session: str, epoch: int, seq: int, boot_id: str) -> Beat:
        """Return the beat of this moment."""
        with self._lock:
            return Beat(
                session=session,
                epoch=epoch,
                seq=seq,
                boot_id=boot_id,
                monotonic_s=self._clock.monotonic_s(),
                boottime_s=self._clock.boottime_s(),
                wall_s=self._clock.wall_s(),
                progress_count=self.count,
                progress_monotonic_s=self.monotonic_s,
                progress_wall_s=self.wall_s,
                at_prompt=self.at_prompt,
                needs_user=self.needs_user,
                fruitful=self.fruitful,
                output_bytes=self.output_bytes,
            )


def encode_beat(beat: Beat) -> bytes:
    """Return the beat's ``BEAT_SIZE_BYTES`` bytes."""
    session, boot_id = beat.session.encode(), beat.boot_id.encode()
    assert len(session) <= 16, "a session's id fits its field"
    assert len(boot_id) <= 40, "a boot id fits its field"
    flags = _AT_PROMPT * beat.at_prompt | _NEEDS_USER * beat.needs_user | _FRUITFUL * beat.fruitful
    data = (
        _LAYOUT.pack(
            _MAGIC,
            BEAT_FORMAT,
            flags,
            session,
            beat.epoch,
            beat.seq,
            boot_id,
            beat.monotonic_s,
            beat.boottime_s,
            beat.wall_s,
            beat.progress_count,
            beat.progress_monotonic_s,
            beat.progress_wall_s,
            beat.output_bytes,
        )
        + _PADDING
    )
    return data + _CHECKSUM.pack(zlib.crc32(data))


def decode_beat(data: bytes, path: Path) -> Beat:
    """Return the beat. Raises ``Damaged`` with its reason, or ``FormatTooNew``."""
    if not data:
        raise _damaged(path, "empty")
    if not data.strip(b"\0"):
        raise _damaged(path, "zero-filled")
    if len(data) != BEAT_SIZE_BYTES:
        raise _damaged(path, "truncated" if len(data) < BEAT_SIZE_BYTES else "trailing")
    (checksum,) = _CHECKSUM.unpack_from(data, BEAT_SIZE_BYTES - _CHECKSUM.size)
    if checksum != zlib.crc32(data[: -_CHECKSUM.size]):
        raise _damaged(path, "wrong-digest")
    magic, format, flags, session, epoch, seq, boot_id, *rest = _LAYOUT.unpack_from(data)
    if magic != _MAGIC:
        raise _damaged(path, "wrong-shape")
    if format > BEAT_FORMAT:
        raise FormatTooNew(
            f"{path} has format {format}; this crewkeep reads up to {BEAT_FORMAT}",
            hint="use the newer crewkeep that wrote it",
            path=str(path),
            format=format,
            supported=BEAT_FORMAT,
        )
    monotonic_s, boottime_s, wall_s, progress_count, progress_monotonic_s, progress_wall_s, output_bytes = rest
    try:
        session_id, boot = session.rstrip(b"\0").decode(), boot_id.rstrip(b"\0").decode()
    except UnicodeDecodeError as error:
        raise _damaged(path, "wrong-shape") from error
    return Beat(
        session=session_id,
        epoch=epoch,
        seq=seq,
        boot_id=boot,
        monotonic_s=monotonic_s,
        boottime_s=boottime_s,
        wall_s=wall_s,
        progress_count=progress_count,
        progress_monotonic_s=progress_monotonic_s,
        progress_wall_s=progress_wall_s,
        at_prompt=bool(flags & _AT_PROMPT),
        needs_user=bool(flags & _NEEDS_USER),
        fruitful=bool(flags & _FRUITFUL),
        output_bytes=output_bytes,
    )


def _decode_quietly(data: bytes, path: Path) -> Beat | None:
    try:
        return decode_beat(data, path)
    except Damaged:
        return None


def _damaged(path: Path, reason: str) -> Damaged:
    return Damaged(f"{path} is not a whole heartbeat ({reason})", hint="the next beat replaces it", path=str(path), reason=reason)
