"""Stories: what a person types and reads, as real processes. Each ``*.story`` beside this file is one.

``$ command`` runs in bash; below it stand its stdout, its stderr (``! ``) and its exit code (``? N``, 0 if not said).
``~ command`` runs again and again until it succeeds. ``...`` stands for any text within a line; a line ``...`` for any lines.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support import CREWKEEP, make_environment, wait_until

from coordinator.paths import Home

STORIES = sorted(Path(__file__).parent.glob("*.story"))


@dataclass
class Step:
    command: str
    line: int
    repeat: bool
    stdout: list[str] = field(default_factory=list)
    stderr: list[str] = field(default_factory=list)
    code: int = 0


def read_story(path: Path) -> list[Step]:
    steps: list[Step] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.startswith(("$ ", "~ ")):
            steps.append(Step(command=line[2:], line=number, repeat=line.startswith("~")))
        elif line.startswith("#") or not line.strip():
            continue
        elif line.startswith("! "):
            steps[-1].stderr.append(line[2:])
        elif line.startswith("? "):
            steps[-1].code = int(line[2:])
        else:
            steps[-1].stdout.append(line)
    return steps


def matches(expected: list[str], found: str) -> bool:
    pattern = "".join("(?:.*\n)*?" if line == "..." else re.escape(line).replace(r"\.\.\.", ".*") + "\n" for line in expected)
    return re.fullmatch(pattern, "".join(line.rstrip() + "\n" for line in found.splitlines())) is not None


@pytest.mark.parametrize("story", STORIES, ids=lambda path: path.stem)
def test_story(story: Path, home: Home, tmp_path: Path) -> None:
    work = tmp_path / "shop"
    work.mkdir()
    environment = make_environment(home, {"PATH": f"{CREWKEEP.parent}:/usr/local/bin:/usr/bin:/bin", "TERM": "dumb"})

    def run(step: Step) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", step.command],
            cwd=work,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )

    for step in read_story(story):
        where = f"{story.name}:{step.line}: {step.command}"
        if step.repeat:
            wait_until(lambda step=step: run(step).returncode == 0, 20, where, every_s=0.1)
            continue
        done = run(step)
        told = f"{where}\nexit code {done.returncode}\n--- stdout\n{done.stdout}--- stderr\n{done.stderr}"
        assert done.returncode == step.code, told
        assert matches(step.stdout, done.stdout), told
        if step.stderr or step.code:
            assert matches(step.stderr, done.stderr), told
        assert "Traceback" not in done.stderr, told
