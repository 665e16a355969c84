"""Follow what a session prints as it is kept on disk: across rotation, recovery and keepers, until the session has ended.

The log is looked at, not the keeper: one that is stopped or gone cannot hold a reader up, and a reader cannot hold up a
keeper. Lines are handed out when they are settled: nothing came for a moment, or they scrolled away.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Protocol

from coordinator.errors import Damaged, NotFound
from coordinator.paths import Home
from coordinator.sessions.model import Phase, SessionRecord
from crewkeep.terminal.output import OutputLog
from crewkeep.terminal.render import DEFAULT_COLUMNS, DEFAULT_ROWS, Renderer

_LOOK_S = 0.1
#: A program that never pauses has its lines shown so often. Arbitrary.
_SETTLE_S = 1.0


class Records(Protocol):
    """What is needed of the registry."""

    def get(self, session_id: str) -> SessionRecord: ...


def follow_raw(
    home: Home, registry: Records, session_id: str, *, from_offset: int, wait: Callable[[float], None] = time.sleep
) -> Iterator[bytes]:
    """Yield the bytes printed from ``from_offset`` on; an empty piece each time nothing came for a moment.

    Ends when the session has ended, is parked without a known end, or was removed. Bytes that were dropped before they
    could be read are skipped.
    """
    log, at = OutputLog(home.session(session_id).output, 0), from_offset
    while True:
        # Before reading: what was printed until the end is in the log when the record says so.
        is_over = _is_over(registry, session_id)
        while (chunk := log.read_chunk(at)).data:
            at = chunk.end
            yield chunk.data
        if is_over:
            return
        yield b""
        wait(_LOOK_S)


def follow_lines(
    home: Home,
    registry: Records,
    session_id: str,
    *,
    from_offset: int = 0,
    last: int | None = None,
    wait: Callable[[float], None] = time.sleep,
) -> Iterator[str]:
    """Yield readable lines: what is there now (only the ``last`` so many), then what comes, as ``follow_raw`` does.

    A line that a program draws anew is yielded anew.
    """
    log = OutputLog(home.session(session_id).output, 0)
    renderer = Renderer(*(log.find_size() or (DEFAULT_ROWS, DEFAULT_COLUMNS)))
    now, at = log.end_offset, from_offset
    shown: deque[str] = deque(maxlen=last)
    while at < now and (chunk := log.read_chunk(at, min(now - at, 1 << 16))).data:
        renderer.feed(chunk.data)
        shown.extend(renderer.take_lines())
        at = chunk.end
    shown.extend(renderer.take_settled())
    yield from shown
    settled_at_s = time.monotonic()
    for piece in follow_raw(home, registry, session_id, from_offset=max(at, now), wait=wait):
        renderer.feed(piece)
        yield from renderer.take_lines()
        if not piece or time.monotonic() - settled_at_s > _SETTLE_S:
            yield from renderer.take_settled()
            settled_at_s = time.monotonic()
    yield from renderer.finish()


def _is_over(registry: Records, session_id: str) -> bool:
    try:
        record = registry.get(session_id)
    except NotFound:
        return True
    except Damaged:
        return False  # it may be rebuilt from the journal
    return record.phase is Phase.ENDED or (record.phase is Phase.PARKED and record.not_before_at is None)
