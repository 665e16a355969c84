"""A home for Gemini CLI that knows nobody, and the environment that leads there."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from agent_home import AgentHome, find_pinned, make_base

#: Moves the program's clock by GEMINI_TEST_SHIFT_MS; nothing else in it asks for the time.
_SHIFT = """
const shift = Number(process.env.GEMINI_TEST_SHIFT_MS || 0), Real = Date;
globalThis.Date = class extends Real {
  constructor(...given) { given.length ? super(...given) : super(Real.now() + shift); }
  static now() { return Real.now() + shift; }
};
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class GeminiHome(AgentHome):
    """A home of Gemini CLI's."""

    @property
    def transcripts(self) -> list[Path]:
        """Its transcripts, oldest first."""
        return sorted(self.home.glob(".gemini/tmp/*/chats/session-*.jsonl"), key=lambda path: path.stat().st_mtime_ns)

    def configure(self, **general: object) -> None:
        """Change settings of the group ``general``."""
        path = self.home / ".gemini" / "settings.json"
        settings = json.loads(path.read_text())
        settings["general"] |= general
        path.write_text(json.dumps(settings))

    def shifted(self, seconds: float) -> dict[str, str]:
        """Return the environment with a clock that is so many seconds ahead."""
        script = self.home / "shift.cjs"
        script.write_text(_SHIFT)
        return {**self.environment, "NODE_OPTIONS": f"--require={script}", "GEMINI_TEST_SHIFT_MS": str(int(seconds * 1000))}


def make_gemini_home(url: str, tmp_path: Path) -> GeminiHome:
    """Prepare the pinned Gemini for the model at the root ``url``, with retention of conversations on, as it is by default."""
    command = find_pinned("gemini")
    work, home, temporary = tmp_path / "work", tmp_path / "user", tmp_path / "tmp"
    for directory in (work, temporary, home / ".gemini"):
        directory.mkdir(parents=True)
    settings = {
        "security": {"auth": {"selectedType": "gemini-api-key"}, "folderTrust": {"enabled": False}},
        "general": {"enableAutoUpdate": False, "enableAutoUpdateNotification": False},
        "model": {"name": "gemini-2.5-flash"},  # its own choice would ask a model first
        "privacy": {"usageStatisticsEnabled": False},
        "telemetry": {"enabled": False},
    }
    (home / ".gemini" / "settings.json").write_text(json.dumps(settings))
    environment = {
        **make_base(command, home),
        "COLORTERM": "truecolor",
        "TMPDIR": str(temporary),
        "GEMINI_API_KEY": "nobody-asks",
        "GOOGLE_GEMINI_BASE_URL": url,
    }
    return GeminiHome(command=command, work=work, home=home, environment=environment)
