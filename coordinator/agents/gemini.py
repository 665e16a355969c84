"""Gemini CLI (``@google/gemini-cli``): started without its wrapper, with an id of our choice, resumed by it, read by replaying.

What was found with 0.61.0, by running it and reading it:
  - the ``gemini`` that npm installs starts itself again as a child with more memory; killed, it leaves that child working on,
    and it ignores SIGTERM. ``GEMINI_CLI_NO_RELAUNCH`` keeps it from that, so the memory limit is given to Node directly. What
    only the wrapper does is lost: the program, asked to restart itself (a folder was trusted, a setting changed), leaves with 199
  - a resume in a later minute than that of the conversation's birth opens a second, empty transcript; the next start of *any*
    session takes that for a damaged one and deletes all transcripts whose names end in the same eight letters and digits, the
    real one too. Ids that are chosen here have an underscore among them: such a name it does not take apart, so it deletes
    the empty file alone
  - a resume in that same minute empties the transcript and fills it again; killed in between it would find nothing
  - a conversation in which nothing was said yet, or whose first turn failed or was cancelled, can neither be resumed nor begun
    again by the same id (both leave with 42): it is begun by another one, which is derived from the first
  - of a tool call that was cut nothing is left for the model to see
  - after ``/clear`` the program logs under the id it was started with, which proves where the conversation went on
  - the transcript does not show an open permission prompt; the terminal's title does ("Action Required"), and whether it works
  - a usage limit is shown in a dialog only, and a failure of the headless program in its output only

Not promised: the conversation of ``--session-file``, whose id the program draws itself, and of ``--acp``, which is a client's;
that a permission lowered with a key inside the program stays lowered: no trace of it is kept.
"""

from __future__ import annotations

import base64
import os
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from coordinator.agents import gemini_command as command_line
from coordinator.agents import gemini_files, gemini_transcript, transcript
from coordinator.agents.base import Activity, PastConversation
from coordinator.agents.gemini_transcript import Replay
from coordinator.agents.generic import Generic
from coordinator.agents.limits import find_reset
from coordinator.agents.program import find_file, split_program
from coordinator.agents.terminal_title import TitleReader
from coordinator.sessions.conversation import Conversation
from coordinator.sessions.history import Item
from coordinator.sessions.model import LaunchSpec
from coordinator.system import scan
from coordinator.system.clock import SYSTEM

#: Said to an agent that was interrupted in the middle of a turn.
GO_ON = (
    "You were interrupted: this session ended without warning and was started again in this conversation. A tool call that you"
    " made last may have been cut short, and it may not be shown above. Check what is already done, then go on with the task."
)

_NAMESPACE = uuid.UUID("0f8f3f0c-2d0e-5b7a-9c39-5a1f6d3b7e42")  # arbitrary
#: As many ids as one conversation may go through until something is said in it; arbitrary.
_IDS_LIMIT = 100
_NO_RELAUNCH = "GEMINI_CLI_NO_RELAUNCH"
_HEAP = re.compile(r"--max[-_]old[-_]space[-_]size[= ](\d+)")
#: Words of the terminal's title by which the program tells its state.
_READY, _WORKING, _ASKS = "Ready", "Working", "Action Required"
#: The dialog of a usage limit, as it is drawn.
_LIMIT = re.compile(rb"Usage limit reached for [^\r\n\x1b]*")
_RESETS = re.compile(rb"Access resets at [^\r\n\x1b]*")
#: What the headless program writes when it gives up.
_GAVE_UP = re.compile(rb"Error when talking to Gemini API Full report available at: \S+ (?:\w+: )?([^\r\n]*)")
#: What the service itself said, which stands further down in that.
_CAUSE = re.compile(rb"message: ['\"`]([^\r\n]*?)['\"`],?[\r\n]")
_OF_A_LIMIT = re.compile(r"quota|limit|exhausted", re.IGNORECASE)
#: So much of the output is kept for a sentence that is cut.
_OUTPUT_LIMIT = 2048


