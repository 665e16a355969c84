"""One shard: a complete store for its share of the keys.

A log of records, a control page that says how much of it is durable, and in each process an index of where things stand.
Readers take no file lock: they load one word, and if it moved, read what came since. A writer holds the shard lock from
reading the version to publishing the record; ``_commit`` reads as the order of its steps, which is the durability argument.

Invariants:
  - nothing above the published end is acknowledged, watched or returned
  - below the published end the log is whole and immutable, and (durable mode) flushed before it was published
  - the file called ``log`` is always the newest generation; compaction swaps it by one rename
  - what a killed writer left above the published end was never acknowledged; the next writer cuts it

Not promised: order between shards; anything about files deleted underneath open handles.
"""

from __future__ import annotations

import errno
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from coordinator.config import CHANGES_LIMIT_BYTES, LOCK_TIMEOUT_S
from coordinator.context import compaction, control, log
from coordinator.context.aside import set_aside
from coordinator.context.codec import ENTRY, FENCE, RULE, Header, Record, encode_record
from coordinator.context.control import ControlPage
from coordinator.context.index import Slot
from coordinator.context.log import damaged
from coordinator.context.model import WriterLike
from coordinator.context.view import View
from coordinator.errors import Busy, Damaged, NotFound, RevisionCompacted, StorageError, Superseded, VersionConflict
from coordinator.system import failpoints, files, locks
from coordinator.system.clock import SYSTEM, Clock

LOG_NAME, LOCK_NAME, CONTROL_NAME, TURN_NAME = "log", "lock", "control", "turn"
#: Looks at a log that compaction replaces again and again, before the lock settles it. Arbitrary.
_REOPENS = 20


