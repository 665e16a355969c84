"""A home for Codex that knows nobody, with a model on loopback."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agent_home import AgentHome, find_pinned, make_base


@dataclass(frozen=True, kw_only=True, slots=True)
class CodexHome(AgentHome):
    """A home of Codex's."""

    @property
    def rollouts(self) -> list[Path]:
        """Its transcripts, oldest first."""
        return sorted(self.home.glob(".codex/sessions/*/*/*/rollout-*.jsonl"), key=lambda path: path.stat().st_mtime_ns)

    def configure(self, text: str) -> None:
        """Put lines before the tables of its configuration."""
        path = self.home / ".codex" / "config.toml"
        path.write_text(text + path.read_text())


def make_codex_home(url: str, tmp_path: Path) -> CodexHome:
    """Prepare the pinned Codex for the model at ``url``."""
    command, work, home = find_pinned("codex"), tmp_path / "work", tmp_path / "user"
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
    environment = {**make_base(command, home), "SCRIPTED_KEY": "nobody-asks"}
    return CodexHome(command=command, work=work, home=home, environment=environment)
