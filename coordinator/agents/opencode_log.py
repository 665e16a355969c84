"""OpenCode's log: which process is in which conversation, what it asks its user, which model error it has just met.

All OpenCode programs of a user append to one file. Each line names the *run* that wrote it, a random word that every process
(in the interactive program, every thread) makes for itself, so one line known to be a process's own shows which others are. That
one is found by the position in the file that the kernel keeps for the process: it ends the line that it wrote last.

The conversation of a run is the one that it created last, or that its user spoke in last; those of helpers that the agent
started inside itself are told from it by their parents.

Not promised: a log below level INFO, from which nothing is known.
"""

from __future__ import annotations

import datetime
import json
import os
import re
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from coordinator.agents import transcript
from coordinator.system.open_files import iter_positions

NAME = "opencode.log"
#: The first look at a log begins so far from its end: a process that has just begun stands there.
_LOOK_BACK_BYTES = 1 << 20
#: Lines are shorter.
_LINE_LIMIT_BYTES = 1 << 16
#: So many runs and helpers are remembered; those not heard of for longest are forgotten.
_REMEMBERED = 1000
_FIELD = re.compile(rb'(?:^| )([\w.]+)=("(?:[^"\\]|\\.)*"|[^ ]*)')
_CREATED, _LOOP, _ASKING, _STREAM, _STREAM_ERROR = "created", "loop", "asking", "stream", "stream error"
#: A turn goes on after these: what was asked is answered.
_ANSWERED = frozenset({_LOOP, "exiting loop", "process", "replied", "rejected"})


@dataclass(kw_only=True, slots=True)
class Run:
    """What one run has written so far."""

    #: The conversation that it created last or that its user spoke in last, helpers left out.
    conversation: str | None = None
    #: Wall-clock seconds at which it began to ask for a permission or an answer, ``None`` if it goes on.
    asked_at: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelError:
    """A request to the model that failed and that OpenCode tries again by itself."""

    text: str
    #: Wall-clock seconds.
    at: float


class Log:
    """The log at one path, read as it grows."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._tail = transcript.Tail(path, from_end_bytes=_LOOK_BACK_BYTES, parse=parse_line)
        self._runs: OrderedDict[str, Run] = OrderedDict()
        #: Helper's conversation -> the one that started it.
        self._parents: OrderedDict[str, str] = OrderedDict()
        #: Conversation -> the run that works on it.
        self._workers: OrderedDict[str, Run] = OrderedDict()
        self._errors: OrderedDict[str, ModelError] = OrderedDict()

    def read_new(self) -> None:
        """Take in what was written since the last call. A log that cannot be read tells nothing."""
        for line in self._tail.iter_new():
            self._add(line)

    def find_conversation(self, runs: Iterable[str]) -> str | None:
        """Return the conversation that the latest of ``runs`` is in, ``None`` if it is in none yet."""
        wanted = set(runs)
        found = [run.conversation for name, run in self._runs.items() if name in wanted and run.conversation is not None]
        return found[-1] if found else None

    def asked_at(self, conversation: str) -> float | None:
        """Return since when (wall-clock seconds) the run that works on ``conversation`` asks its user, ``None`` if not."""
        worker = self._workers.get(conversation)
        return worker.asked_at if worker is not None else None

    def find_error(self, conversation: str) -> ModelError | None:
        """Return the error after which the model was not asked again yet, ``None`` if there is none."""
        return self._errors.get(conversation)

    def _add(self, line: dict[str, Any]) -> None:
        name, message, session = line["run"], line.get("message"), line.get("session.id")
        run = self._runs.pop(name, None) or Run()
        _remember(self._runs, name, run)
        if message == _CREATED and (created := line.get("id", "")).startswith("ses_"):
            parent = line.get("parentID", "undefined")
            if parent.startswith("ses_"):
                _remember(self._parents, created, parent)
            else:
                run.conversation = created
        elif message == _LOOP and session and session not in self._parents:
            _remember(self._workers, session, run)
            if line.get("step") == "0":
                run.conversation = session
        if message == _ASKING:
            run.asked_at = line["at"]
        elif message in _ANSWERED:
            run.asked_at = None
        if session and line.get("small") == "false":
            if message == _STREAM:
                self._errors.pop(session, None)
            elif message == _STREAM_ERROR:
                _remember(self._errors, session, ModelError(text=line.get("error.error", ""), at=line["at"]))


def find_runs(pids: Iterable[int]) -> dict[str, str]:
    """Return the runs of the processes: each name with the path of its log. Those that wrote nothing yet are left out."""
    found = {}
    for pid in pids:
        for path, end_bytes in iter_positions(pid, NAME):
            if (name := _read_run(path, end_bytes)) is not None:
                found[name] = path
    return found


def parse_line(line: bytes) -> dict[str, Any] | None:
    """Return the fields of a line as text, and ``at``, its time in seconds since 1970; ``None`` if it is no line of the log."""
    if not line.startswith(b"timestamp=") or len(line) > _LINE_LIMIT_BYTES:
        return None
    fields: dict[str, Any] = {}
    for key, value in _FIELD.findall(line):
        text = value.decode("utf-8", "replace")
        if text.startswith('"'):
            try:
                text = json.loads(text)
            except ValueError:
                continue
        fields.setdefault(key.decode(), text)
    try:
        fields["at"] = datetime.datetime.fromisoformat(fields["timestamp"]).timestamp()
    except (KeyError, ValueError, OverflowError):
        return None
    return fields if fields.get("run") else None


def _read_run(path: str, end_bytes: int) -> str | None:
    """Return the run that wrote the line which ends at ``end_bytes``, ``None`` if none ends there."""
    begin = max(0, end_bytes - _LINE_LIMIT_BYTES)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            data = os.pread(fd, end_bytes - begin, begin)
        finally:
            os.close(fd)
    except OSError:
        return None
    if len(data) != end_bytes - begin or not data.endswith(b"\n"):
        return None  # the log was cut since, or nothing was written yet
    line = parse_line(data[:-1].rpartition(b"\n")[2])
    return line["run"] if line is not None else None


def _remember(table: OrderedDict[str, Any], key: str, value: Any) -> None:
    table[key] = value
    table.move_to_end(key)
    if len(table) > _REMEMBERED:
        table.popitem(last=False)
