"""The crew: processes that put, compare-and-swap, get, delete and update a few keys, while some are killed and stopped.

One process forks them, kills them by the pid of its own unreaped children, forks others in their place, stops them in the
middle of whatever they do, and ends when they have done enough. It is the only parent, so no pid can mean anybody else.
"""

from __future__ import annotations

import os
import random
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from coordinator.context import SharedContext
from coordinator.errors import Busy, NotFound, VersionConflict
from proof import engine
from proof.history import ENTRY_BYTES, FOREVER, GONE, Act, Kind, Outcome, Recorder, read_history
from proof.launch import make_command
from proof.pool import find_memory, make_environment
from proof.register import judge_register

KEYS = 3
#: Chosen so often.
_CHOICE = [Kind.GET] * 5 + [Kind.NEWEST] + [Kind.PUT] * 2 + [Kind.CAS] * 4 + [Kind.DELETE] + [Kind.UPDATE] * 2
#: Now and then somebody only reads for a while: a writer is told in many ways that the log was replaced, a reader in one.
_SPELL_CHANCE, _SPELL_READS = 0.005, 100


@dataclass(slots=True)
class Figures:
    """What came of a run."""

    operations: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    kills: int = 0
    stops: int = 0
    bad: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        kinds = ", ".join(f"{count} {name}" for name, count in sorted(self.kinds.items()))
        return f"{self.operations} operations ({kinds}), {self.kills} kills, {self.stops} stops, {len(self.bad)} violations"


def run_crew(
    *, members: int, operations: int, seed: int, deadline_s: float, pace_s: float = 0.015, kills: int = 0, is_small: bool = False,
    directory: Path | None = None, bug: str | None = None,
) -> Figures:  # fmt: skip
    """Let ``members`` processes do about that many operations under that many kills, and judge what they were told.

    ``is_small``: with the knobs turned, so that logs are compacted and tables saved all the time.
    """
    base = Path(tempfile.mkdtemp(prefix="proof-", dir=directory or find_memory()))
    try:
        command = make_command("proof.crew", base, members, operations, seed, deadline_s, pace_s, kills, int(is_small), bug=bug)
        done = subprocess.run(command, env=make_environment(), capture_output=True, timeout=deadline_s + 60, check=False)
        assert done.returncode == 0, done.stderr.decode(errors="replace")[-3000:]
        killed, stopped = (int(word) for word in done.stdout.split())
        figures = Figures(kills=killed, stops=stopped)
        try:
            with engine.like_the_others(), SharedContext.open(base / "context") as context:
                figures.bad += [f"check: {finding.message}" for finding in context.check()]
                _look_back(context, Recorder(base / "99999.acts"))
        except Exception as error:  # whatever it is, it is what is wrong
            figures.bad.append(f"afterwards: {type(error).__name__}: {error}")
        for acts in read_history(sorted(base.glob("*.acts"))).values():
            figures.operations += len(acts)
            figures.kinds.update(f"{Kind(act.kind).name.lower()} {Outcome(act.outcome).name.lower()}" for act in acts)
            figures.bad += judge_register(acts)
        figures.bad += [f"a member ended by itself: {path.read_text()[-500:]}" for path in base.glob("*.error")]
        return figures
    finally:
        shutil.rmtree(base, ignore_errors=True)


def _look_back(context: SharedContext, recorder: Recorder) -> None:
    for key in range(KEYS):
        invoked = time.monotonic_ns()
        history = context.history(f"k{key}")
        returned = time.monotonic_ns()
        if history:
            token = GONE if history[0].deleted else history[0].value
            recorder.end(Act(Kind.NEWEST, key, Outcome.DONE, invoked, returned, history[0].version, token))
        assert [item.version for item in history] == list(range(len(history) and history[0].version, 0, -1))[: len(history)]


