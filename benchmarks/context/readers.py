"""Readers: how fast one process reads hot keys, through the store and from what a session holds of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.context.crew import call
from benchmarks.context.machine import scratch_directory
from benchmarks.context.peers import Peer, Place
from benchmarks.context.peers.ours import without_flushes
from benchmarks.context.writers import make_value
from coordinator.context import SharedContext
from coordinator.services.view import View

HOT_COUNT = 1000
#: Keys read between two looks at the clock: few enough for the slowest store, enough to hide the look.
_BATCH = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Reads:
    """How fast one process read in one round."""

    round: int
    peer: str
    per_s: float


def measure_reads(number: int, name: str, peer: type[Peer], seconds: float, parent: Path) -> Reads:
    """Read hot keys one by one through a store: value and version, decoded."""
    with scratch_directory(parent) as directory, peer.host(directory) as place:
        return Reads(round=number, peer=name, per_s=call(_read_store, peer, place, seconds))


def measure_view(number: int, seconds: float, parent: Path) -> list[Reads]:
    """Read hot keys one by one from a session's view, and from a bare dictionary of the same entries."""
    with scratch_directory(parent) as directory:
        view, bare = call(_read_view, directory, seconds)
    return [Reads(round=number, peer="view", per_s=view), Reads(round=number, peer="dict", per_s=bare)]


def _read_store(peer: type[Peer], place: Place, seconds: float) -> float:
    store = peer(place)
    keys = [f"hot/{number}" for number in range(HOT_COUNT)]
    store.fill((key, make_value(number)) for number, key in enumerate(keys))
    for number, key in enumerate(keys[:_BATCH]):
        value, version = store.read(key)
        if version != 1 or value["number"] != number:
            raise AssertionError(f"{key!r} is at version {version} with another value than was stored")
    rate = _time_reads(store.read, keys, seconds)
    store.close()
    return rate


def _read_view(directory: Path, seconds: float) -> tuple[float, float]:
    context = SharedContext.open(directory / "context")
    keys = [f"hot/{number}" for number in range(HOT_COUNT)]
    with without_flushes():
        for number, key in enumerate(keys):
            context.put(key, make_value(number), expected_version=0)
    view = View("hot/", context.snapshot("hot/"))
    rates = _time_lookups(view, keys, seconds), _time_lookups(dict(view), keys, seconds)
    context.close()
    return rates


def _time_reads(read: Callable[[str], Any], keys: list[str], seconds: float) -> float:
    batches = [keys[at : at + _BATCH] for at in range(0, len(keys), _BATCH)]
    count, began_s = 0, time.perf_counter()
    while True:
        for batch in batches:
            for key in batch:
                read(key)
            count += len(batch)
            if (took_s := time.perf_counter() - began_s) >= seconds:
                return count / took_s


def _time_lookups(entries: Mapping[str, Any], keys: list[str], seconds: float) -> float:
    count, began_s = 0, time.perf_counter()
    while (took_s := time.perf_counter() - began_s) < seconds or not count:
        for key in keys:
            entries[key]
        count += len(keys)
    return count / took_s
