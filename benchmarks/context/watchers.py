"""Watchers: how soon a change is seen in another process, what waiting for it costs, and what many who wait cost.

A watcher is a process that iterates over a key's values (crewkeep: ``context.watch``; others as they can, see each peer).
The clock is the system's monotonic one, which all processes of the machine share.
"""

from __future__ import annotations

import random
import time
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from benchmarks.context.crew import Child, Crew, call, open_crew
from benchmarks.context.machine import cpu_of, scratch_directory
from benchmarks.context.peers import Peer, Place
from benchmarks.context.stats import cut
from benchmarks.context.writers import make_value
from coordinator.context import SharedContext

#: Between two writes that are followed: a disk that was idle, as with agents, and no lock step with anybody's polling.
_PAUSE_S = (0.004, 0.012)
#: After the start of a watcher, before what it costs is measured: imports and first looks are over.
_SETTLE_S = 0.5
#: Of the memory that is free, what a crowd may take.
_CROWD_SHARE = 0.5
#: Watchers started to see what one needs.
_SAMPLE_COUNT = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """How soon one watcher saw the changes of one round."""

    round: int
    peer: str
    #: From the acknowledgement to the watcher's code; 0 where it was seen before its writer had returned.
    p50_ms: float
    p99_ms: float
    max_ms: float
    #: The write itself.
    write_p50_ms: float
    #: Changes made, and how many of them polling never showed.
    count: int
    unseen: int


