"""What recording a conversation costs, how fast past ones are listed, and how fast sessions start and end.

Run it with ``make bench``, or ``python -m benchmarks.history``. Rates are of one process unless the row says otherwise; the bare
``write`` of as many bytes stands beside them, for the kernel's share. Nothing is asserted; the machine's other load is printed.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

import crewkeep
from benchmarks.sessions import RESULTS, print_table, row, temporary_home
from coordinator import ids, sealed
from coordinator.paths import Home
from coordinator.services.archive import list_past, search
from coordinator.sessions.launch import build_launch
from coordinator.sessions.model import (
    LAUNCH_FORMAT,
    LAUNCH_KIND,
    RECORD_FORMAT,
    RECORD_KIND,
    Hosting,
    Outcome,
    Phase,
    Restart,
    SessionRecord,
)
from coordinator.sessions.registry import Registry

#: A short message: what an agent says between two commands.
TEXT = "The tests pass now; I look at the login next."
_HOLD_S = 0.2


def main(argv: list[str] | None = None) -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7, help="repetitions of each rate")
    parser.add_argument("--count", type=int, default=100_000, help="records a round")
    parser.add_argument("--sessions", type=int, default=10_000, help="sessions in the home that is listed")
    parser.add_argument("--lives", type=int, default=100, help="sessions a round that are started and ended")
    arguments = parser.parse_args(argv)
    before = psutil.cpu_times()
    rows: list[dict[str, Any]] = []
    with temporary_home() as home:
        rows += measure_recording(home, arguments.rounds, arguments.count)
    with temporary_home() as home:
        rows += measure_lives(home, arguments.rounds, arguments.lives)
    with temporary_home() as home:
        rows += measure_listing(home, arguments.rounds, arguments.sessions)
    print_table(rows)
    RESULTS.mkdir(exist_ok=True)
    used = [b - a for a, b in zip(before, psutil.cpu_times(), strict=True)]
    report = {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "cores": os.cpu_count(),
        "machine_busy_share": 1 - used[3] / sum(used),
        "rows": rows,
    }
    (RESULTS / "history.json").write_text(json.dumps(report, indent=1) + "\n")
    busy = f"{report['machine_busy_share']:.0%} of {report['cores']} cores"
    print(f"machine busy {busy} during the run; written to benchmarks/results/history.json")


def measure_recording(home: Home, rounds: int, count: int) -> list[dict[str, Any]]:
    """Messages and commands a second, by one thread, by several, by coroutines; and the bare write."""
    rates: dict[str, list[float]] = {}

    def measure(what: str, record: Callable[[], object], number: int = count) -> None:
        began_s = time.perf_counter()
        record()
        rates.setdefault(what, []).append(number / (time.perf_counter() - began_s))

    with crewkeep.Session.start("recorder", home=home) as session:

        def messages() -> None:
            record = session.record_message
            for _ in range(count):
                record("assistant", TEXT)

        def commands() -> None:
            record = session.record_command
            for _ in range(count):
                record("shell", "make test", exit_code=0)

        async def messages_async() -> None:
            for _ in range(count):
                await session.record_message_async("assistant", TEXT)

        async def commands_async() -> None:
            for _ in range(count):
                await session.record_command_async("shell", "make test", exit_code=0)

        def by_threads() -> None:
            def some() -> None:
                for _ in range(count // 4):
                    session.record_message("assistant", TEXT)

            threads = [threading.Thread(target=some) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        for _ in range(rounds):
            measure("bare write of as many bytes", lambda: write_bare(home.path / "bare", count))
            measure("record_message", messages)
            measure("record_command", commands)
            measure("record_message_async", lambda: asyncio.run(messages_async()))
            measure("record_command_async", lambda: asyncio.run(commands_async()))
            measure("record_message, 4 threads together", by_threads)
        began_s = time.perf_counter()
        read_count = len(session.history())
        read_back = [read_count / (time.perf_counter() - began_s)]
    goals = {name: ">= 50k, aim 500k" for name in rates if name.startswith("record_") and "threads" not in name}
    return [
        *(row(what, "/s", values, goal=goals.get(what, "")) for what, values in rates.items()),
        row("history() read back", "/s", read_back),
    ]


def write_bare(path: Path, count: int) -> None:
    """Append as many bytes as a message's record has, as often, and nothing else."""
    data = b"x" * (len(TEXT) + 50)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
    try:
        for _ in range(count):
            os.write(fd, data)
    finally:
        os.close(fd)


