"""diskcache: a dictionary on disk on top of SQLite, made durable."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any

import diskcache
import orjson

from benchmarks.context.peers.base import LOCK_TIMEOUT_S, POLL_S, Peer, Place

_FULL = 2


class DiskCache(Peer):
    """Its default is ``synchronous=NORMAL``, which power loss takes back; here it is FULL. Culling is off: it would cost a
    query a write. Values are bytes, so nothing is pickled.

    Not promised: fairness (SQLite's), notification (the key is polled), history, versions (kept in the value here).
    """

    configured = "sqlite_synchronous=FULL, no culling"
    notices = "polls the key, 1 ms"
    lacks = "fairness, notification, history"

    @classmethod
    def version(cls) -> str:
        return str(diskcache.__version__)

    def __init__(self, place: Place) -> None:
        self.cache = diskcache.Cache(
            str(place.directory / "diskcache"),
            timeout=LOCK_TIMEOUT_S,
            sqlite_synchronous=_FULL,
            eviction_policy="none",
            cull_limit=0,
            size_limit=1 << 40,
        )

    def read(self, key: str) -> tuple[Any, int]:
        found = self.cache.get(key)
        if found is None:
            return None, 0
        version, value = orjson.loads(found)
        return value, version

    def swap(self, key: str, value: Any, version: int) -> bool:
        data = orjson.dumps([version + 1, value])
        with self.cache.transact():
            if self.read(key)[1] != version:
                return False
            self.cache.set(key, data)
        return True

    def follow(self, key: str) -> Iterator[Any]:
        return self._iter_values(key, self.read(key)[1])

    def _iter_values(self, key: str, seen: int) -> Iterator[Any]:
        while True:
            value, version = self.read(key)
            if version != seen:
                seen = version
                yield value
            else:
                time.sleep(POLL_S)

    def fill(self, entries: Iterable[tuple[str, Any]]) -> None:
        with self.cache.transact():
            for key, value in entries:
                self.cache.set(key, orjson.dumps([1, value]))

    def close(self) -> None:
        self.cache.close()
