"""Codex, Gemini CLI and OpenCode, each told in the same few words, for tests that hold of all three."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from agent_home import AgentHome
from codex_home import make_codex_home
from gemini_home import make_gemini_home
from model_server import Answer, Call, Shell
from opencode_home import make_opencode_home
from running import SLOW_S
from support import cli

from coordinator.paths import Home


@dataclass(frozen=True, kw_only=True, slots=True)
class Program:
    """One agent program."""

    name: str
    #: Its full-screen interface, with every tool allowed.
    interactive: tuple[str, ...]
    #: One turn without a person; the prompt comes last.
    headless: tuple[str, ...]
    #: What stands in its empty input line.
    ready: str
    #: Whether it goes on with a turn that its death cut, without anybody typing.
    goes_on: bool
    #: The model's answer that writes a text into a new file.
    write: Callable[[Path, str], Answer]
    #: Prepares it for the model at a root (of ``ModelServer``), below a directory.
    make_home: Callable[[str, Path], AgentHome]

    def install(self, root: str, directory: Path) -> Installed:
        """Prepare the program for the model at ``root``, below ``directory``; without the program skip, or in CI fail."""
        return Installed(program=self, home=self.make_home(root, directory))


@dataclass(frozen=True, kw_only=True, slots=True)
class Installed:
    """A program with a home of its own."""

    program: Program
    home: AgentHome

    @property
    def work(self) -> Path:
        """Where it works if nothing else is said."""
        return self.home.work

    @property
    def environment(self) -> dict[str, str]:
        return self.home.environment

    def configure(self, what: str, home: Home) -> None:
        """Put ``hooks`` or ``mcp`` into its configuration, with the command that users have for it."""
        done = cli(what, "install", "--agent", self.program.name, "--yes", home=home, env=self.environment)
        assert done.returncode == 0, done.stderr

    def run_alone(self, prompt: str, **environment: str) -> None:
        """Run it without crewkeep until it ends, which it must with 0."""
        done = subprocess.run(
            [*self.program.headless, prompt],
            env={**self.environment, **environment},
            cwd=self.work,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SLOW_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr


CODEX = Program(
    name="codex",
    interactive=("codex", "-s", "danger-full-access", "-a", "never"),
    headless=("codex", "exec", "--skip-git-repo-check", "-s", "danger-full-access"),
    ready="Ask Codex to do anything",
    goes_on=True,
    write=lambda path, text: Shell(f"apply_patch <<'EOF'\n*** Begin Patch\n*** Add File: {path}\n+{text}\n*** End Patch\nEOF\n"),
    make_home=lambda root, directory: make_codex_home(f"{root}/v1", directory),
)
GEMINI = Program(
    name="gemini",
    interactive=("gemini", "--approval-mode=yolo"),
    headless=("gemini", "--approval-mode=yolo", "-p"),
    ready="Type your message",
    goes_on=True,
    write=lambda path, text: Call("^write_file$", {"file_path": str(path), "content": f"{text}\n"}),
    make_home=make_gemini_home,
)
OPENCODE = Program(
    name="opencode",
    interactive=("opencode",),
    headless=("opencode", "run"),
    ready="Build · scripted",  # its line of examples goes away with the first message
    goes_on=False,
    write=lambda path, text: Call("^write$", {"filePath": str(path), "content": f"{text}\n"}),
    make_home=lambda root, directory: make_opencode_home(f"{root}/v1", directory),
)
PROGRAMS = (CODEX, GEMINI, OPENCODE)

#: Runs a test with each of them.
with_each = pytest.mark.parametrize("program", PROGRAMS, ids=[program.name for program in PROGRAMS])


def join_names(programs: tuple[Program, ...]) -> str:
    """Return the id of a test with several of them."""
    return "-".join(program.name for program in programs)
