"""What the demo measured."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Kill:
    """One death, and what was measured of it."""

    session: str
    #: ``agent`` or ``keeper``.
    what: str
    pid: int
    at: float
    noticed_ms: float | None = None
    running_ms: float | None = None


@dataclass(slots=True)
class DemoResult:
    """What was measured."""

    kills: list[Kill] = field(default_factory=list)
    task_count: int = 0
    tasks_done: int = 0
    wrong_results: int = 0
    writes_acknowledged: int = 0
    writes_lost: int = 0
    context_findings: int = 0
    leftover_processes: int = 0
    leftover_files: int = 0
    seconds: float = 0.0

    @property
    def kept(self) -> bool:
        """Whether every promise was."""
        lost = self.wrong_results + self.writes_lost + self.context_findings + self.leftover_processes + self.leftover_files
        came_back = all(kill.running_ms is not None for kill in self.kills) and len(self.kills) == 2
        return came_back and not lost and self.tasks_done == self.task_count

    def encode(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"kept": self.kept}
