"""What every peer can do: read a key with its version, swap it at a version, and follow it from another process."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

#: Whoever must poll looks so often: the freshness that the measured watchers without polling have, as near as it goes.
POLL_S = 0.001
#: No store waits longer for a lock; a run in which somebody does is broken. Arbitrary.
LOCK_TIMEOUT_S = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where one run of a peer lives."""

    directory: Path
    #: Of a server on loopback; 0 where there is none.
    port: int = 0
    password: str = ""
    #: The server's, 0 where there is none. Its use of the processor is the peer's own, not noise.
    server_pid: int = 0


class Peer(ABC):
    """A store with versions, opened by one process. Every write is durable against power loss when it returns."""

    #: For the tables: how it is configured, how a watcher learns of a change, and what it does not promise.
    configured: ClassVar[str]
    notices: ClassVar[str]
    lacks: ClassVar[str]

    @classmethod
    def find_missing(cls) -> str | None:
        """Return what it would need and does not find here, ``None`` if nothing."""
        return None

    @classmethod
    @abstractmethod
    def version(cls) -> str:
        """Return which version of it is measured."""

    @classmethod
    @contextlib.contextmanager
    def host(cls, directory: Path) -> Iterator[Place]:
        """Give a place in an empty directory, with a server where the peer needs one."""
        yield Place(directory=directory)

    @abstractmethod
    def __init__(self, place: Place) -> None: ...

    @abstractmethod
    def read(self, key: str) -> tuple[Any, int]:
        """Return the decoded value and its version; ``(None, 0)`` where there is none."""

    @abstractmethod
    def swap(self, key: str, value: Any, version: int) -> bool:
        """Commit the value at that version (0: absent); tell whether nobody else was there before."""

    def update(self, key: str, change: Callable[[Any], Any]) -> int:
        """Commit what ``change`` makes of the value that is there, however often that takes; return the conflicts met."""
        return swap_until_done(self, key, change)

    @abstractmethod
    def follow(self, key: str) -> Iterator[Any]:
        """Return an endless iterator of the values of ``key`` from now on. Ready to see them when it is returned."""

    def fill(self, entries: Iterable[tuple[str, Any]]) -> None:
        """Store entries that are not there, fast: none of it is measured."""
        for key, value in entries:
            if not self.swap(key, value, 0):
                raise AssertionError(f"{key!r} was there before it was made")

    def close(self) -> None:  # noqa: B027 - some have nothing to let go of
        """Let go of everything."""


def swap_until_done(peer: Peer, key: str, change: Callable[[Any], Any]) -> int:
    """Read, compute and swap until it succeeds; return the conflicts met. What one writes around any compare-and-swap."""
    conflicts = 0
    while True:
        value, version = peer.read(key)
        if peer.swap(key, change(value), version):
            return conflicts
        conflicts += 1
