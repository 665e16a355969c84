"""The MCP server in the agents' own configuration: which file, which entry, and how it is taken out again."""

from __future__ import annotations

import json
import re
import shutil
import sys
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coordinator.errors import InvalidInput, Missing
from crewkeep.setup.edits import Edit, read_object, read_optional, write_object
from crewkeep.setup.targets import (
    Status,
    check_agent,
    find_codex_home,
    find_gemini_home,
    find_home,
    find_opencode_config,
    judge,
)

#: The entry's name in every agent's configuration.
NAME = "crewkeep"


@dataclass(frozen=True, kw_only=True, slots=True)
class _JsonServers:
    """An object of servers in a file of JSON."""

    find_path: Callable[[Mapping[str, str]], Path]
    #: The object's name in the file.
    servers: str
    make_entry: Callable[[str], dict[str, Any]]

    def plan(self, environment: Mapping[str, str], *, install: bool) -> Edit:
        path = self.find_path(environment)
        before = read_optional(path)
        settings = read_object(path, before)
        servers = settings.get(self.servers, {})
        if not isinstance(servers, dict):
            raise InvalidInput(
                f"`{self.servers}` in {path} is no object; it was left as it is", hint="mend the file", path=str(path)
            )
        changed = {name: entry for name, entry in servers.items() if name != NAME}
        if install:
            known = servers.get(NAME)  # what its user added to our entry stays
            changed = {**servers, NAME: {**(known if isinstance(known, dict) else {}), **self.make_entry(find_crewkeep())}}
        if changed == servers:
            return Edit(path=path, before=before, after=before)
        after = {**settings, self.servers: changed}
        if not changed:
            del after[self.servers]
        return Edit(path=path, before=before, after=write_object(after, before))


class _CodexServers:
    """A table in a file of TOML that its user edits by hand: only our table's lines are touched."""

    #: Our table and those below it (Codex keeps there what its user allowed), each with a blank line in front of it; comments
    #: behind its last line belong to what follows.
    _TABLE = re.compile(
        rf"(?:(?<=\n)\r?\n)?^\[mcp_servers\.{NAME}(?P<below>\.[^\n]*)?\][ \t\r]*(?:#[^\n]*)?(?:\n|\Z)"
        r"(?:(?:[ \t\r]*(?:#[^\n]*)?\n)*[ \t]*[^\s#\[][^\n]*(?:\n|\Z))*",
        re.MULTILINE,
    )

    def find_path(self, environment: Mapping[str, str]) -> Path:
        return find_codex_home(environment) / "config.toml"

    def plan(self, environment: Mapping[str, str], *, install: bool) -> Edit:
        path = self.find_path(environment)
        before = read_optional(path)
        text = _decode(path, before)
        parsed = _parse(path, text)
        servers = parsed.get("mcp_servers", {})
        if not isinstance(servers, dict):
            raise InvalidInput(f"`mcp_servers` in {path} is no table; it was left as it is", hint="mend the file", path=str(path))
        found = servers.get(NAME)
        ours = {"command": find_crewkeep(), "args": ["mcp"]} if install else None
        wanted = None if ours is None else {**found, **ours} if isinstance(found, dict) else ours
        if found == wanted:
            return Edit(path=path, before=before, after=before)
        after = self._remove(text) if ours is None else self._enter(text, ours)
        self._check(path, parsed, after, wanted)
        return Edit(path=path, before=before, after=after.encode() if after else None)

    def _remove(self, text: str) -> str:
        left = self._TABLE.sub("", text)
        return left.removesuffix("\n").removesuffix("\r") if left != text and not text.endswith("\n") else left

    def _enter(self, text: str, ours: dict[str, Any]) -> str:
        line = "\r\n" if "\r\n" in text else "\n"
        lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in ours.items()]
        table = next((one for one in self._TABLE.finditer(text) if one["below"] is None), None)
        if table is None:
            entry = line.join([f"[mcp_servers.{NAME}]", *lines])
            if not text:
                return entry + line
            return text + line + entry + line if text.endswith("\n") else text + line * 2 + entry
        block = table[0] if table[0].endswith("\n") else table[0] + line
        behind_name = block.index("\n", block.index("]")) + 1
        name, body = block[:behind_name], block[behind_name:]
        for key, words in zip(reversed(ours), reversed(lines), strict=True):
            known = re.search(rf"^{key}[ \t]*=[^\r\n]*", body, re.MULTILINE)
            body = body[: known.start()] + words + body[known.end() :] if known else words + line + body
        return text[: table.start()] + name + body + text[table.end() :]

    @staticmethod
    def _check(path: Path, before: dict[str, Any], text: str, wanted: dict[str, Any] | None) -> None:
        """Refuse a change that would do anything else than was meant (an entry written in another form than ours)."""
        expected = {**before, "mcp_servers": {name: one for name, one in before.get("mcp_servers", {}).items() if name != NAME}}
        if wanted is not None:
            expected["mcp_servers"][NAME] = wanted
        try:
            after = tomllib.loads(text)
        except tomllib.TOMLDecodeError:
            after = {}
        if not expected["mcp_servers"] and "mcp_servers" not in after:
            del expected["mcp_servers"]
        if after != expected:
            hint = f"change the entry mcp_servers.{NAME} by hand: docs/agents.md"
            raise InvalidInput(f"{path} has an entry of another form; it was left as it is", hint=hint, path=str(path))


