"""Codex CLI (``@openai/codex``): started natively, resumed by its conversation's id, read through its rollout file.

What was found with 0.169.0, by running it:
  - the ``codex`` that npm installs is a Node wrapper: killed, it leaves the real program working on under init, so the
    native program is started instead
  - the interactive program hands its work to a background server that it starts if there is none, and that outlives it;
    ``--disable daemon_auto_start`` still joins one that runs, ``--no-daemon`` does not
  - the rollout stays open in the process that writes it, which proves whose it is; after ``/new`` the earlier one stays
    open too, and the newer one is written
  - on a terminal ``codex exec PROMPT`` does not wait for standard input
  - a resume shows a tool call that never ended to the model as ``aborted``, mends a torn last line, and finds a rollout that
    was put back even if all its databases are gone
  - the rollout does not show an open permission prompt; the terminal's title does ("Action Required")
  - a turn that failed ends with ``task_complete`` whose ``error`` tells why; of a usage limit it tells the end in words and,
    before, in ``rate_limits`` of a ``token_count`` exactly. A refused connection and a model that does not answer are tried
    again and again without a word in the rollout: the turn stays open

Not promised: the conversation of ``exec --ephemeral``, which writes none, and of ``--remote``, which is another machine's.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from coordinator.agents import codex_command as command_line
from coordinator.agents import transcript
from coordinator.agents.base import Activity, PastConversation
from coordinator.agents.codex_rollout import find_outcome, read_history, read_meta, read_title, text_of
from coordinator.agents.generic import Generic
from coordinator.agents.limits import find_reset
from coordinator.agents.program import find_file, is_executable, split_program
from coordinator.agents.terminal_title import TitleReader
from coordinator.sessions.conversation import Conversation
from coordinator.sessions.history import Item
from coordinator.sessions.model import LaunchSpec
from coordinator.system.clock import SYSTEM
from coordinator.system.open_files import iter_open_paths

#: Said to an agent that was interrupted in the middle of a turn.
GO_ON = (
    "You were interrupted: this session ended without warning and was started again in this conversation. A tool call"
    " shown as aborted did not finish. Check what is already done, then go on with the task."
)

_ROLLOUT = re.compile(r"/sessions/.+/rollout-[^/]*-([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})\.jsonl$")
_PLATFORMS = {
    ("linux", "x86_64"): ("codex-linux-x64", "x86_64-unknown-linux-musl"),
    ("linux", "aarch64"): ("codex-linux-arm64", "aarch64-unknown-linux-musl"),
    ("darwin", "x86_64"): ("codex-darwin-x64", "x86_64-apple-darwin"),
    ("darwin", "arm64"): ("codex-darwin-arm64", "aarch64-apple-darwin"),
}
#: The first look at a transcript begins so far from its end: enough to tell whether a turn is open.
_LOOK_BACK_BYTES = 1 << 20
#: How `codex exec` tells its conversation's id: in its heading, or in the first line of `--json`.
_TELLS_ID = re.compile(rb"(?:session id:(?:\x1b\[[0-9;]*m|\s)*|\"thread_id\":\s*\")([0-9a-f-]{36})")
_BEGINNING_BYTES = 8192
#: In the title (it blinks) while Codex waits for a permission.
_ASKS = b"Action Required"
_TURN_STARTS = frozenset({"task_started", "turn_started"})
_TURN_ENDS = frozenset({"task_complete", "turn_complete", "turn_aborted"})


class Codex(Generic):
    """The Codex command line."""

    name = "codex"

    def __init__(self) -> None:
        self._reading: tuple[str, transcript.Tail, _Rollout] | None = None
        self._titles, self._needs_user = TitleReader(), False
        #: What the program printed first, until it has told its conversation's id or surely will not.
        self._beginning: bytes | None = b""
        self._told_id: str | None = None

    def recognises(self, argv: Sequence[str]) -> bool:
        return command_line.PROGRAM.is_started_by(argv)

    def prepare(self, launch: LaunchSpec) -> LaunchSpec:
        argv, environment = launch.argv, launch.environment
        program, words = split_program(argv)
        if package := _find_package(program, launch):
            native = _find_native(package)
            if native is not None:
                argv = (str(native), *words)
                # What the wrapper would have told it: which package manager updates it.
                environment = {**environment, "CODEX_MANAGED_BY_NPM": "1", "CODEX_MANAGED_PACKAGE_ROOT": str(package)}
        command = command_line.parse(argv)
        if command.is_interactive and not command.all_options.has("--no-daemon", "--remote", "-h", "--help", "-V", "--version"):
            argv = (*command.program, "--no-daemon", *argv[len(command.program) :])
        return replace(launch, argv=argv, environment=environment)

    def read_permission_mode(self, argv: Sequence[str]) -> str | None:
        asked = command_line.read_permission(command_line.parse(argv))
        if asked == command_line.Permission():
            return None
        return f"sandbox {asked.sandbox or 'as configured'}, approval {asked.approval or 'as configured'}"

    def find_conversation(self, launch: LaunchSpec, pids: Sequence[int], started_at: float) -> Conversation | None:
        found: list[tuple[float, str, str]] = []
        for path in {path for pid in pids for path in iter_open_paths(pid)}:
            match = _ROLLOUT.search(path)
            if match is None or _is_of_helper(path):
                continue
            try:
                found.append((os.stat(path).st_mtime, match[1], path))
            except OSError:
                continue  # removed while open; there is nothing to come back to
        if not found:
            return None if self._told_id is None else _find_told(self._told_id, launch)
        _, id, path = max(found)
        return Conversation(agent=self.name, id=id, transcript=path, found_at=SYSTEM.wall_s())

    def build_resume(self, launch: LaunchSpec, conversation: Conversation | None) -> tuple[str, ...]:
        command = command_line.parse(launch.argv)
        if conversation is None or command.other is not None:
            return launch.argv
        rollout = _Rollout(command.prompt)
        if conversation.transcript is not None:
            for entry in transcript.Tail(conversation.transcript).iter_all():
                rollout.add(entry)
        if command.prompt in (None, "-") or rollout.heard_prompt:
            # The interactive program gets words only if it was at work: one that waited for its user waits again.
            # One that a usage limit stopped was at work too.
            at_work = rollout.in_turn or rollout.limited_until is not None
            prompt = GO_ON if at_work or not command.is_interactive else None
            if command.all_options.has("--worktree") and rollout.cwd is not None:
                command = command_line.add_option(command, "-C", rollout.cwd)
            command = command_line.drop_start(command)
        else:
            prompt = command.prompt  # it was killed before the conversation held it
        return command_line.build(
            command_line.limit_permission(command, rollout.permission), conversation=conversation.id, prompt=prompt
        )

    def note_output(self, output: bytes) -> None:
        if (title := self._titles.read(output)) is not None:
            self._needs_user = _ASKS in title
        if self._beginning is not None:
            self._beginning += output
            if told := _TELLS_ID.search(self._beginning):
                self._told_id = told[1].decode()
            if told or len(self._beginning) > _BEGINNING_BYTES:
                self._beginning = None

    def read_activity(self, conversation: Conversation) -> Activity:
        path = conversation.transcript
        if path is None:
            return Activity(needs_user=self._needs_user)
        if self._reading is None or self._reading[0] != path:
            self._reading = (path, transcript.Tail(path, from_end_bytes=_LOOK_BACK_BYTES), _Rollout(None))
        _, tail, rollout = self._reading
        for entry in tail.iter_new():
            rollout.add(entry)
        at_prompt = None if rollout.in_turn is None else not rollout.in_turn
        return Activity(
            progress=rollout.work,
            at_prompt=at_prompt,
            needs_user=self._needs_user,
            failure=rollout.failure,
            limited_until=rollout.limited_until,
            failed_at=rollout.failed_at,
        )

    def read_history(self, conversation: Conversation) -> Iterator[Item]:
        return iter(()) if conversation.transcript is None else read_history(conversation.transcript)

    def find_outcome(self, conversation: Conversation, call_id: str) -> bool | None:
        return None if conversation.transcript is None else find_outcome(conversation.transcript, call_id)

    def list_conversations(self, environment: Mapping[str, str]) -> Iterator[PastConversation]:
        for path in _find_home(environment).glob("sessions/**/rollout-*.jsonl"):
            match, meta = _ROLLOUT.search(str(path)), read_meta(path)
            if match is None or isinstance(meta.get("source"), dict) or (title := read_title(path)) is None:
                continue
            cwd = meta.get("cwd")
            conversation = Conversation(agent=self.name, id=match[1], transcript=str(path))
            try:
                changed_at = path.stat().st_mtime
            except OSError:
                continue  # removed meanwhile
            yield PastConversation(
                conversation=conversation, cwd=cwd if isinstance(cwd, str) else None, title=title, changed_at=changed_at
            )

    def restore_transcript(self, conversation: Conversation, saved: Path) -> bool:
        if conversation.transcript is None or read_meta(saved).get("id") != conversation.id:
            return False
        path = Path(conversation.transcript)
        if os.path.lexists(path):
            whole = read_meta(path).get("id") == conversation.id
            if whole and not transcript.is_cut_short(path, saved) and not transcript.holds_zeros(path):
                return False
            transcript.set_aside(path)
        transcript.put_back(saved, path)
        return True


class _Rollout:
    """What the lines of a rollout, added one by one, tell of the work."""

    def __init__(self, prompt: str | None) -> None:
        self._prompt = prompt.strip() if prompt else None
        #: Whether the prompt stands in the conversation.
        self.heard_prompt = False
        #: Finished pieces of the agent's own work: what it said, and tools that came to their end.
        self.work = 0
        #: Whether a turn has begun and not ended; ``None`` before the first.
        self.in_turn: bool | None = None
        self.permission = command_line.Permission()
        self.cwd: str | None = None
        #: What ended the last turn instead of an answer.
        self.failure: str | None = None
        self.failed_at: float | None = None
        self.limited_until: float | None = None
        #: When the usage limit that was last seen to be reached ends.
        self._resets_at: float | None = None

    def add(self, entry: dict[str, Any]) -> None:
        """Take in one line; what is of another shape is passed over."""
        payload = entry.get("payload")
        if not isinstance(payload, dict):
            return
        kind = str(payload.get("type"))
        if entry.get("type") == "event_msg":
            if kind in _TURN_STARTS:
                self.in_turn = True
                self.failure = self.failed_at = self.limited_until = self._resets_at = None
            elif kind in _TURN_ENDS:
                self.in_turn = False
                self._add_failure(payload.get("error"), transcript.parse_time(entry.get("timestamp")))
            elif kind == "token_count":
                self._resets_at = _find_reached(payload.get("rate_limits"))
            elif kind == "error":  # in rollouts of earlier versions
                self._add_failure(payload, transcript.parse_time(entry.get("timestamp")))
        elif entry.get("type") == "response_item":
            self._add_item(kind, payload)
        elif entry.get("type") == "turn_context":
            self._add_context(payload)

    def _add_item(self, kind: str, payload: dict[str, Any]) -> None:
        if kind == "message" and payload.get("role") == "assistant":
            self.work += 1
        elif kind == "message" and payload.get("role") == "user":
            if self._prompt is not None and self._prompt in text_of(payload.get("content")):
                self.heard_prompt = True
        elif kind.endswith("_call_output") and not text_of(payload.get("output")).startswith("aborted"):
            self.work += 1

    def _add_failure(self, error: object, at: float | None) -> None:
        if not isinstance(error, dict) or not isinstance(error.get("message"), str):
            return
        self.failure, self.failed_at = error["message"], at
        if error.get("codex_error_info") == "usage_limit_exceeded":
            self.limited_until = self._resets_at or (find_reset(self.failure, at) if at is not None else None)

    def _add_context(self, payload: dict[str, Any]) -> None:
        if isinstance(payload.get("cwd"), str):
            self.cwd = payload["cwd"]
        policy, profile = payload.get("sandbox_policy"), payload.get("active_permission_profile")
        name = profile.get("id") if isinstance(profile, dict) else None
        if isinstance(name, str) and not name.startswith(":"):
            # A profile of the user's own says more than a sandbox mode can; naming a mode would lift its rules.
            self.permission = command_line.Permission()
            return
        approval = payload.get("approval_policy")
        self.permission = command_line.Permission(
            sandbox=policy.get("type") if isinstance(policy, dict) else None,
            approval=approval if isinstance(approval, str) else None,
        )


def _find_reached(limits: object) -> float | None:
    """Return when the last of the limits that are used up ends (wall-clock seconds since 1970), ``None`` if none tells."""
    windows = [limits.get(name) for name in ("primary", "secondary")] if isinstance(limits, dict) else []
    ends = [
        float(window["resets_at"])
        for window in windows
        if isinstance(window, dict)
        and isinstance(window.get("resets_at"), (int, float))
        and isinstance(window.get("used_percent"), (int, float))
        and window["used_percent"] >= 100
    ]
    return max(ends, default=None)


def _find_home(environment: Mapping[str, str]) -> Path:
    return Path(environment.get("CODEX_HOME") or os.path.join(environment.get("HOME") or os.path.expanduser("~"), ".codex"))


def _find_told(id: str, launch: LaunchSpec) -> Conversation | None:
    """Return the conversation whose id the program printed, once its rollout is there."""
    for path in _find_home(launch.environment).glob(f"sessions/*/*/*/rollout-*-{id}.jsonl"):
        if read_meta(path).get("id") == id:
            return Conversation(agent="codex", id=id, transcript=str(path), found_at=SYSTEM.wall_s())
    return None


def _is_of_helper(path: str) -> bool:
    """Tell whether a rollout belongs to an agent that the session's agent started inside itself."""
    return isinstance(read_meta(path).get("source"), dict)


def _find_package(program: Sequence[str], launch: LaunchSpec) -> Path | None:
    """Return the root of the npm package whose wrapper ``program`` starts, ``None`` if it starts no such wrapper."""
    found = find_file(program, launch)
    if found is None:
        return None
    wrapper = Path(os.path.realpath(found))
    return wrapper.parent.parent if wrapper.name == "codex.js" else None


def _find_native(package: Path) -> Path | None:
    """Return the native program that the wrapper of ``package`` would start on this machine."""
    known = _PLATFORMS.get((sys.platform, os.uname().machine))
    if known is None:
        return None
    name, triple = known
    for root in (package.parent / name, package / "node_modules" / "@openai" / name, package):
        native = root / "vendor" / triple / "bin" / "codex"
        if is_executable(native):
            return native
    return None
