"""The pause before what failed is tried again: it doubles up to a limit, and a success makes it short again."""

from __future__ import annotations

from dataclasses import dataclass

from coordinator.config import TRY_AGAIN_LIMIT_S, TRY_AGAIN_S


@dataclass(slots=True)
class GrowingPause:
    """One for each thing that is tried."""

    first_s: float = TRY_AGAIN_S
    limit_s: float = TRY_AGAIN_LIMIT_S
    #: The pause after the last failure; 0 after a success.
    now_s: float = 0.0

    def fail(self) -> float:
        """Note a failure and return the seconds until the next try."""
        self.now_s = min(max(self.first_s, self.now_s * 2), self.limit_s)
        return self.now_s

    def reset(self) -> None:
        """Note a success."""
        self.now_s = 0.0
