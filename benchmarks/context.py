"""What a commit to the shared context costs and how soon others see it. Run it with ``python -m benchmarks.context``.

The same work is done by what one would take instead: SQLite with ``synchronous=FULL``, and a JSON file that is rewritten
under ``filelock`` with fsync and rename. All of it is compare-and-swap, durable against power loss, with values of about
1 KB, in processes of their own; the runs are interleaved so that the machine's other load falls on all alike. After each
run the versions must add up to the acknowledged commits. Read the ratios, not the absolutes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

RESULTS = Path(__file__).parent / "results"
FILLING = "x" * 1000
#: Pause between the writes whose way to the watcher is measured: the usual case, a disk that has just been idle.
PAUSE_S = 0.005


class Peer(ABC):
    """A store with versions, opened by one process."""

    #: How a watcher learns of a change, for the table.
    notices: str

    @abstractmethod
    def read(self, key: str) -> tuple[Any, int]:
        """Return value and version; version 0 where there is none."""

    @abstractmethod
    def swap(self, key: str, value: Any, version: int) -> bool:
        """Commit the value at that version; tell whether nobody else was there before."""

    @abstractmethod
    def follow(self, key: str) -> Iterator[Any]:
        """Yield the values of the key as they come."""


class Ours(Peer):
    notices = "futex bell"

    def __init__(self, directory: Path) -> None:
        from coordinator.context import SharedContext

        self.context = SharedContext.open(directory / "context")

    def read(self, key: str) -> tuple[Any, int]:
        entry = self.context.get(key)
        return (entry.value, entry.version) if entry else (None, 0)

    def swap(self, key: str, value: Any, version: int) -> bool:
        from coordinator.errors import VersionConflict

        try:
            self.context.put(key, value, expected_version=version)
        except VersionConflict:
            return False
        return True

    def follow(self, key: str) -> Iterator[Any]:
        return (change.value for change in self.context.watch(key))


class Sqlite(Peer):
    notices = "poll, 1 ms"

    def __init__(self, directory: Path) -> None:
        self.database = sqlite3.connect(directory / "peer.db", isolation_level=None, timeout=60)
        self.database.execute("PRAGMA journal_mode=WAL")
        self.database.execute("PRAGMA synchronous=FULL")
        self.database.execute("CREATE TABLE IF NOT EXISTS entry (key TEXT PRIMARY KEY, value TEXT, version INTEGER)")

    def read(self, key: str) -> tuple[Any, int]:
        row = self.database.execute("SELECT value, version FROM entry WHERE key = ?", (key,)).fetchone()
        return (json.loads(row[0]), row[1]) if row else (None, 0)

    def swap(self, key: str, value: Any, version: int) -> bool:
        text = json.dumps(value)
        if version == 0:
            done = self.database.execute("INSERT OR IGNORE INTO entry VALUES (?, ?, 1)", (key, text))
        else:
            done = self.database.execute(
                "UPDATE entry SET value = ?, version = version + 1 WHERE key = ? AND version = ?", (text, key, version)
            )
        return done.rowcount == 1

    def follow(self, key: str) -> Iterator[Any]:
        seen = 0
        while True:
            value, version = self.read(key)
            if version != seen:
                seen = version
                yield value
            else:
                time.sleep(0.001)


class Naive(Peer):
    notices = "poll, 10 ms"

    def __init__(self, directory: Path) -> None:
        from filelock import FileLock

        self.path = directory / "state.json"
        self.lock = FileLock(directory / "state.lock")

    def read(self, key: str) -> tuple[Any, int]:
        try:
            value, version = json.loads(self.path.read_bytes()).get(key, (None, 0))
        except FileNotFoundError:
            return None, 0
        return value, version

    def swap(self, key: str, value: Any, version: int) -> bool:
        with self.lock:
            state = json.loads(self.path.read_bytes()) if self.path.exists() else {}
            if state.get(key, (None, 0))[1] != version:
                return False
            state[key] = (value, version + 1)
            temporary = self.path.with_suffix(".tmp")
            with open(temporary, "w") as file:
                json.dump(state, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self.path)
            directory = os.open(self.path.parent, os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        return True

    def follow(self, key: str) -> Iterator[Any]:
        seen = 0
        while True:
            value, version = self.read(key)
            if version != seen:
                seen = version
                yield value
            else:
                time.sleep(0.01)


PEERS: dict[str, type[Peer]] = {"crewkeep": Ours, "sqlite FULL": Sqlite, "filelock+JSON": Naive}  # type: ignore[type-abstract]
WORK = {"1 writer": (1, False), "4 writers, own keys": (4, False), "4 writers, one key": (4, True)}


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5, help="runs of each kind; medians are shown")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a run")
    parser.add_argument("--changes", type=int, default=200, help="changes followed to another process, a round")
    parser.add_argument("--child", nargs=5, metavar=("PEER", "DIRECTORY", "ACT", "KEY", "AMOUNT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        run_child(*arguments.child)
        return
    before = psutil.cpu_times()
    commits: dict[tuple[str, str], list[dict[str, float]]] = {}
    delays: dict[str, list[float]] = {}
    for _ in range(arguments.rounds):
        for work in WORK:
            for peer in PEERS:
                commits.setdefault((work, peer), []).append(measure_commits(peer, work, arguments.seconds))
        for peer in PEERS:
            delays.setdefault(peer, []).extend(measure_delays(peer, arguments.changes))
    rows = [summarise(work, peer, runs) for (work, peer), runs in commits.items()]
    seen = [
        {"peer": peer, "notices": PEERS[peer].notices, "count": len(found), "p50_ms": cut(found, 50), "p99_ms": cut(found, 99)}
        for peer, found in delays.items()
    ]
    used = [b - a for a, b in zip(before, psutil.cpu_times(), strict=True)]
    report = {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "cores": os.cpu_count(),
        "machine_busy_share": 1 - used[3] / sum(used),
        "commits": rows,
        "acknowledged_to_seen": seen,
    }
    print_tables(report)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "context.json").write_text(json.dumps(report, indent=1) + "\n")
    print("written to benchmarks/results/context.json")


def measure_commits(peer: str, work: str, seconds: float) -> dict[str, float]:
    """Let the writers of one run swap as fast as they can."""
    count, one_key = WORK[work]
    with scratch_directory() as directory:
        PEERS[peer](directory)  # made before the writers race for it
        keys = ["k" if one_key else f"k{number}" for number in range(count)]
        writers = [start_child(peer, directory, "write", key, str(seconds)) for key in keys]
        for writer in writers:
            wait_line(writer)
        for writer in writers:
            say(writer)
        reports = [json.loads(wait_line(writer)) for writer in writers]
        for writer in writers:
            writer.wait(30)
        acknowledged = sum(len(report["took_ms"]) for report in reports)
        versions = sum(PEERS[peer](directory).read(key)[1] for key in set(keys))
        assert acknowledged == versions, f"{peer}: {acknowledged} acknowledged, {versions} there"
    took = [value for report in reports for value in report["took_ms"]]
    each = [len(report["took_ms"]) for report in reports]
    return {
        "per_s": acknowledged / seconds,
        "p50_ms": cut(took, 50),
        "p99_ms": cut(took, 99),
        "conflicts": sum(report["conflicts"] for report in reports) / max(1, acknowledged),
        "fairness": min(each) / max(1, max(each)),
    }


def measure_delays(peer: str, changes: int) -> list[float]:
    """Return the milliseconds from the acknowledgement of each write to its sight in another process."""
    with scratch_directory() as directory:
        store = PEERS[peer](directory)
        watcher = start_child(peer, directory, "follow", "k", str(changes))
        wait_line(watcher)
        acknowledged = {}
        for number in range(changes):
            time.sleep(PAUSE_S)
            assert store.swap("k", {"number": number, "filling": FILLING}, number)
            acknowledged[number] = time.monotonic()
        seen = json.loads(wait_line(watcher))
        watcher.wait(30)
    return [max(0.0, (at - acknowledged[number]) * 1000) for number, at in seen if number in acknowledged]


def run_child(peer: str, directory: str, act: str, key: str, amount: str) -> None:
    """Be a writer or a watcher, in a process of its own."""
    store = PEERS[peer](Path(directory))
    if act == "follow":
        follow(store, key, int(amount))
        return
    store.read(key)
    print("ready", flush=True)
    sys.stdin.readline()
    took_ms: list[float] = []
    conflicts = 0
    end_s = time.monotonic() + float(amount)
    while (begun_s := time.monotonic()) < end_s:
        while True:
            value, version = store.read(key)
            if store.swap(key, {"number": (value or {"number": 0})["number"] + 1, "filling": FILLING}, version):
                break
            conflicts += 1
        took_ms.append((time.monotonic() - begun_s) * 1000)
    print(json.dumps({"took_ms": took_ms, "conflicts": conflicts}), flush=True)


def follow(store: Peer, key: str, changes: int) -> None:
    """Note when each change is seen; those that polling skips are not counted."""
    seen = []
    watch = store.follow(key)
    print("ready", flush=True)
    for value in watch:
        seen.append((value["number"], time.monotonic()))
        if value["number"] == changes - 1:
            break
    print(json.dumps(seen), flush=True)


def start_child(*arguments: Any) -> subprocess.Popen[str]:
    """Start this file again as a child."""
    command = [sys.executable, "-m", "benchmarks.context", "--child", *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent.parent)


def wait_line(process: subprocess.Popen[str]) -> str:
    """Return the next line a child prints."""
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, f"a child ended early: {process.wait(10)}"
    return line


def say(process: subprocess.Popen[str]) -> None:
    """Let a child go."""
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


@contextlib.contextmanager
def scratch_directory() -> Iterator[Path]:
    """A directory on the disk that the repository is on, since a temporary one may be in memory."""
    RESULTS.mkdir(exist_ok=True)
    directory = Path(tempfile.mkdtemp(dir=RESULTS, prefix="scratch-"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


def summarise(work: str, peer: str, runs: list[dict[str, float]]) -> dict[str, Any]:
    """Return the medians over the runs of one kind."""
    return {"work": work, "peer": peer, **{name: statistics.median(run[name] for run in runs) for name in runs[0]}}


def cut(values: list[float], percent: int) -> float:
    """Return a percentile."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)] if ordered else float("nan")


