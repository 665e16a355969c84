"""Watching: a context's changes as one endless iterator, in order without gaps, asleep while nothing happens.

Who sleeps waits for one number of the context's bell, that of the directory of keys that is watched; a commit rings the
numbers of all directories that its key is in. So a commit wakes only those whose business it may be.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Protocol

from coordinator.config import CHANGES_LIMIT
from coordinator.context.model import Change, Changes
from coordinator.errors import InvalidInput
from coordinator.system.wakeup import WORDS

#: A wake-up can be missed only if its writer was killed between publishing and ringing. Who waits looks by itself, so often at
#: first and ever more rarely while nothing comes: to look costs a tenth of a millisecond of a core.
_FIRST_SLEEP_S, _LONGEST_SLEEP_S = 0.5, 8.0

#: The number that every commit rings.
EVERYTHING = 0
#: It is the first number of a bell; then each of up to 64 shards has four for its flushes and two for its
#: queues; the rest is for directories, by hash.
FLUSH_WORD, TURN_WORD, LOCK_WORD, _FIRST_WORD = 1, 257, 321, 385
#: Deeper directories have no number of their own. Arbitrary.
_DEEPEST = 6


def find_word(prefix: str) -> int:
    """Return the number of the bell that is rung for every commit of a key that begins with ``prefix``."""
    parts = prefix.split("/")[:-1][:_DEEPEST]
    return _number("/".join(parts) + "/") if parts else EVERYTHING


def find_common(prefixes: Iterable[str]) -> str:
    """Return the longest prefix that all of these begin with."""
    ordered = sorted(prefixes)
    if not ordered:
        return ""
    first, last = ordered[0], ordered[-1]
    length = next((index for index, (one, other) in enumerate(zip(first, last, strict=False)) if one != other), len(first))
    return first[:length]


@lru_cache(2048)
def list_words(key: str) -> tuple[int, ...]:
    """Return the numbers of the bell that a commit of ``key`` rings."""
    words, end = [EVERYTHING], key.find("/")
    while end >= 0 and len(words) <= _DEEPEST:
        words.append(_number(key[: end + 1]))
        end = key.find("/", end + 1)
    return tuple(words)


def _number(directory: str) -> int:
    return _FIRST_WORD + zlib.crc32(directory.encode("utf-8", "surrogatepass")) % (WORDS - _FIRST_WORD)


class Watched(Protocol):
    """What watching needs of a context."""

    @property
    def closed(self) -> bool: ...
    def revisions(self) -> dict[int, int]: ...
    def read_changes(self, prefix: str, after: Mapping[int, int], limit: int = ...) -> Changes: ...
    def bell(self, prefix: str = "") -> int: ...
    def wait_bell(self, seen: int, timeout_s: float, prefix: str = "") -> int: ...


def find_position(revisions: Mapping[int, int], from_revision: int | Mapping[int, int] | None) -> dict[int, int]:
    """Return the revisions after which to begin: now for ``None``; one number for all shards, or one for each named shard.

    A number is the last revision already seen, so 0 is the beginning; a shard that is not named begins now.
    """
    if from_revision is None:
        return dict(revisions)
    given = from_revision if isinstance(from_revision, Mapping) else dict.fromkeys(revisions, from_revision)
    for shard, revision in given.items():
        if shard not in revisions:
            raise InvalidInput(f"there is no shard {shard!r:.40}", hint=f"shards are {min(revisions)} to {max(revisions)}")
        if not isinstance(revision, int) or isinstance(revision, bool) or revision < 0:
            raise InvalidInput(f"{revision!r:.40} is not a revision", hint="use the revision of the last change seen, or 0")
    return {**revisions, **given}


def iter_changes(context: Watched, prefix: str, position: dict[int, int], timeout_s: float | None) -> Iterator[Change]:
    """Yield the changes behind ``position``; end when the context is closed, or when none came for ``timeout_s``."""
    quiet_since_s, sleep_s = time.monotonic(), _FIRST_SLEEP_S
    while not context.closed:
        seen = context.bell(prefix)
        try:
            changes = context.read_changes(prefix, position, CHANGES_LIMIT)
        except InvalidInput:
            if context.closed:
                return  # by another thread, just now
            raise
        yield from changes
        if changes:
            quiet_since_s, sleep_s = time.monotonic(), _FIRST_SLEEP_S
        if changes or changes.position != position:
            position = changes.position
            continue
        rest_s, sleep_s = sleep_s, min(sleep_s * 2, _LONGEST_SLEEP_S)
        if timeout_s is not None:
            rest_s = min(rest_s, quiet_since_s + timeout_s - time.monotonic())
            if rest_s <= 0:
                return
        context.wait_bell(seen, rest_s, prefix)