class Gemini(Generic):
    """The Gemini command line."""

    name = "gemini"

    def __init__(self) -> None:
        self._reading: tuple[str, transcript.Tail, gemini_transcript.Work] | None = None
        self._titles = TitleReader()
        #: What the terminal's title said last; ``None`` if it said nothing of the program's state.
        self._state: str | None = None
        self._recent_output = b""
        #: The dialog of a usage limit that is open, or what the headless program said when it gave up; and since when.
        self._dialog: str | None = None
        self._gave_up: str | None = None
        self._told_at = 0.0
        #: The work done when the dialog was open first: once there is more, the user has chosen to go on.
        self._dialog_count: int | None = None
        #: The conversation that the program is started in, if that is ours to say.
        self._chosen: str | None = None
        #: Where the conversation was found, by its id, and where it went on to.
        self._found: dict[str, Path] = {}
        self._successor: tuple[tuple[str, int], Path | None] | None = None

    def recognises(self, argv: Sequence[str]) -> bool:
        return command_line.PROGRAM.is_started_by(argv)

    def prepare(self, launch: LaunchSpec) -> LaunchSpec:
        if launch.environment.get(_NO_RELAUNCH) or launch.environment.get("SANDBOX"):
            return launch  # prepared already, or the user's own will
        program, words = split_program(launch.argv)
        node, script = _find_script(program, launch)
        if node is None or script is None:
            return launch
        options = (*program[1:-1], *_choose_heap(program, launch.environment))
        environment = {**launch.environment, _NO_RELAUNCH: "true"}
        return replace(launch, argv=(node, *options, script, *words), environment=environment)

    def begin(self, launch: LaunchSpec, session_id: str) -> tuple[tuple[str, ...], Conversation | None]:
        command = command_line.parse(launch.argv)
        if not command.carries_conversation or command.options.has("--session-file"):
            return launch.argv, None
        id = command.conversation_id
        if id is None and (asked := command.options.find("-r", "--resume")) is not None:
            # "latest" and numbers mean another conversation tomorrow.
            meant = gemini_files.find_listed(gemini_files.find_home(launch.environment), launch.cwd, asked.value or "latest")
            if meant is not None:
                return self._build(launch, command, ("--resume", meant.id), command.prompt), meant
            if (asked.value or "latest") != "latest":
                return launch.argv, None  # the program says what is wrong
            id = _derive_id(session_id)
            return self._build(launch, command, ("--session-id", id), command.prompt), Conversation(agent=self.name, id=id)
        if id is not None:
            self._chosen, path = id, self._locate(launch, id)
            return launch.argv, Conversation(agent=self.name, id=id, transcript=str(path) if path is not None else None)
        self._chosen = id = _derive_id(session_id)
        return command_line.add_id(command, launch.argv, id), Conversation(agent=self.name, id=id)

    def read_permission_mode(self, argv: Sequence[str]) -> str | None:
        mode = command_line.read_approval_mode(command_line.parse(argv))
        return f"approval mode {mode}" if mode is not None else None

    def find_conversation(self, launch: LaunchSpec, pids: Sequence[int], started_at: float) -> Conversation | None:
        # A parent comes before its children; of a program that has ended only what it was told is known.
        id = next(filter(None, map(_read_running_id, pids)), self._chosen)
        own = self._locate(launch, id) if id is not None else None
        if id is None or own is None:
            return None
        followed = self._follow(own, id, started_at)
        followed_id = gemini_transcript.read_id(followed)
        if followed_id is None:
            return None
        return Conversation(agent=self.name, id=followed_id, transcript=str(followed), found_at=SYSTEM.wall_s())

    def build_resume(self, launch: LaunchSpec, conversation: Conversation | None) -> tuple[str, ...]:
        """As promised by the protocol; and a transcript that a killed resume left empty is put back as it was before that.

        Raises ``StorageError`` if that fails.
        """
        command = command_line.parse(launch.argv)
        if conversation is None or not command.carries_conversation:
            return launch.argv
        id, prompt = conversation.id, command.prompt
        for _ in range(_IDS_LIMIT):
            path = self._locate(launch, id, conversation)
            if path is None:  # never written down, or lost with all its copies
                return self._build(launch, command, ("--session-id", id), prompt)
            found = gemini_transcript.mend(path, Replay(path))
            if found.can_resume:
                prompt = _choose_words(command, found, launch.environment)
                return self._build(launch, command, ("--resume", id), prompt, _find_other_root(path, launch.cwd))
            if found.work.cancelled:
                prompt = None
            id = _derive_id(id)
        return launch.argv

    def note_output(self, output: bytes) -> None:
        title = self._titles.read(output)
        if title is not None:
            text = title.decode("utf-8", "replace")
            self._state = next((state for state in (_ASKS, _READY, _WORKING) if state in text), None)
            self._dialog, self._recent_output = None, b""
            output = output[output.rfind(b"\x1b]") + 1 :]
        recent = self._recent_output + output
        if b"limit reached for" in recent or b"Error when talking" in recent or (self._gave_up and b"message: " in recent):
            self._read_sentences(recent)
        self._recent_output = recent[-_OUTPUT_LIMIT:]

    def read_activity(self, conversation: Conversation) -> Activity:
        path = conversation.transcript
        if path is not None and (self._reading is None or self._reading[0] != path):
            tail = transcript.Tail(path, from_end_bytes=transcript.READ_LIMIT_BYTES)
            self._reading = (path, tail, gemini_transcript.Work())
        work = gemini_transcript.Work()
        if path is not None and self._reading is not None:
            _, tail, work = self._reading
            for entry in tail.iter_new():
                work.add(entry)
        if self._dialog is not None and self._dialog_count is None:
            self._dialog_count = work.count
        elif self._dialog is not None and self._dialog_count != work.count:
            self._dialog = None
        at_prompt = None if work.in_turn is None else not work.in_turn
        if self._state is not None:  # the program itself says it: a turn that was cut is open in its transcript for ever
            at_prompt = self._state == _READY
        failure = work.failure
        failed_at = work.failed_at
        if (told := self._dialog or self._gave_up) is not None:
            failure, failed_at = told, self._told_at
        limited = failure is not None and _OF_A_LIMIT.search(failure) is not None
        return Activity(
            progress=work.count,
            at_prompt=at_prompt,
            needs_user=self._state == _ASKS or self._dialog is not None,
            failure=failure,
            limited_until=find_reset(failure, failed_at or SYSTEM.wall_s()) if limited and failure is not None else None,
            failed_at=failed_at,
        )

    def read_history(self, conversation: Conversation) -> Iterator[Item]:
        return iter(()) if conversation.transcript is None else gemini_transcript.read_history(conversation.transcript)

    def list_conversations(self, environment: Mapping[str, str]) -> Iterator[PastConversation]:
        return gemini_files.list_conversations(gemini_files.find_home(environment))

    def restore_transcript(self, conversation: Conversation, saved: Path) -> bool:
        if conversation.transcript is None or gemini_transcript.read_id(saved) != conversation.id:
            return False
        path = Path(conversation.transcript)
        if os.path.lexists(path):
            whole = gemini_transcript.read_id(path) == conversation.id
            if whole and not transcript.is_cut_short(path, saved) and not transcript.holds_zeros(path):
                return False
            transcript.set_aside(path)
        transcript.put_back(saved, path)
        return True

    def _read_sentences(self, recent: bytes) -> None:
        """Note a usage limit or a failure that the output tells, once per telling."""
        if gave_up := _GAVE_UP.findall(recent):
            self._gave_up, self._told_at = _clean(gave_up[-1]), SYSTEM.wall_s()
        if (
            self._gave_up is not None
            and (causes := _CAUSE.findall(recent))
            and (cause := _clean(causes[-1])) not in self._gave_up
        ):
            self._gave_up = f"{self._gave_up} {cause}"
        if limits := _LIMIT.findall(recent):
            resets = _RESETS.findall(recent)
            text = " ".join(_clean(part) for part in (limits[-1], *resets[-1:]))
            if self._dialog is None:
                self._told_at, self._dialog_count = SYSTEM.wall_s(), None
            self._dialog = text

    def _locate(self, launch: LaunchSpec, id: str, known: Conversation | None = None) -> Path | None:
        """Return the conversation's transcript, ``None`` if there is none (yet). Remembers where it was."""
        guesses = [self._found.get(id)]
        if known is not None and known.id == id and known.transcript is not None:
            guesses.append(Path(known.transcript))
        for guess in guesses:
            if guess is not None and gemini_transcript.read_id(guess) == id:
                return guess
        found = gemini_files.find_transcripts(gemini_files.find_home(launch.environment), id)
        if not found:
            return None
        self._found[id] = found[0]
        return found[0]

    def _follow(self, own: Path, id: str, started_at: float) -> Path:
        try:
            stamp = (id, (own.parent.parent / "logs.json").stat().st_mtime_ns)
        except OSError:
            return own
        if self._successor is None or self._successor[0] != stamp:
            found = gemini_files.find_successor(own, id, started_at)
            self._successor = (stamp, found)
        return self._successor[1] or own

    def _build(
        self,
        launch: LaunchSpec,
        command: command_line.Command,
        choice: tuple[str, str],
        prompt: str | None,
        cwd: str | None = None,
    ) -> tuple[str, ...]:
        self._chosen = choice[1]
        interactive = command.is_interactive(launch.environment)
        if cwd is None:
            return command_line.build(command, choice, prompt=prompt, interactive=interactive)
        kept = command_line.without_worktree(command)
        argv = command_line.build(kept, choice, prompt=prompt, interactive=interactive)
        return ("sh", "-c", 'cd "$0" && exec "$@"', cwd, *argv)


