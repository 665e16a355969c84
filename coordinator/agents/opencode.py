"""OpenCode (``opencode-ai``): started natively, resumed by its conversation's id, read through its database and its log.

What was found with 1.18.33, by running it:
  - npm installs the native program itself as ``opencode``; older packages, and those installed without scripts, have a script
    there that, killed, leaves the real program working on
  - it works where ``$PWD`` says, whatever the directory is that it was started in
  - a conversation's id cannot be chosen and stands nowhere in the process; the log tells it (``opencode_log``)
  - a resume shows a tool call that never ended to the model as interrupted, and leaves it "running" in the database
  - with ``-s ID`` the full interface does not send ``--prompt``: an interactive session that was at work comes back in its
    conversation and waits there. ``run`` and ``--mini`` are told to go on
  - a request to the model that fails is tried again by itself, up to five times, for as long as the provider's
    ``retry-after`` says. Only the log shows it; the turn goes on meanwhile
  - an open permission prompt is in no table; the log shows when it is asked, a tool that runs at last that it was granted

Not promised: conversations of ``run --attach`` and of servers (another program's), of ``OPENCODE_DB=:memory:``, and, unless
``run --format json`` tells its id, of a program that logs less than level INFO or runs on macOS.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from coordinator.agents import opencode_command as command_line
from coordinator.agents import opencode_reading as reading
from coordinator.agents import opencode_store as store
from coordinator.agents.base import Activity, PastConversation
from coordinator.agents.generic import Generic
from coordinator.agents.limits import find_reset
from coordinator.agents.opencode_install import find_native
from coordinator.agents.opencode_log import NAME as LOG_NAME
from coordinator.agents.opencode_log import Log, find_runs
from coordinator.agents.program import split_program
from coordinator.sessions.conversation import Conversation
from coordinator.sessions.history import Item
from coordinator.sessions.model import LaunchSpec
from coordinator.system import scan
from coordinator.system.clock import SYSTEM
from coordinator.system.open_files import iter_open_paths

if TYPE_CHECKING:
    import sqlite3

T = TypeVar("T")

#: Said to an agent that was interrupted in the middle of a turn.
GO_ON = (
    "You were interrupted: this session ended without warning and was started again in this conversation. A tool call"
    " shown as interrupted did not finish. Check what is already done, then go on with the task."
)

#: How each line of ``run --format json`` tells the conversation; inside its strings the quotation marks are escaped.
_TOLD = re.compile(rb'"sessionID":"(ses_[0-9A-Za-z]{1,64})"')
_TOLD_LIMIT_BYTES = 100
#: It takes the whole terminal at once, and shows the cursor in its input line when it reads keys: seconds later.
_TAKES_SCREEN, _READS_KEYS = b"\x1b[?1049h", b"\x1b[?25h"


class OpenCode(Generic):
    """The OpenCode command line."""

    name = "opencode"

    def __init__(self) -> None:
        self._logs: dict[str, Log] = {}
        #: The runs of this session's processes, by their logs.
        self._runs: dict[str, str] = {}
        self._reading: reading.Reading | None = None
        #: The message in the middle of which the conversation stood when it was resumed.
        self._cut: str | None = None
        #: Whether a resume waits for its user, since it could not be told to go on.
        self._waits = False
        self._told: str | None = None
        self._cut_output = b""
        #: Whether its full screen is being drawn: it has the terminal and reads no keys yet.
        self._is_drawing = False
        self._last_output = b""

    def recognises(self, argv: Sequence[str]) -> bool:
        return command_line.PROGRAM.is_started_by(argv)

    def prepare(self, launch: LaunchSpec) -> LaunchSpec:
        argv, environment = launch.argv, launch.environment
        program, words = split_program(argv)
        if (native := find_native(program, launch)) is not None:
            argv = (native, *words)
        if environment.get("PWD", launch.cwd) != launch.cwd:
            environment = {**environment, "PWD": launch.cwd}
        return replace(launch, argv=argv, environment=environment)

    def begin(self, launch: LaunchSpec, session_id: str) -> tuple[tuple[str, ...], Conversation | None]:
        chosen, path = command_line.parse(launch.argv).conversation, store.find_database(launch.environment)
        if chosen is None or path is None:
            return launch.argv, None
        return launch.argv, Conversation(agent=self.name, id=chosen, store=path)

    def read_permission_mode(self, argv: Sequence[str]) -> str | None:
        asked = command_line.read_permission(command_line.parse(argv))
        if asked == command_line.Permission():
            return None
        return f"agent {asked.agent or 'as configured'}, {'allowed without asking' if asked.auto else 'as configured'}"

    def find_conversation(self, launch: LaunchSpec, pids: Sequence[int], started_at: float) -> Conversation | None:
        own = [pid for pid in pids if not _is_helper(pid, pids)]
        self._runs.update(find_runs(own))
        logs = [self._read_log(path) for path in dict.fromkeys(self._runs.values())]
        told = [log.find_conversation(self._runs) for log in logs]
        candidates = [id for id in told if id is not None]
        if not candidates and self._told and command_line.parse(launch.argv).options.find_value("--format") == "json":
            candidates = [self._told]
        database = _find_open_database(own) or store.find_database(launch.environment)
        if not candidates or database is None:
            return None
        try:
            root = store.read(database, lambda connection: store.find_root(connection, candidates[-1]))
        except store.Unreadable:
            return None
        if root is None:
            return None  # not written down yet
        return Conversation(agent=self.name, id=root, store=database, found_at=SYSTEM.wall_s())

    def build_resume(self, launch: LaunchSpec, conversation: Conversation | None) -> tuple[str, ...]:
        command = command_line.parse(launch.argv)
        if conversation is None or conversation.store is None or command.other is not None:
            return launch.argv
        try:
            past = store.read(
                conversation.store,
                lambda connection: reading.look_back(connection, conversation.id),
                store.PATIENT_TIMEOUT_S,
            )
        except store.Unreadable as error:
            if error.reason == "missing":
                return launch.argv
            heard, past = True, reading.Past()  # OpenCode itself may read what we cannot
        else:
            if past is None or not (past.said or command.is_run):
                return launch.argv  # it was never written down, or there is nothing in it to come back to
            heard = bool(past.said)
            if command.continues and command.words:
                heard = any(command.text in text for text in past.said)
        words: Sequence[str] = command.words
        if heard:
            words = (GO_ON,) if command.is_run or past.in_turn else ()
            command = command_line.drop_start(command)
        self._cut, self._waits = past.last if past.in_turn else None, not (command.can_say and words)
        return command_line.build(command_line.limit_permission(command, past.agent), conversation=conversation.id, words=words)

    def note_output(self, output: bytes) -> None:
        shown = self._last_output + output
        takes, reads = shown.rfind(_TAKES_SCREEN), shown.rfind(_READS_KEYS)
        if takes != reads:
            self._is_drawing = takes > reads
        self._last_output = shown[-len(_TAKES_SCREEN) :]
        if self._told is None:
            output = self._cut_output + output
            self._cut_output = output[-_TOLD_LIMIT_BYTES:]
            if b'"sessionID":"' in output and (match := _TOLD.search(output)):
                self._told, self._cut_output = match[1].decode("ascii"), b""

    def read_activity(self, conversation: Conversation) -> Activity:
        if conversation.store is None:
            return Activity()
        seen = self._reading
        if seen is None or (seen.path, seen.id) != (conversation.store, conversation.id):
            seen = self._reading = reading.Reading(conversation.store, conversation.id)
        seen.look()
        default = os.path.join(os.path.dirname(conversation.store), "log", LOG_NAME)
        log = self._read_log(next(reversed(self._runs.values()), default))
        at_prompt, limited_until = seen.at_prompt, seen.limited_until
        is_cut = self._cut is not None and seen.last == self._cut
        if is_cut:  # what was cut does not go on
            at_prompt = True if self._waits else None
        if self._is_drawing and at_prompt:
            at_prompt = False
        error = log.find_error(conversation.id)
        if at_prompt is False and error is not None and reading.LIMIT.search(error.text):
            limited_until = find_reset(error.text, error.at)
        return Activity(
            progress=seen.progress,
            at_prompt=at_prompt,
            needs_user=not is_cut and not at_prompt and seen.waits_for_answer(log.asked_at(conversation.id)),
            failure=seen.failure,
            limited_until=limited_until,
            failed_at=seen.failed_at,
        )

    def read_history(self, conversation: Conversation) -> Iterator[Item]:
        found = _read(conversation, lambda connection: list(reading.iter_items(connection, conversation.id)))
        return iter(found or ())

    def holds_text(self, conversation: Conversation, text: str) -> bool | None:
        return _read(conversation, lambda connection: store.holds_text(connection, conversation.id, text))

    def list_conversations(self, environment: Mapping[str, str]) -> Iterator[PastConversation]:
        path = store.find_database(environment)
        if path is None:
            return iter(())
        try:
            return iter(store.read(path, lambda connection: reading.list_past(connection, path), store.PATIENT_TIMEOUT_S))
        except store.Unreadable:
            return iter(())

    def export_transcript(self, conversation: Conversation) -> bytes | None:
        if conversation.store is None:
            return None
        from coordinator.agents import opencode_copy  # wanted once a checkpoint

        return opencode_copy.take_out(conversation.store, conversation.id)

    def restore_transcript(self, conversation: Conversation, saved: Path) -> bool:
        if conversation.store is None:
            return False
        from coordinator.agents import opencode_copy

        return opencode_copy.put_back(conversation.store, conversation.id, saved)

    def _read_log(self, path: str) -> Log:
        log = self._logs.get(path)
        if log is None:
            log = self._logs[path] = Log(path)
        log.read_new()
        return log


def _read(conversation: Conversation, look: Callable[[sqlite3.Connection], T]) -> T | None:
    """Return what ``look`` finds in the conversation's database, ``None`` if that cannot be read."""
    if conversation.store is None:
        return None
    try:
        return store.read(conversation.store, look, store.PATIENT_TIMEOUT_S)
    except store.Unreadable:
        return None


def _is_helper(pid: int, pids: Sequence[int]) -> bool:
    """Tell whether the process runs inside one of the session's own: OpenCode tells each tool its number."""
    outer = (scan.read_environment(pid) or {}).get("OPENCODE_PID", "")
    return outer.isdecimal() and int(outer) in pids and int(outer) != pid


def _find_open_database(pids: Sequence[int]) -> str | None:
    """Return the database that one of the processes has open beside its log."""
    for pid in pids:
        paths = set(iter_open_paths(pid))
        logs = any(os.path.basename(path) == LOG_NAME for path in paths)
        if logs and (found := next((path for path in sorted(paths) if f"{path}-wal" in paths), None)):
            return found
    return None