def find_mcp_agents() -> list[str]:
    """Return the names of the agents that take MCP servers."""
    return list(_TARGETS)


def plan_mcp(agent: str, environment: Mapping[str, str], *, install: bool) -> Edit:
    """Return the change that enters (or removes) our server for an agent.

    Raises ``InvalidInput`` for a file that is not ours to change, ``Missing``, ``StorageError``.
    """
    check_agent(agent, _TARGETS, "MCP servers")
    return _TARGETS[agent].plan(environment, install=install)


def read_status(agent: str, environment: Mapping[str, str]) -> Status:
    """Return how an agent's entry stands. Raises ``InvalidInput`` for one that takes none, and nothing for what it finds."""
    check_agent(agent, _TARGETS, "MCP servers")
    path = _TARGETS[agent].find_path(environment)
    return judge(agent, path, lambda install: plan_mcp(agent, environment, install=install))


def find_crewkeep() -> str:
    """Return the absolute path of the command. Raises ``Missing`` if it is not installed."""
    beside = Path(sys.executable).parent / NAME
    found = str(beside) if beside.exists() else shutil.which(NAME)
    if found is None:
        raise Missing(f"{NAME} is not installed beside {sys.executable}", hint="install crewkeep again: pipx reinstall crewkeep")
    return found


def _find_claude(environment: Mapping[str, str]) -> Path:
    return Path(environment.get("CLAUDE_CONFIG_DIR") or find_home(environment)) / ".claude.json"


def _find_gemini(environment: Mapping[str, str]) -> Path:
    return find_gemini_home(environment) / "settings.json"


def _find_opencode(environment: Mapping[str, str]) -> Path:
    given = environment.get("OPENCODE_CONFIG")
    return Path(given) if given else find_opencode_config(environment) / "opencode.json"


def _make_plain(program: str) -> dict[str, Any]:
    return {"command": program, "args": ["mcp"]}


def _make_opencode(program: str) -> dict[str, Any]:
    return {"type": "local", "command": [program, "mcp"], "enabled": True}


_TARGETS: dict[str, _JsonServers | _CodexServers] = {
    "claude": _JsonServers(find_path=_find_claude, servers="mcpServers", make_entry=_make_plain),
    "codex": _CodexServers(),
    "gemini": _JsonServers(find_path=_find_gemini, servers="mcpServers", make_entry=_make_plain),
    "opencode": _JsonServers(find_path=_find_opencode, servers="mcp", make_entry=_make_opencode),
}


def _decode(path: Path, data: bytes | None) -> str:
    try:
        return (data or b"").decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path} is not UTF-8; it was left as it is", hint="mend the file", path=str(path)) from error


def _parse(path: Path, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        hint = "mend the file; it was left as it is"
        raise InvalidInput(f"{path} is not TOML ({error})", hint=hint, path=str(path)) from error
