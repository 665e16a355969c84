"""Letters for an agent that has no hooks: typed into its terminal, as its user would, when it waits for its next message.

Never into a permission prompt, never while it works, and never for a program of which nothing is known: a shell would take a
letter for commands. Such a program reads its letters itself (``crewkeep inbox``).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from coordinator.agents.base import GENERIC
from coordinator.errors import CrewkeepError
from coordinator.services.mailbox import Letter
from coordinator.sessions.heartbeat import Progress
from coordinator.sessions.model import LaunchSpec
from crewkeep.keeper.hook_desk import HookDesk
from crewkeep.process_log import say, say_error
from crewkeep.setup.hooks import find_hook_agents, read_status
from crewkeep.setup.targets import Installed
from crewkeep.terminal.serve import Later

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class LetterTyping:
    """Brings one incarnation its letters through its terminal, if nothing better can."""

    def __init__(self, desk: HookDesk, launch: LaunchSpec, progress: Progress, type_text: Callable[[str], Later]) -> None:
        """``type_text`` types a text and Enter, or raises what ``crewkeep send`` is refused with."""
        self._desk, self._progress, self._type_text = desk, progress, type_text
        self._is_possible = launch.agent != GENERIC and not _has_hooks(launch)
        self._is_typing = False

    def look(self) -> None:
        """Type what waits, if the agent waits. Called at each tick. Raises ``Superseded``."""
        waits = self._progress.at_prompt and not self._progress.needs_user
        if not self._is_possible or self._desk.is_used or self._is_typing or not waits:
            return
        letters = self._desk.take_letters()
        if not letters:
            return
        self._is_typing = True
        try:
            # A control character would be a key.
            later = self._type_text(_CONTROL.sub("\N{REPLACEMENT CHARACTER}", "\n\n".join(letter.tell() for letter in letters)))
        except CrewkeepError as error:
            self._end(letters, {"error": {"message": error.message}})
            return
        later.when_given(lambda answer: self._end(letters, answer))

    def _end(self, letters: list[Letter], answer: dict[str, Any]) -> None:
        self._is_typing = False
        if "error" in answer:  # they are new again once they are overdue
            say(f"{len(letters)} messages could not be typed: {answer['error'].get('message')}")
            return
        try:
            self._desk.note_handed([letter.id for letter in letters])
        except CrewkeepError as error:
            say_error("noting that messages were typed", error, whole=False)


def _has_hooks(launch: LaunchSpec) -> bool:
    if launch.agent not in find_hook_agents():
        return False
    found = read_status(launch.agent, launch.environment)
    return found.installed in (Installed.YES, Installed.OUTDATED) and found.problem is None  # e.g. turned off by its user
