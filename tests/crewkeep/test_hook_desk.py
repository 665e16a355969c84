"""What a keeper makes of what hooks tell it."""

from __future__ import annotations

import json

from session_support import make_launch, make_session

from coordinator.agents.claude import Claude
from coordinator.config import Settings
from coordinator.paths import Home
from coordinator.sessions.conversation import Conversation
from coordinator.sessions.heartbeat import Progress
from coordinator.system.clock import ManualClock
from crewkeep.keeper.eyes import Eyes
from crewkeep.keeper.hook_desk import HookDesk


def test_hooks_of_an_agent_that_it_started_do_not_show_that_an_agent_has_hooks(home: Home) -> None:
    """Else letters for one that has none would never be typed."""
    record, clock = make_session(home), ManualClock()
    known, progress = Conversation(agent="aider", id="own"), Progress(clock)
    eyes = Eyes(home.session(record.id), record, make_launch(), Claude(), known, progress, clock)
    desk = HookDesk(home, record, eyes, progress, Settings(), clock)
    for conversation, is_used in (("another", False), ("own", True)):
        event = json.dumps({"hook_event_name": "UserPromptSubmit", "session_id": conversation})
        desk.answer({"agent": "claude", "event": event, "epoch": "1", "parent": 1})
        assert desk.is_used is is_used
    desk.close()
