"""A home for OpenCode that knows nobody, with a model on loopback."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from agent_home import AgentHome, find_pinned, make_base


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenCodeHome(AgentHome):
    """A home of OpenCode's."""

    @property
    def database(self) -> Path:
        return self.home / ".local" / "share" / "opencode" / "opencode.db"

    @property
    def databases(self) -> list[Path]:
        """The database with its log and whatever was set beside it."""
        return sorted(self.database.parent.glob("opencode.db*"))

    def configure(self, **settings: object) -> None:
        """Change its configuration."""
        path = self.home / ".config" / "opencode" / "opencode.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


def make_opencode_home(url: str, tmp_path: Path) -> OpenCodeHome:
    """Prepare the pinned OpenCode for the model at ``url``; all its tools are allowed."""
    command = find_pinned("opencode")
    work, home, temporary = tmp_path / "work", tmp_path / "user", tmp_path / "temporary"
    (home / ".config" / "opencode").mkdir(parents=True)
    work.mkdir()
    temporary.mkdir()
    made = OpenCodeHome(
        command=command,
        work=work,
        home=home,
        environment={
            **make_base(command, home),
            "XDG_CONFIG_HOME": str(home / ".config"),  # the tests' own command line has another
            "XDG_DATA_HOME": str(home / ".local" / "share"),
            "XDG_STATE_HOME": str(home / ".local" / "state"),
            "XDG_CACHE_HOME": str(home / ".cache"),
            "TMPDIR": str(temporary),  # each run leaves a library of 5 MB there
            "OPENCODE_DISABLE_MODELS_FETCH": "1",
            "OPENCODE_DISABLE_AUTOUPDATE": "1",
        },
    )
    config = home / ".config" / "opencode"
    (config / "opencode.json").write_text("{}")
    # OpenCode fetches the types for plug-ins from npm at its first start, and waits for that if there is a plug-in.
    (config / "node_modules").mkdir()
    (config / "package-lock.json").write_text('{"packages": {"": {"dependencies": {"@opencode-ai/plugin": "*"}}}}')
    made.configure(
        autoupdate=False,
        share="disabled",
        model="scripted/scripted",
        small_model="scripted/scripted",
        enabled_providers=["scripted"],
        permission={"*": "allow"},
        provider={
            "scripted": {
                "npm": "@ai-sdk/openai-compatible",
                "options": {"baseURL": url, "apiKey": "nobody-asks"},
                "models": {"scripted": {"tool_call": True, "limit": {"context": 100_000, "output": 8_000}}},
            }
        },
    )
    return made
