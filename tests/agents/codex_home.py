"""A home for Codex that knows nobody, with a model on loopback."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from support import skip_or_fail

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


def find_codex() -> str:
    """Return the pinned Codex; without it skip, or in CI fail."""
    command = HERE / "node_modules" / ".bin" / "codex"
    if not command.exists():
        skip_or_fail("codex is not installed below tests/agents; `make test-needs` installs it where npm is there")
    if shutil.which("node") is None:
        skip_or_fail("node is not installed")
    return str(command)


def make_codex_home(url: str, tmp_path: Path, command: str) -> CodexHome:
    """Prepare Codex for the model at ``url``."""
    work, home = tmp_path / "work", tmp_path / "user"
    work.mkdir(parents=True)
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
        "PATH": os.pathsep.join([str(Path(command).parent), os.environ.get("PATH", os.defpath)]),
        "HOME": str(home),
        "TERM": "xterm-256color",
        "LANG": "C.UTF-8",
        "SCRIPTED_KEY": "nobody-asks",
    }
    return CodexHome(command=command, work=work, home=home, environment=environment)
