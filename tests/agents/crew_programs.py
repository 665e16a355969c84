"""The agent programs behind one face, for what must hold with each of them: how it is started and which call writes a file."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from codex_home import find_codex, make_codex_home
from gemini_home import find_gemini_command, make_gemini_home
from model_server import Answer, Call, ModelServer, Shell
from opencode_home import find_opencode, make_opencode_home
from support import cli

from coordinator.paths import Home

#: Those that have hooks and take MCP servers.
NAMES = ("codex", "gemini", "opencode")
#: A program takes its time to start, and more on a busy machine.
SLOW_S = 50


@dataclass(frozen=True, kw_only=True, slots=True)
class Program:
    """One agent program, with a home of its own."""

    name: str
    #: Where it works if nothing else is said.
    work: Path
    environment: dict[str, str]
    #: The command that works on a prompt while nobody is at a terminal, all but the prompt.
    words: tuple[str, ...]
    #: The model's answer that writes a text into a new file.
    write: Callable[[Path, str], Answer]

    def install(self, what: str, home: Home) -> None:
        """Install ``hooks`` or ``mcp`` in its configuration, with the command that users have for it."""
        done = cli(what, "install", "--agent", self.name, "--yes", home=home, env=self.environment)
        assert done.returncode == 0, done.stderr

    def run_alone(self, prompt: str, **environment: str) -> None:
        """Run it without crewkeep until it ends, which it must with 0."""
        done = subprocess.run(
            [*self.words, prompt],
            env={**self.environment, **environment},
            cwd=self.work,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SLOW_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr


def make_program(name: str, model: ModelServer, directory: Path) -> Program:
    """Prepare the program ``name`` for a model, below ``directory``; where it is not installed skip, or in CI fail."""
    return {"codex": _make_codex, "gemini": _make_gemini, "opencode": _make_opencode}[name](model, directory)


def _make_codex(model: ModelServer, directory: Path) -> Program:
    home = make_codex_home(model.url, directory, find_codex())
    return Program(
        name="codex",
        work=home.work,
        environment=home.environment,
        words=("codex", "exec", "-s", "danger-full-access", "--skip-git-repo-check"),
        write=lambda path, text: Shell(
            f"apply_patch <<'EOF'\n*** Begin Patch\n*** Add File: {path}\n+{text}\n*** End Patch\nEOF\n"
        ),
    )


def _make_gemini(model: ModelServer, directory: Path) -> Program:
    home = make_gemini_home(model.root, directory, find_gemini_command())
    return Program(
        name="gemini",
        work=home.work,
        environment=home.environment,
        words=("gemini", "--approval-mode", "yolo", "-p"),
        write=lambda path, text: Call("^write_file$", {"file_path": str(path), "content": f"{text}\n"}),
    )


def _make_opencode(model: ModelServer, directory: Path) -> Program:
    home = make_opencode_home(model.url, directory, find_opencode())
    return Program(
        name="opencode",
        work=home.work,
        environment=home.environment,
        words=("opencode", "run"),
        write=lambda path, text: Call("^write$", {"filePath": str(path), "content": f"{text}\n"}),
    )