def print_tables(report: dict[str, Any]) -> None:
    """Print both tables."""
    print(f"{'durable commits':22} {'peer':15} {'per s':>8} {'p50 ms':>8} {'p99 ms':>8} {'conflicts':>10} {'fairness':>9}")
    for row in report["commits"]:
        print(
            f"{row['work']:22} {row['peer']:15} {row['per_s']:8.0f} {row['p50_ms']:8.2f} {row['p99_ms']:8.2f}"
            f" {row['conflicts']:10.2f} {row['fairness']:9.2f}"
        )
    print("(conflicts: refused swaps for each acknowledged one; fairness: unluckiest writer / luckiest)\n")
    print(f"{'acknowledged -> seen':22} {'peer':15} {'notices by':12} {'count':>6} {'p50 ms':>8} {'p99 ms':>8}")
    for row in report["acknowledged_to_seen"]:
        print(
            f"{'in another process':22} {row['peer']:15} {row['notices']:12} {row['count']:6}"
            f" {row['p50_ms']:8.3f} {row['p99_ms']:8.3f}"
        )
    print("(0: seen before it was acknowledged, when a crash could still have taken it back)")
    print(f"\nmachine busy {report['machine_busy_share']:.0%} of {report['cores']} cores during the run")


if __name__ == "__main__":
    main()
