"""The open files of a shard: its page, its log with the table that leads into it, and the lock of who may write.

What is open is a cache of what is on disk: every look compares it with what is published, every writer with what is written,
and opens anew what is another file, another generation or another count of cuts. What cannot be used is made anew from the log
under the shard lock.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from coordinator.context import log, remake
from coordinator.context.append import Appender
from coordinator.context.codec import Header
from coordinator.context.control import ControlPage, State
from coordinator.context.flush import FLUSH_WORDS, GroupFlush
from coordinator.context.generation import Generation
from coordinator.context.log import LOG_NAME, damaged
from coordinator.context.queue import QueuedLock
from coordinator.context.table import TableVoid
from coordinator.context.watch import FLUSH_WORD, LOCK_WORD
from coordinator.errors import Busy, CrewkeepError, StorageError
from coordinator.system.clock import Clock
from coordinator.system.lock_holders import find_lock_holders
from coordinator.system.wakeup import Bell

LOCK_NAME, CONTROL_NAME = "lock", "control"
#: Two changes of a directory may have the same time if they are this close. Arbitrary; the kernel's ticks are up to 10 ms.
_COARSE_S = 0.1
#: Looks at a log that compaction replaces again and again, before the lock settles it. Arbitrary.
_REOPENS = 20


class OpenShard:
    """What a process has open of a shard. Any thread may use it."""

    def __init__(self, directory: Path, number: int, header: Header, bell: Bell, *, lock_timeout_s: float, clock: Clock) -> None:
        """Nothing is opened before it is needed. ``header`` says what every log of this context must say of itself."""
        self.directory, self.number, self.header, self.bell = directory, number, header, bell
        self.path, self._place = directory / LOG_NAME, str(directory)
        self.flush = GroupFlush(directory, bell, FLUSH_WORD + FLUSH_WORDS * number, self.is_in_place, timeout_s=lock_timeout_s)
        self.appender = Appender(self.path)
        self.lock = QueuedLock(directory / LOCK_NAME, bell, LOCK_WORD + number, may_go=False)
        self._lock_timeout_s, self.wall_s = lock_timeout_s, clock.wall_s
        #: The control page and the generation of the log, if they are open.
        self.page: ControlPage | None = None
        self.generation: Generation | None = None
        #: On a read-only file system: what was published there, and how the log was found.
        self._frozen: tuple[State | None, Generation, State] | None = None
        #: The shard's directory when the files in it were last found to be the open ones.
        self._names: tuple[int, int, int] | None = None
        self._opening = threading.Lock()
        _OPEN.add(self)

    def close(self) -> None:
        """Let go of everything."""
        with self._opening:
            self.generation, self.page, self._frozen = None, None, None

    def look(self) -> tuple[Generation, State]:
        """Return what is published by now. Raises ``Damaged``, ``StorageError`` or ``Busy``."""
        page, generation = self.page, self.generation
        if page is not None and generation is not None:
            state = page.read_published()
            if state is not None and state[:2] == generation.identity:
                return generation, state
        with self._opening:
            found = self._reopen()
        if found is not None:
            return found
        try:
            with self.alone() as page:
                self.prepare(page)
                generation, state = self.generation, page.read_published()
                assert generation is not None and state is not None, "a shard that was prepared is published"
                return generation, state
        except StorageError as error:
            if error.errno != errno.EROFS:
                raise
        with self._opening:
            page = self._open_page()
            self._frozen = (page.read_published(), *remake.read_frozen(self.path, self.header, page))
            return self._frozen[1:]

    def forget(self, generation: Generation) -> None:
        """Have the table of a generation made anew, unless somebody did so meanwhile."""
        with self.alone() as page:
            if self.generation is generation:
                known = page.read_progress()
                # Of another count of cuts it was made anew meanwhile; what is suspect is, with what that says of the log.
                if not known.is_suspect and (known.written is None or known.written[:2] == generation.identity):
                    page.void()
                self.generation = None
                self.prepare(page)

    @contextmanager
    def alone(self) -> Iterator[ControlPage]:
        """Hold the shard lock, against threads and processes. Raises ``Busy`` naming the holder."""
        page = self.acquire()
        try:
            yield page
        finally:
            self.release()

    def acquire(self) -> ControlPage:
        """Take the shard lock, against threads and processes. Raises ``Busy`` naming the holder."""
        page = self.page
        if page is None or not page.is_writable:
            with self._opening:
                page = self._open_page(to_write=True)
        if not page.is_writable:
            raise remake.read_only(page.path)
        while True:
            if not self.lock.try_acquire():
                self.wait_for_lock()
            try:
                # Only the directory is asked each time. To ask a file that is written to for its times would make the next
                # write note them exactly, and the next flush write them too: half as long again.
                status = self._look_at_directory()
                if (status.st_ino, status.st_mtime_ns, status.st_ctime_ns) == self._names:
                    return page
                if self.lock.is_there():
                    return self._look_at_names(status)
            except BaseException:
                self.lock.release()
                raise

    def wait_for_lock(self) -> None:
        """Take the shard lock, which somebody has. Raises ``Busy`` naming the holder."""
        if not self.lock.acquire(self._lock_timeout_s):
            raise self._busy()

    def is_in_place(self) -> bool:
        """Tell whether the open files are still those of their names. If not, ``acquire`` opens others or says what is wrong."""
        try:
            status = os.stat(self._place)
            names = (status.st_ino, status.st_mtime_ns, status.st_ctime_ns)
            if names == self._names:
                return True
            page, generation = self.page, self.generation
            if page is None or generation is None or page.is_removed() or not self.lock.is_linked():
                return False
            if self._find_inode() != generation.inode:
                return False
        except (OSError, CrewkeepError):
            return False
        if _is_settled(status):
            self._names = names
        return True

    def _look_at_names(self, status: os.stat_result) -> ControlPage:
        """Return the page that is there now, having seen to it that the open files are still those of their names."""
        if not stat.S_ISDIR(status.st_mode):
            raise damaged(self.directory, "wrong-shape", "is not a directory")
        with self._opening:
            page = self._open_page(to_write=True)
            known = self.generation
            if known is not None and known.inode != self._find_inode():
                self.generation = None
                written = page.read_written()
                if written is None or written[:2] == known.identity:
                    page.void()  # it was not a compaction that replaced the log, or the page would tell of another generation
        self._names = (status.st_ino, status.st_mtime_ns, status.st_ctime_ns) if _is_settled(status) else None
        return page

    def _find_inode(self) -> tuple[int, int]:
        try:
            status = os.stat(self.path)
        except FileNotFoundError as error:
            raise damaged(self.path, "missing", "is missing") from error
        except OSError as error:
            raise StorageError.from_os(error, "look at", self.path) from error
        return status.st_dev, status.st_ino

    def release(self) -> None:
        """Give the shard lock back."""
        self.lock.release()

    def prepare(self, page: ControlPage) -> tuple[Generation, State]:
        """Return what to build on, with whatever a killed writer began finished. Call it under the shard lock."""
        published, state, begun, is_changing, is_suspect = page.read_all()
        if published is None or state is None or begun is None or is_changing or is_suspect:
            return self._remake(page)
        if not published[:2] == state[:2] == begun[:2]:
            return self._remake(page)
        generation = self.generation
        if generation is None or generation.identity != state[:2] or not generation.is_writable:
            with self._opening:
                generation = self._open_generation(state)
        if generation is None:
            return self._remake(page)
        if not generation.is_writable:
            raise remake.read_only(self.path)
        size = log.measure(generation.fd, self.path)
        self.appender.note(size, published.end if generation.header.durable else 0)
        if size < state.end:
            raise damaged(self.path, "truncated", f"has {size} bytes where {state.end} were written")
        if begun.end > state.end and not self.appender.finish(page, generation, state, begun):
            return self._remake(page)
        return generation, begun

    def replace(self, page: ControlPage, state: State) -> None:
        """Go on with the log that was swapped in, and publish it. Call it under the shard lock, with all of it durable."""
        try:
            generation = remake.open_generation(self.path, self.header)
            remake.open_table(generation, state.cuts)
        except TableVoid:
            self._remake(page)
            return
        with self._opening:
            self.generation = generation
        page.begin(state)
        self.flush.replace(page, state)

    def _remake(self, page: ControlPage) -> tuple[Generation, State]:
        generation = remake.remake(self.path, self.header, page, self.flush, now_s=self.wall_s())
        with self._opening:
            self.generation, self._frozen = generation, None
        state = page.read_written()
        assert state is not None, "a page that was made anew is whole"
        self.appender.note(log.measure(generation.fd, self.path), state.end if generation.header.durable else 0)
        return generation, state

    def _busy(self) -> Busy:
        path = self.directory / LOCK_NAME
        holder = min(find_lock_holders([path]), default=0)
        return Busy(
            f"shard {self.number} of {self.directory.parent} has been locked for {self._lock_timeout_s:g} s"
            + (f" by process {holder}" if holder else ""),
            hint=f"see what process {holder} does; if it is stopped: kill -CONT {holder}" if holder else "try again",
            path=str(path),
            holder=holder or None,
        )

    def _open_page(self, *, to_write: bool = False) -> ControlPage:
        page = self.page
        if page is not None and (page.is_removed() or (to_write and not page.is_writable)):
            # Removed, or the disk was read-only and perhaps is not any more.
            page, self.generation = None, None
        if page is None:
            self._look_at_directory()
            page = self.page = ControlPage(self.directory / CONTROL_NAME)
        return page

    def _look_at_directory(self) -> os.stat_result:
        try:
            return os.stat(self._place)
        except FileNotFoundError as error:
            raise damaged(self.directory, "missing", "is missing") from error
        except OSError as error:
            raise StorageError.from_os(error, "look at", self.directory) from error

    def _reopen(self) -> tuple[Generation, State] | None:
        """Open what is published; ``None`` if that takes the shard lock. Call it with ``_opening`` held."""
        page = self._open_page()
        if self._frozen is not None and page.read_published() == self._frozen[0]:
            return self._frozen[1:]
        if not page.is_of_this_boot():
            return None
        for _ in range(_REOPENS):
            state = page.read_published()
            if state is None:
                return None
            generation = self._open_generation(state)
            if generation is not None:
                return generation, state
        return None

    def _open_generation(self, state: State) -> Generation | None:
        """Open the log and table of that state; ``None`` if there is another log, or no such table. ``_opening`` is held."""
        known = self.generation
        if known is not None and known.identity == state[:2] and known.is_writable:
            return known
        generation = remake.open_generation(self.path, self.header)
        if generation.header.generation != state.generation:
            return None
        try:
            remake.open_table(generation, state.cuts)
        except TableVoid:
            return None
        self.generation = generation
        return generation


def _is_settled(status: os.stat_result) -> bool:
    """Tell whether no other change can have the same time, as it may where times are coarse."""
    return abs(time.time() - status.st_mtime) > _COARSE_S


_OPEN: weakref.WeakSet[OpenShard] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    """Threads that held locks do not exist in a child."""
    for shard in list(_OPEN):
        shard._opening = threading.Lock()


os.register_at_fork(after_in_child=_after_fork_in_child)
