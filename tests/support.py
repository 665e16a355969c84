"""What many tests need: waiting for a condition, running the command line as a real process, leaving nothing behind.

Never a sleep for its own sake: ``wait_until`` looks again and again until a deadline, and says what did not come.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import psutil
import pytest

from coordinator.paths import Home

T = TypeVar("T")

#: The console script of the environment that runs the tests.
CREWKEEP = Path(sys.executable).parent / "crewkeep"


def wait_until(condition: Callable[[], T], timeout_s: float = 10, what: str = "the condition", every_s: float = 0.01) -> T:
    """Return the first true value of ``condition()``; fail the test, naming ``what``, if none comes in ``timeout_s``."""
    deadline_s = time.monotonic() + timeout_s
    while not (value := condition()):
        if time.monotonic() >= deadline_s:
            pytest.fail(f"{what} did not come within {timeout_s:g} s (last seen: {value!r})", pytrace=True)
        time.sleep(every_s)
    return value


def make_environment(home: Home | Path | str | None, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the caller's environment without any ``CREWKEEP_`` variable but the home, plus ``extra``.

    Nor with what says that nobody sits there (CI), which full-screen programs take for a reason not to start.
    """
    left_out = ("CREWKEEP_", "CI_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
    for name in ("CI", "CONTINUOUS_INTEGRATION"):
        environment.pop(name, None)
    environment.pop("COLUMNS", None)
    if home is not None:
        environment["CREWKEEP_HOME"] = str(home.path if isinstance(home, Home) else home)
        environment["XDG_CONFIG_HOME"] = str(Path(environment["CREWKEEP_HOME"]).parent / "config")
    environment.update(extra or {})
    return environment


def cli(
    *arguments: str,
    home: Home | Path | str | None,
    env: Mapping[str, str] | None = None,
    input: str | None = None,
    cwd: Path | str | None = None,
    timeout_s: float = 40,
) -> subprocess.CompletedProcess[str]:
    """Run ``crewkeep ARGUMENTS...`` as a real process and return its exit code, stdout and stderr."""
    return subprocess.run(
        [str(CREWKEEP), *arguments],
        env=make_environment(home, env),
        input=input if input is not None else "",
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def cli_json(*arguments: str, home: Home | Path | str | None, **options: Any) -> Any:
    """Run a command that must succeed and return its parsed stdout."""
    done = cli(*arguments, home=home, **options)
    assert done.returncode == 0, f"crewkeep {' '.join(arguments)} ended with {done.returncode}: {done.stderr}{done.stdout}"
    return json.loads(done.stdout)


def find_home_processes(home: Home | Path) -> list[psutil.Process]:
    """Return every living process that carries this home in its environment or arguments (the tests' own excepted)."""
    path = str(home.path if isinstance(home, Home) else home)
    found = []
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
            if process.environ().get("CREWKEEP_HOME") == path or path in process.cmdline():
                found.append(process)
        except psutil.Error:
            continue
    return found


def end_home_processes(home: Home | Path, timeout_s: float = 10) -> None:
    """Kill what belongs to this home until two looks in a row find nothing (psutil checks the start time first)."""
    deadline_s, clean = time.monotonic() + timeout_s, 0
    while clean < 2:
        living = find_home_processes(home)
        clean = 0 if living else clean + 1
        for process in living:
            try:
                process.suspend()  # so that no keeper or patrol can answer the death of another
            except psutil.Error:
                pass
        for process in living:
            try:
                process.kill()
            except psutil.Error:
                pass
        psutil.wait_procs(living, timeout=1)
        if time.monotonic() >= deadline_s:
            pytest.fail(f"processes of {home} could not be ended: {living}")


def require_program(name: str, how: str = "make test-needs") -> str:
    """Return the path of a program that a test needs; without it skip, or in CI fail."""
    if path := shutil.which(name):
        return path
    skip_or_fail(f"{name} is not installed; `{how}` installs it where the machine allows")


def skip_or_fail(reason: str) -> NoReturn:
    """Skip the test for a missing need; in CI (``CI=true``) a missing need is a failure."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"in CI this may not be skipped: {reason}")
    pytest.skip(reason)
