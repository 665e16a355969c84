"""The table's figures: ratios are paired, spreads are told, and a row that falls short is not hidden."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from benchmarks.context.peers import list_names
from benchmarks.context.plan import MEASUREMENTS, Amounts, Results
from benchmarks.context.report import show, show_rate
from benchmarks.context.rows import NOT_MEASURED, judge_all, list_rows
from benchmarks.context.stats import Figure, cut, pair
from benchmarks.context.watchers import Crowd, Idle
from benchmarks.context.writers import Run


@dataclass
class Measured:
    round: int
    peer: str
    value: float


def make_run(number: int, peer: str, work: str, per_s: float, least: int = 1, most: int = 1, p99_ms: float = 1.0) -> Run:
    return Run(
        round=number,
        peer=peer,
        work=work,
        per_s=per_s,
        least=least,
        most=most,
        p50_ms=1.0,
        p99_ms=p99_ms,
        max_ms=p99_ms,
        conflicts=0.0,
        others_cores=0.0,
        own_cores=1.0,
        acknowledged=1,
        versions=1,
    )


def find_row(results: Results, name: str, left_out: dict[str, str] | None = None) -> dict[str, object]:
    return next(row for row in judge_all(results, Amounts(), MEASUREMENTS, left_out or {}) if row["row"] == name)


def test_a_ratio_is_taken_within_its_round() -> None:
    runs = [Measured(0, "a", 100), Measured(0, "b", 50), Measured(1, "a", 10), Measured(1, "b", 10)]
    assert pair(runs, lambda run: run.value, "a", ["b"], max) == [2, 1]


def test_a_ratio_against_the_best_is_against_the_best_of_that_round() -> None:
    runs = [Measured(0, "a", 100), Measured(0, "b", 50), Measured(0, "c", 20), Measured(1, "a", 60), Measured(1, "c", 30)]
    assert pair(runs, lambda run: run.value, "a", ["b", "c"], max) == [2, 2]


def test_a_round_without_the_other_gives_no_ratio() -> None:
    assert pair([Measured(0, "a", 100)], lambda run: run.value, "a", ["b"], max) == []


def test_a_figure_is_the_median_with_its_spread() -> None:
    assert Figure.of([3, 1, 2]) == Figure(median=2, low=1, high=3, count=3)


@pytest.mark.parametrize(("percent", "expected"), [(0, 0), (50, 50), (99, 99), (100, 99)])
def test_a_percentile_is_one_of_the_values(percent: int, expected: int) -> None:
    assert cut(list(range(100)), percent) == expected


@pytest.mark.parametrize(("ours", "met"), [(99, "no"), (100, "yes"), (124, "yes"), (125, "aim")])
def test_a_row_is_judged_by_its_median(ours: float, met: str) -> None:
    results = Results(runs=[make_run(0, "crewkeep", "commits-1", ours), make_run(0, "sqlite", "commits-1", 100)])
    row = find_row(results, "commits-1/sqlite")
    assert (row["median"], row["met"]) == (ours / 100, met)


@pytest.mark.parametrize(("percent", "met"), [(0.03, "no"), (0.02, "yes"), (0.005, "aim")])
def test_where_less_is_better_less_is_met(percent: float, met: str) -> None:
    assert find_row(Results(idle=[Idle(round=0, peer="crewkeep", percent=percent, server_percent=0)]), "idle")["met"] == met


def test_fairness_is_the_unluckiest_by_the_luckiest() -> None:
    results = Results(runs=[make_run(0, "crewkeep", "commits-64-same", 1, least=6, most=10)])
    assert find_row(results, "commits-64-same/fairness")["median"] == 0.6


def test_p99_is_compared_the_other_way_round() -> None:
    runs = [make_run(0, "crewkeep", "commits-64-same", 1, p99_ms=2), make_run(0, "sqlite", "commits-64-same", 1, p99_ms=50)]
    assert find_row(Results(runs=runs), "commits-64-same/p99")["median"] == 25


def make_crowd(write_ms: float, seen_ms: float, count: int = 512) -> Crowd:
    return Crowd(
        wanted=512,
        count=count,
        each_mb=1.0,
        idle_percent=1.0,
        seen_ms=[seen_ms] * 9,
        write_ms=[write_ms] * 9,
        alone_ms=[1.0] * 9,
        stirred_ms=0.0,
    )


def test_a_writer_that_wakes_the_crowd_before_it_returns_is_charged_for_it() -> None:
    assert make_crowd(write_ms=1.0, seen_ms=0.5).delay_ms == 0.5
    assert make_crowd(write_ms=81.0, seen_ms=0.0).delay_ms == 80.0
    assert find_row(Results(crowds=[make_crowd(81.0, 0.0)]), "crowd-seen")["median"] == 80_000


def test_a_crowd_that_was_smaller_than_asked_for_is_called_so() -> None:
    assert str(find_row(Results(crowds=[make_crowd(1.0, 0.0, count=100)]), "crowd-idle")["title"]).startswith("100 idle watchers")


def test_a_row_that_nobody_asked_for_is_not_called_missing() -> None:
    row = next(row for row in judge_all(Results(), Amounts(), ["view"], {"lmdb": "not there"}) if row["row"] == "reads/lmdb")
    assert row["why"] == NOT_MEASURED


def test_a_peer_that_is_missing_is_named_in_its_row() -> None:
    row = find_row(Results(), "commits-4-distinct/lmdb", {"lmdb": "the package lmdb is not installed"})
    assert (row["median"], row["met"], row["why"]) == (None, None, "lmdb: the package lmdb is not installed")


def test_every_measurement_has_a_row_and_every_row_a_measurement() -> None:
    assert {row.needs for row in list_rows(Amounts())} == set(MEASUREMENTS)


def test_rows_have_names_of_their_own_and_only_known_peers() -> None:
    rows = list_rows(Amounts())
    assert len({row.name for row in rows}) == len(rows)
    assert {row.against for row in rows} - {None} <= set(list_names())


@pytest.mark.parametrize(
    ("value", "unit", "shown"), [(1.25, "x", "1.25x"), (0.00012, "%", "0.00012%"), (1234.5, "us", "1,234 us"), (0, "ms", "0 ms")]
)
def test_figures_are_shown_with_the_digits_that_count(value: float, unit: str, shown: str) -> None:
    assert show(value, unit) == shown


def test_rates_are_shown_short() -> None:
    assert [show_rate(value) for value in (12, 3456, 7_890_000)] == ["12", "3.5k", "7.89M"]
