"""The recorder: runs a program under strace and tells what it did to the files below one directory.

When it ends, what was followed (see ``reader``) is compared with what is there: names and contents must agree.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from proof.operations import ROOT, Recording
from proof.reader import Reader, Unmodelled
from proof.trace import FILE_CALLS, read_calls

_LONGEST_STRING = 1 << 28
#: Longer than any program of the proof may take. Arbitrary; they take seconds.
DEADLINE_S = 60.0


class ProgramFailed(Exception):
    """The program ended with an error, or not at all: a finding about it, like any other, and no error of the tool's."""


def run_to_end(command: Sequence[str], *, env: Mapping[str, str], timeout_s: float = DEADLINE_S) -> None:
    """Run a program to its end. Raises ``ProgramFailed``; then nothing is left of what it started."""
    process = subprocess.Popen(
        command,
        env=dict(env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        _, error = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired as late:
        raise ProgramFailed(_tell(f"it did not end within {timeout_s:g} s", late.stderr)) from None
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)  # strace alone would let go of those that it follows
            process.communicate()
    if process.returncode != 0:
        raise ProgramFailed(_tell(f"it ended with {process.returncode}", error))


def _tell(what: str, error: bytes | None) -> str:
    """Say how it ended, with its last words if it had any."""
    return f"{what}: {error.decode(errors='replace')[-4000:]}" if error else what


def record(
    strace: str, command: Sequence[str], root: Path, said: Path, *, env: Mapping[str, str], trace: Path,
    inject: str | None = None, timeout_s: float = DEADLINE_S,
) -> Recording:  # fmt: skip
    """Run ``command`` to its end and return what it did below ``root``. It speaks by appending lines to the file ``said``.

    ``inject``: what strace is to do to its calls, in strace's words.

    Raises ``ProgramFailed`` or ``Unmodelled``.
    """
    root = Path(os.path.realpath(root))
    before = _look(root)
    said_before = read_statements(said)
    selection = "trace=" + ",".join(f"?{name}" for name in FILE_CALLS)
    options = ["-f", "-y", "-xx", "-qq", "--seccomp-bpf", "-s", str(_LONGEST_STRING), "-e", selection, "-o", str(trace)]
    options += ["-e", f"inject={inject}"] if inject else []
    run_to_end([strace, *options, *command], env=env, timeout_s=timeout_s)
    with open(trace, "rb") as lines:
        reader = Reader(os.fsencode(root), os.fsencode(os.path.realpath(said)), *before)
        reader.follow(read_calls(lines))
    reader.assert_matches(_look(root))
    trace.unlink()
    return Recording(
        paths=before[0],
        contents=before[1],
        operations=reader.operations,
        said_before=said_before,
        actors=max(1, len(reader.actors)),
    )


def read_statements(said: Path) -> list[dict[str, Any]]:
    """Return what was said so far."""
    if not said.exists():
        return []
    lines = [json.loads(line) for line in said.read_bytes().split(b"\n")[:-1]]
    return [line for line in lines if "seen" not in line]


def _look(root: Path) -> tuple[dict[bytes, int], dict[int, bytes]]:
    """Return the paths below ``root`` with numbers of ours, and the contents of the files; hard links share a number."""
    paths: dict[bytes, int] = {b"": ROOT}
    contents: dict[int, bytes] = {}
    numbers: dict[tuple[int, int], int] = {}
    for path in sorted(root.rglob("*")):
        if path.is_symlink():
            raise Unmodelled(f"{path} is a link")
        status = path.stat()
        number = numbers.setdefault((status.st_dev, status.st_ino), len(numbers) + 1)
        paths[os.fsencode(path.relative_to(root))] = number
        if path.is_file() and number not in contents:
            contents[number] = path.read_bytes()
    return paths, contents
