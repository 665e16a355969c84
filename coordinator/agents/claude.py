"""Claude Code (``@anthropic-ai/claude-code``): started with an id of our choice, resumed by it, read through its transcript.

What was found with 2.1.197, by running it:
  - the ``claude`` that npm installs is the native program itself; only where the package's install script was not run a Node
    wrapper stands in for it
  - ``--bg``, a key and ``/background`` hand the work to a background server that is started if need be and outlives the session;
    ``CLAUDE_CODE_DISABLE_AGENT_VIEW`` refuses all three, so ``--bg`` is left out too
  - ``sessions/PID.json`` tells, for as long as the process lives and after it was killed, which conversation a process holds and
    whether it is busy, idle or waiting for the user; its ``procStart`` proves that the pid was not given to another since
  - the transcript is not held open, and exists from the first prompt on
  - started by a tool of another Claude Code, the interactive program takes itself for a part of that one, and writes neither
    a transcript nor that file: a session of its own must not see the variables by which it knows
  - ``--session-id`` is refused once a file of that id exists, ``--resume`` while nothing was said in it; killed in its first
    moment, ``-p`` leaves such a file, and the start that follows needs another id
  - a call that was cut is not shown to the model again; ``--resume`` writes "Continue from where you left off." by itself
  - ``--resume`` does not enter the worktree that the conversation was held in, unless ``-w NAME`` is said again
  - the first line that it appends to a torn one is lost with it; the conversation goes on

Not promised: what was ``/clear``-ed is left behind only once something was said after it; cloud sessions, which are another
machine's; ``--no-session-persistence``, which writes no transcript; what process holds which conversation on another system
than Linux, where only the chosen id is known.
"""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from coordinator.agents import claude_command as command_line
from coordinator.agents import transcript
from coordinator.agents.base import Activity, PastConversation
from coordinator.agents.claude_transcript import (
    Status,
    Talk,
    find_transcript,
    is_of,
    iter_pids,
    read_history,
    read_status,
    read_title,
)
from coordinator.agents.generic import Generic
from coordinator.agents.program import find_file, is_executable, split_program
from coordinator.sessions.conversation import Conversation
from coordinator.sessions.history import Item
from coordinator.sessions.model import LaunchSpec
from coordinator.system.clock import SYSTEM

#: Said to an agent that was interrupted in the middle of a turn.
GO_ON = (
    "You were interrupted: this session ended without warning and was started again in this conversation. A tool call without"
    " a result did not finish. Check what is already done, then go on with the task."
)

#: Names the ids that we choose; arbitrary, but never to change.
_NAMESPACE = uuid.UUID("5b0c6f64-6f0e-4d0b-9a53-9d1b5a2f3c11")
_ENVIRONMENT = {
    "CLAUDE_CODE_DISABLE_AGENT_VIEW": "1",
    # An update that is killed with the session would leave half a program behind.
    "DISABLE_AUTOUPDATER": "1",
}
#: What the commands that an agent's tools run get from Claude Code.
_OF_A_CHILD = ("AI_AGENT", "CLAUDECODE", "CLAUDE_CODE_CHILD_SESSION", "CLAUDE_CODE_ENTRYPOINT", "CLAUDE_CODE_EXECPATH",
               "CLAUDE_CODE_SESSION_ID", "CLAUDE_EFFORT", "CLAUDE_PROJECT_DIR")  # fmt: skip
_PLATFORMS = {
    ("linux", "x86_64"): ("linux-x64", "linux-x64-musl"),
    ("linux", "aarch64"): ("linux-arm64", "linux-arm64-musl"),
    ("darwin", "x86_64"): ("darwin-x64",),
    ("darwin", "arm64"): ("darwin-arm64",),
}
#: What stands where the native program will be is smaller until the install script has put it there.
_PLACEHOLDER_BYTES = 4096
#: The first look at a transcript begins so far from its end: enough to tell whether a turn is open.
_LOOK_BACK_BYTES = 1 << 20


