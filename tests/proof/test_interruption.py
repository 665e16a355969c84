"""Killed at every system call, or told by it that something failed: the old state is there, and others go on."""

from __future__ import annotations

import random

import pytest

from proof.conftest import Report
from proof.interruption import ERRORS, Figures, Interruptions, Point
from proof.options import FAILURES, KILLS, PROVE, SEED
from proof.scenarios import SCENARIOS

#: Calls that look at a file without opening it.
LOOKING = {"stat", "lstat", "fstat", "newfstatat", "statx"}
ALL = [name for name, scenario in SCENARIOS.items() if name != "small" and not scenario.crowded]
NAMES = ALL if PROVE else ["create", "commit", "compaction", "growth"]


def choose(points: list[Point], limit: int) -> list[Point]:
    return points if len(points) <= limit else random.Random(SEED).sample(points, limit)


@pytest.mark.timeout(7200 if PROVE else 120)
@pytest.mark.parametrize("name", NAMES)
def test_killed_at_any_system_call_it_leaves_everything_to_the_next(strace: str, report: Report, name: str) -> None:
    with Interruptions(strace, name) as interruptions:
        points = [point for point in interruptions.list_points() if point.matters]
        chosen = choose(points, KILLS)
        figures = interruptions.kill_at(chosen)
    report(f"of {len(points)} calls: {figures}")
    assert figures.bad == []
    assert figures.missed <= figures.rounds // 4, "it was hardly ever killed"


def fail(strace: str, calls: set[str]) -> Figures:
    with Interruptions(strace, "compaction") as interruptions:
        points = [point for point in interruptions.list_points("errands") if point.is_ours and point.call in calls]
        pairs = [(point, error) for point in points for error in ERRORS[point.call]]
        if len(pairs) > FAILURES:
            pairs = random.Random(SEED).sample(pairs, FAILURES)
        return interruptions.fail_at(pairs)


@pytest.mark.timeout(7200 if PROVE else 120)
def test_whatever_system_call_fails_there_is_one_error_of_ours_and_all_goes_on(strace: str, report: Report) -> None:
    figures = fail(strace, set(ERRORS) - LOOKING)
    report(figures)
    assert figures.bad == []
    assert any("StorageError" in name for name in figures.failures)


@pytest.mark.timeout(3600 if PROVE else 120)
@pytest.mark.skipif(not PROVE, reason="a sample may miss the call; `make prove` has them all")
def test_whatever_look_at_a_file_fails_the_error_is_ours(strace: str, report: Report) -> None:
    figures = fail(strace, LOOKING)
    report(figures)
    assert figures.bad == []


@pytest.mark.timeout(3600 if PROVE else 120)
def test_a_disk_that_is_full_at_any_byte_costs_one_error_and_nothing_else(strace: str, report: Report) -> None:
    """No file may grow beyond a limit: the write across it is short, the next one fails, until the limit is lifted."""
    limits = range(0, 24_000, 61) if PROVE else random.Random(SEED).sample(range(24_000), 8)
    with Interruptions(strace, "compaction") as interruptions:
        figures = interruptions.limit_files(list(limits))
    report(figures)
    assert figures.bad == []
    assert figures.missed < figures.rounds


@pytest.mark.parametrize("name", ["commit", "compaction"])
def test_short_writes_are_gone_on_with(strace: str, report: Report, name: str) -> None:
    with Interruptions(strace, name) as interruptions:
        figures = interruptions.shorten_writes()
    report(figures)
    assert figures.bad == []
    assert not figures.failures
