"""The naive design: one JSON file, rewritten whole under ``filelock``, made durable as it should be."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from importlib import metadata
from typing import Any

import orjson
from filelock import FileLock

from benchmarks.context.peers.base import LOCK_TIMEOUT_S, POLL_S, Peer, Place


class Naive(Peer):
    """Temporary file, fsync, ``os.replace``, fsync of the directory: what is usually forgotten is not forgotten here.

    Not promised: fairness (``filelock`` polls), notification (the file's status is polled), history; every write costs the
    whole state.
    """

    configured = "filelock, fsync, os.replace, directory fsync"
    notices = "polls stat, 1 ms"
    lacks = "fairness, notification, history"

    @classmethod
    def version(cls) -> str:
        return f"filelock {metadata.version('filelock')}"

    def __init__(self, place: Place) -> None:
        self.path = place.directory / "state.json"
        self.lock = FileLock(place.directory / "state.lock", timeout=LOCK_TIMEOUT_S)

    def read(self, key: str) -> tuple[Any, int]:
        value, version = self._load().get(key, (None, 0))
        return value, version

    def swap(self, key: str, value: Any, version: int) -> bool:
        with self.lock:
            state = self._load()
            if state.get(key, (None, 0))[1] != version:
                return False
            state[key] = (value, version + 1)
            self._store(state)
        return True

    def follow(self, key: str) -> Iterator[Any]:
        return self._iter_values(key, self.read(key)[1])

    def _iter_values(self, key: str, seen: int) -> Iterator[Any]:
        before: tuple[int, int] | None = None
        while True:
            now = self._look()
            if now == before:
                time.sleep(POLL_S)
                continue
            before = now
            value, version = self.read(key)
            if version != seen:
                seen = version
                yield value

    def fill(self, entries: Iterable[tuple[str, Any]]) -> None:
        with self.lock:
            self._store({**self._load(), **{key: (value, 1) for key, value in entries}})

    def _look(self) -> tuple[int, int] | None:
        try:
            status = os.stat(self.path)
        except FileNotFoundError:
            return None
        return status.st_ino, status.st_mtime_ns

    def _load(self) -> dict[str, Any]:
        try:
            state: dict[str, Any] = orjson.loads(self.path.read_bytes())
        except FileNotFoundError:
            return {}
        return state

    def _store(self, state: dict[str, Any]) -> None:
        temporary = self.path.with_suffix(".tmp")
        with open(temporary, "wb") as file:
            file.write(orjson.dumps(state))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self.path)
        directory = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
