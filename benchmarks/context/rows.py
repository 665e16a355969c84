"""The table of what the shared context must show: each row with its least, its aim, and how it follows from the results.

Ratios are paired: taken within each round, then their median. A row that falls short is reported as it is. Pure.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.context.peers import OURS, list_names
from benchmarks.context.plan import Amounts, Results
from benchmarks.context.stats import Figure, pair
from benchmarks.context.writers import Run

_PEERS = [name for name in list_names() if name != OURS]
#: Why a row that was not asked for has no figure.
NOT_MEASURED = "not measured"
Values = Callable[[Results], list[float]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One line of the table."""

    name: str
    title: str
    unit: str
    #: What must be reached, and what one would like; ``None`` where the row only tells.
    at_least: float | None
    aim: float | None
    values: Values
    more_is_better: bool = True
    #: The measurement that it needs.
    needs: str
    #: The peer that it needs, if one in particular.
    against: str | None = None

    def judge(self, median: float) -> str | None:
        """Return ``aim``, ``yes`` or ``no``; ``None`` where nothing is asked."""
        if self.at_least is None or self.aim is None:
            return None
        sign = 1 if self.more_is_better else -1
        return "aim" if sign * median >= sign * self.aim else "yes" if sign * median >= sign * self.at_least else "no"


def list_rows(amounts: Amounts, crowd_count: int | None = None) -> list[Row]:
    """Return every row; ``crowd_count`` watchers were as many as the machine carried."""
    keys, crowd = f"{amounts.keys:,} keys", f"{crowd_count or amounts.watchers} idle watchers"
    return [
        _against("commits-1", "durable commits/s, 1 writer", "sqlite", 1.0, 1.25),
        _against("commits-4-distinct", "4 writers, distinct keys", "sqlite", 1.9, 2.5),
        _against("commits-4-distinct", "4 writers, distinct keys", "lmdb", 3, 4),
        _against("commits-4-distinct", "4 writers, distinct keys", "redis", 3, 4),
        _against_best("commits-4-same", "4 writers, same key", None, None),
        _against("commits-16-distinct", "16 writers, distinct keys", "sqlite", 4, 5),
        _against("commits-16-same", "16 writers, same key", "sqlite", 4, 5),
        _against_best("commits-16-distinct", "16 writers, distinct keys", 2, 3),
        _against_best("commits-16-same", "16 writers, same key", 2, 3),
        _against_best("commits-64-distinct", "64 writers, distinct keys", 3, 4),
        _against_best("commits-64-same", "64 writers, same key", 3, 5),
        _p99("commits-64-distinct", "64 writers, distinct keys"),
        _p99("commits-64-same", "64 writers, same key"),
        _fairness("commits-64-distinct", "64 writers, distinct keys"),
        _fairness("commits-64-same", "64 writers, same key"),
        _less("seen-p50", "acknowledged -> watcher, p50", "us", 100, 30, "seen", _of_seen(lambda seen: seen.p50_ms * 1000)),
        _less("seen-p99", "acknowledged -> watcher, p99", "us", 1000, 150, "seen", _of_seen(lambda seen: seen.p99_ms * 1000)),
        _less("idle", "idle watcher, share of a core", "%", 0.02, 0.005, "idle", _idle),
        _less("crowd-idle", f"{crowd} together", "%", 5, 0.5, "crowd", lambda found: [one.idle_percent for one in found.crowds]),
        _less("crowd-seen", f"one write, {crowd}, one of them interested", "us", 1000, 100, "crowd", _crowd_seen),
        _more("view", "reads from a session's view", "M/s", 3, 5, "view", _view),
        _reads("lmdb", 1.0, 1.2),
        _reads("sqlite", None, None),
        _less("keys-swap", f"compare-and-swap at {keys}, against 100", "x", 1.3, 1.15, "keys-swap", _swaps),
        _less("keys-open", f"open and first get at {keys}", "ms", 5, 0.5, "keys-open", lambda found: found.opens_ms),
        _less("keys-power-loss", f"the same after power loss, {keys}", "s", 5, 0.5, "keys-power-loss", _power_losses),
        # The limits of this row are ours: the table asks for "proportional to the prefix" and gives no number.
        _less("keys-memory", f"memory to watch 1,000 of {keys}, against 1,000 alone", "x", 2, 1.2, "keys-memory", _memory),
        _less("keys-memory-mb", f"memory to watch 1,000 of {keys}", "MB", None, None, "keys-memory", _memory_mb),
        _less(
            "keys-disk",
            f"disk for {keys} of 1 KB, against the payload",
            "x",
            1.3,
            1.1,
            "keys-disk",
            lambda found: found.disk_ratios,
        ),
        _bare(1),
        _bare(16),
        _roof("commits-1", "1 writer", 1),
        _roof("commits-16-distinct", "16 writers, distinct keys", 16),
    ]