class Shard:
    """One shard, open in this process; any number of threads may use it."""

    def __init__(
        self, directory: Path, number: int, header: Header, *, lock_timeout_s: float = LOCK_TIMEOUT_S, clock: Clock = SYSTEM
    ) -> None:
        """Nothing is opened before it is needed. ``header`` says what every log of this context must say of itself."""
        self.directory, self.number = directory, number
        self.header = header
        self._lock_timeout_s, self._clock = lock_timeout_s, clock
        self._control: ControlPage | None = None
        self._view: View | None = None
        #: The failure to flush after which this handle writes no more.
        self._failed: OSError | None = None
        self._not_before_bytes = 0
        self._reset_locks()
        _SHARDS.add(self)

    def _reset_locks(self) -> None:
        self._write_lock, self._index_lock = threading.Lock(), threading.Lock()
        self._held_fd = -1

    def close(self) -> None:
        """Let go of everything."""
        with self._index_lock:
            self._view = None
            self._control = None

    # reading

    def view(self) -> View:
        """Return what is known up to everything published by now. Raises ``Damaged``, ``StorageError`` or ``Busy``."""
        view, page = self._view, self._control
        if view is not None and page is not None and page.read() == view.word:
            return view
        with self._index_lock:
            caught_up = self._catch_up()
        if caught_up is not None:
            return caught_up
        try:
            with self.alone():
                return self.recover()
        except StorageError as error:
            if error.errno != errno.EROFS:
                raise
        with self._index_lock:
            return self._read_frozen()

    def get(self, key: str) -> Record | None:
        """Return the newest version of a key, a tombstone included."""
        view = self.view()
        slot = view.index.find_newest(key)
        return None if slot is None else view.read(slot.offset, slot.length)

    def list_history(self, key: str) -> list[Record]:
        """Return the kept versions of a key, newest first."""
        view = self.view()
        return [view.read(slot.offset, slot.length) for slot in reversed(view.index.list_versions(key))]

    def get_version(self, key: str, version: int) -> Record | None:
        """Return that version, if it is kept."""
        view = self.view()
        for slot in view.index.list_versions(key):
            if slot.version == version:
                return view.read(slot.offset, slot.length)
        return None

    def list_newest(self, prefix: str) -> tuple[View, int, list[tuple[str, Slot]]]:
        """Return a view, the revision it is at, and where its present keys stand, all of one moment."""
        self.view()
        with self._index_lock:
            view = self._view
            assert view is not None, "a shard that was read has a view"
            return view, view.index.revision, view.index.list_newest(prefix)

    def revision(self) -> int:
        """Return the newest revision that may be shown."""
        return self.view().index.revision

    def word(self) -> int | None:
        """Return the published word, for noticing that something was committed."""
        self.view()
        return None if self._control is None else self._control.read()

    def read_changes(self, prefix: str, after: int, limit: int) -> tuple[list[Record], int]:
        """Return the changes above revision ``after`` in order, and the last revision looked at.

        Raises ``RevisionCompacted`` where some of them are not kept, or ``after`` was never reached.
        """
        view = self.view()
        index = view.index
        newest = index.revision
        if after == newest:
            return [], after
        if not index.floor <= after < newest:
            why = f"changes up to {index.floor} are not kept" if after < index.floor else f"it is at {newest}"
            raise RevisionCompacted(
                f"cannot go on from revision {after} of shard {self.number}: {why}",
                hint="take a snapshot and watch on from its revisions",
                shard=self.number,
                revision=after,
                oldest=index.floor,
            )
        found: list[Record] = []
        size_bytes, position = 0, after
        for offset, length in index.list_places(after, limit):
            record = view.read(offset, length)
            position = record.revision
            if record.key.startswith(prefix):
                found.append(record)
                size_bytes += length
                if size_bytes > CHANGES_LIMIT_BYTES:
                    break
        return found, position

    # writing

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keep everybody from writing, with everything published known here."""
        with self.alone() as page:
            self._prepare(page)
            yield

    def write(
        self,
        key: str,
        make: Callable[[Record | None], bytes | None],
        *,
        expected_version: int | None,
        writer: WriterLike | None,
    ) -> Record:
        """Commit the next version of a key: what ``make`` returns for the entry it met, a tombstone for ``None``.

        ``make`` runs under the shard lock and must be quick. ``expected_version=None`` takes any version.
        Raises ``VersionConflict``, ``Superseded``, ``Busy``, ``StorageError`` or ``Damaged``; then nothing was written.
        """

        def decide(view: View) -> Record:
            _check_epoch(view, writer)
            slot = view.index.find_newest(key)
            present = slot is not None and not slot.deleted
            version = slot.version if slot is not None and present else 0
            if expected_version is not None and expected_version != version:
                raise VersionConflict(key, expected_version, version)
            met = view.read(slot.offset, slot.length) if slot is not None and present else None
            value = make(met)
            if value is None and met is None:
                raise NotFound(f"there is no key {key!r}", hint="`crewkeep context ls` lists the keys", key=key)
            return Record(
                kind=ENTRY,
                key=key,
                value=value or b"",
                deleted=value is None,
                revision=view.index.revision + 1,
                version=(slot.version if slot is not None else 0) + 1,
                at=self._clock.wall_s(),
                session=writer.session if writer is not None else "",
                name=writer.name if writer is not None else "",
                epoch=writer.epoch if writer is not None else 0,
            )

        record = self._commit(decide)
        assert record is not None, "a write is decided on or refused"
        return record

    def fence(self, session: str, epoch: int) -> bool:
        """Refuse writes of ``session`` below ``epoch`` from now on; tell whether anything had to be written."""

        def decide(view: View) -> Record | None:
            if view.index.epochs.get(session, 0) >= epoch:
                return None
            return Record(kind=FENCE, session=session, epoch=epoch, at=self._clock.wall_s())

        return self._commit(decide) is not None

    def set_rule(self, prefix: str, name: str) -> None:
        """Let the merge rule ``name`` hold for keys that begin with ``prefix``."""

        def decide(view: View) -> Record | None:
            if view.index.rules.get(prefix) == name:
                return None
            return Record(kind=RULE, key=prefix, value=name.encode("utf-8"), at=self._clock.wall_s())

        self._commit(decide)

    def _commit(self, decide: Callable[[View], Record | None]) -> Record | None:
        with self.alone() as page:  # 1. nobody else writes here
            view = self._prepare(page)  # 2. know everything published, and have nothing behind it
            record = decide(view)  # 3. refuse: epoch, version
            if record is None:
                return None
            end = self._append(view, record)  # 4. every byte into the log
            self._flush(view)  # 5. durable
            revision = view.index.revision + (record.kind == ENTRY)
            page.publish(view.header.generation, end, revision)  # 6. visible to everybody
            with self._index_lock:
                self._catch_up()  # 7. known here, by the way that everybody learns of it
            self._compact_if_due(page)
            return record

    @contextmanager
    def alone(self) -> Iterator[ControlPage]:
        """Hold the shard lock, against threads and processes. Raises ``Busy`` naming the holder."""
        deadline_s = time.monotonic() + self._lock_timeout_s
        if not self._write_lock.acquire(timeout=self._lock_timeout_s):
            raise self._busy(os.getpid())
        try:
            page = self._open_control(to_write=True)
            if not page.is_writable:
                raise _read_only(page.path)
            fd = self._held_fd = locks.open_lock(self.directory / LOCK_NAME)
            try:
                self._acquire(fd, page, deadline_s)
                page.set_holder(os.getpid())
                try:
                    yield page
                finally:
                    page.set_holder(0)
                    locks.release(fd)  # said aloud: a child forked meanwhile has a copy, and closing ours would not do
            finally:
                self._held_fd = -1
                os.close(fd)
        finally:
            self._write_lock.release()

    def _acquire(self, fd: int, page: ControlPage, deadline_s: float) -> None:
        try:
            locks.acquire(fd, self.directory / LOCK_NAME, timeout_s=max(0.0, deadline_s - time.monotonic()))
        except Busy as error:
            raise self._busy(page.read_holder()) from error

    def _busy(self, holder: int) -> Busy:
        return Busy(
            f"shard {self.number} of {self.directory.parent} has been locked for {self._lock_timeout_s:g} s"
            + (f" by process {holder}" if holder else ""),
            hint=f"see what process {holder} does; if it is stopped: kill -CONT {holder}" if holder else "try again",
            path=str(self.directory / LOCK_NAME),
            holder=holder or None,
        )

    def _prepare(self, page: ControlPage) -> View:
        if self._failed is not None:
            raise self._describe_failure(self._failed)
        with self._index_lock:
            view = self._catch_up()
        status = self._look()
        if view is None or (status.st_dev, status.st_ino) != view.inode or not view.is_writable:
            # The page is void, or a compaction died between its rename and its publication, or the disk was read-only.
            view = self.recover()
            if not view.is_writable:
                raise _read_only(view.path)
            status = self._look()
        if status.st_size > view.scan.end:
            failpoints.hit("shard.cut")
            self._truncate(view)
        elif status.st_size < view.scan.end:
            raise damaged(view.path, "truncated", f"has {status.st_size} bytes where {view.scan.end} were published")
        return view

    def _look(self) -> os.stat_result:
        path = self.directory / LOG_NAME
        try:
            return os.stat(path)
        except FileNotFoundError as error:
            raise damaged(path, "missing", "is missing") from error
        except OSError as error:
            raise StorageError.from_os(error, "look at", path) from error

    def _describe_failure(self, failed: OSError) -> StorageError:
        error = StorageError.from_os(failed, "make durable", self.directory / LOG_NAME)
        error.hint += "; then open the context again to go on writing"
        return error

    def _append(self, view: View, record: Record) -> int:
        data, _ = encode_record(record, salt=view.header.salt, offset=view.scan.end, previous=view.scan.checksum)
        try:
            failpoints.hit("shard.append")
            done = 0
            while done < len(data):
                failpoints.hit("shard.write")
                done += os.pwrite(view.fd, data[done:], view.scan.end + done)
        except OSError as error:
            self._truncate_quietly(view)
            raise StorageError.from_os(error, "write", view.path) from error
        return view.scan.end + len(data)

    def _flush(self, view: View) -> None:
        if not view.header.durable:
            return
        try:
            failpoints.hit("shard.flush")
            files.sync_data(view.fd)
        except OSError as error:
            self._truncate_quietly(view)
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                # The kernel may have dropped the bytes and will report success next time, and the disk may have harmed
                # what shares a block with them: never tried again on this handle. A full disk harms nothing that was there.
                self._failed = error
            raise self._describe_failure(error) from error

    def _truncate(self, view: View) -> None:
        try:
            os.ftruncate(view.fd, view.scan.end)
        except OSError as error:
            raise StorageError.from_os(error, "shorten", view.path) from error

    def _truncate_quietly(self, view: View) -> None:
        try:
            os.ftruncate(view.fd, view.scan.end)
        except OSError:
            return  # the next writer cuts it, as it would had this one been killed

    # catching up

    def _open_control(self, *, to_write: bool = False) -> ControlPage:
        if self._control is not None and self._control.is_removed():
            self._control, self._view = None, None
        if self._control is not None and to_write and not self._control.is_writable:
            self._control = None  # the disk was read-only; perhaps it is not any more
        if self._control is None:
            if not self.directory.is_dir():
                raise damaged(self.directory, "missing", "is missing")
            self._control = ControlPage(self.directory / CONTROL_NAME)
        return self._control

    def _catch_up(self) -> View | None:
        """Bring the view up to what is published; ``None`` if that takes the lock. Call it with the index lock held."""
        page = self._control or self._open_control()
        view = self._view
        if view is None and not page.is_of_this_boot():
            return None
        for _ in range(_REOPENS):
            word = page.read()
            if word is None:
                return None
            generation, end = control.split(word)
            if view is None or view.header.generation != generation:
                view = self._open_view()
                if view.header.generation != generation:
                    continue
            if reason := view.replay(end):
                self._view = None
                raise damaged(view.path, view.scan.reason or "wrong-order", f"is damaged at {view.scan.end} of {end}: {reason}")
            view.word, self._view = word, view
            return view
        return None

    def _open_view(self) -> View:
        view = View(self.directory / LOG_NAME)
        found, wanted = view.header, self.header
        if (found.shard, found.shard_count, found.context_id) != (wanted.shard, wanted.shard_count, wanted.context_id):
            raise damaged(view.path, "wrong-shape", "belongs to another shard or context")
        return view

    def recover(self) -> View:
        """Rebuild the control page from the log. Call it with the shard lock held.

        Raises ``Damaged`` where more is missing than a write that nobody was told of.
        """
        page = self._open_control()
        failpoints.hit("shard.recover")
        compaction.remove_leftovers(self.directory / LOG_NAME)
        view, torn = self._replay_log(page)
        if torn is not None:
            self._cut_torn_tail(view, torn)
        if view.header.durable:
            files.sync_directory(self.directory)
            self._flush(view)
        page.publish(view.header.generation, view.scan.end, view.index.revision)
        page.bind()
        view.word = page.read() or -1
        with self._index_lock:
            self._view = view
        return view

    def _read_frozen(self) -> View:
        """Read the log of a file system that is read-only: nobody writes, so nothing needs the lock or can be published."""
        page = self._open_control()
        view, _ = self._replay_log(page)
        view.word = page.read() or -1
        self._view = view
        return view

    def _replay_log(self, page: ControlPage) -> tuple[View, str | None]:
        """Return the view of all that is whole in the log, and what is wrong with a torn tail. Raises ``Damaged``."""
        view = self._open_view()
        size = os.fstat(view.fd).st_size
        reason = view.replay(size)
        word = page.read()
        generation, bound = control.split(word) if word is not None else (0, 0)
        if generation > view.header.generation:
            raise damaged(view.path, "rolled-back", f"is generation {view.header.generation}, but {generation} was published")
        trusted = generation == view.header.generation and (page.is_of_this_boot() or view.header.durable)
        if trusted and view.scan.end < bound:
            raise damaged(
                view.path, view.scan.reason or "truncated", f"is whole up to {view.scan.end} only; {bound} were published"
            )
        if reason:
            if view.header.durable and any(log.find_whole_records(view.fd, view.header, view.scan.end, view.path)):
                raise damaged(view.path, view.scan.reason or "wrong-order", f"is damaged at {view.scan.end}: {reason}")
            return view, view.scan.reason or "wrong-order"
        return view, None

    def _cut_torn_tail(self, view: View, reason: str) -> None:
        """Set the bytes of a write that power loss interrupted aside. Without space for that, they stay until the next write."""
        tail = log.read_at(view.fd, view.scan.end, os.fstat(view.fd).st_size - view.scan.end, view.path)
        try:
            set_aside(
                self.directory.parent, f"{self.number:02d}-tail-at-{view.scan.end}", reason, tail, now_s=self._clock.wall_s()
            )
        except StorageError:
            return
        self._truncate(view)

    def _compact_if_due(self, page: ControlPage) -> None:
        view = self._view
        if view is None or not compaction.is_due(view.index, view.scan.end, self._not_before_bytes):
            return
        try:
            compaction.compact(view.fd, view.header, view.index, view.scan.end, view.path)
            self.recover()
        except (StorageError, Damaged):
            # The write it follows is done and stays so. Without space the log goes on growing, and is tried again later;
            # a log that was swapped but not published is published by whoever comes next.
            self._not_before_bytes = view.scan.end + view.scan.end // 4


def _read_only(path: Path) -> StorageError:
    return StorageError.from_os(OSError(errno.EROFS, os.strerror(errno.EROFS)), "write", path)


def _check_epoch(view: View, writer: WriterLike | None) -> None:
    """Refuse the writer whose session has a newer incarnation. A place of its own, so that a test can plant it out."""
    if writer is not None and (newest := view.index.epochs.get(writer.session, 0)) > writer.epoch:
        raise Superseded(writer.session, writer.epoch, newest)


_SHARDS: weakref.WeakSet[Shard] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    """Threads that held locks do not exist in a child, and an inherited lock file would keep the parent's lock taken."""
    for shard in list(_SHARDS):
        held = shard._held_fd
        shard._reset_locks()
        if held >= 0:
            os.close(held)


os.register_at_fork(after_in_child=_after_fork_in_child)
