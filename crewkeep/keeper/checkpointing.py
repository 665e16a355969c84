"""When the keeper takes checkpoints, and in which thread: on a timer if there was progress, at the end, when asked.

Looking at a large work tree takes a while, and the agent's terminal must not stand still meanwhile. So each checkpoint is
taken by a short thread of its own, one at a time. Whoever waits for one does so for a bounded time and goes on without.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from coordinator.config import Settings
from coordinator.errors import CrewkeepError, Superseded
from coordinator.system.clock import SYSTEM, Clock
from crewkeep.loop import Loop
from crewkeep.process_log import say_error
from crewkeep.terminal.serve import Later
from recovery.manifest import Manifest

Done = Callable[[Manifest | BaseException], None]


class Checkpointer:
    """Takes one session's checkpoints. ``take(why)`` runs on a thread of its own and may raise what it likes."""

    def __init__(
        self,
        loop: Loop,
        settings: Settings,
        *,
        take: Callable[[str], Manifest],
        count_progress: Callable[[], int],
        on_superseded: Callable[[], None],
        clock: Clock = SYSTEM,
    ) -> None:
        self._loop, self._settings, self._clock = loop, settings, clock
        self._take, self._count_progress, self._on_superseded = take, count_progress, on_superseded
        self._thread: threading.Thread | None = None
        self._waiting: list[Done] = []
        self._again: list[Done] = []
        self._last_s = clock.monotonic_s()
        self._last_count = count_progress()

    @property
    def is_busy(self) -> bool:
        """Whether one is being taken (and processes of ours may run for it)."""
        return self._thread is not None and self._thread.is_alive()

    def take_if_due(self) -> None:
        """Begin one if the interval is over and the agent has made progress since the last."""
        due = self._clock.monotonic_s() - self._last_s >= self._settings.checkpoint_interval_s
        if due and not self.is_busy and self._count_progress() != self._last_count:
            self._begin("timer")

    def ask(self, done: Done) -> None:
        """Call ``done`` on the loop with a checkpoint that was begun after this call, or with what went wrong."""
        if self.is_busy:
            self._again.append(done)
        else:
            self._waiting.append(done)
            self._begin("asked")

    def take_last(self, why: str, timeout_s: float) -> None:
        """Take one now and wait for it up to ``timeout_s``; without one the last stands."""
        if self._thread is not None:
            self._thread.join(timeout_s)
        if not self.is_busy:
            self._begin(why)
        if self._thread is not None:
            self._thread.join(timeout_s)

    def wait(self, timeout_s: float) -> None:
        """Wait for one that is being taken."""
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _begin(self, why: str) -> None:
        self._last_s, self._last_count = self._clock.monotonic_s(), self._count_progress()
        self._thread = threading.Thread(target=self._run, args=(why,), name="checkpoint", daemon=True)
        self._thread.start()

    def _run(self, why: str) -> None:
        result: Manifest | BaseException
        try:
            result = self._take(why)
        except Exception as error:  # noqa: BLE001 - the edge of a thread: told to who waits, and to the log
            say_error(f"taking a checkpoint ({why})", error, whole=not isinstance(error, CrewkeepError))
            result = error
        self._loop.call_from_thread(lambda: self._finish(result))

    def _finish(self, result: Manifest | BaseException) -> None:
        waiting, self._waiting, self._thread = self._waiting, self._again, None
        self._again = []
        for done in waiting:
            done(result)
        if isinstance(result, Superseded):
            self._on_superseded()
        elif self._waiting:
            self._begin("asked")


def answer_with(later: Later, result: Manifest | BaseException) -> None:
    """Tell whoever asked for a checkpoint what came of it."""
    if isinstance(result, CrewkeepError):
        later.fail(result)
    elif isinstance(result, BaseException):
        later.fail(CrewkeepError(f"the checkpoint failed: {result}", hint="see the keeper's log"))
    else:
        later.answer({"number": result.number, "bytes": result.bytes})
