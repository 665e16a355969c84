"""Errands: everything a context is asked to do, by somebody who goes on when one of it fails, and says how it failed.

After a failure the old state must be readable and, as nothing fails any more, writing must work: with the same handle, or
where a flush has failed, with a new one.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from typing import Any

from coordinator.errors import CrewkeepError, StorageError
from proof.scenarios import Stage
from proof.witness import Witness


class Errands:
    """One run of them. ``lift`` is called at the first failure and ends what makes things fail."""

    def __init__(self, stage: Stage, lift: Callable[[], None] = lambda: None) -> None:
        self.stage, self.lift = stage, lift
        self.failures = 0

    def run(self) -> None:
        stage = self.stage
        acts: list[Callable[[], Any]] = [
            lambda: stage.put("a", "one"),
            lambda: stage.put("big", "B" * 3000),
            lambda: stage.count("n"),
            lambda: stage.delete("a"),
            lambda: stage.set_rule("max/", "max"),
            lambda: stage.fence("other", 3),
            stage.reopen,
            lambda: stage.count("n"),
            lambda: stage.put("a", "two"),
            lambda: list(stage.context.watch("", timeout_s=0)),
            lambda: stage.put("late", "l" * 600),
            lambda: self._say_findings(stage.context.check()),
        ]
        for act in acts:
            self._attempt(act)

    def _attempt(self, act: Callable[[], Any]) -> None:
        try:
            act()
            return
        except CrewkeepError as error:
            cause = error.cause if isinstance(error, StorageError) else error.code
            self.stage.witness.say({"failed": type(error).__name__, "cause": cause})
        except Exception as error:
            self.stage.witness.say({"fault": f"not one of ours: {type(error).__name__}: {error}"})
        self.failures += 1
        self.lift()
        if self.failures > 1:
            self.stage.witness.say({"fault": f"one fault, and {self.failures} acts failed"})
        self._look_and_go_on()

    def _look_and_go_on(self) -> None:
        stage = self.stage
        try:
            if stage._context is None or stage.directory.exists():
                for key in list(stage.context.keys()):
                    stage.context.history(key)
        except Exception as error:
            stage.witness.say({"fault": f"after it, nothing can be read: {type(error).__name__}: {error}"})
        for handle in ("the same", "a new one"):
            try:
                stage.put("resumed", handle)
                break
            except CrewkeepError as error:
                stage.witness.say({"refused": str(error)[:200], "handle": handle})
                if handle == "a new one":
                    stage.witness.say({"fault": f"after it, nothing can be written: {error}"})
                stage.reopen()

    def _say_findings(self, findings: list[Any]) -> None:
        for finding in findings:
            self.stage.witness.say({"fault": f"check: {finding.message}"})


class LimitedWitness(Witness):
    """A witness that may speak although no file may grow beyond a limit."""

    limit: int | None = None

    def say(self, statement: dict[str, Any]) -> None:
        set_file_limit(None)
        super().say(statement)
        set_file_limit(self.limit)


def set_file_limit(limit: int | None) -> None:
    """Let no file of this process grow beyond so many bytes: a write across the limit is short, the next one fails."""
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY if limit is None else limit, hard))


def shorten_writes(keep: Callable[[int], int], said_fd: int) -> None:
    """Let every write of this process take only ``keep(n)`` of ``n`` bytes, the witness's excepted."""
    write, pwrite, writev, pwritev = os.write, os.pwrite, os.writev, os.pwritev

    def cut(data: Any) -> Any:
        view = memoryview(data).cast("B")
        return view[: max(1, keep(len(view)))] if len(view) else view

    def join(parts: Any) -> bytes:
        return b"".join(bytes(part) for part in parts)

    def short_write(fd: int, data: Any) -> int:
        return write(fd, data if fd == said_fd else cut(data))

    os.write = short_write
    os.pwrite = lambda fd, data, offset: pwrite(fd, cut(data), offset)
    os.writev = lambda fd, parts: writev(fd, [cut(join(parts))])
    os.pwritev = lambda fd, parts, offset, flags=0: pwritev(fd, [cut(join(parts))], offset, flags)


def run(root: str, witness: LimitedWitness, *, file_limit: int | None = None, short: str | None = None) -> None:
    """Play the errands in this process, with what is to hamper them."""
    stage = Stage(root, witness, shards=1)

    def lift() -> None:
        witness.limit = None
        set_file_limit(None)

    if short is not None:
        keep = {"one": lambda size: 1, "half": lambda size: size // 2, "most": lambda size: size - 1}[short]
        shorten_writes(keep, witness._fd)
    witness.limit = file_limit
    set_file_limit(file_limit)
    Errands(stage, lift).run()
    lift()
    stage.reopen()
