"""The pool: warm processes that inspect states one after another, thousands a minute, and may die of them.

A state that kills its inspector, or keeps it busy for too long, is a finding like any other; the next one gets a new
inspector. States are put into memory (``/dev/shm``) where there is such a place.
"""

from __future__ import annotations

import importlib
import os
import pickle
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from coordinator.system import processes
from proof.launch import make_command

TESTS = Path(__file__).parent.parent
_LENGTH = struct.Struct("<Q")
#: Longer than any state may take. Arbitrary.
DEADLINE_S = 20.0


def make_environment() -> dict[str, str]:
    """Return the environment in which the proof's own programs run."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("CREWKEEP_", "COV_"))}
    environment["PYTHONPATH"] = str(TESTS)
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    return environment


def find_memory() -> Path:
    """Return a directory that is kept in memory, or the usual one for temporary files."""
    memory = Path("/dev/shm")
    return memory if memory.is_dir() and os.access(memory, os.W_OK) else Path(tempfile.gettempdir())


class Worker:
    """One warm process that runs ``module.function(scratch, *arguments)`` for each task."""

    def __init__(self, function: str, bug: str | None = None) -> None:
        self.scratch = Path(tempfile.mkdtemp(prefix="proof-", dir=find_memory()))
        command = make_command("proof.pool", function, self.scratch, bug=bug)
        self._process = subprocess.Popen(
            command, env=make_environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        identity = processes.identify(self._process.pid)
        assert identity is not None
        self.identity = identity

    def send(self, arguments: tuple[Any, ...]) -> None:
        data = pickle.dumps(arguments)
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(_LENGTH.pack(len(data)) + data)
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # told by the answer that does not come

    def receive(self, timeout_s: float = DEADLINE_S) -> Any:
        """Return the answer. Raises ``TimeoutError`` or ``ChildProcessError``."""
        assert self._process.stdout is not None
        stream = self._process.stdout
        if not select.select([stream], [], [], timeout_s)[0]:
            raise TimeoutError(f"no answer in {timeout_s:g} s")
        head = stream.read(_LENGTH.size)
        if len(head) < _LENGTH.size:
            raise ChildProcessError(f"died with {self._process.wait()}")
        return pickle.loads(stream.read(_LENGTH.unpack(head)[0]))

    def close(self) -> None:
        processes.send_signal(self.identity, signal.SIGKILL)
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            try:
                stream.close()
            except BrokenPipeError:
                pass
        self._process.wait()
        shutil.rmtree(self.scratch, ignore_errors=True)


class Pool:
    """Some workers; ``map`` yields the answers as they come, with the number of their task."""

    def __init__(self, function: str, *, bug: str | None = None, count: int | None = None) -> None:
        self._function, self._bug = function, bug
        self._workers = [Worker(function, bug) for _ in range(count or int(os.environ.get("PROOF_WORKERS", "1")))]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for worker in self._workers:
            worker.close()

    def map(self, tasks: Iterable[tuple[Any, ...]]) -> Iterator[tuple[int, Any]]:
        """Yield number and answer of every task. An exception of the task's, or of its worker's, is its answer."""
        waiting = enumerate(tasks)
        busy: dict[int, tuple[int, Worker]] = {}
        for index, worker in enumerate(self._workers):
            self._begin(busy, index, worker, waiting)
        index = 0
        while busy:
            index = (index + 1) % len(self._workers)
            if index not in busy:
                continue
            number, worker = busy.pop(index)
            try:
                answer = worker.receive()
            except (TimeoutError, ChildProcessError) as error:
                answer = [f"the inspector {error}"]
                worker.close()
                worker = self._workers[index] = Worker(self._function, self._bug)
            self._begin(busy, index, worker, waiting)
            yield number, answer

    def _begin(
        self, busy: dict[int, tuple[int, Worker]], index: int, worker: Worker, waiting: Iterator[tuple[int, tuple[Any, ...]]]
    ) -> None:
        task = next(waiting, None)
        if task is not None:
            worker.send(task[1])
            busy[index] = task[0], worker


def main(function: str, scratch: str) -> None:
    """Serve: read a task, answer it, until the other end is closed."""
    module, _, name = function.rpartition(".")
    act = getattr(importlib.import_module(module), name)
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    while len(head := requests.read(_LENGTH.size)) == _LENGTH.size:
        arguments = pickle.loads(requests.read(_LENGTH.unpack(head)[0]))
        try:
            answer = act(Path(scratch), *arguments)
        except Exception as error:  # its answer
            answer = [f"{type(error).__name__}: {error}"]
        data = pickle.dumps(answer)
        answers.write(_LENGTH.pack(len(data)) + data)
        answers.flush()
