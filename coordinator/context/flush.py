"""Group commit: one flush makes every record durable that stands in the log by then, whoever wrote it.

A writer whose record is in the log waits here, without the shard lock. Whoever finds nobody leading flushes the log up to what
is written, publishes that, wakes those who watch what was in it, those who wait for it, and one of the others, to lead the next
flush; most find their record published by somebody else's. A leader that dies is replaced after a moment.

A flush that fails is never tried again: the kernel may have dropped the bytes and would report success. What is written
above the published state is suspect from then on: nobody publishes it, and whoever takes the shard lock next gives it up.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from coordinator.context import log
from coordinator.context.codec import HEADER_BYTES
from coordinator.context.control import (
    FLUSHED_AT,
    FLUSHING_AT,
    NO_FLAG,
    PUBLISHED,
    SUSPECT,
    SUSPECT_AT,
    WRITTEN,
    ControlPage,
    Progress,
    State,
    proves,
)
from coordinator.context.generation import Generation
from coordinator.context.watch import EVERYTHING, list_words
from coordinator.errors import Busy
from coordinator.system import failpoints, files
from coordinator.system.locks import LockFile
from coordinator.system.wakeup import EVERYBODY, Bell, Nap

#: Of the page: number and reach of the flush begun last, how far the log is published and written. Hints: they may be torn.
_REACH = struct.Struct("<QQ32xQ56xQ")
#: Likewise: the mark, the flush begun last with its reach and the one before, which is over, and what is published.
_WAITED = struct.Struct("<8sQQQQQQQ")
_FLUSHING, _NUMBER = struct.Struct("<QQQ"), struct.Struct("<Q")
LEAD_NAME = "lead"
PUBLISH_NAME = "publish"
#: More than there are flushes under way.
FLUSH_WORDS = 4
#: A leader that died is replaced after so long.
_NAP, _BRIEF_NAP = Nap(0.025), Nap(0.001)
#: Who has waited so long in vain flushes without being asked: the leader may be stopped. More flushes do no harm.
_PATIENCE_S = 0.25


class Ticket(NamedTuple):
    """A record in the log that is to become durable."""

    generation: int
    cuts: int
    #: Where the records begin that were appended together with it.
    start: int
    offset: int
    end: int
    checksum: int
    #: Whether a flush was under way when it was appended.
    is_led: bool = False


def make_ticket(state: State, start: int = -1) -> Ticket:
    """Return what waits for the last record of a state; ``start`` is where the caller's own records begin, if it is one."""
    return Ticket(state.generation, state.cuts, start, state.end - state.length, state.end, state.checksum)


class Doubt(Exception):
    """The log was cut, or the page is void: whether the record is still there can only be told under the shard lock."""


class FlushFailed(Exception):
    """A flush failed, for the reason that is the cause. What was not published is lost."""


