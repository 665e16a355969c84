"""The worker of ``crewkeep demo``: takes tasks from a board in the shared context until all are done.

A task is a range of numbers; its result, how many primes there are in it. A task is taken by compare-and-swap, so of
several workers that want it one gets it. A worker that was killed comes back as the next incarnation of its session,
finds the task it had taken on the board, and finishes it: there is nothing else it would have to remember.

Each write that was acknowledged is noted in a ledger beside the store, against which the demo checks the store at the end.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from coordinator.context import SharedContext
from coordinator.context.model import Entry
from coordinator.errors import VersionConflict
from crewkeep.session import Session

PREFIX = "tasks/"
#: Pieces that a task is worked on in, and the pause after each: the demo shall be watched, not raced.
_PIECES, _PAUSE_S = 3, 0.15


def main() -> None:
    """Work until every task of the board is done. Argument: the ledger's path."""
    ledger = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    with Session.current() as session:
        worker = _Worker(session.context, session.name, ledger)
        print(f"{session.name}: at work, epoch {session.epoch}", flush=True)
        while (entry := worker.take()) is not None:
            primes = _count_slowly(entry.value["from"], entry.value["to"])
            worker.finish(entry, primes)
            print(f"{session.name}: {entry.key} has {primes} primes", flush=True)
        print(f"{session.name}: the board is done", flush=True)


class _Worker:
    def __init__(self, context: SharedContext, name: str, ledger: int) -> None:
        self._context, self._name, self._ledger = context, name, ledger

    def take(self) -> Entry | None:
        """Return a task that is ours to work on: one taken before a crash, else an open one; ``None`` when all are done."""
        while True:
            board = self._context.snapshot(PREFIX)
            if all(entry.value["state"] == "done" for entry in board.values()):
                return None
            for entry in board.values():
                if entry.value["state"] == "taken" and entry.value["by"] == self._name:
                    return entry
            for entry in board.values():
                if entry.value["state"] == "open" and (taken := self._try_put(entry, "taken")) is not None:
                    return taken
            time.sleep(_PAUSE_S)  # the rest is in the hands of others

    def finish(self, entry: Entry, primes: int) -> None:
        """Put the result on the board and count it."""
        assert self._try_put(entry, "done", primes=primes) is not None, "nobody else may touch a taken task"
        self._note(self._context.update(f"done/{self._name}", lambda count: (count or 0) + 1))

    def _try_put(self, entry: Entry, state: str, **result: Any) -> Entry | None:
        value = {**entry.value, "state": state, "by": self._name, **result}
        try:
            written = self._context.put(entry.key, value, expected_version=entry.version)
        except VersionConflict:
            return None  # another was faster
        self._note(written)
        return written

    def _note(self, entry: Entry) -> None:
        line = {"key": entry.key, "version": entry.version, "value": entry.value, "author": entry.author, "epoch": entry.epoch}
        os.write(self._ledger, (json.dumps(line) + "\n").encode())


def _count_slowly(first: int, end: int) -> int:
    found, size = 0, (end - first + _PIECES - 1) // _PIECES
    for start in range(first, end, size):
        found += sum(map(is_prime, range(start, min(start + size, end))))
        time.sleep(_PAUSE_S)
    return found


def is_prime(number: int) -> bool:
    """Tell whether ``number`` is a prime, by trial."""
    return number > 1 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))


def read_ledger(path: Path) -> list[dict[str, Any]]:
    """Return what the workers noted, but for a last line that a kill cut short."""
    lines = path.read_bytes().split(b"\n") if path.exists() else []
    return [json.loads(line) for line in lines[:-1]]


if __name__ == "__main__":
    main()
