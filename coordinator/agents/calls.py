"""Puts tool calls and their results together while a transcript is read, and keeps the order in which they were made. Pure."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterator
from typing import Any

from coordinator.sessions.history import Command, Item

#: So many items wait at most for the result of an earlier call: a call whose end was never written must not hold up all that
#: came after it.
_WAITING_LIMIT_COUNT = 10_000


class Calls:
    """Items in their order; a call is given out when its result is known, or when it is clear that none will come."""

    def __init__(self) -> None:
        self._waiting: deque[Item] = deque()
        #: Calls without a result: their id and how many items were taken in before them.
        self._open: dict[str, int] = {}
        self._given_count = 0

    def add(self, item: Item) -> Iterator[Item]:
        """Take in the next item; yield those that are complete up to here."""
        if isinstance(item, Command) and item.id is not None:
            self._open[item.id] = self._given_count + len(self._waiting)
        self._waiting.append(item)
        return self._give(_WAITING_LIMIT_COUNT)

    def end(self, id: object, **result: Any) -> Iterator[Item]:
        """Take in the result of the call ``id``, fields of ``Command``; yield what it made complete. An unknown id
        is passed over.
        """
        number = self._open.pop(id, None) if isinstance(id, str) else None
        if number is not None and number >= self._given_count:
            call = self._waiting[number - self._given_count]
            assert isinstance(call, Command), "only calls are open"
            self._waiting[number - self._given_count] = dataclasses.replace(call, **result)
        return self._give(_WAITING_LIMIT_COUNT)

    def finish(self) -> Iterator[Item]:
        """Yield the rest: nothing more will come."""
        self._open.clear()
        return self._give(0)

    def _give(self, limit_count: int) -> Iterator[Item]:
        while self._waiting:
            head = self._waiting[0]
            if isinstance(head, Command) and head.id in self._open and len(self._waiting) <= limit_count:
                return
            self._given_count += 1
            yield self._waiting.popleft()
