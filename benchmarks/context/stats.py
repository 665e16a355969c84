"""Medians with their spread, percentiles, and ratios that are paired: taken within one round, then summed up. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """One figure of several rounds."""

    median: float
    low: float
    high: float
    #: Rounds.
    count: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Figure:
        """Sum up what the rounds gave; at least one."""
        found = sorted(values)
        return cls(median=statistics.median(found), low=found[0], high=found[-1], count=len(found))

    def encode(self) -> dict[str, float]:
        """Return it for JSON, at a precision that a measurement has."""
        return {name: float(f"{value:.4g}") if name != "count" else value for name, value in asdict(self).items()}


def cut(values: Sequence[float], percent: float) -> float:
    """Return a percentile: the smallest value that so many percent do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def pair(
    runs: Iterable[Any], figure: Callable[[Any], float], over: str, under: Sequence[str], best: Callable[[Iterable[float]], float]
) -> list[float]:
    """Return, for each round, the figure of peer ``over`` divided by the best that the peers ``under`` had in it."""
    rounds: dict[int, dict[str, float]] = {}
    for run in runs:
        rounds.setdefault(run.round, {})[run.peer] = figure(run)
    ratios = []
    for found in rounds.values():
        others = [found[peer] for peer in under if peer in found]
        if over in found and others and (divisor := best(others)) > 0:
            ratios.append(found[over] / divisor)
    return ratios
