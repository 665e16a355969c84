"""Answers to requests, also those that take longer, and errors on their way to who asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from coordinator.errors import CrewkeepError


class Later:
    """What a request handler returns when the answer takes longer: call ``answer`` or ``fail`` once, on the loop's thread."""

    def __init__(self) -> None:
        self._deliver: Callable[[dict[str, Any]], None] | None = None
        self._answer: dict[str, Any] | None = None

    def answer(self, words: dict[str, Any]) -> None:
        """Give the answer. Only the first counts."""
        if self._answer is None:
            self._answer = words
            if self._deliver is not None:
                self._deliver(words)

    def fail(self, error: CrewkeepError) -> None:
        """Answer with an error, which is raised where it was asked."""
        self.answer(encode_error(error))

    def when_given(self, deliver: Callable[[dict[str, Any]], None]) -> None:
        """Call ``deliver`` with the answer, now or when there is one."""
        self._deliver = deliver
        if self._answer is not None:
            deliver(self._answer)


def encode_error(error: CrewkeepError) -> dict[str, Any]:
    """Return the answer that is raised as ``error`` where it was asked."""
    return {"error": {"code": error.code, "message": error.message, "hint": error.hint}}