class Claude(Generic):
    """The Claude Code command line."""

    name = "claude"

    def __init__(self) -> None:
        self._talk = Talk()
        #: The transcripts that are read, by path: the conversation's and its helpers'.
        self._tails: dict[str, transcript.Tail] = {}
        self._helpers = Talk()
        #: The process that was seen to hold the conversation.
        self._pid: int | None = None
        #: The id that this session's conversation was given at its start.
        self._chosen: str | None = None

    def recognises(self, argv: Sequence[str]) -> bool:
        return command_line.PROGRAM.is_started_by(argv)

    def prepare(self, launch: LaunchSpec) -> LaunchSpec:
        argv, environment = launch.argv, launch.environment
        program, words = split_program(argv)
        if native := _find_native(program, launch):
            argv = (str(native), *words)
            environment = {**environment, "CLAUDE_CODE_INSTALLED_VIA_NPM_WRAPPER": "1"}  # as the wrapper tells it
        command = command_line.parse(argv)
        if command.other is None:
            kept = command_line.keep_in(command)
            if kept is not command:
                argv = command_line.build_start(kept)
            if "CLAUDE_CODE_CHILD_SESSION" in environment:
                environment = {name: value for name, value in environment.items() if name not in _OF_A_CHILD}
            environment = {**_ENVIRONMENT, **environment}
        return replace(launch, argv=argv, environment=environment)

    def begin(self, launch: LaunchSpec, session_id: str) -> tuple[tuple[str, ...], Conversation | None]:
        command = command_line.parse(launch.argv)
        if not command.chooses_itself:
            id = str(uuid.uuid5(_NAMESPACE, session_id))
            at = len(command.program)
            argv = (*launch.argv[:at], "--session-id", id, *launch.argv[at:])
        elif (said := _find_said_id(command)) is not None:
            id, argv = said, launch.argv
        else:
            return launch.argv, None
        self._chosen = id
        # Its transcript begins with the first prompt; a path that names no file would be taken for a loss.
        path = find_transcript(_find_config(launch.environment), id)
        return argv, Conversation(agent=self.name, id=id, transcript=str(path) if path else None, found_at=SYSTEM.wall_s())

    def read_permission_mode(self, argv: Sequence[str]) -> str | None:
        return command_line.read_mode(command_line.parse(argv))

    def find_conversation(self, launch: LaunchSpec, pids: Sequence[int], started_at: float) -> Conversation | None:
        config = _find_config(launch.environment)
        seen = [(status.start, pid, status) for pid in pids if (status := read_status(config, pid)) is not None]
        if seen:  # the eldest: others were started by the agent's tools
            _, self._pid, status = min(seen, key=lambda found: found[:2])
            id: str | None = status.conversation
        else:
            id = self._chosen
        path = find_transcript(config, id) if id is not None else None
        if id is None or path is None:
            return None
        return Conversation(agent=self.name, id=id, transcript=str(path), found_at=SYSTEM.wall_s())

    def build_resume(self, launch: LaunchSpec, conversation: Conversation | None) -> tuple[str, ...]:
        command = command_line.parse(launch.argv)
        if conversation is None or command.other is not None:
            return launch.argv
        self._chosen = conversation.id
        config = _find_config(launch.environment)
        path = conversation.transcript or find_transcript(config, conversation.id)
        talk = Talk(command.prompt)
        lines = 0
        for _, entry in transcript.iter_lines(path) if path is not None else ():
            talk.add(entry)
            lines += 1
        if path is None or (lines and not talk.has_messages):
            return self._start_anew(launch, command, config, conversation.id, is_taken=path is not None)
        prompt = command.prompt
        if prompt is None or talk.heard_prompt:
            # The interactive program gets words only if it was at work: one that waited for its user waits again.
            at_work = talk.limited_until is not None or (talk.in_turn and not _was_idle(config, conversation.id, talk))
            prompt = GO_ON if command.is_headless or at_work else None
        if not command.takes_prompt:
            prompt = None
        rest = command_line.limit_mode(command_line.drop_start(command), talk.mode)
        if talk.worktree is not None:
            rest = command_line.add_option(rest, "-w", talk.worktree)
        return command_line.build_resume(rest, conversation=conversation.id, prompt=prompt)

    def read_activity(self, conversation: Conversation) -> Activity:
        if conversation.transcript is None:
            return Activity()
        path = Path(conversation.transcript)
        self._read(str(path), self._talk)
        try:
            helpers = [entry.path for entry in os.scandir(path.with_suffix("") / "subagents") if entry.name.endswith(".jsonl")]
        except OSError:
            helpers = []
        for helper in helpers:
            self._read(helper, self._helpers)
        status = self._read_status(path.parent.parent.parent, conversation.id)
        at_prompt = None if self._talk.in_turn is None else not self._talk.in_turn
        if status is not None and status.state is not None:
            at_prompt = status.is_idle
        return Activity(
            progress=self._talk.work + self._helpers.work,
            at_prompt=at_prompt,
            needs_user=status is not None and status.state == "waiting",
            failure=self._talk.failure,
            limited_until=self._talk.limited_until,
            failed_at=self._talk.failed_at,
        )

    def read_history(self, conversation: Conversation) -> Iterator[Item]:
        return iter(()) if conversation.transcript is None else read_history(conversation.transcript)

    def list_conversations(self, environment: Mapping[str, str]) -> Iterator[PastConversation]:
        for path in (_find_config(environment) / "projects").glob("*/*.jsonl"):
            if not _is_uuid(path.stem) or (found := read_title(path)) is None:
                continue
            title, cwd = found
            conversation = Conversation(agent=self.name, id=path.stem, transcript=str(path))
            try:
                yield PastConversation(conversation=conversation, cwd=cwd, title=title, changed_at=path.stat().st_mtime)
            except OSError:
                continue  # removed meanwhile

    def restore_transcript(self, conversation: Conversation, saved: Path) -> bool:
        if conversation.transcript is None or not is_of(saved, conversation.id):
            return False
        path = Path(conversation.transcript)
        if os.path.lexists(path):
            whole = is_of(path, conversation.id)
            if whole and not transcript.is_cut_short(path, saved) and not transcript.holds_zeros(path):
                return False
            transcript.set_aside(path)
        transcript.put_back(saved, path)
        return True

    def _start_anew(
        self, launch: LaunchSpec, command: command_line.Command, config: Path, id: str, *, is_taken: bool
    ) -> tuple[str, ...]:
        """Return the first start's argv for a conversation in which nothing was said; ``is_taken`` if its file is there."""
        if command.chooses_itself and not command.options.has("--session-id"):
            return launch.argv
        while is_taken:
            id = str(uuid.uuid5(_NAMESPACE, id))
            is_taken = find_transcript(config, id) is not None
        self._chosen = id
        return command_line.build_start(command_line.drop_choice(command), conversation=id)

    def _read(self, path: str, talk: Talk) -> None:
        if path not in self._tails:
            self._tails[path] = transcript.Tail(path, from_end_bytes=_LOOK_BACK_BYTES)
        for entry in self._tails[path].iter_new():
            talk.add(entry)

    def _read_status(self, config: Path, id: str) -> Status | None:
        """Return what the living process that holds the conversation says of itself."""
        if self._pid is not None and (status := read_status(config, self._pid)) is not None:
            return status
        self._pid = None
        for pid in iter_pids(config):
            if (status := read_status(config, pid)) is not None and status.conversation == id:
                self._pid = pid
                return status
        return None


