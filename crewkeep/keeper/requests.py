"""What a keeper is asked by commands, hooks and the patrol, and where each question goes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from coordinator.errors import InvalidInput
from crewkeep.keeper.checkpointing import Done, answer_with
from crewkeep.keeper.hook_desk import HookDesk
from crewkeep.terminal.answers import Later

Answer = dict[str, Any] | Later


class Requests:
    """Answers by verb. Everything that is handed in is called on the keeper's loop."""

    def __init__(
        self,
        *,
        tell_status: Callable[[], dict[str, Any]],
        look: Callable[[], None],
        take_checkpoint: Callable[[Done], None],
        find_desk: Callable[[], HookDesk | None],
    ) -> None:
        self._tell_status, self._look = tell_status, look
        self._take_checkpoint, self._find_desk = take_checkpoint, find_desk

    def answer(self, verb: str, arguments: dict[str, Any]) -> Answer:
        """Return the answer, now or later. Raises ``InvalidInput`` for an unknown verb, and what the one that is asked raises."""
        if verb == "status":
            return self._tell_status()
        if verb == "look":
            self._look()
            return {}
        if verb in ("hook", "hook-printed"):
            desk = self._find_desk()
            if desk is None:  # its agent has just ended
                return {}
            return desk.answer(arguments) if verb == "hook" else desk.note_printed(arguments)
        if verb == "checkpoint":
            later = Later()
            self._take_checkpoint(functools.partial(answer_with, later))
            return later
        raise InvalidInput(f"the keeper does not know {verb!r}", hint="keeper and command must be of one version")
