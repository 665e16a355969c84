"""What is measured and in which order: every round does all the work with all peers, and the peers take turns in going first.

Whatever else the machine does thus falls on all alike, and a ratio is taken between neighbours in time.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.context import disk, large, readers, watchers, writers
from benchmarks.context.disk import Flushes
from benchmarks.context.large import Growth, Large, Swaps
from benchmarks.context.machine import busy_s
from benchmarks.context.peers import Peer
from benchmarks.context.readers import Reads
from benchmarks.context.watchers import Crowd, Idle, Seen
from benchmarks.context.writers import WORKS, Run

#: Everything that can be measured by itself (``--only``), in order.
MEASUREMENTS = [
    *(work.name for work in WORKS),
    "seen",
    "idle",
    "crowd",
    "view",
    "reads",
    "roof",
    "keys-swap",
    "keys-open",
    "keys-power-loss",
    "keys-memory",
    "keys-disk",
]
#: Beside these the bare disk is measured, with as many processes.
_ROOFS = {"commits-1", "commits-16-distinct"}
#: How long the machine is looked at before anything is started.
_REST_S = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Amounts:
    """How much of everything."""

    rounds: int = 5
    #: Length of a run of writers, and of readers.
    seconds: float = 2.0
    read_seconds: float = 0.5
    #: Changes followed to another process, a round.
    changes: int = 200
    #: How long idle watchers are watched.
    idle_seconds: float = 10.0
    #: Watchers that wait together, and writes of which one of them is told.
    watchers: int = 512
    crowd_writes: int = 40
    keys: int = 1_000_000
    #: Swaps of a round in the large and in the small context.
    swaps: int = 200


QUICK = Amounts(
    rounds=1,
    seconds=0.1,
    read_seconds=0.05,
    changes=20,
    idle_seconds=0.5,
    watchers=16,
    crowd_writes=5,
    keys=2000,
    swaps=20,
)


@dataclass(slots=True)
class Results:
    """What was measured: for each kind a list, one or more entries a round."""

    runs: list[Run] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    idle: list[Idle] = field(default_factory=list)
    crowds: list[Crowd] = field(default_factory=list)
    reads: list[Reads] = field(default_factory=list)
    views: list[Reads] = field(default_factory=list)
    flushes: list[Flushes] = field(default_factory=list)
    swaps: list[Swaps] = field(default_factory=list)
    opens_ms: list[float] = field(default_factory=list)
    power_losses_ms: list[float] = field(default_factory=list)
    #: In the large context, and in one that has the watched prefix only.
    growths: list[tuple[Growth, Growth]] = field(default_factory=list)
    #: Bytes on the disk for each byte of keys and values.
    disk_ratios: list[float] = field(default_factory=list)
    #: Cores that were in use before anything was started.
    rest_cores: float = 0.0

    def encode(self) -> dict[str, Any]:
        """Return it for JSON."""
        return dict(_round(asdict(self)))


def measure(peers: dict[str, type[Peer]], amounts: Amounts, only: Sequence[str], parent: Path) -> Results:
    """Do what is asked for, round by round. Raises ``AssertionError`` when a store lost something."""
    results = Results(rest_cores=_look_at_rest())
    for number in range(amounts.rounds):
        _say(f"round {number + 1} of {amounts.rounds}")
        for at, work in enumerate(WORKS):
            if work.name in only:
                for name, peer in _rotate(peers.items(), number + at):
                    results.runs.append(writers.measure_writers(number, name, peer, work, amounts.seconds, parent))
            if "roof" in only and work.name in _ROOFS:
                results.flushes.append(disk.measure_flushes(number, work.count, amounts.seconds / 2, parent))
        for name, peer in _rotate(peers.items(), number):
            if "seen" in only:
                results.seen.append(watchers.measure_seen(number, name, peer, amounts.changes, parent))
            if "reads" in only:
                results.reads.append(readers.measure_reads(number, name, peer, amounts.read_seconds, parent))
        if "idle" in only:
            results.idle += watchers.measure_idle(number, peers, amounts.idle_seconds, parent)
        if "view" in only:
            results.views += readers.measure_view(number, amounts.read_seconds, parent)
    if "crowd" in only:
        _say(f"{amounts.watchers} watchers")
        results.crowds.append(watchers.measure_crowd(amounts.watchers, amounts.idle_seconds, amounts.crowd_writes, parent))
    if any(name.startswith("keys-") for name in only):
        _say(f"{amounts.keys:,} keys")
        with large.filled(amounts.keys, parent) as filled:
            _measure_large(results, filled, amounts, only)
    return results


def _measure_large(results: Results, filled: Large, amounts: Amounts, only: Sequence[str]) -> None:
    results.disk_ratios += [filled.disk_bytes / filled.payload_bytes] if "keys-disk" in only else []
    for _ in range(amounts.rounds):
        if "keys-open" in only:
            results.opens_ms.append(large.measure_open(filled))
        if "keys-memory" in only:
            results.growths.append((large.measure_growth(filled.large), large.measure_growth(filled.one_prefix)))
        if "keys-swap" in only:
            results.swaps.append(large.measure_swaps(filled, amounts.swaps))
    for _ in range(amounts.rounds):  # last: each of them leaves a context that belongs to a boot that never was
        if "keys-power-loss" in only:
            results.power_losses_ms.append(large.measure_power_loss(filled))


def _rotate(peers: Iterable[tuple[str, type[Peer]]], by: int) -> list[tuple[str, type[Peer]]]:
    order = list(peers)
    by %= len(order)
    return order[by:] + order[:by]


def _look_at_rest() -> float:
    before_s, began_s = busy_s(), time.monotonic()
    time.sleep(_REST_S)
    return (busy_s() - before_s) / (time.monotonic() - began_s)


def _round(value: Any) -> Any:
    """Drop the digits that no measurement has."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {name: _round(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_round(inner) for inner in value]
    return value


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)
