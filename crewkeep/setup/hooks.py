"""Hooks in the agents' own configuration: which events, in which file, and how they are found and taken out again.

Each entry runs one shell command that does nothing outside of a session, and nothing once crewkeep is gone, so that what is left
in a configuration never hurts.
"""

from __future__ import annotations

import dataclasses
import re
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coordinator.errors import CrewkeepError, InvalidInput, Missing
from crewkeep.setup.edits import Edit, read_object, read_optional, write_object
from crewkeep.setup.targets import (
    Installed,
    Status,
    check_agent,
    find_codex_home,
    find_gemini_home,
    find_home,
    find_opencode_config,
    judge,
)

#: The program that our entries run, and how they end: others may speak of it.
MARK = "crewkeep-hook"
_OURS = re.compile(rf"(?:\A|/|\|\| ){MARK}'? [a-z]+\Z")
#: What our entries are called where hooks bear names.
_NAME = "crewkeep"
#: How long an agent waits for a hook, in seconds; ours gives up earlier by itself.
_TIMEOUT_S = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class _JsonHooks:
    """Hooks of a program that took over the usual shape: an object of events in a file of JSON."""

    find_path: Callable[[Mapping[str, str]], Path]
    events: tuple[str, ...]
    #: In what unit the program takes timeouts.
    timeout: int
    #: Whether entries bear a name.
    named: bool = False

    def plan(self, agent: str, environment: Mapping[str, str], *, install: bool) -> Edit:
        path = self.find_path(environment)
        before = read_optional(path)
        settings = read_object(path, before)
        hooks = settings.get("hooks", {})
        if not isinstance(hooks, dict):
            raise InvalidInput(f"`hooks` in {path} is no object; it was left as it is", hint="mend the file", path=str(path))
        ours = {"hooks": [self._make_entry(agent)]} if install else None
        kept: dict[str, Any] = {}
        for event in dict.fromkeys((*hooks, *(self.events if install else ()))):
            groups = hooks.get(event, [])
            if not isinstance(groups, list):
                told = f"`hooks.{event}` in {path} is no list; it was left as it is"
                raise InvalidInput(told, hint="mend the file", path=str(path))
            wanted = ours if event in self.events else None
            rest = _without_ours(groups, but=wanted)
            if wanted is not None and wanted not in rest:
                rest = [*rest, wanted]
            if rest or not _has_ours(groups):
                kept[event] = rest
        changed = {**settings, "hooks": kept}
        if not kept:
            del changed["hooks"]
        if changed == settings or not (install or any(_has_ours(groups) for groups in hooks.values())):
            return Edit(path=path, before=before, after=before)
        return Edit(path=path, before=before, after=write_object(changed, before))

    def _make_entry(self, agent: str) -> dict[str, Any]:
        entry: dict[str, Any] = {"type": "command", "command": make_command(agent), "timeout": self.timeout}
        return {"name": _NAME, **entry} if self.named else entry


@dataclass(frozen=True, kw_only=True, slots=True)
class _Plugin:
    """Hooks of a program that takes a plug-in: a file of our own."""

    find_path: Callable[[Mapping[str, str]], Path]
    source: str

    def plan(self, agent: str, environment: Mapping[str, str], *, install: bool) -> Edit:
        path = self.find_path(environment)
        before = read_optional(path)
        if before is not None and not before.startswith(f"// {MARK}:".encode()):
            raise InvalidInput(f"{path} is not crewkeep's; it was left as it is", hint="move it away first", path=str(path))
        source = (Path(__file__).parent / self.source).read_text(encoding="utf-8")
        after = source.replace('"CREWKEEP_HOOK"', _quote_script(find_program())).encode() if install else None
        return Edit(path=path, before=before, after=after)


def find_hook_agents() -> list[str]:
    """Return the names of the agents that have hooks."""
    return list(_TARGETS)


def plan_hooks(agent: str, environment: Mapping[str, str], *, install: bool) -> Edit:
    """Return the change that installs (or removes) our hooks for an agent.

    Raises ``InvalidInput`` for a file that is not ours to change, ``Missing``, ``StorageError``.
    """
    check_agent(agent, _TARGETS, "hooks")
    return _TARGETS[agent].plan(agent, environment, install=install)


def read_status(agent: str, environment: Mapping[str, str]) -> Status:
    """Return how an agent's hooks stand, with a problem if its user has turned hooks off.

    Raises ``InvalidInput`` for one that has none, and nothing for what it finds.
    """
    check_agent(agent, _TARGETS, "hooks")
    path = _TARGETS[agent].find_path(environment)
    status = judge(agent, path, lambda install: plan_hooks(agent, environment, install=install))
    if status.installed in (Installed.YES, Installed.OUTDATED):
        return dataclasses.replace(status, problem=find_switched_off(agent, environment))
    return status