def _derive_id(origin: str) -> str:
    """Return the id of the conversation that begins with ``origin``; see the head of this file for its underscore."""
    letters = base64.b32encode(uuid.uuid5(_NAMESPACE, origin).bytes).decode("ascii").rstrip("=").lower()
    return f"{letters[:7]}_{letters[7:]}"


def _choose_words(command: command_line.Command, found: Replay, environment: Mapping[str, str]) -> str | None:
    """Return what a resumed agent is told first: nothing if it waited for its user, who may go on then."""
    prompt = command.prompt
    if prompt is not None and command.chooses_conversation and not any(prompt.strip() in text for text in found.heard):
        return prompt  # it was killed before the conversation held it
    if command.is_interactive(environment) and not found.work.in_turn:
        return None
    return GO_ON


def _read_running_id(pid: int) -> str | None:
    argv = scan.read_arguments(pid)
    if argv is None or not command_line.PROGRAM.is_started_by(argv):
        return None
    return command_line.parse(argv).conversation_id


def _find_other_root(path: Path, cwd: str) -> str | None:
    """Return the directory that the conversation belongs to, if it is not ``cwd`` (``--worktree``): only there it is found."""
    root = gemini_files.find_project_root(path)
    if root is None or os.path.realpath(root) == os.path.realpath(cwd) or not os.path.isdir(root):
        return None
    return root


