"""SQLite as one would use it for this: one table, WAL, ``synchronous=FULL``."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Iterator
from typing import Any

import orjson

from benchmarks.context.peers.base import LOCK_TIMEOUT_S, POLL_S, Peer, Place


class Sqlite(Peer):
    """``synchronous=FULL`` flushes the WAL at every commit; the default in WAL mode of some builds, NORMAL, would not.

    Compare-and-swap is one UPDATE. A contended update inside ``BEGIN IMMEDIATE`` was tried: up to a quarter more commits of
    4 and 16 writers, as unfair, and a p99 of 64 that is four times as long; it would hold the lock while the caller computes.

    Not promised: fairness (who waits sleeps up to 100 ms and is not queued), notification (``PRAGMA data_version`` is
    polled), history.
    """

    configured = "WAL, synchronous=FULL"
    notices = "polls data_version, 1 ms"
    lacks = "fairness, notification, history"

    @classmethod
    def version(cls) -> str:
        return sqlite3.sqlite_version

    def __init__(self, place: Place) -> None:
        self.database = sqlite3.connect(place.directory / "peer.db", isolation_level=None, timeout=LOCK_TIMEOUT_S)
        self.database.execute("PRAGMA journal_mode=WAL")
        self.database.execute("PRAGMA synchronous=FULL")
        self.database.execute("CREATE TABLE IF NOT EXISTS entry (key TEXT PRIMARY KEY, value BLOB, version INTEGER)")

    def read(self, key: str) -> tuple[Any, int]:
        row = self.database.execute("SELECT value, version FROM entry WHERE key = ?", (key,)).fetchone()
        return (orjson.loads(row[0]), row[1]) if row else (None, 0)

    def swap(self, key: str, value: Any, version: int) -> bool:
        data = orjson.dumps(value)
        if version == 0:
            done = self.database.execute("INSERT OR IGNORE INTO entry VALUES (?, ?, 1)", (key, data))
        else:
            done = self.database.execute(
                "UPDATE entry SET value = ?, version = version + 1 WHERE key = ? AND version = ?", (data, key, version)
            )
        return done.rowcount == 1

    def follow(self, key: str) -> Iterator[Any]:
        return self._iter_values(key, self.read(key)[1])

    def _iter_values(self, key: str, seen: int) -> Iterator[Any]:
        before = -1
        while True:
            (now,) = self.database.execute("PRAGMA data_version").fetchone()
            if now == before:
                time.sleep(POLL_S)
                continue
            before = now
            value, version = self.read(key)
            if version != seen:
                seen = version
                yield value

    def fill(self, entries: Iterable[tuple[str, Any]]) -> None:
        self.database.execute("BEGIN IMMEDIATE")
        self.database.executemany("INSERT INTO entry VALUES (?, ?, 1)", ((key, orjson.dumps(value)) for key, value in entries))
        self.database.execute("COMMIT")
        self.database.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        self.database.close()