def find_switched_off(agent: str, environment: Mapping[str, str]) -> str | None:
    """Return what in the agent's own settings keeps it from running our hooks; ``None`` if nothing is seen that does."""
    if agent not in _SWITCHES:
        return None
    path = find_codex_home(environment) / "config.toml" if agent == "codex" else _TARGETS[agent].find_path(environment)
    try:
        settings = _read_toml(path) if agent == "codex" else read_object(path, read_optional(path))
    except (CrewkeepError, ValueError):
        return None
    for name, off in _SWITCHES[agent]:
        value: Any = settings
        for part in name.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if value is off or (isinstance(value, list) and off in value):
            return f"{agent} does not run them: `{name}` in {path} turns them off"
    return None


def find_warning(agent: str, environment: Mapping[str, str]) -> str | None:
    """Return what its user should know of an agent whose hooks were just installed."""
    if told := find_switched_off(agent, environment):
        return told
    if agent == "opencode" and not (find_opencode_config(environment) / "node_modules").is_dir():
        return (
            "its next start first fetches its own library for plug-ins from npm; where npm cannot be reached, each start waits"
            " more than a minute for that"
        )
    return None


def make_command(agent: str) -> str:
    """Return the shell command that stands in an agent's configuration."""
    program = shlex.quote(find_program())
    return f'[ -z "$CREWKEEP_SESSION" ] || [ ! -x {program} ] || {program} {agent}'


def find_program() -> str:
    """Return the absolute path of the hook's program. Raises ``Missing`` if it is not installed."""
    import shutil

    beside = Path(sys.executable).parent / MARK
    found = str(beside) if beside.exists() else shutil.which(MARK)
    if found is None:
        raise Missing(f"{MARK} is not installed beside {sys.executable}", hint="install crewkeep again: pipx reinstall crewkeep")
    return found


def _find_claude(environment: Mapping[str, str]) -> Path:
    return Path(environment.get("CLAUDE_CONFIG_DIR") or find_home(environment) / ".claude") / "settings.json"


def _find_codex(environment: Mapping[str, str]) -> Path:
    return find_codex_home(environment) / "hooks.json"


def _find_gemini(environment: Mapping[str, str]) -> Path:
    return find_gemini_home(environment) / "settings.json"


def _find_opencode(environment: Mapping[str, str]) -> Path:
    return find_opencode_config(environment) / "plugin" / "crewkeep.js"


_COMMON_EVENTS = ("SessionStart", "UserPromptSubmit", "PreToolUse", "PostToolUse", "Stop", "SessionEnd")
_TARGETS: dict[str, _JsonHooks | _Plugin] = {
    "claude": _JsonHooks(find_path=_find_claude, events=(*_COMMON_EVENTS, "Notification"), timeout=_TIMEOUT_S),
    "codex": _JsonHooks(find_path=_find_codex, events=(*_COMMON_EVENTS, "PermissionRequest"), timeout=_TIMEOUT_S),
    "gemini": _JsonHooks(
        find_path=_find_gemini,
        events=("SessionStart", "BeforeAgent", "BeforeTool", "AfterTool", "AfterAgent", "SessionEnd", "Notification"),
        timeout=_TIMEOUT_S * 1000,
        named=True,
    ),
    "opencode": _Plugin(find_path=_find_opencode, source="opencode_plugin.js"),
}
#: Where users turn hooks off: the setting, and what it is then, or holds.
_SWITCHES: dict[str, tuple[tuple[str, bool | str], ...]] = {
    "claude": (("disableAllHooks", True),),
    "codex": (("features.hooks", False),),
    "gemini": (("hooksConfig.enabled", False), ("hooksConfig.disabled", _NAME)),
}


def _read_toml(path: Path) -> dict[str, Any]:
    import tomllib  # a millisecond that a keeper of another agent need not pay

    return tomllib.loads((read_optional(path) or b"").decode())


def _has_ours(groups: Any) -> bool:
    """Tell whether one of an event's groups holds an entry of ours."""
    held = [group.get("hooks") for group in groups if isinstance(group, dict)] if isinstance(groups, list) else []
    return any(_is_ours(entry) for entries in held if isinstance(entries, list) for entry in entries)


def _is_ours(entry: Any) -> bool:
    command = entry.get("command") if isinstance(entry, dict) else None
    return isinstance(command, str) and _OURS.search(command) is not None


def _without_ours(groups: list[Any], *, but: dict[str, Any] | None) -> list[Any]:
    """Return an event's groups without our entries, ``but`` this group; one that held nothing else goes with them."""
    kept = []
    for group in groups:
        if not _has_ours([group]) or group == but:
            kept.append(group)
        elif rest := [entry for entry in group["hooks"] if not _is_ours(entry)]:
            kept.append({**group, "hooks": rest})
    return kept


def _quote_script(text: str) -> str:
    import json

    return json.dumps(text)
