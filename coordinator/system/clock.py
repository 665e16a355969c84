"""The three clocks, in seconds, behind one object so that tests can turn the hands.

``wall_s`` is for people. ``monotonic_s`` stands still while the machine sleeps, ``boottime_s`` does not; the two are
comparable between the processes of one boot.
"""

from __future__ import annotations

import time
from dataclasses import dataclass


class Clock:
    """The machine's clocks."""

    def wall_s(self) -> float:
        """Seconds since 1970; may jump."""
        return time.time()

    def monotonic_s(self) -> float:
        """Seconds that never go back; the same for every process of one boot."""
        return time.monotonic()

    def boottime_s(self) -> float:
        """Like ``monotonic_s`` but counting sleep (where the system has no such clock: the same)."""
        if hasattr(time, "CLOCK_BOOTTIME"):
            return time.clock_gettime(time.CLOCK_BOOTTIME)
        return time.monotonic()


@dataclass
class ManualClock(Clock):
    """Clocks that move only when told."""

    wall: float = 1_800_000_000.0
    monotonic: float = 1000.0
    boottime: float = 1000.0

    def wall_s(self) -> float:
        return self.wall

    def monotonic_s(self) -> float:
        return self.monotonic

    def boottime_s(self) -> float:
        return self.boottime

    def advance(self, seconds: float) -> None:
        """Let ``seconds`` pass on all three."""
        self.wall += seconds
        self.monotonic += seconds
        self.boottime += seconds

    def sleep_machine(self, seconds: float) -> None:
        """Suspend the machine for ``seconds``."""
        self.wall += seconds
        self.boottime += seconds


SYSTEM = Clock()
