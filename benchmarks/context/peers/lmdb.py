"""LMDB, fully synchronous: a memory-mapped B+tree with one writer at a time."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterable, Iterator
from typing import Any

import lmdb
import orjson

from benchmarks.context.peers.base import POLL_S, Peer, Place

_VERSION = struct.Struct("<Q")
#: Sparse: nothing is allocated before it is written.
_MAP_BYTES = 8 << 30


class Lmdb(Peer):
    """``sync`` and ``metasync`` are on: two flushes a commit, inside the writers' lock. The map is not written to directly
    (``writemap``), so that a stray pointer of the program cannot damage it.

    A contended update inside one write transaction was tried: no difference within noise.

    Not promised: group commit, notification (the newest transaction's number is polled), history.
    """

    configured = "sync, metasync"
    notices = "polls the transaction id, 1 ms"
    lacks = "group commit, notification, history"

    @classmethod
    def version(cls) -> str:
        return ".".join(map(str, lmdb.version())) + f" (py-lmdb {lmdb.__version__})"

    def __init__(self, place: Place) -> None:
        self.environment = lmdb.open(
            str(place.directory / "lmdb"), map_size=_MAP_BYTES, max_readers=2048, sync=True, metasync=True, max_spare_txns=4
        )

    def read(self, key: str) -> tuple[Any, int]:
        with self.environment.begin(buffers=True) as transaction:
            found = transaction.get(key.encode())
            return (None, 0) if found is None else (orjson.loads(found[8:]), _VERSION.unpack_from(found)[0])

    def swap(self, key: str, value: Any, version: int) -> bool:
        name, data = key.encode(), _VERSION.pack(version + 1) + orjson.dumps(value)
        with self.environment.begin(write=True, buffers=True) as transaction:
            found = transaction.get(name)
            if (0 if found is None else _VERSION.unpack_from(found)[0]) != version:
                transaction.abort()
                return False
            transaction.put(name, data)
        return True

    def follow(self, key: str) -> Iterator[Any]:
        return self._iter_values(key, self.read(key)[1])

    def _iter_values(self, key: str, seen: int) -> Iterator[Any]:
        before = -1
        while True:
            # Not ``info()["last_txnid"]``: it is raised a moment before readers are given what was committed.
            with self.environment.begin() as transaction:
                now = transaction.id()
            if now == before:
                time.sleep(POLL_S)
                continue
            before = now
            value, version = self.read(key)
            if version != seen:
                seen = version
                yield value

    def fill(self, entries: Iterable[tuple[str, Any]]) -> None:
        with self.environment.begin(write=True) as transaction:
            for key, value in entries:
                transaction.put(key.encode(), _VERSION.pack(1) + orjson.dumps(value))

    def close(self) -> None:
        self.environment.close()
