"""The main job, in a temporary home, before the user's eyes: four sessions, two ``kill -9``, nothing lost.

Four workers fill one task board in the shared context. In the middle one's agent and another's keeper are ended with
SIGKILL. What is told at the end was measured: deaths and starts from the records as they change, lost writes by looking
up every write that a worker saw acknowledged, leftovers by looking for every process that carries the home's mark.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from coordinator.config import is_secret, load_settings
from coordinator.context import SharedContext
from coordinator.errors import CrewkeepError, TimedOut
from coordinator.paths import Home
from coordinator.sessions.model import Phase, Restart, SessionRecord
from coordinator.sessions.registry import Registry
from coordinator.sessions.workspace import workspace_id
from coordinator.system import processes, scan, tree
from coordinator.system.processes import ProcessIdentity
from crewkeep.demo_result import DemoResult, Kill
from crewkeep.demo_screen import Screen, State
from crewkeep.demo_worker import PREFIX, is_prime, read_ledger

NAMES = ("ada", "ben", "cleo", "dan")
WORKSPACE = "demo"
TASK_COUNT, TASK_SIZE = 60, 2000
#: Tasks done when the agent, and later the keeper, is killed.
_KILL_AGENT_AT, _KILL_KEEPER_AT = 14, 32
#: Far longer than it takes; then something is wrong and the demo says what.
_LIMIT_S = 60.0
_LOOK_S, _FRAME_S = 0.002, 0.1
_CLEAN_UP_S = 8.0


def run_demo(*, show: bool = True) -> DemoResult:
    """Run the demo and return what was measured; with ``show`` the user watches it on stdout."""
    started_s = time.monotonic()
    place = Path(tempfile.mkdtemp(prefix="crewkeep-demo-"))
    home = Home.at(place / "home")
    result = DemoResult(task_count=TASK_COUNT)
    screen = Screen(sys.stdout if show else None, TASK_COUNT)
    try:
        _Demo(home, place, result, screen, started_s).run()
    finally:
        result.leftover_processes += _clean_up(home)
        shutil.rmtree(place, ignore_errors=True)
        result.leftover_files = int(place.exists())
        result.seconds = time.monotonic() - started_s
        screen.close()
    screen.show_result(result)
    return result


class _Demo:
    def __init__(self, home: Home, place: Path, result: DemoResult, screen: Screen, started_s: float) -> None:
        self._home, self._result, self._screen, self._started_s = home, result, screen, started_s
        self._registry = Registry(home)
        self._ledger = place / "ledger"
        self._work = place / "work"
        self._next_frame_s = 0.0
        self._records: dict[str, SessionRecord] = {}

    def run(self) -> None:
        self._work.mkdir()
        context = SharedContext.open(self._home.context(workspace_id(WORKSPACE)))
        try:
            for number in range(TASK_COUNT):
                task = {"state": "open", "from": number * TASK_SIZE, "to": (number + 1) * TASK_SIZE}
                context.put(f"{PREFIX}{number:03}", task, expected_version=0)
            self._say(f"{TASK_COUNT} tasks are on the board; four sessions start")
            for name in NAMES:
                self._start(name)
            self._wait(lambda: self._count_done(context) >= _KILL_AGENT_AT, context, "the first tasks")
            self._kill(NAMES[1], "agent", context)
            self._wait(lambda: self._count_done(context) >= _KILL_KEEPER_AT, context, "half of the tasks")
            self._kill(NAMES[2], "keeper", context)
            self._wait(lambda: self._count_done(context) == TASK_COUNT, context, "the last task")
            self._wait(lambda: all(one.phase is Phase.ENDED for one in self._look().values()), context, "the sessions' ends")
            self._say("the board is done; every acknowledged write is looked up")
            self._next_frame_s = 0.0
            self._draw(context)
            self._check(context)
        finally:
            context.close()

    def _start(self, name: str) -> None:
        from crewkeep.starting import start_session

        environment = {key: value for key, value in os.environ.items() if not key.startswith("CREWKEEP_") and not is_secret(key)}
        record = start_session(
            self._home,
            [sys.executable, "-P", "-m", "crewkeep.demo_worker", str(self._ledger)],
            name=name,
            agent=None,
            cwd=str(self._work),
            restart=Restart.ON_CRASH,
            workspace=WORKSPACE,
            environment=environment,
            settings=load_settings(environment),
            rows=24,
            columns=80,
        )
        self._records[name] = record
        self._say(f"{name} runs")

    def _kill(self, name: str, what: str, context: SharedContext) -> None:
        record = self._registry.get(self._records[name].id)
        victim = record.agent if what == "agent" else record.owner
        assert victim is not None, "a running session has an agent and a keeper"
        kill = Kill(session=name, what=what, pid=victim.pid, at=time.monotonic() - self._started_s)
        self._result.kills.append(kill)
        killed_s = time.monotonic()
        processes.send_signal(victim, signal.SIGKILL)
        # Nothing is drawn until it is noticed: it takes milliseconds, and drawing would be measured with it.
        before = record
        self._wait(lambda: self._read(name).epoch > before.epoch, None, f"the recovery of {name}")
        kill.noticed_ms = (time.monotonic() - killed_s) * 1000
        self._say(f"kill -9 {victim.pid}: the {what} of {name}; noticed after {kill.noticed_ms:.0f} ms", "red")
        self._wait(lambda: self._is_back(name, victim, what), context, f"the return of {name}")
        kill.running_ms = (time.monotonic() - killed_s) * 1000
        now = self._read(name)
        self._say(f"{name} runs again after {kill.running_ms:.0f} ms, at epoch {now.epoch}", "green")

    def _is_back(self, name: str, victim: ProcessIdentity, what: str) -> bool:
        record = self._read(name)
        current = record.agent if what == "agent" else record.owner
        running = record.phase is Phase.RUNNING and current is not None and current != victim
        return record.phase is Phase.ENDED or (running and not processes.observe(record.agent).is_gone)

    def _wait(self, condition: Callable[[], bool], context: SharedContext | None, what: str) -> None:
        deadline_s = self._started_s + _LIMIT_S
        while not condition():
            if time.monotonic() >= deadline_s:
                raise TimedOut(f"{what} did not come within {_LIMIT_S:g} s", hint="crewkeep doctor")
            if context is not None:
                self._draw(context)
            time.sleep(_LOOK_S if context is None else _LOOK_S * 5)

    def _draw(self, context: SharedContext) -> None:
        if time.monotonic() >= self._next_frame_s:
            self._next_frame_s = time.monotonic() + _FRAME_S
            board = [entry.value for _, entry in sorted(context.snapshot(PREFIX).items())]
            self._screen.draw(State(seconds=time.monotonic() - self._started_s, board=board, records=self._look()))

    def _say(self, text: str, colour: str = "") -> None:
        self._screen.say(time.monotonic() - self._started_s, text, colour)

    def _look(self) -> dict[str, SessionRecord]:
        return {name: self._read(name) for name in self._records}

    def _read(self, name: str) -> SessionRecord:
        return self._registry.get(self._records[name].id)

    def _count_done(self, context: SharedContext) -> int:
        return sum(entry.value["state"] == "done" for entry in context.snapshot(PREFIX).values())

    def _check(self, context: SharedContext) -> None:
        result, board = self._result, context.snapshot(PREFIX)
        result.tasks_done = sum(entry.value["state"] == "done" for entry in board.values())
        for entry in board.values():
            task = entry.value
            result.wrong_results += task.get("primes") != sum(map(is_prime, range(task["from"], task["to"])))
        for noted in read_ledger(self._ledger):
            result.writes_acknowledged += 1
            kept = context.get_version(noted["key"], noted["version"])
            found = kept and {"value": kept.value, "author": kept.author, "epoch": kept.epoch}
            result.writes_lost += found != {name: noted[name] for name in ("value", "author", "epoch")}
        result.context_findings = len(context.check())


def _clean_up(home: Home) -> int:
    """End what still lives of the home; return how many processes had no business to."""
    registry = Registry(home)
    living = [one for one in registry.list_all() if isinstance(one, SessionRecord) and one.phase is not Phase.ENDED]
    if living:  # the demo was interrupted, or failed: not counted, only ended
        from crewkeep.ending import kill_session

        for record in living:
            try:
                kill_session(home, registry, record)
            except CrewkeepError:
                pass  # what is left is found and ended below
    deadline_s = time.monotonic() + _CLEAN_UP_S
    # The patrol leaves by itself once nothing is left to watch.
    while (found := scan.find_home_processes(str(home.path))) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    if found:
        tree.end_tree(roots=[identity for identity, _ in found], nonces=(), cgroup=None, timeout_s=_CLEAN_UP_S)
    return len(found)