def _find_config(environment: Mapping[str, str]) -> Path:
    """Return the directory in which Claude Code keeps what it knows."""
    chosen = environment.get("CLAUDE_CONFIG_DIR")
    return Path(chosen) if chosen else Path(environment.get("HOME") or os.path.expanduser("~")) / ".claude"


def _find_said_id(command: command_line.Command) -> str | None:
    """Return the id of the conversation that the command itself names."""
    if command.other is not None or command.options.has("--fork-session", "--no-session-persistence"):
        return None
    said = command.options.find_value("--session-id") or command.options.find_value("-r", "--resume")
    return said if said is not None and _is_uuid(said) else None


def _is_uuid(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text.lower()
    except ValueError:
        return False


def _was_idle(config: Path, id: str, talk: Talk) -> bool:
    """Tell whether the last process of the conversation waited for its user when it ended.

    A prompt that was taken back stands in the transcript like one that is being worked on; the process knew the difference.
    """
    found = [status for pid in iter_pids(config) if (status := read_status(config, pid, is_living=False)) is not None]
    last = max((status for status in found if status.conversation == id), key=lambda status: status.at, default=None)
    return last is not None and last.is_idle and talk.turn_at is not None and last.at >= talk.turn_at


def _find_native(program: Sequence[str], launch: LaunchSpec) -> Path | None:
    """Return the native program for which ``program`` is only a stand-in, ``None`` if it is none or there is no other."""
    found = find_file(program, launch)
    if found is None:
        return None
    wrapper = Path(os.path.realpath(found))
    if wrapper.name == "cli-wrapper.cjs":
        package = wrapper.parent
    elif wrapper.name == "claude.exe" and _is_placeholder(wrapper):
        package = wrapper.parent.parent
    else:
        return None
    for platform in _PLATFORMS.get((sys.platform, os.uname().machine), ()):
        name = f"{package.name}-{platform}"
        for root in (package.parent / name, package / "node_modules" / package.parent.name / name):
            if is_executable(root / "claude"):
                return root / "claude"
    return None


def _is_placeholder(path: Path) -> bool:
    try:
        return path.stat().st_size < _PLACEHOLDER_BYTES
    except OSError:
        return False
