"""Fixtures for tests that drive a real agent program: its pinned installation, a home of its own, a model on loopback."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from support import skip_or_fail

sys.path.insert(0, str(Path(__file__).parent))  # the model server is a program's neighbour, not a package

HERE = Path(__file__).parent


@dataclass(frozen=True, kw_only=True, slots=True)
class CodexHome:
    """A directory for Codex that knows nobody, and the environment that leads there."""

    #: The command that npm installed: the wrapper, as users have it on their PATH.
    command: str
    work: Path
    home: Path
    environment: dict[str, str]

    @property
    def rollouts(self) -> list[Path]:
        """Its transcripts, oldest first."""
        return sorted(self.home.glob(".codex/sessions/*/*/*/rollout-*.jsonl"), key=lambda path: path.stat().st_mtime_ns)

    def configure(self, text: str) -> None:
        """Put lines before the tables of its configuration."""
        path = self.home / ".codex" / "config.toml"
        path.write_text(text + path.read_text())


@pytest.fixture(scope="session")
def codex_command() -> str:
    """Return the pinned Codex; without it skip, or in CI fail."""
    command = HERE / "node_modules" / ".bin" / "codex"
    if not command.exists():
        skip_or_fail("codex is not installed below tests/agents; `make test-needs` installs it where npm is there")
    if shutil.which("node") is None:
        skip_or_fail("node is not installed")
    return str(command)


@pytest.fixture
def make_codex_home(codex_command: str, tmp_path: Path) -> Callable[[str], CodexHome]:
    """Return a function that prepares Codex for the model at a URL."""

    def make(url: str) -> CodexHome:
        work, home = tmp_path / "work", tmp_path / "user"
        work.mkdir()
        (home / ".codex").mkdir(parents=True)
        (home / ".codex" / "config.toml").write_text(
            f"""model = "scripted"
model_provider = "scripted"
check_for_update_on_startup = false
[model_providers.scripted]
name = "scripted"
base_url = "{url}"
wire_api = "responses"
env_key = "SCRIPTED_KEY"
[analytics]
enabled = false
[projects."{work}"]
trust_level = "trusted"
"""
        )
        environment = {
            "PATH": os.pathsep.join([str(Path(codex_command).parent), os.environ.get("PATH", os.defpath)]),
            "HOME": str(home),
            "TERM": "xterm-256color",
            "LANG": "C.UTF-8",
            "SCRIPTED_KEY": "nobody-asks",
        }
        return CodexHome(command=codex_command, work=work, home=home, environment=environment)

    return make
