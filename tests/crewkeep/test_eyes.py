"""What the keeper records of its agent's conversation as it learns more of it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

from session_support import make_launch, make_session

from coordinator.agents.generic import Generic
from coordinator.paths import Home
from coordinator.sessions.conversation import Conversation, read_conversation, write_conversation
from coordinator.sessions.heartbeat import Progress
from coordinator.sessions.model import LaunchSpec
from coordinator.system.clock import ManualClock
from crewkeep.keeper.agent_process import AgentProcess
from crewkeep.keeper.eyes import Eyes


class Teller(Generic):
    """An adapter that finds what the test lets it find."""

    name = "teller"

    def __init__(self) -> None:
        self.found: Conversation | None = None

    def find_conversation(self, launch: LaunchSpec, pids: Sequence[int], started_at: float) -> Conversation | None:
        return self.found


def make_agent() -> AgentProcess:
    identity = SimpleNamespace(pid=os.getpid())
    return cast(AgentProcess, SimpleNamespace(identity=identity, master_fd=-1, list_tree=lambda: [identity]))


def make_eyes(home: Home, clock: ManualClock, known: Conversation | None) -> tuple[Eyes, Teller, Any]:
    record, teller = make_session(home), Teller()
    paths = home.session(record.id)
    if known is not None:
        write_conversation(paths, known, epoch=record.epoch)
    return Eyes(paths, record, make_launch(), teller, known, Progress(clock), clock), teller, paths


def test_a_chosen_conversation_is_recorded_again_once_its_transcript_is_there(home: Home) -> None:
    clock = ManualClock()
    known = Conversation(agent="teller", id="chosen")
    eyes, teller, paths = make_eyes(home, clock, known)
    eyes.look(make_agent())
    assert read_conversation(paths) == known
    teller.found = Conversation(agent="teller", id="chosen", transcript="/there")
    clock.advance(2)  # not a minute, as for one of which all is known
    eyes.look(make_agent())
    assert eyes.conversation == teller.found
    assert read_conversation(paths) == teller.found


def test_a_conversation_found_again_is_not_written_again(home: Home) -> None:
    clock = ManualClock()
    known = Conversation(agent="teller", id="known", transcript="/there", found_at=1.0)
    eyes, teller, paths = make_eyes(home, clock, known)
    teller.found = Conversation(agent="teller", id="known", transcript="/there", found_at=2.0)
    for _ in range(3):
        clock.advance(100)
        eyes.look(make_agent())
    assert read_conversation(paths) == known
