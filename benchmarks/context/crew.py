"""The processes of a run: forked from this one, which has everything loaded and no store open, and gone after it.

A forked child shares the interpreter's memory, so that 512 of them fit, and starts in milliseconds, so that no peer is
charged for imports. Each is ended by its proven identity, and the kernel ends it when the benchmark itself is killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import IO, Any

from coordinator.system import processes
from coordinator.system.processes import ProcessIdentity

#: Nothing that a child does takes longer than this between two messages, except where a caller says so. Arbitrary.
ANSWER_TIMEOUT_S = 120.0
_END_TIMEOUT_S = 10.0
#: A child that runs at all has written down where it stands by then.
_ACCOUNT_S = 0.5
_FORK = multiprocessing.get_context("fork")
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


class ChildFailed(RuntimeError):
    """A child ended with an error, which is the text, or without a word."""


@dataclass(frozen=True, slots=True)
class _Failure:
    text: str


@dataclass(slots=True)
class Child:
    """One process of a run, from outside."""

    process: BaseProcess
    identity: ProcessIdentity | None
    link: Connection
    #: Where it writes down where it stands, when asked to.
    notes: IO[str]

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def hear(self, timeout_s: float = ANSWER_TIMEOUT_S) -> Any:
        """Return the next thing the child says. Raises ``ChildFailed``."""
        if not self.link.poll(timeout_s):
            raise ChildFailed(f"a process said nothing for {timeout_s:g} s; it stands at\n{self._where()}")
        try:
            told = self.link.recv()
        except EOFError:
            raise ChildFailed("a process ended without a word") from None
        if isinstance(told, _Failure):
            raise ChildFailed(told.text)
        return told

    def _where(self) -> str:
        """Return where the child stands, by its own account."""
        self.notes.seek(0)
        self.notes.truncate()
        if self.identity is None or not processes.send_signal(self.identity, signal.SIGUSR1):
            return "its end"
        time.sleep(_ACCOUNT_S)
        self.notes.seek(0)
        return self.notes.read()

    def tell(self, what: object) -> None:
        """Say something to the child."""
        self.link.send(what)


class Crew:
    """The children of one run."""

    def __init__(self) -> None:
        self.children: list[Child] = []

    def start(self, act: Callable[..., object], *arguments: object) -> Child:
        """Let ``act(link, *arguments)`` run in a process of its own."""
        ours, theirs = _FORK.Pipe()
        notes = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the crew
        process = _FORK.Process(target=self._be_child, args=(ours, theirs, notes, os.getpid(), act, arguments), daemon=True)
        process.start()
        theirs.close()
        assert process.pid is not None
        # It is ours and nobody has reaped it, so the pid is still its own, whatever it does.
        child = Child(process=process, identity=processes.identify(process.pid), link=ours, notes=notes)
        self.children.append(child)
        return child

    def _be_child(
        self,
        ours: Connection,
        theirs: Connection,
        notes: IO[str],
        parent: int,
        act: Callable[..., object],
        arguments: tuple[object, ...],
    ) -> None:
        faulthandler.register(signal.SIGUSR1, notes)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # ctrl-c is the parent's to handle
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        die_with_parent()
        if os.getppid() != parent:
            os._exit(1)
        ours.close()
        for other in self.children:
            other.link.close()
            other.notes.close()
        try:
            act(theirs, *arguments)
        except BaseException:  # noqa: BLE001 - the outermost edge of a process; the parent raises it
            theirs.send(_Failure(traceback.format_exc()))

    def end(self) -> None:
        """End whoever still runs."""
        for child in self.children:
            child.link.close()
            child.notes.close()
            if child.identity is not None:
                processes.send_signal(child.identity, signal.SIGKILL)  # all first, so that none waits for another
        for child in self.children:
            end_process(child.identity, child.process)
        self.children.clear()


@contextlib.contextmanager
def open_crew() -> Iterator[Crew]:
    """Give a crew, and end all of it afterwards."""
    crew = Crew()
    gc.collect()
    gc.freeze()  # a collection in a child would copy every page it looks at
    try:
        yield crew
    finally:
        crew.end()
        gc.unfreeze()


def call(act: Callable[..., Any], *arguments: object, timeout_s: float = ANSWER_TIMEOUT_S) -> Any:
    """Return what ``act(*arguments)`` returns in a process of its own, where it may open a store."""
    with open_crew() as crew:
        return crew.start(_answer, act, *arguments).hear(timeout_s)


def _answer(link: Connection, act: Callable[..., Any], *arguments: object) -> None:
    link.send(act(*arguments))


def end_process(identity: ProcessIdentity | None, handle: BaseProcess | subprocess.Popen[str]) -> None:
    """End a child of ours, reap it, and see that it is gone."""
    if identity is not None:
        processes.send_signal(identity, signal.SIGKILL)
        if not processes.wait_gone(identity, _END_TIMEOUT_S):
            raise RuntimeError(f"process {identity.pid} does not end")
    if isinstance(handle, subprocess.Popen):
        handle.wait(_END_TIMEOUT_S)
    else:
        handle.join(_END_TIMEOUT_S)
        handle.close()


def die_with_parent() -> None:
    """Let the kernel end this process when its parent ends, however that happens. Linux; elsewhere nothing."""
    if sys.platform == "linux":
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
