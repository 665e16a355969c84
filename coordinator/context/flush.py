"""Group commit: one flush makes every record durable that stands in the log by then, whoever wrote it.

A writer whose record is in the log waits here, without the shard lock. Whoever finds a free place to lead flushes the log
up to what is written, publishes that, and wakes those whose records were in it and one of the others, to lead the next flush;
most find their record published by somebody else's. A leader that dies is replaced after a moment.

A flush that fails is never tried again: the kernel may have dropped the bytes and would report success. What is written
above the published state is suspect from then on: nobody publishes it, and whoever takes the shard lock next gives it up.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

from coordinator.context.control import ControlPage, Flushing, Progress, State
from coordinator.context.generation import Generation
from coordinator.errors import Busy
from coordinator.system import failpoints, files
from coordinator.system.locks import LockFile
from coordinator.system.wakeup import EVERYBODY, Bell

#: Flushes under way at once. Measured: with few writers a second one fills the gap between two flushes.
LEAD_NAMES = ("lead-0", "lead-1")
PUBLISH_NAME = "publish"
#: More than there are flushes under way.
FLUSH_WORDS = 4
#: A leader that died is replaced after so long.
_LEADER_TIMEOUT_S = 0.025
#: Who has waited so long flushes without being asked: the leaders may be stopped. Two flushes of one log do no harm.
_PATIENCE_S = 0.25


class Ticket(NamedTuple):
    """A record in the log that is to become durable."""

    generation: int
    cuts: int
    offset: int
    end: int
    checksum: int


class Doubt(Exception):
    """The log was cut, or the page is void: whether the record is still there can only be told under the shard lock."""


class FlushFailed(Exception):
    """A flush failed, for the reason that is the cause. What was not published is lost."""


class GroupFlush:
    """The flushing of one shard by this process. Any thread may wait."""

    def __init__(self, directory: Path, bell: Bell, word: int, *, timeout_s: float) -> None:
        """``word`` is the first of the ``FLUSH_WORDS`` numbers of the bell that are the shard's: flushes take them in turn."""
        self._leads = [LockFile(directory / name, may_go=False) for name in LEAD_NAMES]
        self._publication = LockFile(directory / PUBLISH_NAME)
        self._bell, self._word, self._timeout_s = bell, word, timeout_s

    def wait(self, ticket: Ticket, generation: Generation, page: ControlPage) -> None:
        """Return when the record is durable and published. Raises ``Doubt``, ``FlushFailed`` or ``StorageError``."""
        patience_s = time.monotonic() + _PATIENCE_S
        while True:
            lead = next((lead for lead in self._leads if lead.acquire(0)), None)
            if lead is not None or time.monotonic() > patience_s:
                try:
                    is_done, number = self._flush(ticket, generation, page)
                finally:
                    if lead is not None:
                        lead.release()
                if number:
                    self._bell.wake(self._word_of(number + 1), 1)  # one of those whom the next flush serves, to lead it
                if is_done:
                    return
            seen = self._bell.values(self._word, FLUSH_WORDS)
            progress = page.read_progress()
            if _is_done(ticket, progress):
                return
            word = self._word_of(_find_flush(ticket, progress.flushing))
            self._bell.wait(seen[word - self._word], _LEADER_TIMEOUT_S, word)
            if _is_done(ticket, page.read_progress()):
                return

    def _flush(self, ticket: Ticket, generation: Generation, page: ControlPage) -> tuple[bool, int]:
        """Flush what is written and publish it; tell whether the record is among it, and the number of the flush."""
        progress = page.read_progress()  # before the flush: what comes later may not be in it
        if _is_done(ticket, progress):
            return True, 0
        written, last = progress.written, progress.flushing
        if written is None or written.generation != generation.header.generation:
            return False, 0  # the log is being replaced
        page.set_flushing(Flushing(last.number + 1, written.end, last.end))
        try:
            failpoints.hit("shard.flush")
            files.sync_data(generation.fd)
        except OSError as error:
            self.give_up(page)
            raise FlushFailed from error
        is_published = self._publish(page, written)
        self._bell.wake(self._word_of(last.number + 1), EVERYBODY)
        return is_published and written.end >= ticket.end, last.number + 1

    def _word_of(self, number: int) -> int:
        return self._word + number % FLUSH_WORDS

    def _publish(self, page: ControlPage, state: State) -> bool:
        """Let everybody see what was flushed; tell whether it holds. It does not if the log was cut or replaced meanwhile."""
        with self._publishing():
            progress = page.read_progress()
            published = progress.published
            if published is None or progress.is_suspect or published[:2] != state[:2]:
                return False
            if published.end < state.end:
                failpoints.hit("shard.publish")
                page.publish(state)
        return True

    def replace(self, page: ControlPage, state: State) -> None:
        """Publish a state of another generation or after a cut. Call it under the shard lock, with all of it durable."""
        with self._publishing():
            page.settle(state)
            page.publish(state)
            page.set_suspect(False)
        for number in range(FLUSH_WORDS):
            self._bell.wake(self._word + number, EVERYBODY)

    def give_up(self, page: ControlPage) -> None:
        """Keep everybody from publishing what was not flushed."""
        with self._publishing():
            page.set_suspect(True)

    def _publishing(self) -> _Publishing:
        return _Publishing(self._publication, self._timeout_s)


def _is_done(ticket: Ticket, progress: Progress) -> bool:
    """Tell whether the record is durable. Raises ``Doubt``."""
    published = progress.published
    if published is not None and published.cuts == ticket.cuts:
        if published.generation > ticket.generation or published.end >= ticket.end:
            return True
        if not progress.is_suspect:
            return False
    raise Doubt


def _find_flush(ticket: Ticket, flushing: Flushing) -> int:
    """Return the number of the flush that makes the record durable: one that has begun, or the next one."""
    if ticket.end <= flushing.end_before:
        return flushing.number - 1
    return flushing.number if ticket.end <= flushing.end else flushing.number + 1


class _Publishing:
    """Hold the publication lock: a few microseconds, so who waits long meets a stopped process."""

    def __init__(self, lock: LockFile, timeout_s: float) -> None:
        self._lock, self._timeout_s = lock, timeout_s

    def __enter__(self) -> None:
        if not self._lock.acquire(self._timeout_s):
            raise Busy(
                f"{self._lock.path} has been locked for {self._timeout_s:g} s",
                hint="see which process holds it and is stopped; what waits for it may become durable later",
                path=str(self._lock.path),
            )

    def __exit__(self, *_: object) -> None:
        self._lock.release()
