"""When a log is worth compacting. What compaction keeps and drops stands in the contract and the faults."""

from __future__ import annotations

import pytest

from coordinator.config import RECENT_LIMIT_BYTES
from coordinator.context.compaction import is_due
from coordinator.context.control import State


def _state(end: int, kept_bytes: int) -> State:
    return State(1, 0, end, 1, 0, kept_bytes, 0, 0)


@pytest.mark.parametrize("kept_bytes", [0, 1000, 5 << 20, 1 << 30])
def test_at_least_as_much_is_given_back_as_is_written_anew(kept_bytes: int) -> None:
    taken_over = kept_bytes + RECENT_LIMIT_BYTES
    assert not is_due(_state(2 * taken_over, kept_bytes), 0)


@pytest.mark.parametrize("kept_bytes", [0, 1000, 5 << 20, 1 << 30])
def test_a_log_is_not_much_larger_than_twice_what_is_needed(kept_bytes: int) -> None:
    assert is_due(_state(2 * kept_bytes + 4 * RECENT_LIMIT_BYTES, kept_bytes), 0)


def test_what_failed_for_want_of_space_is_not_tried_at_once() -> None:
    end = 100 * RECENT_LIMIT_BYTES
    assert is_due(_state(end, 0), end - 1)
    assert not is_due(_state(end, 0), end)