def _find_script(program: Sequence[str], launch: LaunchSpec) -> tuple[str | None, str | None]:
    """Return Node and the script that ``program`` would have it run, ``None`` for what is not found."""
    if not program or os.path.basename(program[0]) in ("npx", "bunx", "bun"):
        return None, None
    if len(program) > 1:
        return program[0], program[-1] if command_line.PROGRAM.is_script(program[-1]) else None
    found = find_file(program, launch)
    if (
        found is None
        or not os.path.realpath(found).endswith(".js")
        or not command_line.PROGRAM.is_script(os.path.realpath(found))
    ):
        return None, None
    return find_file(["node"], launch), found


def _choose_heap(program: Sequence[str], environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return Node's option for the memory that the wrapper would give its child: half of the machine's."""
    advanced = gemini_files.find_settings(environment).get("advanced")
    if isinstance(advanced, dict) and advanced.get("autoConfigureMemory") is False:
        return ()
    try:
        target_mb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2 >> 20
    except (OSError, ValueError):
        return ()
    given = _HEAP.findall(" ".join([*program, environment.get("NODE_OPTIONS", "")]))
    if any(int(mb) >= target_mb for mb in given):
        return ()
    return (f"--max-old-space-size={target_mb}",)


def _clean(text: bytes) -> str:
    return " ".join(text.decode("utf-8", "replace").replace("│", " ").split())
