"""The brake: what follows an end, and how a crash loop is halted."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.config import Settings
from coordinator.sessions.model import Hosting, Outcome, Phase, Restart, SessionRecord, Start
from recovery.brake import (
    End,
    EndCause,
    Ended,
    Park,
    StartAt,
    StartNow,
    count_fruitless,
    decide_restart,
    find_delay_s,
    mark_fruitful,
    note_start,
)

SETTINGS = Settings()
KILLED = Ended(cause=EndCause.SIGNALLED, exit_signal=9)


def build_record(**changes: Any) -> SessionRecord:
    base: dict[str, Any] = {
        "id": "0000000aaaaa",
        "name": "planner",
        "workspace": "shop",
        "hosting": Hosting.KEEPER,
        "command": ("false",),
        "cwd": "/",
        "agent_name": "generic",
        "restart": Restart.ON_CRASH,
        "created_at": 0.0,
        "phase": Phase.RUNNING,
        "nonce": "n1",
        "phase_at": 0.0,
    }
    return SessionRecord(**(base | changes))


@pytest.mark.parametrize(
    ("policy", "ended", "decision"),
    [
        (Restart.NEVER, KILLED, End(outcome=Outcome.CRASHED, reason="it was killed by signal 9")),
        (Restart.NEVER, Ended(cause=EndCause.EXITED, exit_code=0), End(outcome=Outcome.DONE)),
        (Restart.ON_CRASH, Ended(cause=EndCause.EXITED, exit_code=0), End(outcome=Outcome.DONE)),
        (Restart.ON_CRASH, Ended(cause=EndCause.EXITED, exit_code=3), End(outcome=Outcome.FAILED, reason="it left with code 3")),
        (Restart.ON_CRASH, Ended(cause=EndCause.STOPPED), End(outcome=Outcome.STOPPED)),
        (Restart.ALWAYS, Ended(cause=EndCause.STOPPED), End(outcome=Outcome.STOPPED)),
        (Restart.ON_FAILURE, Ended(cause=EndCause.EXITED, exit_code=0), End(outcome=Outcome.DONE)),
    ],
)
def test_what_an_end_leads_to(policy: Restart, ended: Ended, decision: End) -> None:
    assert decide_restart(build_record(restart=policy), ended, 1.0, SETTINGS) == decision


@pytest.mark.parametrize(
    ("policy", "ended"),
    [
        (Restart.ON_CRASH, KILLED),
        (Restart.ON_CRASH, Ended(cause=EndCause.OWNER_DIED)),
        (Restart.ON_FAILURE, Ended(cause=EndCause.EXITED, exit_code=3)),
        (Restart.ALWAYS, Ended(cause=EndCause.EXITED, exit_code=0)),
    ],
)
def test_a_policy_starts_again_what_it_names(policy: Restart, ended: Ended) -> None:
    assert isinstance(decide_restart(build_record(restart=policy), ended, 1.0, SETTINGS), StartNow | StartAt)


def loop(ended: Ended, seconds_between: float = 0.0) -> tuple[int, list[float], Park]:
    """Let an agent die in the same way until it is parked; returns the starts, the delays, and the park."""
    record, now_s, starts = build_record(restart=Restart.ALWAYS), 0.0, 1
    delays: list[float] = []
    while starts < 1000:
        decision = decide_restart(record, ended, now_s, SETTINGS)
        if isinstance(decision, Park):
            return starts, delays, decision
        assert isinstance(decision, StartNow | StartAt)
        delays.append(decision.at - now_s if isinstance(decision, StartAt) else 0.0)
        now_s += delays[-1] + seconds_between
        record = note_start(dataclasses.replace(record, epoch=record.epoch + 1), now_s, SETTINGS, after=ended)
        starts += 1
    raise AssertionError("it was never parked")


def test_a_crash_loop_is_parked_after_five_starts_with_growing_delays() -> None:
    starts, delays, park = loop(Ended(cause=EndCause.EXITED, exit_code=1))
    assert starts == 5
    assert delays == [0.0, 0.25, 0.5, 1.0]
    assert "crash loop" in park.reason
    assert "left with code 1" in park.reason


def test_a_fruitful_incarnation_clears_the_count_and_the_delay() -> None:
    record = build_record(epoch=5, starts=tuple(Start(at=float(n), epoch=n) for n in range(1, 6)))
    assert isinstance(decide_restart(record, KILLED, 6.0, SETTINGS), Park)
    assert decide_restart(record, dataclasses.replace(KILLED, fruitful=True), 6.0, SETTINGS) == StartNow()
    assert count_fruitless(mark_fruitful(record), 6.0, SETTINGS) == 0
    after = note_start(dataclasses.replace(record, epoch=6), 7.0, SETTINGS, after=dataclasses.replace(KILLED, fruitful=True))
    assert count_fruitless(after, 7.0, SETTINGS) == 1


def test_starts_outside_the_window_are_not_counted() -> None:
    record = build_record(epoch=5, starts=tuple(Start(at=float(n), epoch=n) for n in range(1, 6)))
    assert count_fruitless(record, 604.5, SETTINGS) == 1


def test_keepers_that_die_under_a_running_agent_do_not_count_against_it() -> None:
    ended = Ended(cause=EndCause.OWNER_DIED, held=True)
    record = build_record()
    for epoch in range(2, 50):
        assert decide_restart(record, ended, float(epoch), SETTINGS) == StartNow()
        record = note_start(dataclasses.replace(record, epoch=epoch), float(epoch), SETTINGS, after=ended)
        assert count_fruitless(record, float(epoch), SETTINGS) == 1


def test_keepers_that_die_before_the_agent_ran_do_count() -> None:
    starts, _, _ = loop(Ended(cause=EndCause.OWNER_DIED, held=False))
    assert starts == 5


def test_a_start_by_hand_forgets_what_was() -> None:
    record = build_record(epoch=6, starts=tuple(Start(at=float(n), epoch=n) for n in range(1, 6)))
    assert count_fruitless(note_start(record, 6.0, SETTINGS, by_hand=True), 6.0, SETTINGS) == 1


def test_a_start_is_counted_once_however_often_it_is_noted() -> None:
    record = note_start(build_record(epoch=2), 1.0, SETTINGS)
    assert note_start(record, 2.0, SETTINGS) is record


@settings(deadline=None)  # a busy machine is no fault
@given(
    st.lists(
        st.tuples(
            st.sampled_from([EndCause.EXITED, EndCause.SIGNALLED, EndCause.HUNG, EndCause.OWNER_DIED, EndCause.START_FAILED]),
            st.booleans(),
            st.floats(0, 400),
        ),
        max_size=60,
    ),
    st.integers(1, 8),
)
def test_no_window_holds_more_fruitless_starts_in_a_row_than_the_limit(
    lives: list[tuple[EndCause, bool, float]], start_limit: int
) -> None:
    settings = Settings(start_limit=start_limit)
    record, now_s = build_record(restart=Restart.ALWAYS), 0.0
    in_a_row = [0.0]  # times of the starts since the last fruitful one
    for cause, fruitful, lived_s in lives:
        now_s += lived_s
        ended = Ended(cause=cause, fruitful=fruitful, exit_code=1, exit_signal=9)
        decision = decide_restart(record, ended, now_s, settings)
        if fruitful:
            in_a_row = []
        if isinstance(decision, Park):
            assert len([at for at in in_a_row if at > now_s - settings.start_window_s]) >= start_limit
            return
        if isinstance(decision, StartAt):
            assert decision.at > now_s
            now_s = decision.at
        record = note_start(dataclasses.replace(record, epoch=record.epoch + 1), now_s, settings, after=ended)
        in_a_row.append(now_s)
        assert len([at for at in in_a_row if at > now_s - settings.start_window_s]) <= start_limit


@settings(deadline=None)  # a busy machine is no fault
@given(st.integers(0, 10_000))
def test_the_delay_grows_and_has_a_limit(count: int) -> None:
    assert 0 <= find_delay_s(count, SETTINGS) <= find_delay_s(count + 1, SETTINGS) <= SETTINGS.start_delay_limit_s


LIMITED = Ended(cause=EndCause.EXITED, exit_code=1, failure="You've hit your usage limit", limited_until=100.0)


@pytest.mark.parametrize("policy", [Restart.ON_CRASH, Restart.ON_FAILURE, Restart.ALWAYS])
@pytest.mark.parametrize(
    "ended", [LIMITED, dataclasses.replace(LIMITED, exit_code=0), Ended(cause=EndCause.LIMITED, limited_until=100.0)]
)
def test_a_usage_limit_parks_until_its_end_however_the_program_left(policy: Restart, ended: Ended) -> None:
    decision = decide_restart(build_record(restart=policy), ended, 50.0, SETTINGS)
    assert isinstance(decision, Park)
    assert decision.until == 100.0
    assert "usage limit" in decision.reason


def test_a_limit_that_is_over_is_a_failure_like_others() -> None:
    decision = decide_restart(build_record(), LIMITED, 100.0, SETTINGS)
    assert decision == End(
        outcome=Outcome.FAILED, reason="it left with code 1 after its last turn failed: You've hit your usage limit"
    )


def test_an_agent_whose_limit_ended_while_it_was_being_ended_goes_on() -> None:
    ended = Ended(cause=EndCause.LIMITED, failure="limit", limited_until=100.0)
    assert decide_restart(build_record(), ended, 100.0, SETTINGS) == StartAt(at=100.0)


def test_limits_that_end_at_once_again_and_again_start_it_at_growing_pauses() -> None:
    record, now_s, pauses = build_record(created_at=100.0), 100.0, []
    for epoch in range(1, 7):
        decision = decide_restart(record, Ended(cause=EndCause.LIMITED, failure="limit", limited_until=now_s), now_s, SETTINGS)
        assert isinstance(decision, StartAt)
        pauses.append(decision.at - now_s)
        now_s = decision.at + 1
        record = note_start(dataclasses.replace(record, epoch=epoch + 1), now_s, SETTINGS)
    assert pauses == pytest.approx([0.0, 0.25, 0.5, 1.0, 2.0, 4.0])


@pytest.mark.parametrize("until", [float("nan"), -float("inf"), -1.0, 0.0, None])
@pytest.mark.parametrize("cause", [EndCause.EXITED, EndCause.LIMITED])
def test_a_limit_without_an_end_in_the_future_parks_nothing(until: float | None, cause: EndCause) -> None:
    ended = Ended(cause=cause, exit_code=1, failure="limit", limited_until=until)
    assert not isinstance(decide_restart(build_record(), ended, 50.0, SETTINGS), Park)


@pytest.mark.parametrize("cause", [EndCause.STOPPED, EndCause.INTERRUPTED])
def test_who_was_stopped_is_not_parked_for_a_limit(cause: EndCause) -> None:
    ended = dataclasses.replace(LIMITED, cause=cause)
    assert decide_restart(build_record(), ended, 50.0, SETTINGS).outcome is Outcome.STOPPED  # type: ignore[union-attr]


def test_with_restart_never_a_limit_is_not_waited_for() -> None:
    decision = decide_restart(build_record(restart=Restart.NEVER), LIMITED, 50.0, SETTINGS)
    assert isinstance(decision, End)
    assert decision.outcome is Outcome.FAILED


def test_a_program_that_leaves_with_0_after_a_failed_turn_is_not_done() -> None:
    ended = Ended(cause=EndCause.EXITED, exit_code=0, failure="429\n  Too Many Requests " + "x" * 1000)
    decision = decide_restart(build_record(), ended, 50.0, SETTINGS)
    assert isinstance(decision, End)
    assert decision.outcome is Outcome.FAILED
    assert decision.reason is not None
    assert "its last turn failed: 429 Too Many Requests" in decision.reason
    assert len(decision.reason) < 500
    assert decide_restart(build_record(restart=Restart.ON_FAILURE), ended, 50.0, SETTINGS) == StartNow()