def measure_seen(number: int, name: str, peer: type[Peer], count: int, parent: Path) -> Seen:
    """Write ``count`` changes one by one, and follow them from another process."""
    with scratch_directory(parent) as directory, peer.host(directory) as place:
        call(_fill_one, peer, place, "key/0")
        with open_crew() as crew:
            watcher = crew.start(_follow, peer, place, "key/0", count)
            watcher.hear()
            writer = crew.start(_write_slowly, peer, place, "key/0", count)
            took_s, acknowledged = writer.hear()
            seen = watcher.hear()
    delays = [max(0.0, at_s - acknowledged[change]) for change, at_s in seen.items()]
    return Seen(
        round=number,
        peer=name,
        p50_ms=cut(delays, 50) * 1000,
        p99_ms=cut(delays, 99) * 1000,
        max_ms=max(delays) * 1000,
        write_p50_ms=cut(took_s, 50) * 1000,
        count=count,
        unseen=count - len(seen),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Idle:
    """What one watcher costs while nothing happens."""

    round: int
    peer: str
    #: Percent of one core.
    percent: float
    #: Of the peer's server, where it has one.
    server_percent: float


def measure_idle(number: int, peers: dict[str, type[Peer]], seconds: float, parent: Path) -> list[Idle]:
    """Let one watcher of each peer wait, all at the same time."""
    with ExitStack() as stack:
        places = {
            name: stack.enter_context(peer.host(stack.enter_context(scratch_directory(parent)))) for name, peer in peers.items()
        }
        for name, peer in peers.items():
            call(_fill_one, peer, places[name], "key/0")
        crew = stack.enter_context(open_crew())
        watchers = {name: crew.start(_follow, peer, places[name], "key/0", 0) for name, peer in peers.items()}
        for watcher in watchers.values():
            watcher.hear()
        time.sleep(_SETTLE_S)
        pids = {name: (watcher.pid, places[name].server_pid) for name, watcher in watchers.items()}
        before, began_s = {name: _cpu_of_both(both) for name, both in pids.items()}, time.monotonic()
        time.sleep(seconds)
        took_s = time.monotonic() - began_s
        used = {
            name: [now - then for now, then in zip(_cpu_of_both(both), before[name], strict=True)] for name, both in pids.items()
        }
    return [
        Idle(round=number, peer=name, percent=own_s / took_s * 100, server_percent=server_s / took_s * 100)
        for name, (own_s, server_s) in used.items()
    ]


@dataclass(frozen=True, kw_only=True, slots=True)
class Crowd:
    """What many watchers of one context cost, each a process that watches a prefix of its own."""

    #: Asked for, and as many as the machine's memory carried.
    wanted: int
    count: int
    #: Memory of one's own, of each.
    each_mb: float
    #: Percent of one core, all together, while nothing happens.
    idle_percent: float
    #: From the acknowledgement to the one watcher that is interested; 0 where it was seen before its writer had returned.
    seen_ms: list[float]
    #: The write, with all of them waiting, and with nobody waiting.
    write_ms: list[float]
    alone_ms: list[float]
    #: Processor time that all watchers together took for one write.
    stirred_ms: float

    @property
    def delay_ms(self) -> float:
        """From the acknowledgement to the one that is interested, with what the crowd adds to the write itself.

        A writer that wakes everybody before it returns would otherwise have been seen "at once".
        """
        began = [write_ms + seen_ms for write_ms, seen_ms in zip(self.write_ms, self.seen_ms, strict=True)]
        return max(cut(self.seen_ms, 50), cut(began, 50) - cut(self.alone_ms, 50))


def measure_crowd(wanted: int, seconds: float, writes: int, parent: Path) -> Crowd:
    """Let a crowd wait, then write to one after another of them."""
    with scratch_directory(parent) as directory:
        with open_crew() as crew:
            alone = _write_now(crew, directory, writes, wanted)
            watchers = [crew.start(_watch_own, directory, number) for number in range(min(wanted, _SAMPLE_COUNT))]
            for watcher in watchers:
                watcher.hear()
            each_bytes = max(psutil.Process(watcher.pid).memory_full_info().uss for watcher in watchers)
            count = min(wanted, int(psutil.virtual_memory().available * _CROWD_SHARE / each_bytes))
            more = [crew.start(_watch_own, directory, number) for number in range(len(watchers), count)]
            for watcher in more:
                watcher.hear()
            watchers += more
            time.sleep(_SETTLE_S)
            idle_s = _let_pass(watchers, seconds)
            before_s, began_s = sum(cpu_of(watcher.pid) for watcher in watchers), time.monotonic()
            acknowledged = _write_now(crew, directory, writes, len(watchers))
            seen = [(watchers[which].hear(), at_s, took_s) for which, at_s, took_s in acknowledged]
            lasted_s = time.monotonic() - began_s
            stirred_s = sum(cpu_of(watcher.pid) for watcher in watchers) - before_s - idle_s / seconds * lasted_s
    return Crowd(
        wanted=wanted,
        count=len(watchers),
        each_mb=each_bytes / 1e6,
        idle_percent=idle_s / seconds * 100,
        seen_ms=[max(0.0, seen_s - at_s) * 1000 for seen_s, at_s, _ in seen],
        write_ms=[took_s * 1000 for _, _, took_s in seen],
        alone_ms=[took_s * 1000 for _, _, took_s in alone],
        stirred_ms=max(0.0, stirred_s) / writes * 1000,
    )


def _let_pass(watchers: list[Child], seconds: float) -> float:
    """Return the processor time that all watchers took in so many seconds."""
    before_s, began_s = sum(cpu_of(watcher.pid) for watcher in watchers), time.monotonic()
    time.sleep(seconds)
    took_s = time.monotonic() - began_s
    return (sum(cpu_of(watcher.pid) for watcher in watchers) - before_s) * seconds / took_s


def _cpu_of_both(pids: tuple[int, int]) -> list[float]:
    return [cpu_of(pid) if pid else 0.0 for pid in pids]


def _fill_one(peer: type[Peer], place: Place, key: str) -> None:
    store = peer(place)
    store.fill([(key, make_value(0))])
    store.close()


def _follow(link: Connection, peer: type[Peer], place: Place, key: str, last: int) -> None:
    """Note when each change is first seen, up to the last (0: there is none, and this waits until it is ended)."""
    store = peer(place)
    values = store.follow(key)
    link.send("ready")
    seen: dict[int, float] = {}
    for value in values:
        seen[value["number"]] = time.monotonic()
        if value["number"] == last:
            break
    link.send(seen)


def _write_slowly(link: Connection, peer: type[Peer], place: Place, key: str, count: int) -> None:
    store = peer(place)
    _, version = store.read(key)
    took_s: list[float] = []
    acknowledged: dict[int, float] = {}
    for number in range(1, count + 1):
        time.sleep(random.uniform(*_PAUSE_S))
        begun_s = time.monotonic()
        if not store.swap(key, make_value(number), version):
            raise AssertionError("somebody else wrote a key that is ours alone")
        acknowledged[number] = time.monotonic()
        took_s.append(acknowledged[number] - begun_s)
        version += 1
    link.send((took_s, acknowledged))
    store.close()


def _watch_own(link: Connection, directory: Path, number: int) -> None:
    context = SharedContext.open(directory / "context")
    changes = context.watch(f"crowd/{number}/")
    link.send("ready")
    for _ in changes:
        link.send(time.monotonic())


def _write_now(crew: Crew, directory: Path, writes: int, count: int) -> list[tuple[int, float, float]]:
    """Write to one after another of ``count`` watchers; return which it was, when that was acknowledged, and what it took."""
    told: list[tuple[int, float, float]] = crew.start(_write_to_some, directory, writes, count).hear()
    return told


def _write_to_some(link: Connection, directory: Path, writes: int, count: int) -> None:
    context = SharedContext.open(directory / "context")
    context.put("elsewhere", make_value(0), unconditional=True)
    told = []
    for number in range(writes):
        time.sleep(random.uniform(*_PAUSE_S) * 4)
        which = random.randrange(count)
        begun_s = time.monotonic()
        context.put(f"crowd/{which}/key", make_value(number), unconditional=True)
        done_s = time.monotonic()
        told.append((which, done_s, done_s - begun_s))
    link.send(told)
    context.close()
