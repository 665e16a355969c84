"""Check: walk every invariant of a context on disk and say what does not hold; mend it on request. (Being written.)"""

from __future__ import annotations

from pathlib import Path

from coordinator.context.meta import Meta
from coordinator.context.model import ContextFinding


def check_context(directory: Path, meta: Meta, *, repair: bool, timeout_s: float, now_s: float) -> list[ContextFinding]:
    """Return what is wrong."""
    return []
