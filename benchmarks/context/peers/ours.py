"""crewkeep's shared context, in its default durable mode."""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Callable, Iterable, Iterator
from importlib import metadata
from typing import Any

from benchmarks.context.peers.base import LOCK_TIMEOUT_S, Peer, Place
from coordinator.context import SharedContext
from coordinator.errors import VersionConflict

# The first conflict would load it inside a measured run; the processes that are forked from this one have it.
importlib.import_module("tenacity")


class Ours(Peer):
    """The context as any program opens it. On one key ``update`` is used, which queues those who met a conflict."""

    configured = "durable (default)"
    notices = "is woken"
    lacks = "order between shards"

    @classmethod
    def version(cls) -> str:
        return metadata.version("crewkeep")

    def __init__(self, place: Place) -> None:
        # As patient as all the others: a disk that hangs for ten seconds is the machine's noise, not a store's failure.
        self.context = SharedContext.open(place.directory / "context", lock_timeout_s=LOCK_TIMEOUT_S)
        #: Times that ``update`` gave up and was called again.
        self.gave_up = 0

    def read(self, key: str) -> tuple[Any, int]:
        entry = self.context.get(key)
        return (None, 0) if entry is None else (entry.value, entry.version)

    def swap(self, key: str, value: Any, version: int) -> bool:
        try:
            self.context.put(key, value, expected_version=version)
        except VersionConflict:
            return False
        return True

    def update(self, key: str, change: Callable[[Any], Any]) -> int:
        calls = 0

        def counted(value: Any) -> Any:
            nonlocal calls
            calls += 1
            return change(value)

        while True:
            try:
                self.context.update(key, counted)
            except VersionConflict:
                self.gave_up += 1
            else:
                return calls - 1

    def follow(self, key: str) -> Iterator[Any]:
        changes = self.context.watch(key)
        return (change.value for change in changes)

    def fill(self, entries: Iterable[tuple[str, Any]]) -> None:
        with without_flushes():
            for key, value in entries:
                self.context.put(key, value, expected_version=0)

    def close(self) -> None:
        self.context.close()


def _do_nothing(fd: object) -> None:
    """Stand in for a flush."""


@contextlib.contextmanager
def without_flushes() -> Iterator[None]:
    """Let this process write without waiting for the disk, and flush everything at the end: filling is not measured."""
    kept = {name: getattr(os, name) for name in ("fsync", "fdatasync") if hasattr(os, name)}
    try:
        for name in kept:
            setattr(os, name, _do_nothing)
        yield
    finally:
        for name, flush in kept.items():
            setattr(os, name, flush)
        os.sync()
