"""The tools by name, each as small as it may be to find a bug: ``crash SCENARIO``, ``flush``, ``flush SCENARIO``,
``kill SCENARIO``, ``fail CALL``, ``short``, ``damage``, ``damage FILE``, ``crew`` and ``crew small``."""

from __future__ import annotations

from proof.crash_run import run_scenario
from proof.crashes import Bounds
from proof.crew import run_crew
from proof.damage import run_damage
from proof.interruption import ERRORS, Interruptions


def run_tool(strace: str, tool: str, bug: str | None, *, seed: int = 1) -> list[str]:
    """Run a tool on the engine with a bug in it, until it finds something; returns what it found."""
    name, _, what = tool.partition(" ")
    if name == "crash":
        return run_scenario(strace, what, limit=600, recoveries=0, bounds=Bounds(seed=seed), bug=bug, stop_at=1).bad
    if name == "flush":
        found: list[str] = []
        for nth in (1, 2, 3):
            options = {"limit": 300, "recoveries": 0, "bug": bug, "stop_at": 1}
            found += run_scenario(strace, what or "commit", bounds=Bounds(seed=seed), failing_flush=nth, **options).bad  # type: ignore[arg-type]
            if found:
                break
        return found
    if name == "damage":
        only = what.encode() or None
        return run_damage(limit=2000 if only else 600, seed=seed, bug=bug, stop_at=1, only=only).bad
    if name == "crew":
        return run_crew(members=4, operations=40_000, seed=seed, deadline_s=20, is_small=what == "small", bug=bug).bad
    scenario = what if name == "kill" else "commit" if name == "short" else "compaction"
    with Interruptions(strace, scenario, bug) as interruptions:
        if name == "kill":
            points = [point for point in interruptions.list_points() if point.matters]
            if what == "growth":  # what is peculiar to it happens between two writes
                points = [point for point in points if point.call == "pwrite64"]
            return interruptions.kill_at(points, stop_at=1).bad
        if name == "short":
            return interruptions.shorten_writes().bad
        assert name == "fail", tool
        points = [point for point in interruptions.list_points("errands") if point.is_ours and point.call == what]
        return interruptions.fail_at([(point, ERRORS[what][0]) for point in points], stop_at=1).bad


ALL_TOOLS = ("crash commit", "crash create", "crash delete", "crash fence", "crash history", "crash growth", "crash crowd",
             "crash compaction", "flush", "flush doubt", "kill commit", "kill growth", "fail pwrite64", "short",
             "damage", "damage index",
             "crew", "crew small")  # fmt: skip
