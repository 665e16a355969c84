"""Interruption: a program is killed at each of its system calls, or one of them fails with an error; others go on.

The program is a fork of a warm process that waits at a gate until strace has attached to it, so that a round takes
some hundredths of a second and counts begin where the scenario begins. strace kills at the entry of the call: it was not made.
The same call of two runs is the same n-th of its name; what another run does differently is told as missed.
"""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from coordinator.system import processes
from proof.crash_run import BOOTS, play
from proof.disk import Tree
from proof.launch import make_command
from proof.pool import Pool, find_memory, make_environment
from proof.recorder import read_statements
from proof.scenarios import SCENARIOS
from proof.witness import Expectation

#: Errors that a call of that name can give, and that a program must survive.
ERRORS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("openat", "open", "creat"), ("EMFILE", "ENOSPC", "EIO", "EACCES", "EINTR")),
    **dict.fromkeys(("read", "pread64"), ("EIO", "EINTR")),
    **dict.fromkeys(("write", "pwrite64", "writev", "pwritev", "pwritev2"), ("ENOSPC", "EIO", "EDQUOT", "EINTR")),
    **dict.fromkeys(("ftruncate", "fallocate"), ("ENOSPC", "EIO", "EINTR")),
    **dict.fromkeys(("fsync", "fdatasync"), ("EIO", "ENOSPC", "EINTR")),
    **dict.fromkeys(
        ("rename", "renameat", "renameat2", "link", "linkat", "unlink", "unlinkat", "mkdir"), ("ENOSPC", "EIO", "EROFS")
    ),
    "flock": ("ENOLCK", "EINTR"),
    "mmap": ("ENOMEM", "ENODEV"),
    **dict.fromkeys(("fstat", "stat", "newfstatat", "statx", "lstat", "getdents64", "statfs", "fstatfs"), ("EIO",)),
}
#: Calls that only look; where they look at files of others (the witness's at what is mapped), nothing changes in between.
_LOOKING = {"read", "newfstatat", "lseek", "ioctl", "getpid", "fcntl", "close", "openat", "brk", "mremap", "munmap"}
_CALL = re.compile(rb"^\d+ +(\w+)\(")


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """The n-th call of a name, as strace counts them for ``inject``."""

    call: str
    nth: int
    #: Whether it is about a file of the context, and can fail: a lock of a local file can always be given back.
    is_ours: bool
    #: Whether being killed there can differ from being killed at the call before.
    matters: bool


@dataclass(slots=True)
class Figures:
    """What came of a run."""

    rounds: int = 0
    #: Rounds whose point was not reached this time.
    missed: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    bad: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        failures = ", ".join(f"{count} {name}" for name, count in sorted(self.failures.items()))
        return f"{self.rounds} rounds, {self.missed} missed, {len(self.bad)} bad" + (f"; errors: {failures}" if failures else "")


