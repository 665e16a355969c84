"""Letters are typed into a terminal only where nothing else would bring them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from session_support import make_launch

from coordinator.services.mailbox import Letter
from coordinator.sessions.heartbeat import Progress
from coordinator.system.clock import ManualClock
from crewkeep.keeper.hook_desk import HookDesk
from crewkeep.keeper.letter_typing import LetterTyping
from crewkeep.setup.hooks import plan_hooks
from crewkeep.terminal.answers import Later

LETTER = Letter(id="1", to="x", sender="user", sender_id=None, text="hello", written_at=0.0)


@pytest.mark.parametrize(
    ("installed", "settings", "is_typed"),
    [(False, "", True), (True, "", False), (True, '{"hooksConfig": {"enabled": false}}', True), (False, "no JSON", True)],
)
def test_a_letter_is_typed_if_there_are_no_hooks_or_their_user_has_turned_them_off(
    installed: bool, settings: str, is_typed: bool, tmp_path: Path
) -> None:
    environment, typed = {"HOME": str(tmp_path)}, list[str]()
    path = tmp_path / ".gemini" / "settings.json"
    path.parent.mkdir()
    path.write_text(settings)
    if installed:
        plan_hooks("gemini", environment, install=True).apply()
    launch = dataclasses.replace(make_launch(), agent="gemini", environment=environment)
    desk: Any = SimpleNamespace(is_used=False, take_letters=lambda: [LETTER], note_handed=lambda ids: None)
    progress = Progress(ManualClock())
    progress.at_prompt = True

    def type_text(text: str) -> Later:
        typed.append(text)
        return Later()

    LetterTyping(cast(HookDesk, desk), launch, progress, type_text).look()
    assert bool(typed) is is_typed
