"""Codex runs no hook that its user has not trusted, and says nothing about it: ours are trusted through Codex itself.

Its app-server, a program that lives as long as this takes, tells the digest of each hook and writes down which are trusted. Only
hooks of ours are named to it; those of others stay as their user left them.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import time
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coordinator.agents import get_agent
from coordinator.errors import Missing, StartFailed, TimedOut
from coordinator.sessions.model import LaunchSpec
from crewkeep.setup.edits import read_optional
from crewkeep.setup.hooks import make_command
from crewkeep.setup.targets import find_codex_home

_TIMEOUT_S = 20.0


def list_untrusted(environment: Mapping[str, str], directory: Path) -> list[str]:
    """Return the keys of our hooks that Codex passes over in ``directory``: untrusted or disabled. Raises as ``trust_hooks``."""
    with _AppServer(environment, directory) as server:
        return [key for key, hook in server.list_ours() if not _is_trusted(hook) or hook.get("enabled") is False]


def trust_hooks(environment: Mapping[str, str], directory: Path) -> list[str]:
    """Let Codex trust our hooks; returns the keys of those that it did not trust before.

    Raises ``Missing`` if there is no Codex, ``StartFailed`` if it does not do it, ``TimedOut``.
    """
    with _AppServer(environment, directory) as server:
        new = {key: hook for key, hook in server.list_ours() if not _is_trusted(hook)}
        if new:
            state = {key: {"trusted_hash": hook["currentHash"]} for key, hook in new.items()}
            edit = {"keyPath": "hooks.state", "value": state, "mergeStrategy": "upsert"}
            server.ask("config/batchWrite", {"edits": [edit]})
            left = [key for key, hook in server.list_ours() if key in new and hook.get("trustStatus") != "trusted"]
            if left:
                raise StartFailed(
                    "codex does not trust the hooks it was asked to", hint="trust them yourself: codex, then /hooks"
                )
        return list(new)


def list_ours(environment: Mapping[str, str], directory: Path) -> list[str]:
    """Return the keys of our hooks that Codex knows. Raises as ``trust_hooks``."""
    with _AppServer(environment, directory) as server:
        return [key for key, _ in server.list_ours()]


def forget_hooks(environment: Mapping[str, str], directory: Path, keys: list[str]) -> None:
    """Let Codex forget that it trusted the hooks of these keys. Raises as ``trust_hooks``."""
    with _AppServer(environment, directory) as server:
        server.forget([f"hooks.state.{json.dumps(key)}" for key in keys])
        text = read_optional(find_codex_home(environment) / "config.toml") or b""
        hooks = tomllib.loads(text.decode()).get("hooks")
        if hooks in ({"state": {}}, {}):  # a table that held only these goes with them
            server.forget(["hooks"])


def _is_trusted(hook: dict[str, Any]) -> bool:
    return hook.get("trustStatus") in ("trusted", "managed")


class _AppServer:
    """``codex app-server`` for as long as the block: one JSON object a line, both ways."""

    def __init__(self, environment: Mapping[str, str], directory: Path) -> None:
        self._directory = str(directory)
        codex = get_agent("codex")
        launch = LaunchSpec(argv=("codex", "app-server"), cwd=self._directory, environment=dict(environment), agent="codex")
        argv = codex.prepare(launch).argv
        try:
            self._process = subprocess.Popen(
                argv,
                env=dict(environment),
                cwd=directory,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as error:
            raise Missing(f"codex cannot be started: {error}", hint="install it, or put it on PATH") from error
        self._deadline_s = time.monotonic() + _TIMEOUT_S
        self._number = 0
        self._rest = b""

    def list_ours(self) -> list[tuple[str, dict[str, Any]]]:
        """Return key and facts of each hook of ours that Codex knows."""
        found = self.ask("hooks/list", {"cwds": [self._directory]})
        ours = make_command("codex")  # to the letter: a repository's own hooks may speak of our program
        hooks = [hook for place in found.get("data", []) for hook in place.get("hooks", [])]
        return [(hook["key"], hook) for hook in hooks if hook.get("command") == ours]

    def forget(self, names: list[str]) -> None:
        """Take settings of these names out of Codex's configuration."""
        edits = [{"keyPath": name, "value": None, "mergeStrategy": "replace"} for name in names]
        self.ask("config/batchWrite", {"edits": edits})

    def ask(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """Return the result of one request."""
        self._number += 1
        self._send({"id": self._number, "method": method, "params": params})
        while True:
            told = self._read()
            if told.get("id") != self._number:
                continue
            if "error" in told:
                raise StartFailed(f"codex refused {method}: {told['error']}", hint="trust the hooks yourself: codex, then /hooks")
            result = told.get("result")
            return result if isinstance(result, dict) else {}

    def _send(self, words: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(words).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise self._explain_end() from error

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        while b"\n" not in self._rest:
            with selectors.DefaultSelector() as selector:
                selector.register(self._process.stdout, selectors.EVENT_READ)
                if not selector.select(max(self._deadline_s - time.monotonic(), 0)):
                    raise TimedOut(f"codex app-server did not answer within {_TIMEOUT_S:g} s", hint="try again")
            part = os.read(self._process.stdout.fileno(), 1 << 16)
            if not part:
                raise self._explain_end()
            self._rest += part
        line, _, self._rest = self._rest.partition(b"\n")
        told = json.loads(line)
        return told if isinstance(told, dict) else {}

    def _explain_end(self) -> StartFailed:
        return StartFailed(f"codex app-server ended with {self._process.wait(5)}", hint="see: codex app-server --help")

    def __enter__(self) -> _AppServer:
        try:
            self.ask("initialize", {"clientInfo": {"name": "crewkeep", "version": "1"}})
            self._send({"method": "initialized"})
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()
        self._process.terminate()
        try:
            self._process.wait(2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