class Member:
    """One process at work."""

    def __init__(self, base: Path, number: int, seed: int) -> None:
        self._context = SharedContext.open(base / "context", shards=1)
        self._recorder = Recorder(base / f"{number}.acts")
        self._chance = random.Random(f"{seed}/{number}")
        self._token = number << 32
        #: Version last met, by key: what a compare-and-swap expects, mostly rightly.
        self._met = dict.fromkeys(range(KEYS), 0)

    def work(self, parent: int) -> None:
        """Go on until killed, or until there is nobody any more who would do it."""
        while os.getppid() == parent:
            if self._chance.random() < _SPELL_CHANCE:
                for _ in range(_SPELL_READS):
                    self.act(Kind.GET, self._chance.randrange(KEYS))
            self.act(self._chance.choice(_CHOICE), self._chance.randrange(KEYS))

    def act(self, kind: Kind, key: int) -> None:
        if kind in (Kind.GET, Kind.NEWEST):
            self._recorder.end(self._read(kind, key))
            return
        self._token += 1
        expected = max(0, self._met[key] + self._chance.choice((0, 0, 0, 0, -1))) if kind is Kind.CAS else 0
        token = GONE if kind is Kind.DELETE else self._token
        begun = Act(kind, key, Outcome.UNKNOWN, time.monotonic_ns(), FOREVER, 0, token, expected)
        self._recorder.begin(begun)
        self._recorder.end(self._write(begun))

    def _read(self, kind: Kind, key: int) -> Act:
        invoked = time.monotonic_ns()
        if kind is Kind.GET:
            entry = self._context.get(f"k{key}")
        else:
            entry = next(iter(self._context.history(f"k{key}")), None)
        returned = time.monotonic_ns()
        self._met[key] = entry.version if entry is not None and not entry.deleted else 0
        if entry is None:
            return Act(kind, key, Outcome.ABSENT, invoked, returned)
        return Act(kind, key, Outcome.DONE, invoked, returned, entry.version, GONE if entry.deleted else entry.value)

    def _write(self, begun: Act) -> Act:
        name = f"k{begun.key}"
        based = begun.expected

        def replace(value: int | None) -> int:
            nonlocal based
            based = GONE if value is None else value
            return begun.token

        outcome, version = Outcome.DONE, 0
        try:
            if begun.kind == Kind.PUT:
                version = self._context.put(name, begun.token, unconditional=True).version
            elif begun.kind == Kind.CAS:
                version = self._context.put(name, begun.token, expected_version=begun.expected).version
            elif begun.kind == Kind.DELETE:
                version = self._context.delete(name, unconditional=True).version
            else:
                version = self._context.update(name, replace, tries=3).version
            self._met[begun.key] = version if begun.kind != Kind.DELETE else 0
        except VersionConflict as conflict:
            self._met[begun.key] = version = conflict.actual_version
            # What an update met was met in one of its tries, and says nothing about what was expected.
            outcome = Outcome.CONFLICT if begun.kind == Kind.CAS else Outcome.REFUSED
        except NotFound:
            outcome = Outcome.ABSENT
        except Busy:
            outcome = Outcome.REFUSED
        return begun._replace(outcome=outcome, returned=time.monotonic_ns(), version=version, expected=based)


def main(
    base_text: str, members: str, operations: str, seed: str, deadline_s: str, pace_s: str, wanted_kills: str, small: str
) -> None:
    """Be the parent: start members, kill or stop one about every ``pace_s``, end when enough is done."""
    base, chance = Path(base_text), random.Random(int(seed))
    if int(small):
        engine.make_small()
    SharedContext.open(base / "context", shards=1).close()
    count, kills, stops = 0, 0, 0
    living: list[int] = []
    stopped: list[int] = []
    until_s = time.monotonic() + float(deadline_s)

    def start() -> None:
        nonlocal count
        count += 1
        parent = os.getpid()
        if (pid := os.fork()) == 0:
            try:
                Member(base, count, int(seed)).work(parent)
            except BaseException as error:  # told in a file
                (base / f"{count}.error").write_text(f"{type(error).__name__}: {error}")
            finally:
                os._exit(1)
        living.append(pid)

    while len(living) < int(members):
        start()

    def is_enough() -> bool:
        return kills >= int(wanted_kills) and _count_entries(base) >= int(operations)

    while time.monotonic() < until_s and not is_enough() and not any(base.glob("*.error")):
        select.select([], [], [], chance.uniform(0, 2 * float(pace_s)))  # no condition: this is the pace of the mischief
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
        stopped.clear()
        victim = chance.choice(living)
        if chance.random() < 0.5:
            os.kill(victim, signal.SIGSTOP)
            stopped.append(victim)
            stops += 1
        else:
            os.kill(victim, signal.SIGKILL)
            os.waitpid(victim, 0)
            living.remove(victim)
            start()
            kills += 1
    for pid in living:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    print(kills, stops)


def _count_entries(base: Path) -> int:
    # A write has two entries, a read one; two of three acts are writes.
    return sum(path.stat().st_size for path in base.glob("*.acts")) // ENTRY_BYTES * 3 // 5