def measure_lives(home: Home, rounds: int, count: int) -> list[dict[str, Any]]:
    """Sessions a second that are started and ended one after another, with the fsyncs that each takes and what those cost."""
    rates = []
    synced = 0
    fsync = os.fsync

    def count_fsync(fd: Any) -> None:
        nonlocal synced
        synced += 1
        fsync(fd)

    crewkeep.Session.start("warm", home=home, workspace="bench").close()
    os.fsync = count_fsync
    try:
        for _ in range(rounds):
            began_s = time.perf_counter()
            for _ in range(count):
                crewkeep.Session.start(home=home, workspace="bench").close()
            rates.append(count / (time.perf_counter() - began_s))
    finally:
        os.fsync = fsync
    return [
        row("session start to end", "/s", rates, goal=">= 500"),
        row("fsyncs of one session's start and end", "", [synced / (rounds * count)]),
        row("fsyncs of a new file of 1 KB", "/s", [measure_fsync(home.path / "bare") for _ in range(rounds)]),
    ]


def measure_fsync(path: Path, count: int = 200) -> float:
    """Return how many small files the disk makes durable in a second, one after another."""
    began_s = time.perf_counter()
    for _ in range(count):
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.write(fd, b"x" * 1024)
        os.fsync(fd)
        os.close(fd)
    return count / (time.perf_counter() - began_s)


def measure_listing(home: Home, rounds: int, count: int) -> list[dict[str, Any]]:
    """Listing and searching many sessions: in the process, and as a command."""
    fill_home(home, count)
    time.sleep(_HOLD_S)  # what changed a moment ago is read anew each time: that is not what is measured
    first = time_call(lambda: list_past(home, {}))
    again = [time_call(lambda: list_past(home, {})) for _ in range(rounds)]
    nowhere = [time_call(lambda: list(search(home, "nowhere to be found", {}))) for _ in range(rounds)]
    environment = {**os.environ, "CREWKEEP_HOME": str(home.path)}
    argv = [str(Path(sys.executable).parent / "crewkeep"), "history", "-n", "20"]

    def run() -> None:
        subprocess.run(argv, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)

    command = [time_call(run) for _ in range(rounds)]
    return [
        row(f"list of {count} sessions, first time", "ms", [first]),
        row(f"list of {count} sessions", "ms", again, goal="< 200"),
        row(f"search of {count} sessions", "ms", nowhere),
        row(f"crewkeep history, {count} sessions, the whole process", "ms", command, goal="< 350"),
    ]


def time_call(call: Callable[[], object]) -> float:
    began_s = time.perf_counter()
    call()
    return (time.perf_counter() - began_s) * 1000


def fill_home(home: Home, count: int) -> None:
    """Register sessions that have ended as the registry would, without its durability: their files are the same."""
    registry = Registry(home)
    template = registry.create(
        name="template",
        workspace="bench",
        hosting=Hosting.PROGRAM,
        launch=build_launch(("agent", "--task"), "/", {"LANG": "C"}),
        restart=Restart.NEVER,
    )
    ended = dataclasses.replace(template, phase=Phase.ENDED, outcome=Outcome.DONE)
    template = registry.change(template.id, epoch=template.epoch, change=lambda _: ended)
    launch = sealed.read_sealed(home.session(template.id).launch, LAUNCH_KIND, LAUNCH_FORMAT)
    for number in range(count - 1):
        at = template.created_at - number
        body = {**template.encode(), "id": ids.new_id(at), "name": f"session-{number}", "created_at": at, "phase_at": at}
        paths = home.session(SessionRecord.decode(body).id)
        paths.path.mkdir(mode=0o700)
        paths.lock.touch()
        sealed.write_sealed(paths.launch, LAUNCH_KIND, LAUNCH_FORMAT, launch, durable=False)
        sealed.write_sealed(paths.record, RECORD_KIND, RECORD_FORMAT, body, durable=False)


if __name__ == "__main__":
    main()