def judge_all(results: Results, amounts: Amounts, only: Iterable[str], left_out: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return every row for JSON, with its figure or why there is none."""
    found = []
    for row in list_rows(amounts, results.crowds[-1].count if results.crowds else None):
        values = row.values(results) if row.needs in only else []
        figure = Figure.of(values) if values else None
        why = None
        if figure is None:
            missing = left_out.get(row.against or "") if row.needs in only else None
            why = f"{row.against}: {missing}" if missing else NOT_MEASURED
        found.append(
            {
                "row": row.name,
                "title": row.title,
                "unit": row.unit,
                "better": "more" if row.more_is_better else "less",
                "at_least": row.at_least,
                "aim": row.aim,
                **(figure.encode() if figure else {"median": None, "low": None, "high": None, "count": 0}),
                "met": row.judge(figure.median) if figure else None,
                "why": why,
            }
        )
    return found


# Rows of writers


def _against(work: str, title: str, peer: str, at_least: float, aim: float) -> Row:
    return _more(
        f"{work}/{peer}",
        f"{title}, against {peer}",
        "x",
        at_least,
        aim,
        work,
        lambda found: pair(_of_work(found, work), lambda run: run.per_s, OURS, [peer], max),
        against=peer,
    )


def _against_best(work: str, title: str, at_least: float | None, aim: float | None) -> Row:
    return _more(
        f"{work}/best",
        f"{title}, against the best durable peer",
        "x",
        at_least,
        aim,
        work,
        lambda found: pair(_of_work(found, work), lambda run: run.per_s, OURS, _PEERS, max),
    )


def _p99(work: str, title: str) -> Row:
    return _more(
        f"{work}/p99",
        f"{title}, p99 lower than sqlite's by",
        "x",
        10,
        20,
        work,
        lambda found: pair(_of_work(found, work), lambda run: run.p99_ms, "sqlite", [OURS], min),
        against="sqlite",
    )


def _fairness(work: str, title: str) -> Row:
    return _more(
        f"{work}/fairness",
        f"{title}, unluckiest / luckiest process",
        "",
        0.5,
        0.75,
        work,
        lambda found: [run.fairness for run in _of_work(found, work) if run.peer == OURS],
    )


def _roof(work: str, title: str, count: int) -> Row:
    def values(found: Results) -> list[float]:
        bare = {flushes.round: flushes.per_s for flushes in found.flushes if flushes.count == count}
        ours = {run.round: run.per_s for run in _of_work(found, work) if run.peer == OURS}
        return [ours[number] / bare[number] for number in ours if bare.get(number)]

    return _more(f"{work}/roof", f"{title}, against {count} of those", "x", None, None, work, values)


def _bare(count: int) -> Row:
    def values(found: Results) -> list[float]:
        return [flushes.per_s / 1e3 for flushes in found.flushes if flushes.count == count]

    return _more(
        f"roof-{count}",
        f"bare pwrite + fdatasync, {count} process{'' if count == 1 else 'es'}",
        "k/s",
        None,
        None,
        "roof",
        values,
    )


def _of_work(found: Results, work: str) -> list[Run]:
    return [run for run in found.runs if run.work == work]


# Other rows


def _of_seen(figure: Callable[[Any], float]) -> Values:
    return lambda found: [figure(seen) for seen in found.seen if seen.peer == OURS]


def _idle(found: Results) -> list[float]:
    return [idle.percent for idle in found.idle if idle.peer == OURS]


def _crowd_seen(found: Results) -> list[float]:
    return [crowd.delay_ms * 1000 for crowd in found.crowds]


def _view(found: Results) -> list[float]:
    return [reads.per_s / 1e6 for reads in found.views if reads.peer == "view"]


def _reads(peer: str, at_least: float | None, aim: float | None) -> Row:
    return _more(
        f"reads/{peer}",
        f"point reads through the store, against {peer}",
        "x",
        at_least,
        aim,
        "reads",
        lambda found: pair(found.reads, lambda reads: reads.per_s, OURS, [peer], max),
        against=peer,
    )


def _swaps(found: Results) -> list[float]:
    return [swaps.large_ms / swaps.small_ms for swaps in found.swaps]


def _power_losses(found: Results) -> list[float]:
    return [took_ms / 1000 for took_ms in found.power_losses_ms]


def _memory(found: Results) -> list[float]:
    alone_bytes = statistics.median([alone.uss_bytes for _, alone in found.growths] or [0])
    return [large.uss_bytes / alone_bytes for large, _ in found.growths] if alone_bytes > 0 else []


def _memory_mb(found: Results) -> list[float]:
    return [large.uss_bytes / 1e6 for large, _ in found.growths]


def _more(
    name: str,
    title: str,
    unit: str,
    at_least: float | None,
    aim: float | None,
    needs: str,
    values: Values,
    against: str | None = None,
) -> Row:
    return Row(name=name, title=title, unit=unit, at_least=at_least, aim=aim, values=values, needs=needs, against=against)


def _less(name: str, title: str, unit: str, at_least: float | None, aim: float | None, needs: str, values: Values) -> Row:
    return Row(name=name, title=title, unit=unit, at_least=at_least, aim=aim, values=values, needs=needs, more_is_better=False)
