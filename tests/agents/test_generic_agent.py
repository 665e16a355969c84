"""Any command is an agent: it comes back with the same words, directory and environment, at the next epoch."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from support import cli, cli_json, wait_until

from coordinator.paths import Home
from coordinator.sessions.registry import Registry

PROGRAM = """
import json, os, sys, time
with open("incarnations.jsonl", "a") as file:
    print(json.dumps({"argv": sys.argv[1:], "cwd": os.getcwd(), "environment": dict(os.environ)}), file=file)
time.sleep(300)
"""
ODD = ["--flag=a b", "", "*", "$HOME", "naïve ☃", "-x", "--", "two\nlines"]


def read_incarnations(work: Path) -> list[dict[str, Any]]:
    path = work / "incarnations.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_any_command_comes_back_as_it_was_started(home: Home, tmp_path: Path) -> None:
    work = tmp_path / "work place"
    work.mkdir()
    environment = {"PLAIN": "kept ☃", "EMPTY": "", "SERVICE_TOKEN": "hush-hush"}
    words = ["run", "-d", "--json", "--name", "any", "--cwd", str(work), "--", sys.executable, "-c", PROGRAM, *ODD]
    started = cli_json(*words, home=home, env=environment)
    assert started["epoch"] == 1
    wait_until(lambda: read_incarnations(work), what="the first incarnation")
    agent = Registry(home).get(started["id"]).agent
    assert agent is not None
    os.kill(agent.pid, signal.SIGKILL)
    first, second = wait_until(lambda: len(found := read_incarnations(work)) == 2 and found, what="the second incarnation")
    assert first["argv"] == second["argv"] == ODD
    assert first["cwd"] == second["cwd"] == str(work)
    changed = {name for name in first["environment"] if first["environment"][name] != second["environment"].get(name)}
    assert changed == {"CREWKEEP_EPOCH", "CREWKEEP_NONCE"}
    assert second["environment"]["SERVICE_TOKEN"] == "hush-hush"
    assert not [path for path in home.path.rglob("*") if path.is_file() and b"hush-hush" in path.read_bytes()]
    [row] = cli_json("ps", "--json", home=home)
    assert (row["agent"], row["epoch"], row["restarts"]) == ("generic", 2, 1)
    assert cli("kill", "any", home=home).returncode == 0


def test_an_unknown_agent_is_refused_before_anything_is_written(home: Home) -> None:
    refused = cli("run", "-d", "--agent", "clippy", "--", "true", home=home)
    assert refused.returncode == 2
    assert "codex" in refused.stderr
    assert not list(home.sessions.glob("*"))
