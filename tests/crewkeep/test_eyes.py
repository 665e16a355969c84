"""What the keeper records of its agent's conversation as it learns more of it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest
from session_support import make_launch, make_session

from coordinator.agents.base import Activity
from coordinator.agents.generic import Generic
from coordinator.paths import Home
from coordinator.sessions.conversation import Conversation, read_conversation, write_conversation
from coordinator.sessions.heartbeat import Progress
from coordinator.sessions.model import LaunchSpec
from coordinator.sessions.registry import Registry
from coordinator.system.clock import ManualClock
from coordinator.system.processes import identify_self
from crewkeep.keeper.agent_process import AgentProcess
from crewkeep.keeper.eyes import Eyes


class Teller(Generic):
    """An adapter that finds what the test lets it find."""

    name = "teller"

    def __init__(self) -> None:
        self.found: Conversation | None = None
        self.activity = Activity()
        self.asked_count = 0

    def find_conversation(self, launch: LaunchSpec, pids: Sequence[int], started_at: float) -> Conversation | None:
        self.asked_count += 1
        return self.found

    def read_activity(self, conversation: Conversation) -> Activity:
        return self.activity


def make_agent() -> AgentProcess:
    identity = SimpleNamespace(pid=os.getpid())
    return cast(AgentProcess, SimpleNamespace(identity=identity, master_fd=-1, list_tree=lambda: [identity]))


def make_eyes(home: Home, clock: ManualClock, known: Conversation | None, epoch: int = 1) -> tuple[Eyes, Teller, Any]:
    registry = Registry(home, clock)
    record, teller = make_session(home, registry=registry), Teller()
    for before in range(1, epoch):
        record = registry.raise_epoch(record.id, expected=before, reason="test", by=identify_self())
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


# What failed, and whether it was before

KNOWN = Conversation(agent="teller", id="known", transcript="/there")
HOUR_S = 3600.0


def fail(clock: ManualClock, *, at: float | None, until: float | None = None, **more: Any) -> Activity:
    until = clock.wall + HOUR_S if until is None else until
    return Activity(at_prompt=True, failure="usage limit reached", limited_until=until, failed_at=at, **more)


@pytest.mark.parametrize("epoch", [1, 2], ids=["a conversation from outside", "a resumed session"])
def test_a_limit_from_before_the_start_does_not_count(home: Home, epoch: int) -> None:
    clock = ManualClock()
    eyes, teller, _ = make_eyes(home, clock, KNOWN, epoch)
    teller.activity = fail(clock, at=clock.wall - 60)
    for _ in range(3):
        clock.advance(1)
        eyes.look(make_agent())
        assert eyes.find_limit() is None
    assert [eyes.read_last(code) for code in (0, 1, None)] == [Activity()] * 3


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_limit_that_the_first_look_finds_counts_if_it_was_told_since_the_start(home: Home, epoch: int) -> None:
    clock = ManualClock()
    eyes, teller, _ = make_eyes(home, clock, KNOWN, epoch)
    clock.advance(1)
    teller.activity = fail(clock, at=clock.wall)
    eyes.look(make_agent())
    assert eyes.find_limit() == teller.activity
    assert eyes.read_last(0) == teller.activity


def test_a_limit_told_again_between_two_looks_in_the_same_words_counts(home: Home) -> None:
    clock = ManualClock()
    eyes, teller, _ = make_eyes(home, clock, KNOWN, epoch=2)
    until = clock.wall + HOUR_S
    teller.activity = fail(clock, at=clock.wall - 60, until=until)
    eyes.look(make_agent())
    clock.advance(1)
    teller.activity = fail(clock, at=clock.wall, until=until)
    eyes.look(make_agent())
    assert eyes.find_limit() == teller.activity


def test_where_no_time_is_told_a_limit_counts_anew_if_its_end_is_another(home: Home) -> None:
    clock = ManualClock()
    eyes, teller, _ = make_eyes(home, clock, KNOWN, epoch=2)
    teller.activity = fail(clock, at=None)
    eyes.look(make_agent())
    eyes.look(make_agent())
    assert eyes.find_limit() is None
    assert (eyes.read_last(0), eyes.read_last(1)) == (Activity(), teller.activity), "only the exit code tells"
    clock.advance(1)
    teller.activity = fail(clock, at=None)
    eyes.look(make_agent())
    assert eyes.find_limit() == teller.activity


@pytest.mark.parametrize("until", [float("nan"), float("inf"), 1e300, 10**400, 1_800_000_000_000.0, 5e9])
@pytest.mark.parametrize("epoch", [1, 2])
def test_a_limit_that_ends_in_years_or_never_has_no_end_that_is_known(home: Home, until: float, epoch: int) -> None:
    clock = ManualClock()
    eyes, teller, _ = make_eyes(home, clock, KNOWN, epoch)
    teller.activity = fail(clock, at=clock.wall + 1, until=until)
    eyes.look(make_agent())
    assert eyes.find_limit() is None
    last = eyes.read_last(0)
    assert (last.failure, last.limited_until) == ("usage limit reached", None)


def test_a_chosen_conversation_of_an_agent_that_ended_soon_is_found_with_its_transcript(home: Home) -> None:
    eyes, teller, paths = make_eyes(home, ManualClock(), Conversation(agent="teller", id="chosen"))
    eyes.look(make_agent())
    teller.found = Conversation(agent="teller", id="chosen", transcript="/there")
    eyes.read_last(0)
    assert read_conversation(paths) == teller.found


def test_what_could_be_seen_for_a_third_of_a_life_is_found_and_a_long_wait_costs_little(home: Home) -> None:
    clock = ManualClock()
    eyes, teller, _ = make_eyes(home, clock, None)
    agent, began_s, searched_s = make_agent(), clock.monotonic_s(), [0.0]
    while (age_s := clock.monotonic_s() - began_s) < 600:
        before = teller.asked_count
        eyes.look(agent)
        if teller.asked_count > before:
            assert age_s - searched_s[-1] <= max(age_s / 3, 1) or age_s > 90, searched_s
            searched_s.append(age_s)
        clock.advance(max(0.1, min(4, eyes.search_in_s)))
    assert len(searched_s) < 50


def test_nothing_is_looked_for_of_a_program_that_nothing_is_known_of(home: Home) -> None:
    record, clock = make_session(home), ManualClock()
    eyes = Eyes(home.session(record.id), record, make_launch(), Generic(), None, Progress(clock), clock)
    assert eyes.search_in_s == float("inf")


def test_a_conversation_that_begins_after_a_long_wait_is_found_at_once(home: Home) -> None:
    """Codex and OpenCode begin one with the first prompt: killed soon after it, they must come back in it."""
    clock = ManualClock()
    eyes, teller, paths = make_eyes(home, clock, None)
    for _ in range(600):  # nobody says anything for ten minutes
        clock.advance(1)
        eyes.look(make_agent())
    eyes.note_output(b"the prompt, drawn as it is typed")
    teller.found = Conversation(agent="teller", id="late", transcript="/there")
    clock.advance(1)
    eyes.look(make_agent())
    assert read_conversation(paths) == teller.found


def test_another_conversation_that_the_user_begins_is_found_soon(home: Home) -> None:
    clock = ManualClock()
    known = Conversation(agent="teller", id="known", transcript="/there")
    eyes, teller, paths = make_eyes(home, clock, known)
    for _ in range(600):
        clock.advance(1)
        eyes.look(make_agent())
    eyes.note_typed()
    clock.advance(1)
    eyes.look(make_agent())
    teller.found = Conversation(agent="teller", id="next", transcript="/there/too")  # written a moment after the last key
    for _ in range(3):
        clock.advance(1)
        eyes.look(make_agent())
    assert read_conversation(paths) == teller.found
