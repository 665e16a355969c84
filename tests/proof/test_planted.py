"""Each planted bug is found by a tool: a tool that finds nothing would be a finding."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from proof.conftest import Report
from proof.options import PROVE
from proof.planted import BUGS, NOT_FOUND, apply
from proof.tools import ALL_TOOLS, run_tool


@pytest.mark.parametrize("name", [*BUGS, *NOT_FOUND])
def test_every_bug_has_its_place(name: str) -> None:
    bug = BUGS[name] if name in BUGS else NOT_FOUND[name][0]
    for module in {edit.module for edit in bug.edits}:
        spec = importlib.util.find_spec(module)
        assert spec is not None and spec.origin is not None
        compile(apply(bug, module, Path(spec.origin).read_text(encoding="utf-8")), spec.origin, "exec")


def test_there_is_a_bug_for_every_tool() -> None:
    assert len(BUGS) >= 20
    assert {bug.found_by.partition(" ")[0] for bug in BUGS.values()} == {tool.partition(" ")[0] for tool in ALL_TOOLS}


#: By default every third; with `make prove` all of them.
CHOSEN = list(BUGS) if PROVE else list(BUGS)[::3]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", CHOSEN)
def test_every_bug_is_found(strace: str, report: Report, name: str) -> None:
    tool = BUGS[name].found_by
    found = next((found for seed in range(3) if (found := run_tool(strace, tool, name, seed=seed))), [])
    report(f"{tool}: {found[0][:160]}" if found else f"{tool} finds nothing")
    assert found


@pytest.mark.skipif(not PROVE, reason="each tool on a whole engine is what all other tests here are")
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("tool", ALL_TOOLS)
def test_without_a_bug_the_same_tool_finds_nothing(strace: str, tool: str) -> None:
    assert run_tool(strace, tool, None) == []