class GroupFlush:
    """The flushing of one shard by this process. Any thread may wait."""

    def __init__(self, directory: Path, bell: Bell, word: int, is_in_place: Callable[[], bool], *, timeout_s: float) -> None:
        """``word`` is the first of the ``FLUSH_WORDS`` numbers of the bell that are the shard's: flushes take them in turn.

        ``is_in_place`` tells whether what is flushed is still what others open.
        """
        self._is_in_place = is_in_place
        self._lead = LockFile(directory / LEAD_NAME, may_go=False)
        self._publication = LockFile(directory / PUBLISH_NAME, may_go=False)
        self._bell, self._word, self._timeout_s = bell, word, timeout_s

    def wait(self, ticket: Ticket, generation: Generation, page: ControlPage) -> bool:
        """Return when the record is durable and published; tell whether those who watch were woken for it already.

        Raises ``Doubt``, ``FlushFailed`` or ``StorageError``.
        """
        if ticket.end == HEADER_BYTES:
            return False  # there is nothing in the log
        if not ticket.is_led and self._lead.try_acquire():
            done = self._flush(ticket, generation, page, self._lead)
            if done is not None:
                return done
        waited_s = 0.0
        is_late = is_woken = False
        while True:
            seen = self._bell.values(self._word)
            data = page.read()
            mark, number, reach, reach_before, over, of_log, cuts, published_end = _WAITED.unpack_from(data, SUSPECT_AT)
            is_usual = mark == NO_FLAG and of_log == ticket.generation and cuts == ticket.cuts
            if is_usual and published_end >= ticket.end and proves(data[PUBLISHED]):
                return is_woken
            if not (is_usual and published_end < ticket.end) and _is_done(ticket, page.read_progress()):
                return is_woken
            # The flush that makes it durable is one that has begun, or the next one.
            which = number - 1 if ticket.end <= reach_before else number + 1 if ticket.end > reach else number
            nap = _NAP
            if is_late or over == number:  # nobody leads, or whoever leads has done so for long
                done = None
                if self._lead.try_acquire():
                    done = self._flush(ticket, generation, page, self._lead)
                elif waited_s > _PATIENCE_S:
                    done = self._flush(ticket, generation, page, None)
                if done is not None:
                    return done
                if over == number:
                    nap = _BRIEF_NAP  # somebody has just taken the lead, and which flush that is will be told in a moment
            index = which % FLUSH_WORDS
            is_woken = self._bell.doze(seen[index], self._word + index, nap)
            is_late = not is_woken
            waited_s += nap.seconds if is_late else 0.0

    def _flush(self, ticket: Ticket, generation: Generation, page: ControlPage, lead: LockFile | None) -> bool | None:
        """Flush what is written and publish it, and give the lead back; ``None`` if the ticket's record is not among it.

        Returns whether those who watch were woken for it. Raises ``Doubt`` and ``FlushFailed``.
        """
        try:
            data = page.read()  # before the flush: what comes later may not be in it
            written, identity = data[WRITTEN], data[PUBLISHED][:16]
            number, flush_end, published_end, end = _REACH.unpack_from(data, FLUSHING_AT)
            if (
                data[SUSPECT] != NO_FLAG
                or identity != written[:16]
                or identity != generation.identity_bytes
                or published_end >= ticket.end
                or not proves(written)
            ):
                before = page.read_progress()
                if _is_done(ticket, before):
                    return False
                now, shown = before.written, before.published
                if now is None or shown is None or not now[:2] == shown[:2] == generation.identity:
                    raise Doubt  # the log is being replaced, or somebody died doing so: nothing can be published
                written, end = page.encode(now), now.end
            number += 1
            page.write(_FLUSHING.pack(number, end, flush_end), FLUSHING_AT)
            try:
                if failpoints.armed:
                    failpoints.hit("shard.flush")
                files.sync_data(generation.fd)
            except OSError as error:
                self.give_up(page)
                raise FlushFailed from error
            if not self._is_in_place():
                raise Doubt  # somebody removed or replaced the files: what is flushed may be found by nobody
            start = self._publish(page, number, written, end)
        finally:
            if lead is not None:
                lead.release()
        is_alone = start == ticket.start and end == ticket.end
        if start >= 0 and not is_alone:
            # Whoever wrote them may be stopped or killed before it wakes those who watch.
            self._bell.ring(*_list_words(generation, start, end))
        # Who appended before this look may have found the lead taken; who appends after it finds it free.
        _, _, _, written_end = _REACH.unpack_from(page.read(), FLUSHING_AT)
        if not is_alone:
            self._bell.wake(self._word + number % FLUSH_WORDS, EVERYBODY)  # it served others as well
        if written_end > end:
            self._bell.wake(self._word + (number + 1) % FLUSH_WORDS, 1)  # one whom the next flush serves, to lead it
        if start >= 0 and end >= ticket.end:
            return not is_alone
        return False if _is_done(ticket, page.read_progress()) else None

    def _publish(self, page: ControlPage, number: int, written: bytes, end: int) -> int:
        """Let everybody see what was flushed, and that the flush is over; return where what is new in it begins.

        Below zero: it cannot be shown, as the log was cut or replaced meanwhile, or need not, as more is published.
        """
        self._acquire_publication()
        try:
            data = page.read()
            _, _, published_end, _ = _REACH.unpack_from(data, FLUSHING_AT)
            if page.is_suspect(data) or data[PUBLISHED][:16] != written[:16] or published_end >= end:
                page.write(_NUMBER.pack(number), FLUSHED_AT)
                return -1
            if failpoints.armed:
                failpoints.hit("shard.publish")
            page.write(_NUMBER.pack(number) + written, FLUSHED_AT)
        finally:
            self._publication.release()
        return int(published_end)

    def _acquire_publication(self) -> None:
        """Take the publication lock. It is held for microseconds, so who waits long meets a stopped process."""
        if not self._publication.try_acquire() and not self._publication.acquire(self._timeout_s):
            raise Busy(
                f"{self._publication.path} has been locked for {self._timeout_s:g} s",
                hint="see which process holds it and is stopped; what waits for it may become durable later",
                path=str(self._publication.path),
            )

    def replace(self, page: ControlPage, state: State) -> None:
        """Publish a state of another generation or after a cut. Call it under the shard lock, with all of it durable."""
        self._acquire_publication()
        try:
            number = _NUMBER.unpack_from(page.read(), FLUSHING_AT)[0]
            page.write(_FLUSHING.pack(number, 0, 0) + _NUMBER.pack(number), FLUSHING_AT)  # it reaches nowhere in this log
            page.settle(state)
            page.publish(state)
            page.set_suspect(False)
        finally:
            self._publication.release()
        for number in range(FLUSH_WORDS):
            self._bell.wake(self._word + number, EVERYBODY)

    def give_up(self, page: ControlPage) -> None:
        """Keep everybody from publishing what was not flushed."""
        self._acquire_publication()
        try:
            page.set_suspect(True)
        finally:
            self._publication.release()


def _list_words(generation: Generation, start: int, end: int) -> set[int]:
    """Return the numbers of the bell that the records between two places of the log ring."""
    words: set[int] = set()
    try:
        for key in log.iter_keys(generation.fd, start, end):
            words.update(list_words(key))
    except (OSError, ValueError):
        words.add(EVERYTHING)  # it is durable and published: who watches all is woken, the others look by themselves
    return words


def _is_done(ticket: Ticket, progress: Progress) -> bool:
    """Tell whether the record is durable. Raises ``Doubt``."""
    published = progress.published
    if published is not None and published.cuts == ticket.cuts:
        if published.generation > ticket.generation or published.end >= ticket.end:
            return True
        if not progress.is_suspect:
            return False
    raise Doubt
