"""What keeping a crew costs and how fast it comes back. Run it with ``make bench``.

Every figure is taken from outside, on real processes in a temporary home: a death is noticed at the time that the session's
journal tells, an agent runs again when its own first line of output stands in a file. The agent's own start is measured on
the same machine in between and given beside it. Nothing is asserted; the machine's other load is printed with the figures.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from coordinator.config import Settings
from coordinator.paths import Home
from coordinator.sessions.journal import Journal
from coordinator.sessions.model import Phase, Restart, SessionRecord
from coordinator.sessions.registry import Registry
from coordinator.system import processes
from coordinator.system.processes import ProcessIdentity
from crewkeep.ending import kill_session
from crewkeep.starting import start_session

RESULTS = Path(__file__).parent / "results"
#: An agent whose first act is to say when it began to run.
AGENT = 'date +%s.%N >>"$MARK"; exec sleep 1000'
#: Every kill is ours and meant: no brake.
BENCH_SETTINGS = {"CREWKEEP_START_LIMIT": "1000", "CREWKEEP_START_DELAY_S": "0.01", "CREWKEEP_START_DELAY_LIMIT_S": "0.01"}
_LIMIT_S = 30.0


def main(argv: list[str] | None = None) -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=40, help="kills of each kind")
    parser.add_argument("--idle-s", type=float, default=20.0, help="how long idle sessions are watched")
    arguments = parser.parse_args(argv)
    os.environ.update(BENCH_SETTINGS)
    before = psutil.cpu_times()
    rows: list[dict[str, Any]] = []
    with temporary_home() as home:
        rows += measure_deaths(home, arguments.rounds)
    with temporary_home() as home:
        rows += measure_wake(home)
    with temporary_home() as home:
        rows += measure_idle(home, arguments.idle_s)
    with temporary_home() as home:
        rows += measure_many(home)
    print_table(rows)
    RESULTS.mkdir(exist_ok=True)
    used = [b - a for a, b in zip(before, psutil.cpu_times(), strict=True)]
    report = {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "cores": os.cpu_count(),
        "machine_busy_share": 1 - used[3] / sum(used),
        "settings": BENCH_SETTINGS,
        "rows": rows,
    }
    (RESULTS / "sessions.json").write_text(json.dumps(report, indent=1) + "\n")
    busy = f"{report['machine_busy_share']:.0%} of {report['cores']} cores"
    print(f"machine busy {busy} during the run; written to benchmarks/results/sessions.json")


def measure_deaths(home: Home, rounds: int) -> list[dict[str, Any]]:
    """Kill agents and keepers in turn; tell after how long it was noticed and how long until the agent runs again."""
    mark = home.path / "mark"
    record = start(home, "victim", mark)
    registry = Registry(home)
    own_ms: list[float] = []
    noticed: dict[str, list[float]] = {"agent": [], "keeper": []}
    fenced: dict[str, list[float]] = {"agent": [], "keeper": []}
    again: dict[str, list[float]] = {"agent": [], "keeper": []}
    for _ in range(rounds):
        for what in ("agent", "keeper"):
            own_ms.append(time_bare_start(home.path / "bare"))
            noticed_ms, fenced_ms, again_ms = kill_once(home, registry, record.id, what, mark)
            noticed[what].append(noticed_ms)
            fenced[what].append(fenced_ms)
            again[what].append(again_ms)
    rows = []
    for what in ("agent", "keeper"):
        rows.append(row(f"death of the {what} noticed", "ms", noticed[what], goal="p50 <= 20, p99 <= 100"))
        rows.append(row(f"the dead incarnation can write nothing after the {what}'s death", "ms", fenced[what]))
        beyond = [value - statistics.median(own_ms) for value in again[what]]
        rows.append(
            row(f"running again after the {what}'s death, beyond the agent's own start", "ms", beyond, goal="p99 <= 1000")
        )
    rows.append(row("the agent's own start", "ms", own_ms))
    return rows


def kill_once(home: Home, registry: Registry, session: str, what: str, mark: Path) -> tuple[float, float, float]:
    """Kill the session's agent or keeper; return the milliseconds until that was noticed (by the time that the journal
    says), until the epoch was raised, and until the agent ran again."""
    record = wait(lambda: settled(registry, session), "the session to run")
    victim = record.agent if what == "agent" else record.owner
    lines = count_lines(mark)
    time.sleep(random.uniform(0, 0.02))  # no lock step with ticks
    killed_s, killed_wall_s = time.monotonic(), time.time()
    processes.send_signal(victim, signal.SIGKILL)
    wait(lambda: registry.get(session).epoch > record.epoch, "the epoch to rise", pause_s=0.0005)
    fenced_ms = (time.monotonic() - killed_s) * 1000
    wait(lambda: count_lines(mark) > lines, "the agent to run again", pause_s=0.0005)
    again_ms = (float(mark.read_text().splitlines()[lines]) - killed_wall_s) * 1000
    noticed = Journal(home.session(session)).read().find_last("noticed")
    assert noticed is not None
    return (noticed.body["at"] - killed_wall_s) * 1000, fenced_ms, again_ms


def measure_wake(home: Home) -> list[dict[str, Any]]:
    """Acknowledged write in one process to watcher callback in another one's coordinator thread."""
    program = (
        "import sys, time, threading, crewkeep\n"
        "with crewkeep.Session.start('watcher', workspace='bench') as session:\n"
        "    session.watch('bell/', lambda change: print(time.monotonic(), flush=True))\n"
        "    print('ready', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    environment = {**os.environ, "CREWKEEP_HOME": str(home.path)}
    child = subprocess.Popen(
        [sys.executable, "-c", program], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdin is not None
    try:
        assert child.stdout.readline() == "ready\n"
        import crewkeep

        os.environ["CREWKEEP_HOME"] = str(home.path)
        latencies = []
        with contextlib.closing(crewkeep.open_context(workspace="bench")) as context:
            for number in range(200):
                time.sleep(random.uniform(0.005, 0.015))
                context.put("bell/word", number, unconditional=True)
                acknowledged_s = time.monotonic()
                latencies.append((float(child.stdout.readline()) - acknowledged_s) * 1000)
    finally:
        child.stdin.close()
        child.wait(_LIMIT_S)
    return [row("acknowledged write to callback in another process", "ms", latencies, goal="p50 <= 20")]


def measure_idle(home: Home, idle_s: float) -> list[dict[str, Any]]:
    """Keepers of sessions whose agents do nothing."""
    mark = home.path / "mark"
    records = [start(home, f"idle-{number}", mark) for number in range(8)]
    keepers = [psutil.Process(identity.pid) for identity in owners(records)]
    time.sleep(3)  # the start's own work and the first checkpoint are over
    before = [cpu_of(keeper) for keeper in keepers]
    time.sleep(idle_s)
    shares = [(cpu_of(keeper) - start_s) / idle_s * 100 for keeper, start_s in zip(keepers, before, strict=True)]
    memory = [keeper.memory_full_info() for keeper in keepers]
    return [
        row("idle session's keeper, share of a core", "%", shares, goal="<= 0.1"),
        row("idle session's keeper, memory of its own (USS)", "MB", [one.uss / 1e6 for one in memory], goal="<= 25"),
        row("idle session's keeper, resident (RSS)", "MB", [one.rss / 1e6 for one in memory]),
    ]


def measure_many(home: Home) -> list[dict[str, Any]]:
    """64 sessions at once, then `ps` with 100 of them (36 ended)."""
    mark = home.path / "mark"
    started_s = time.monotonic()
    records: list[SessionRecord] = []
    failures: list[BaseException] = []

    def start_some(first: int) -> None:
        try:
            for number in range(first, 64, 4):
                records.append(start(home, f"many-{number}", mark))
        except BaseException as error:  # noqa: BLE001 - shown by the main thread
            failures.append(error)

    threads = [threading.Thread(target=start_some, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    took_s = time.monotonic() - started_s
    alive = sum(not processes.observe(Registry(home).get(one.id).agent).is_gone for one in records)
    total_mb = sum(psutil.Process(identity.pid).memory_full_info().uss for identity in owners(records)) / 1e6
    time.sleep(3)
    keepers = [psutil.Process(identity.pid) for identity in owners(records)]
    before_s = sum(map(cpu_of, keepers))
    time.sleep(10)
    together = (sum(map(cpu_of, keepers)) - before_s) / 10 * 100
    for number in range(36):
        start(home, f"ended-{number}", mark, argv=["true"])
    environment = {**os.environ, "CREWKEEP_HOME": str(home.path)}
    listings, bare = [], []
    for _ in range(15):
        listings.append(time_command([sys.executable, "-m", "crewkeep", "ps", "-a"], environment))
        bare.append(time_command([sys.executable, "-c", "import typer"], environment))
    return [
        row("64 sessions started by 4 threads", "s", [took_s], goal=f"{alive} of 64 agents alive"),
        row("64 idle sessions' keepers, all together, share of a core", "%", [together]),
        row("64 idle sessions' keepers, memory of their own together", "MB", [total_mb]),
        row("`crewkeep ps -a` with 100 sessions, whole process", "ms", listings, goal="<= 250"),
        row("a Python process that only imports typer", "ms", bare),
    ]


# ----------------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def temporary_home() -> Iterator[Home]:
    """Give a home, and end and remove everything in it afterwards."""
    path = Path(tempfile.mkdtemp(prefix="crewkeep-bench-"))
    home = Home.at(path)
    try:
        yield home
    finally:
        registry = Registry(home)
        for record in registry.list_all():
            if isinstance(record, SessionRecord) and record.phase is not Phase.ENDED:
                kill_session(home, registry, record)
        shutil.rmtree(path, ignore_errors=True)


def start(home: Home, name: str, mark: Path, argv: list[str] | None = None) -> SessionRecord:
    """Start a session whose agent notes in ``mark`` when it began."""
    return start_session(
        home,
        argv or ["sh", "-c", AGENT],
        name=name,
        cwd="/",
        restart=Restart.ON_CRASH,
        workspace="bench",
        environment={**os.environ, "MARK": str(mark)},
        settings=Settings(),
    )


def settled(registry: Registry, session: str) -> SessionRecord | None:
    """Return the record once its agent and keeper live."""
    record = registry.get(session)
    lives = (
        record.phase is Phase.RUNNING
        and not processes.observe(record.agent).is_gone
        and not processes.observe(record.owner).is_gone
    )
    return record if lives else None


def owners(records: list[SessionRecord]) -> list[ProcessIdentity]:
    return [record.owner for record in records if record.owner is not None]


def wait(condition: Callable[[], Any], what: str, pause_s: float = 0.005) -> Any:
    deadline_s = time.monotonic() + _LIMIT_S
    while not (found := condition()):
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"waited {_LIMIT_S:g} s for {what}")
        time.sleep(pause_s)
    return found


def time_bare_start(mark: Path) -> float:
    """Return the milliseconds from starting the agent by itself to its first act."""
    mark.unlink(missing_ok=True)
    began_s = time.time()
    child = subprocess.Popen(["sh", "-c", AGENT], env={**os.environ, "MARK": str(mark)})
    try:
        wait(lambda: count_lines(mark), "the bare agent", pause_s=0.0005)
        return (float(mark.read_text()) - began_s) * 1000
    finally:
        child.kill()
        child.wait()


def time_command(argv: list[str], environment: dict[str, str]) -> float:
    began_s = time.monotonic()
    subprocess.run(argv, env=environment, stdout=subprocess.DEVNULL, check=True)
    return (time.monotonic() - began_s) * 1000


def count_lines(path: Path) -> int:
    try:
        return path.read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def cpu_of(process: psutil.Process) -> float:
    """Return the seconds of processor time used so far, in nanosecond steps where the kernel tells them."""
    try:
        return (
            sum(
                int(thread.joinpath("schedstat").read_text().split()[0]) for thread in Path(f"/proc/{process.pid}/task").iterdir()
            )
            / 1e9
        )
    except (OSError, ValueError, IndexError):
        times = process.cpu_times()
        return float(times.user + times.system)


def row(what: str, unit: str, values: list[float], goal: str = "") -> dict[str, Any]:
    """Return a row of the table: count, median, 99th percentile, largest."""
    ordered = sorted(values)
    p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    return {
        "what": what,
        "unit": unit,
        "count": len(values),
        "p50": statistics.median(ordered),
        "p99": p99,
        "max": ordered[-1],
        "goal": goal,
    }


def print_table(rows: list[dict[str, Any]]) -> None:
    print(f"{'':75} {'n':>4} {'p50':>9} {'p99':>9} {'max':>9}      goal")
    for one in rows:
        figures = " ".join(f"{one[name]:>9.3g}" for name in ("p50", "p99", "max"))
        print(f"{one['what']:75} {one['count']:>4} {figures} {one['unit']:>3}  {one['goal']}")


if __name__ == "__main__":
    main()
