"""One thread that waits for everything at once: descriptors, times, signals and words from other threads.

Keeper and patrol both live in it. It never polls: it sleeps until a descriptor is ready or the nearest time has come,
so an idle process costs nothing. A signal only leaves its number in a pipe; what it means is decided here, between
two calls, never in the middle of one.

Invariants:
  - callbacks run on the loop's thread, one after another
  - times are monotonic seconds
Not promised: fairness between descriptors; a callback that blocks blocks all.
"""

from __future__ import annotations

import collections
import heapq
import itertools
import os
import selectors
import signal
import socket
from collections.abc import Callable

from coordinator.system.clock import SYSTEM, Clock

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
#: Sleep at most so long, so that a clock that was set or a lost wake-up cannot hold anything up for ever. Arbitrary.
_LONGEST_SLEEP_S = 60.0


class Timer:
    """Something due at a time. ``cancel`` it, or let it run once."""

    __slots__ = ("callback", "cancelled", "due_s")

    def __init__(self, due_s: float, callback: Callable[[], None]) -> None:
        self.due_s, self.callback, self.cancelled = due_s, callback, False

    def cancel(self) -> None:
        """Let it never run; harmless afterwards."""
        self.cancelled = True


class Loop:
    """The loop of one process. Signals can only be watched from the main thread."""

    def __init__(self, clock: Clock = SYSTEM) -> None:
        self._clock = clock
        self._selector = selectors.DefaultSelector()
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._said: collections.deque[Callable[[], None]] = collections.deque()
        self._stopped = False
        self._signal_callbacks: dict[int, Callable[[], None]] = {}
        self._wake_receiver, self._wake_sender = socket.socketpair()
        self._wake_receiver.setblocking(False)
        self._wake_sender.setblocking(False)
        self.watch(self._wake_receiver.fileno(), READ, self._on_wake)

    def watch(self, fd: int, events: int, callback: Callable[[int], None]) -> None:
        """Call ``callback(ready_events)`` whenever ``fd`` is ready; replaces what was asked before for it."""
        try:
            self._selector.modify(fd, events, callback)
        except KeyError:
            self._selector.register(fd, events, callback)

    def forget(self, fd: int) -> None:
        """Stop watching ``fd``. Call it before closing; harmless if it was not watched."""
        try:
            self._selector.unregister(fd)
        except (KeyError, ValueError):
            return

    def call_at(self, due_s: float, callback: Callable[[], None]) -> Timer:
        """Run ``callback`` once when the monotonic time ``due_s`` has come."""
        timer = Timer(due_s, callback)
        heapq.heappush(self._timers, (due_s, next(self._order), timer))
        return timer

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        """Run ``callback`` once after ``delay_s``."""
        return self.call_at(self._clock.monotonic_s() + delay_s, callback)

    def call_from_thread(self, callback: Callable[[], None]) -> None:
        """Run ``callback`` on the loop's thread, soon. The only method for other threads."""
        self._said.append(callback)
        try:
            self._wake_sender.send(b"\0")
        except (BlockingIOError, OSError):
            return  # full means that it is awake already; closed means that nobody listens any more

    def on_signal(self, number: int, callback: Callable[[], None]) -> None:
        """Run ``callback`` on the loop after the signal came."""
        if not self._signal_callbacks:
            signal.set_wakeup_fd(self._wake_sender.fileno(), warn_on_full_buffer=False)
        self._signal_callbacks[number] = callback
        signal.signal(number, lambda *_: None)
        signal.siginterrupt(number, False)

    @property
    def stopped(self) -> bool:
        """Whether ``stop`` was called."""
        return self._stopped

    def stop(self) -> None:
        """Let ``run`` return after the callback that is running."""
        self._stopped = True

    def run(self) -> None:
        """Wait and call until ``stop``. What a callback raises comes out."""
        while not self._stopped:
            self.run_once(_LONGEST_SLEEP_S)

    def run_once(self, longest_s: float) -> None:
        """Wait at most ``longest_s`` and call what is due."""
        for key, ready in self._selector.select(self._find_sleep_s(longest_s)):
            if key.fd in self._selector.get_map():  # an earlier callback may have dropped it
                key.data(ready)
        now_s = self._clock.monotonic_s()
        while self._timers and self._timers[0][0] <= now_s and not self._stopped:
            timer = heapq.heappop(self._timers)[2]
            if not timer.cancelled:
                timer.callback()

    def close(self) -> None:
        """Give back what the loop itself opened."""
        if self._signal_callbacks:
            signal.set_wakeup_fd(-1)
        self._selector.close()
        self._wake_receiver.close()
        self._wake_sender.close()

    def _find_sleep_s(self, longest_s: float) -> float:
        while self._timers and self._timers[0][2].cancelled:
            heapq.heappop(self._timers)
        if self._said or self._stopped:
            return 0.0
        if not self._timers:
            return longest_s
        return min(longest_s, max(0.0, self._timers[0][0] - self._clock.monotonic_s()))

    def _on_wake(self, ready: int) -> None:
        try:
            numbers = os.read(self._wake_receiver.fileno(), 4096)
        except BlockingIOError:
            numbers = b""
        for number in sorted(set(numbers) - {0}):
            if callback := self._signal_callbacks.get(number):
                callback()
        while self._said:
            self._said.popleft()()
