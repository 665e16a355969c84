"""What the proof's tests share: strace that may trace, and figures that are printed at the end."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support import require_program, skip_or_fail

from proof.options import PROVE, SEED

Report = Callable[[object], None]


@pytest.fixture(scope="session")
def strace() -> str:
    """Return the path of strace; where there is none, or nothing may be traced, skip, or in CI fail."""
    if sys.platform != "linux":
        pytest.skip("strace is Linux's")
    path = require_program("strace")
    done = subprocess.run([path, "-f", "-o", "/dev/null", "true"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        skip_or_fail(f"nothing may be traced here: {done.stderr.strip()[:200]}")
    return path


@pytest.fixture
def report(record_property: Callable[[str, object], None]) -> Report:
    """Return what keeps figures for the end of the run; also shown when the test fails."""

    def keep(figures: object) -> None:
        print(f"SEED={SEED} {figures}")
        record_property("figures", str(figures))

    return keep


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the figures of every tool."""
    if not PROVE:
        return
    lines = list(_list_figures(terminalreporter))
    if lines:
        terminalreporter.section("proof")
        terminalreporter.write_line(f"SEED={SEED}")
        for line in lines:
            terminalreporter.write_line(line)


def _list_figures(terminalreporter: Any) -> Iterator[str]:
    for kind in ("passed", "failed", "xfailed", "xpassed"):
        for report in terminalreporter.stats.get(kind, []):
            for name, value in getattr(report, "user_properties", []):
                if name == "figures":
                    yield f"{report.nodeid.rpartition('::')[2]}: {value} ({report.duration:.0f} s)"
