"""A run of the first tool: play a scenario, enumerate its crash states, inspect them, and the same for a crash in recovery."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coordinator.context.model import Durability
from proof import engine
from proof.crashes import Bounds, Enumeration, Model, State, enumerate_states
from proof.disk import Tree
from proof.inspector import inspect
from proof.launch import make_command
from proof.operations import Recording, Said
from proof.pool import Pool, find_memory, make_environment
from proof.recorder import ProgramFailed, record, run_to_end
from proof.scenarios import SCENARIOS
from proof.witness import Expectation

BOOTS = "boot-1", "boot-2", "boot-3", "boot-4"


@dataclass(slots=True)
class Figures:
    """What came of a run."""

    ways: int = 0
    distinct: int = 0
    inspected: int = 0
    left_to_kills: int = 0
    recoveries: int = 0
    by_model: Counter[str] = field(default_factory=Counter)
    bad: list[str] = field(default_factory=list)

    def add(self, other: Figures) -> None:
        for name in ("ways", "distinct", "inspected", "left_to_kills", "recoveries"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.by_model += other.by_model
        self.bad += other.bad

    def __str__(self) -> str:
        models = ", ".join(f"{count} {model}" for model, count in sorted(self.by_model.items()))
        return (
            f"{self.ways} ways, {self.distinct} distinct states, {self.inspected} inspected ({models}), "
            f"{self.recoveries} recoveries recorded, {self.left_to_kills} points left to real kills, {len(self.bad)} bad"
        )


def play(name: str, root: Path, said: Path, phase: str, boot: str, bug: str | None = None) -> None:
    """Run a phase of a scenario, unrecorded. Raises ``ProgramFailed``."""
    run_to_end(_command(name, root, said, phase, boot, bug), env=make_environment())


def _command(name: str, root: Path, said: Path, phase: str, boot: str, bug: str | None) -> list[str]:
    return make_command("proof.program", name, root, said, phase, boot, bug=bug)


def record_scenario(
    strace: str, name: str, directory: Path, bug: str | None = None, failing_flush: int | None = None
) -> Recording:
    """Play what comes before, and record the rest; or, where the n-th flush fails, the errands. Raises ``ProgramFailed``."""
    root, said = directory / "root", directory / "said"
    root.mkdir(mode=0o700)
    play(name, root, said, "before", BOOTS[0])
    # In memory a flush takes no time; slowed down, others have the time to look at what is not durable yet.
    phase, inject = "during", "fsync,fdatasync:delay_enter=2000" if SCENARIOS[name].crowded else None
    if failing_flush is not None:
        phase = "during" if SCENARIOS[name].crowded else "errands"
        inject = f"fsync,fdatasync:error=EIO:when={failing_flush}"
    command = _command(name, root, said, phase, BOOTS[0], bug)
    return record(strace, command, root, said, env=make_environment(), trace=directory / "trace", inject=inject)


def run_scenario(
    strace: str, name: str, *, limit: int, recoveries: int, bounds: Bounds, bug: str | None = None, stop_at: int | None = None,
    failing_flush: int | None = None,
) -> Figures:  # fmt: skip
    """Inspect up to ``limit`` crash states of a scenario, and of its recovery from ``recoveries`` of them."""
    directory = Path(tempfile.mkdtemp(prefix="proof-", dir=find_memory()))
    try:
        try:
            recording = record_scenario(strace, name, directory, bug, failing_flush)
        except ProgramFailed as failure:
            return Figures(bad=[f"{name}: {failure}"])
        found = enumerate_states(recording, bounds=bounds, ignored=engine.WITHOUT_DATA)
        figures = _inspect_states(name, recording, found, 0, limit, bounds.seed, bug, stop_at)
        chance = random.Random(bounds.seed)
        lost = [state for state in found.states if state.model != "kill"]
        for state in chance.sample(lost, min(recoveries, len(lost))):
            if figures.bad:
                break
            figures.add(_crash_again(strace, name, directory, recording, state, limit // 4 + 1, bounds, bug))
        return figures
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _crash_again(
    strace: str, name: str, directory: Path, recording: Recording, state: State, limit: int, bounds: Bounds, bug: str | None
) -> Figures:
    """Record the recovery from a crash state, and crash at every step of it."""
    root, said = directory / "again", directory / "said-again"
    shutil.rmtree(root, ignore_errors=True)
    said.unlink(missing_ok=True)
    state.tree.put(root)
    command = _command(name, root, said, "recover", BOOTS[1], bug)
    try:
        second = record(strace, command, root, said, env=make_environment(), trace=directory / "trace")
    except ProgramFailed as failure:
        return Figures(bad=[f"{name}: recovery from: {state.how}: {failure}"], recoveries=1)
    second.said_before = _said(recording, state.last)
    found = enumerate_states(second, bounds=bounds, ignored=engine.WITHOUT_DATA)
    figures = _inspect_states(name, second, found, 1, limit, bounds.seed, bug)
    figures.recoveries = 1
    figures.bad = [f"{fault} (in the recovery from: {state.how})" for fault in figures.bad]
    return figures


def _said(recording: Recording, until: int) -> list[dict[str, Any]]:
    return recording.said_before + [op.statement for op in recording.operations[:until] if isinstance(op, Said)]


def _inspect_states(
    name: str,
    recording: Recording,
    found: Enumeration,
    level: int,
    limit: int,
    seed: int,
    bug: str | None,
    stop_at: int | None = None,
) -> Figures:
    figures = Figures(ways=found.ways, distinct=len(found.states), left_to_kills=found.left_to_kills)
    states = found.states
    if len(states) > limit:
        states = random.Random(seed).sample(states, limit)
    scenario = SCENARIOS[name]

    def tasks() -> Iterator[tuple[Any, ...]]:
        for state in states:
            expected = Expectation.make(_said(recording, state.first), _said(recording, state.last))
            yield state.tree, expected, state.model, level, scenario.durability, scenario.shards

    with Pool("proof.crash_run.inspect_state", bug=bug) as pool:
        for number, faults in pool.map(tasks()):
            state = states[number]
            figures.inspected += 1
            figures.by_model[state.model] += 1
            if faults:
                figures.bad.append(f"{name}, {state.model}, {state.how}: {'; '.join(faults)}")
                if stop_at is not None and len(figures.bad) >= stop_at:
                    break
    return figures


def inspect_state(
    scratch: Path, tree: Tree, expected: Expectation, model: Model, level: int, durability: Durability, shards: int
) -> list[str]:
    """Put a state where it can be opened, and inspect it (in a worker of the pool)."""
    root = scratch / "state"
    tree.put(root)
    killed = model == "kill"
    if durability == "process" and (level or not killed):  # power was lost, now or before
        expected.acknowledged, expected.fences, expected.rules = {}, {}, {}
    first = level if killed else level + 1
    try:
        return inspect(
            root / "context", expected, boots=(BOOTS[first], BOOTS[first], BOOTS[first + 1]), durability=durability, shards=shards
        )
    finally:
        shutil.rmtree(root)
