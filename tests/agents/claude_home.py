"""A home of its own for Claude Code, and its command if this machine has it. It is not open source, so CI does without."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from agent_home import AgentHome, make_base

#: Nobody checks it; the program asks before it uses a key whose end it does not know.
KEY = "sk-ant-nobody-asks-0123456789abcdef"

#: Read at once: the tests of keepers take every variable of crewkeep's out of their environment.
_NAMED = os.environ.get("CREWKEEP_TEST_CLAUDE", "claude")


@dataclass(frozen=True, kw_only=True, slots=True)
class ClaudeHome(AgentHome):
    """A home of Claude Code's."""

    @property
    def transcripts(self) -> list[Path]:
        """Its conversations, oldest first."""
        return sorted(self.home.glob(".claude/projects/*/*.jsonl"), key=lambda path: path.stat().st_mtime_ns)


@cache
def find_claude() -> str:
    """Return the command ``claude`` of this machine, or the one that CREWKEEP_TEST_CLAUDE names; without it skip the test."""
    command = shutil.which(_NAMED)
    if command is None:
        pytest.skip(f"{_NAMED} is not installed; it is not open source, so no target installs it")
    done = subprocess.run([command, "--version"], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if "Claude Code" not in done.stdout:
        pytest.skip(f"{command} is no Claude Code that runs here: {done.stdout}{done.stderr}")
    return command


def make_claude_home(url: str, tmp_path: Path) -> ClaudeHome:
    """Prepare Claude Code for the model at ``url`` (without ``/v1``), with nothing left to ask the user at its first start."""
    command, work, home = find_claude(), tmp_path / "work", tmp_path / "user"
    work.mkdir()
    home.mkdir()
    known = {
        "hasCompletedOnboarding": True,
        "bypassPermissionsModeAccepted": True,
        "customApiKeyResponses": {"approved": [KEY[-20:]], "rejected": []},
        "projects": {str(work): {"hasTrustDialogAccepted": True, "hasCompletedProjectOnboarding": True}},
    }
    (home / ".claude.json").write_text(json.dumps(known))
    environment = {
        **make_base(command, home),
        "ANTHROPIC_BASE_URL": url,
        "ANTHROPIC_API_KEY": KEY,
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "CLAUDE_CODE_MAX_RETRIES": "1",
        "IS_SANDBOX": "1",  # else root may not skip permissions
    }
    return ClaudeHome(command=command, work=work, home=home, environment=environment)
