"""Writers: so many processes commit as fast as they can, on keys of their own or all on one.

One operation is to read, compute, compare and swap, until it is acknowledged. After every run each version must equal the
commits that were acknowledged, and each value must have counted them; otherwise the benchmark fails, whoever it was.
"""

from __future__ import annotations

import os
import time
from array import array
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.context.crew import call, open_crew
from benchmarks.context.machine import busy_s, cpu_of, scratch_directory
from benchmarks.context.peers import Peer, Place
from benchmarks.context.peers.base import swap_until_done
from benchmarks.context.stats import cut

FILLING = "x" * 1000
#: All processes are awake by then.
_HEAD_START_S = 0.05
#: A run may overrun its time by what its unluckiest process waits; beyond this it is broken. Arbitrary.
_OVERRUN_S = 180.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """One kind of run."""

    count: int
    one_key: bool

    @property
    def name(self) -> str:
        return f"commits-{self.count}" + ("" if self.count == 1 else "-same" if self.one_key else "-distinct")

    @property
    def title(self) -> str:
        if self.count == 1:
            return "1 writer"
        return f"{self.count} writers, {'the same key' if self.one_key else 'distinct keys'}"

    @property
    def keys(self) -> list[str]:
        return ["key/0"] * self.count if self.one_key else [f"key/{number}" for number in range(self.count)]


WORKS = [
    Work(count=1, one_key=False),
    *(Work(count=count, one_key=one_key) for count in (4, 16, 64) for one_key in (False, True)),
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """What one run gave."""

    round: int
    peer: str
    work: str
    #: Commits acknowledged within the time, by all processes together.
    per_s: float
    #: Commits within the time of the unluckiest and of the luckiest process.
    least: int
    most: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    #: Conflicts for each commit.
    conflicts: float
    #: Cores used by others meanwhile, and by the run itself (a server included).
    others_cores: float
    own_cores: float
    acknowledged: int
    versions: int

    @property
    def fairness(self) -> float:
        return self.least / max(1, self.most)


@dataclass(slots=True)
class _Report:
    """What one writer says at its end."""

    took_s: array[float]
    in_time: int
    conflicts: int
    cpu_s: float


class CommitsLost(AssertionError):
    """A store acknowledged what is not there, or has what it did not acknowledge."""


def measure_writers(number: int, name: str, peer: type[Peer], work: Work, seconds: float, parent: Path) -> Run:
    """Do one run in a directory of its own."""
    with scratch_directory(parent) as directory, peer.host(directory) as place:
        keys = sorted(set(work.keys))
        call(_prepare, peer, place, keys)
        with open_crew() as crew:
            writers = [crew.start(_write, peer, place, key, work.one_key) for key in work.keys]
            for writer in writers:
                writer.hear()
            before_s, began_s = busy_s(), time.monotonic()
            own_s = _own_cpu_s(place)
            start_s = began_s + _HEAD_START_S
            for writer in writers:
                writer.tell((start_s, start_s + seconds))
            reports: list[_Report] = [writer.hear(seconds + _OVERRUN_S) for writer in writers]
            took_s = time.monotonic() - began_s
            own_s = _own_cpu_s(place) - own_s + sum(report.cpu_s for report in reports)
            others_s = busy_s() - before_s - own_s
        versions = _verify(name, peer, place, keys, work, [len(report.took_s) for report in reports])
    took = [value for report in reports for value in report.took_s]
    each = [report.in_time for report in reports]
    return Run(
        round=number,
        peer=name,
        work=work.name,
        per_s=sum(each) / seconds,
        least=min(each),
        most=max(each),
        p50_ms=cut(took, 50) * 1000,
        p99_ms=cut(took, 99) * 1000,
        max_ms=max(took) * 1000,
        conflicts=sum(report.conflicts for report in reports) / max(1, len(took)),
        others_cores=max(0.0, others_s / took_s),
        own_cores=own_s / took_s,
        acknowledged=len(took),
        versions=versions,
    )


def make_value(number: int) -> dict[str, Any]:
    """Return a value of about 1 KB that counts."""
    return {"number": number, "filling": FILLING}


def _prepare(peer: type[Peer], place: Place, keys: list[str]) -> None:
    store = peer(place)
    store.fill((key, make_value(0)) for key in keys)
    store.close()


def _write(link: Connection, peer: type[Peer], place: Place, key: str, one_key: bool) -> None:
    store = peer(place)
    store.read(key)
    update = store.update if one_key else lambda key, change: swap_until_done(store, key, change)
    link.send("ready")
    start_s, end_s = link.recv()
    took_s, in_time, conflicts = array("d"), 0, 0
    cpu_s = time.process_time()
    time.sleep(max(0.0, start_s - time.monotonic()))
    while (begun_s := time.monotonic()) < end_s:
        conflicts += update(key, _count_on)
        done_s = time.monotonic()
        took_s.append(done_s - begun_s)
        in_time += done_s <= end_s
    link.send(_Report(took_s, in_time, conflicts, time.process_time() - cpu_s))
    store.close()


def _count_on(value: Any) -> dict[str, Any]:
    return {"number": value["number"] + 1, "filling": FILLING}


def _verify(name: str, peer: type[Peer], place: Place, keys: list[str], work: Work, acknowledged: list[int]) -> int:
    """Compare what is there with what was acknowledged, key by key; return the commits that are there."""
    expected = [sum(acknowledged)] if work.one_key else acknowledged
    found = dict(call(_read_all, peer, place, keys))
    there = [found[key][1] - 1 for key in (keys if work.one_key else work.keys)]
    counted = [found[key][0]["number"] for key in (keys if work.one_key else work.keys)]
    if not expected == there == counted:
        raise CommitsLost(f"{name}, {work.title}: acknowledged {expected}, versions {there}, counted {counted}")
    return sum(there)


def _read_all(peer: type[Peer], place: Place, keys: list[str]) -> list[tuple[str, tuple[Any, int]]]:
    store = peer(place)
    try:
        return [(key, store.read(key)) for key in keys]
    finally:
        store.close()


def _own_cpu_s(place: Place) -> float:
    """Return the processor time of this process and of the peer's server."""
    return cpu_of(os.getpid()) + (cpu_of(place.server_pid) if place.server_pid else 0.0)
