"""Whatever a crash leaves of the shared context, in three models, on every way of writing: nothing acknowledged is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from proof.conftest import Report
from proof.crash_run import Figures, record_scenario, run_scenario
from proof.crashes import Bounds
from proof.operations import Name
from proof.options import PROVE, RECOVERIES, SEED, STATES
from proof.scenarios import SCENARIOS

BOUNDS = Bounds(exhaustive=1024, pairs=2000, drawn=64, torn=60, seed=SEED) if PROVE else Bounds(seed=SEED)
NAMES = [name for name in SCENARIOS if name != "small"]  # that is only something to damage


@pytest.mark.timeout(14400 if PROVE else 120)
@pytest.mark.parametrize("name", NAMES)
def test_no_crash_takes_back_or_tears_anything(strace: str, report: Report, name: str) -> None:
    figures = run_scenario(strace, name, limit=STATES, recoveries=RECOVERIES, bounds=BOUNDS)
    report(figures)
    assert figures.bad == []
    assert figures.inspected >= min(STATES, 30)


@pytest.mark.parametrize("nth", range(1, 12) if PROVE else (1,))
@pytest.mark.timeout(3600 if PROVE else 120)
def test_a_flush_that_failed_is_never_counted_on(strace: str, report: Report, nth: int) -> None:
    """The kernel drops what a failed flush was to cover, and calls the next one a success."""
    figures = Figures()
    for name in ("commit", "doubt", "compaction") if PROVE else ("commit", "doubt"):
        figures.add(run_scenario(strace, name, limit=STATES, recoveries=0, bounds=BOUNDS, failing_flush=nth))
    report(figures)
    assert figures.bad == []


@pytest.mark.parametrize("name", [name for name in NAMES if SCENARIOS[name].changes_names])
def test_the_scenarios_come_to_what_they_are_about(strace: str, tmp_path: Path, name: str) -> None:
    """A compaction that does not take place while it is recorded would prove nothing."""
    recording = record_scenario(strace, name, tmp_path)
    assert [operation for operation in recording.operations if isinstance(operation, Name)]
