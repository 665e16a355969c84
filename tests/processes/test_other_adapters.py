"""An adapter of another distribution that is broken harms no other session, and its own is told what is wrong."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest
from support import cli, cli_json, wait_until

from coordinator.paths import Home
from coordinator.sessions.registry import Registry

_ADAPTER = """
from coordinator.agents.generic import Generic


class Flawed(Generic):
    name = "flawed"

    def recognises(self, argv):
        return argv[0].endswith("flawed")

    def {method}(self, *given):
        raise RuntimeError("a bug of its own")
"""


def install(site: Path, source: str) -> dict[str, str]:
    """Write a distribution with this adapter, and its program; return what a process needs to see both."""
    info = site / "flawed-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: flawed\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text("[crewkeep.agents]\nflawed = flawed_adapter:Flawed\n", encoding="utf-8")
    (site / "flawed_adapter.py").write_text(source, encoding="utf-8")
    program = site / "bin" / "flawed"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\nexec sleep 1000\n", encoding="utf-8")
    program.chmod(0o755)
    paths = [str(site), os.environ.get("PYTHONPATH", "")]
    return {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"}


@pytest.mark.parametrize("source", ["import sys; sys.exit('it needs another Python')", "raise ImportError('a library')", ""])
def test_one_that_cannot_be_loaded_keeps_no_command_from_starting(home: Home, tmp_path: Path, source: str) -> None:
    environment = install(tmp_path / "site", source)
    done = cli("run", "-d", "--name", "other", "--", "sleep", "1000", home=home, env=environment)
    assert done.returncode == 0, done.stderr
    listed = cli("history", home=home, env=environment)
    assert listed.returncode == 0, listed.stderr
    assert "flawed" in listed.stderr
    named = cli("run", "-d", "--agent", "flawed", "--", "flawed", home=home, env=environment)
    assert named.returncode == 2
    assert "flawed_adapter:Flawed" in named.stderr


@pytest.mark.parametrize("method", ["prepare", "read_permission_mode"])
def test_one_that_fails_before_the_start_is_named_and_no_session_is_left(home: Home, tmp_path: Path, method: str) -> None:
    environment = install(tmp_path / "site", _ADAPTER.format(method=method))
    done = cli("run", "-d", "--", "flawed", home=home, env=environment)
    assert done.returncode == 2
    assert "the adapter of agent 'Flawed' failed: RuntimeError: a bug of its own" in done.stderr
    assert cli_json("ps", "-a", "--json", home=home) == []


@pytest.mark.parametrize("flaw", ["build_resume", "uninstalled"])
def test_a_session_whose_adapter_fails_at_its_return_has_failed_and_says_why(home: Home, tmp_path: Path, flaw: str) -> None:
    site = tmp_path / "site"
    environment = install(site, _ADAPTER.format(method="build_resume" if flaw == "build_resume" else "unused"))
    done = cli("run", "-d", "--name", "auth", "--", "flawed", home=home, env=environment)
    assert done.returncode == 0, done.stderr
    record = Registry(home).find("auth")
    assert record.agent is not None
    assert record.owner is not None
    if flaw == "uninstalled":
        shutil.rmtree(site / "flawed-1.0.dist-info")
    for process in (record.owner, record.agent):
        os.kill(process.pid, signal.SIGKILL)
    [row] = wait_until(
        lambda: [row for row in cli_json("ps", "-a", "--json", home=home) if row["state"] == "failed"], what="failed"
    )
    assert row["epoch"] == 2
    assert "flawed" in row["reason"]
