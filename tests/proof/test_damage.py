"""Any file cut anywhere, any bit flipped: detected or harmless, and repaired at the cost of what was hit."""

from __future__ import annotations

import pytest

from proof.conftest import Report
from proof.damage import run_damage
from proof.options import HARMS, PROVE, SEED


@pytest.mark.timeout(14400 if PROVE else 120)
def test_no_harm_to_any_file_gives_a_wrong_value_or_loses_more_than_it_hit(report: Report) -> None:
    figures = run_damage(limit=HARMS, seed=SEED)
    report(figures)
    assert figures.bad == []
    assert "harmless" in figures.outcomes
    assert any(outcome.startswith("repaired") for outcome in figures.outcomes)