class Theatre:
    """A warm process that forks a program at request, and holds it at a gate."""

    def __init__(self, strace: str, directory: Path, bug: str | None = None) -> None:
        self._strace, self.directory = strace, directory
        self._gate = directory / "gate"
        os.mkfifo(self._gate)
        # Open at both ends, so that neither side waits for a reader that was killed on its way.
        self._gate_fd = os.open(self._gate, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        command = make_command("proof.interruption", bug=bug)
        self._process = subprocess.Popen(
            command, env=make_environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        identity = processes.identify(self._process.pid)
        assert identity is not None
        self._identity = identity

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        processes.send_signal(self._identity, signal.SIGKILL)
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()
        self._process.wait()
        os.close(self._gate_fd)

    def run(self, task: dict[str, Any], options: list[str] | None = None) -> int:
        """Let the task be played, under strace if there are ``options``; returns its exit code, negative for a signal."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps({**task, "gate": str(self._gate)}).encode() + b"\n")
        self._process.stdin.flush()
        pid = int(self._process.stdout.readline())
        tracer = None
        if options is not None:
            tracer = subprocess.Popen([self._strace, "-f", "-p", str(pid), *options], stderr=subprocess.PIPE)
            assert tracer.stderr is not None
            line = tracer.stderr.readline()
            assert b"attached" in line, line
        os.write(self._gate_fd, b"!")
        code = int(self._process.stdout.readline())
        if tracer is not None:
            assert tracer.stderr is not None
            tracer.stderr.read()
            tracer.stderr.close()
            tracer.wait()
        try:
            os.read(self._gate_fd, 16)  # closed again, for the next
        except BlockingIOError:
            pass
        return code


def list_points(theatre: Theatre, task: dict[str, Any], root: Path) -> list[Point]:
    """Play a task to its end and return every call that it made."""
    trace = theatre.directory / "calls"
    code = theatre.run(task, ["-y", "-o", str(trace)])
    assert code == 0, f"without any interruption it ended with {code}: {(theatre.directory / 'error').read_text()}"
    counts: Counter[str] = Counter()
    points = []
    mark = os.fsencode(root)
    for line in trace.read_bytes().splitlines():
        if match := _CALL.match(line):
            call = match[1].decode()
            counts[call] += 1
            # What the witness reads of its own maps names our files as well.
            is_ours = mark in line and b"LOCK_UN" not in line and b"/maps>" not in line
            points.append(Point(call=call, nth=counts[call], is_ours=is_ours, matters=is_ours or call not in _LOOKING))
    return points


class Interruptions:
    """One scenario, and everything that can come in between."""

    def __init__(self, strace: str, name: str, bug: str | None = None) -> None:
        self.name, self._strace, self._bug = name, strace, bug
        self.scenario = SCENARIOS[name]
        self.directory = Path(tempfile.mkdtemp(prefix="proof-", dir=find_memory()))
        self._root, self._said = self.directory / "root", self.directory / "said"
        self._root.mkdir(mode=0o700)
        play(name, self._root, self._said, "before", BOOTS[0])
        self._before, self._before_said = Tree.read(self._root), self._said.read_bytes() if self._said.exists() else b""
        self._theatre = Theatre(strace, self.directory, bug)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._theatre.__exit__(kind, error, trace)
        shutil.rmtree(self.directory, ignore_errors=True)

    def list_points(self, task: str = "scenario") -> list[Point]:
        self._reset()
        return list_points(self._theatre, self._make_task(task), self._root)

    def kill_at(self, points: list[Point], stop_at: int | None = None) -> Figures:
        """Kill the scenario at each point; then another process must find everything acknowledged, and go on."""
        figures = Figures()

        def rounds() -> Iterator[tuple[Any, ...]]:
            for point in points:
                self._reset()
                code = self._theatre.run(self._make_task("scenario"), _inject(point, "signal=KILL"))
                figures.rounds += 1
                figures.missed += code == 0
                if code not in (0, -signal.SIGKILL):
                    figures.bad.append(f"{self.name}: before {point.call} {point.nth} it ended with {code}")
                yield self._look()

        return self._inspect(figures, rounds(), [f"killed at {point.call} {point.nth}" for point in points], stop_at)

    def fail_at(self, points: list[tuple[Point, str]], stop_at: int | None = None) -> Figures:
        """Let each call fail once while the errands are run."""
        tasks: list[tuple[str, dict[str, Any], list[str] | None]] = []
        for point, error in points:
            tasks.append((f"{error} at {point.call} {point.nth}", {}, _inject(point, f"error={error}")))
        return self._hamper(tasks, stop_at)

    def limit_files(self, limits: list[int]) -> Figures:
        """Let no file grow beyond each limit: a short write, then an error, until it is lifted."""
        return self._hamper([(f"no file above {limit} bytes", {"file_limit": limit}, None) for limit in limits])

    def shorten_writes(self) -> Figures:
        """Let every write be short."""
        return self._hamper([(f"short writes: {short}", {"short": short}, None) for short in ("one", "half", "most")])

    def _hamper(self, tasks: list[tuple[str, dict[str, Any], list[str] | None]], stop_at: int | None = None) -> Figures:
        figures = Figures()

        def rounds() -> Iterator[tuple[Any, ...]]:
            for what, more, options in tasks:
                self._reset()
                code = self._theatre.run({**self._make_task("errands"), **more}, options)
                figures.rounds += 1
                statements = read_statements(self._said)
                causes = [f"{statement['failed']} {statement['cause']}" for statement in statements if "failed" in statement]
                figures.failures.update(causes)
                figures.missed += not causes
                faults = [statement["fault"] for statement in statements if "fault" in statement]
                if code != 0:
                    faults.append(f"ended with {code}: {self._read_error()[-300:]}")
                figures.bad += [f"{self.name}: {what}: {fault}" for fault in faults]
                yield self._look()

        return self._inspect(figures, rounds(), [what for what, _, _ in tasks], stop_at)

    def _inspect(self, figures: Figures, rounds: Iterator[tuple[Any, ...]], names: list[str], stop_at: int | None) -> Figures:
        with Pool("proof.crash_run.inspect_state", bug=self._bug, count=1) as pool:
            for number, faults in pool.map(rounds):
                if faults:
                    figures.bad.append(f"{self.name}: {names[number]}: {'; '.join(faults)}")
                if stop_at is not None and len(figures.bad) >= stop_at:
                    break
        return figures

    def _look(self) -> tuple[Any, ...]:
        expected = Expectation.make(read_statements(self._said))
        return Tree.read(self._root), expected, "kill", 0, self.scenario.durability, self.scenario.shards

    def _reset(self) -> None:
        shutil.rmtree(self._root)
        self._before.put(self._root)
        self._said.write_bytes(self._before_said)
        (self.directory / "error").unlink(missing_ok=True)

    def _read_error(self) -> str:
        error = self.directory / "error"
        return error.read_text() if error.exists() else ""

    def _make_task(self, kind: str) -> dict[str, Any]:
        return {"kind": kind, "scenario": self.name, "root": str(self._root), "said": str(self._said)}


def _inject(point: Point, what: str) -> list[str]:
    return ["-e", f"trace={point.call}", "-e", f"inject={point.call}:{what}:when={point.nth}", "-o", "/dev/null"]


def main() -> None:
    """Fork a program for every task, hold it at its gate, and tell how it ended."""
    from proof import errands, scenarios

    assert errands and scenarios, "loaded before the first fork"
    for line in sys.stdin.buffer:
        task = json.loads(line)
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                play_task(task)
                code = 0
            except BaseException as error:  # told by its exit code, and in a file
                import traceback

                Path(task["root"]).with_name("error").write_text("".join(traceback.format_exception(error)))
            finally:
                os._exit(code)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def play_task(task: dict[str, Any]) -> None:
    from proof import engine, errands, program

    # Waits with a call that nobody counts: one that an attachment interrupts may be counted twice.
    gate = os.open(task["gate"], os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    os.write(1, f"{os.getpid()}\n".encode())
    if not select.select([gate], [], [], 60)[0]:
        os._exit(3)  # whoever was to open it is gone
    os.close(gate)
    if task["kind"] == "scenario":
        program.run(task["scenario"], task["root"], task["said"], "during", BOOTS[0])
        return
    engine.set_boot(BOOTS[0])
    engine.make_small()
    witness = errands.LimitedWitness(task["said"], task["root"], ignored=engine.WITHOUT_DATA, who="errands")
    errands.run(task["root"], witness, file_limit=task.get("file_limit"), short=task.get("short"))
