"""aider (``aider-chat``): its conversation is the Markdown file that all aiders of one directory write.

What was found with 0.86.2, by running it and reading it:
  - there is no conversation of its own to come back to; ``--restore-chat-history`` reads the words of the user and of the model
    back from that file, from all runs that wrote it, and asks for a summary if they are many
  - a run begins with the heading ``# aider chat started at``, in local time, and the command line as a quotation; then ``####``
    begins a line of the user's, ``>`` one of aider's own, and the rest is the model's answer, which is written when it is whole
  - quotations and headings inside an answer cannot be told from aider's own lines: aider misreads them too
  - with ``--message`` it ends with 0 even if the model refused to answer; what it refused stands in the file
  - a question to the user ("Create new file? (Y)es/(N)o [Yes]:") shows on the terminal, in the file only when it is answered

Two aiders in one directory share the file: each shows the other's progress, and comes back with the other's words among its own.
Sessions side by side want ``--chat-history-file`` each.

Not promised: files named only in ``.aider.conf.yml`` (the command line and the environment are read); that an interactive
aider that was at work goes on by itself, since it takes no words at its start: it waits at its prompt with all that was said.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from coordinator.agents import transcript
from coordinator.agents.aider_history import HEADING, Chat, Growth, read_history
from coordinator.agents.base import Activity, PastConversation
from coordinator.agents.generic import Generic
from coordinator.agents.limits import find_reset
from coordinator.agents.options import Option, Options, table
from coordinator.sessions.conversation import Conversation
from coordinator.sessions.history import Item, Message, Role
from coordinator.sessions.model import LaunchSpec
from coordinator.system.clock import SYSTEM

#: Said to an aider that answers once and ends, when it was interrupted.
GO_ON = (
    "You were interrupted: this session ended without warning and was started again with the chat so far. Edits of an answer that"
    " was cut were not applied. Check what is already done, then go on with the task."
)


_FILE_NAME = ".aider.chat.history.md"
_PYTHON = re.compile(r"(python|pypy)[\d.]*$")
_MESSAGE = ("--message", "--msg", "-m")
_MESSAGE_FILE = ("--message-file", "-f")
_RESTORE = "--restore-chat-history"
#: With one of these it holds no chat.
_NO_CHAT = table(
    "-h --help --version --gui --browser --commit --lint --test --list-models --models --upgrade --update --install-main-branch"
    " --just-check-update --apply --apply-clipboard-edits --exit --show-repo-map --show-prompts --shell-completions"
)
#: Other options that take one value, which must not be taken for an option. Those not listed take none, or hold it behind ``=``.
_WITH_VALUE = table(
    "--model --openai-api-key --anthropic-api-key --openai-api-base --openai-api-type --openai-api-version"
    " --openai-api-deployment-id --openai-organization-id --set-env --api-key --model-settings-file --model-metadata-file --alias"
    " --reasoning-effort --thinking-tokens --timeout --edit-format --chat-mode --weak-model --editor-model --editor-edit-format"
    " --max-chat-history-tokens --cache-keepalive-pings --map-tokens --map-refresh --map-multiplier-no-files --input-history-file"
    " --chat-history-file --llm-history-file --user-input-color --tool-output-color --tool-error-color --tool-warning-color"
    " --assistant-output-color --completion-menu-color --completion-menu-bg-color --completion-menu-current-color"
    " --completion-menu-current-bg-color --code-theme --aiderignore --commit-prompt --lint-cmd --test-cmd --analytics-log"
    " --analytics-posthog-host --analytics-posthog-project-api-key --voice-format --voice-language --voice-input-device --file"
    " --read --chat-language --commit-language --load --encoding --line-endings -c --config --env-file --notifications-command"
    " --editor"
)
_QUESTION = b"(Y)es/(N)o"
#: A run's heading tells whole seconds.
_HEADING_STEP_S = 1.0


class Aider(Generic):
    """The aider command line."""

    name = "aider"

    def __init__(self) -> None:
        self._growth: Growth | None = None
        self._needs_user = False
        #: The end of the output, in which a question may have begun.
        self._output_end = b""

    def recognises(self, argv: Sequence[str]) -> bool:
        return _count_program(argv) > 0

    def begin(self, launch: LaunchSpec, session_id: str) -> tuple[tuple[str, ...], Conversation | None]:
        if _holds_no_chat(launch.argv):
            return launch.argv, None
        path = _find_file(launch.argv, launch.cwd, launch.environment)
        # A path that names no file would be taken for a loss. From ``found_at`` on, what stands in the file may be the session's.
        known = str(path) if path.is_file() else None
        return launch.argv, Conversation(agent=self.name, id=str(path), transcript=known, found_at=SYSTEM.wall_s())

    def read_permission_mode(self, argv: Sequence[str]) -> str | None:
        return "yes-always" if _parse(argv).has("--yes-always") else None

    def find_conversation(self, launch: LaunchSpec, pids: Sequence[int], started_at: float) -> Conversation | None:
        if _holds_no_chat(launch.argv):
            return None
        path = _find_file(launch.argv, launch.cwd, launch.environment)
        if not Chat.read(path, since_s=started_at - _HEADING_STEP_S).runs:
            return None
        return Conversation(agent=self.name, id=str(path), transcript=str(path), found_at=started_at)

    def build_resume(self, launch: LaunchSpec, conversation: Conversation | None) -> tuple[str, ...]:
        if conversation is None or _holds_no_chat(launch.argv):
            return launch.argv
        path = Path(conversation.transcript or conversation.id)
        if conversation.transcript is None and not path.is_file():
            return launch.argv
        count, options = _count_program(launch.argv), _parse(launch.argv)
        message = _find_message(options, launch.cwd)
        if message is not None and Chat.read(path, since_s=conversation.found_at - _HEADING_STEP_S).heard(message):
            options = Options().plus("--message", GO_ON) + options.without(_MESSAGE + _MESSAGE_FILE)
        restore = () if options.has(_RESTORE) else (_RESTORE,)
        return (*launch.argv[:count], *restore, *options.words)

    def note_output(self, output: bytes) -> None:
        seen = self._output_end + output
        at = seen.rfind(_QUESTION)
        if at >= 0:
            self._needs_user = b"\n" not in seen[at:]
        elif b"\n" in output:
            self._needs_user = False
        self._output_end = seen[-len(_QUESTION) + 1 :]

    def read_activity(self, conversation: Conversation) -> Activity:
        if conversation.transcript is None:
            return Activity(needs_user=self._needs_user)
        if self._growth is None or self._growth.path != conversation.transcript:
            self._growth = Growth(conversation.transcript)
        chat = self._growth.read_new()
        until = None
        if chat.failure is not None and re.search("limit|quota", chat.failure, re.IGNORECASE):
            until = find_reset(chat.failure, self._growth.changed_at)
        at_prompt = None if chat.in_turn is None else not chat.in_turn and not self._needs_user
        return Activity(
            progress=chat.work, at_prompt=at_prompt, needs_user=self._needs_user, failure=chat.failure, limited_until=until
        )

    def read_history(self, conversation: Conversation) -> Iterator[Item]:
        return iter(()) if conversation.transcript is None else read_history(conversation.transcript)

    def list_conversations(self, environment: Mapping[str, str]) -> Iterator[PastConversation]:
        """Yield the one of the directory that ``environment`` stands in: aider keeps no list of them."""
        path = _find_file((), environment.get("PWD") or os.getcwd(), environment)
        said = (item for item in read_history(str(path)) if isinstance(item, Message) and item.role is Role.USER)
        if (first := next(said, None)) is None:
            return
        conversation = Conversation(agent=self.name, id=str(path), transcript=str(path))
        title = " ".join(first.text.split())[:200]
        yield PastConversation(conversation=conversation, cwd=str(path.parent), title=title, changed_at=path.stat().st_mtime)

    def restore_transcript(self, conversation: Conversation, saved: Path) -> bool:
        path = Path(conversation.transcript or conversation.id)
        if not transcript.holds_text(saved, HEADING):
            return False
        if os.path.lexists(path):
            whole = transcript.holds_text(path, HEADING)
            if whole and not transcript.is_cut_short(path, saved) and not transcript.holds_zeros(path):
                return False
            transcript.set_aside(path)
        transcript.put_back(saved, path)
        return True


def _count_program(argv: Sequence[str]) -> int:
    """Return how many words name the program: ``aider``, ``python -m aider``; 0 if they name another."""
    if not argv:
        return 0
    name = os.path.basename(argv[0])
    if name == "aider":
        return 1
    return 3 if _PYTHON.match(name) and tuple(argv[1:3]) == ("-m", "aider") else 0


def _parse(argv: Sequence[str]) -> Options:
    """Take the words behind the program apart; what stands alone keeps its place, as an option without a name.

    Total: what is not known is an option without a value.
    """
    words, at = list(argv[_count_program(argv) :]), 0
    found: list[Option] = []
    while at < len(words):
        name, equals, value = words[at].partition("=")
        if name == "--" or not name.startswith("-"):
            taken = len(words) - at if name == "--" else 1
            found.append(Option(name="", value=None, words=tuple(words[at : at + taken])))
        elif not name.startswith("--") and len(words[at]) > 2 and name[:2] in ("-m", "-f", "-c"):  # -mwords
            taken = 1
            found.append(Option(name=name[:2], value=words[at][2:].removeprefix("="), words=(words[at],)))
        else:
            name = _complete(name)
            taken = 2 if not equals and name in (*_MESSAGE, *_MESSAGE_FILE, *_WITH_VALUE) else 1
            following = value if equals else words[at + 1] if taken == 2 and at + 1 < len(words) else None
            found.append(Option(name=name, value=following, words=tuple(words[at : at + taken])))
        at += taken
    return Options(found)


def _complete(name: str) -> str:
    """Return the option of which ``name`` is the beginning, as aider's parser takes it."""
    known = [*_MESSAGE, *_MESSAGE_FILE, *_WITH_VALUE, *_NO_CHAT, _RESTORE, "--yes-always"]
    if not name.startswith("--") or name in known:
        return name
    begun = [option for option in known if option.startswith(name)]
    return begun[0] if len(begun) == 1 else name


def _holds_no_chat(argv: Sequence[str]) -> bool:
    return _parse(argv).has(*_NO_CHAT)


def _find_message(options: Options, cwd: str) -> str | None:
    """Return the message that the command says, ``None`` if it says none or its file cannot be read."""
    for option in options:
        if option.value is not None and option.name in _MESSAGE:
            return option.value
        if option.value is not None and option.name in _MESSAGE_FILE:
            try:
                return Path(cwd, option.value).read_text(encoding="utf-8", errors="replace")
            except OSError:
                return None
    return None


def _find_file(argv: Sequence[str], cwd: str, environment: Mapping[str, str]) -> Path:
    """Return the file that aider writes: the one that was named, else the one of the repository, else of the directory."""
    if chosen := (_parse(argv).find_value("--chat-history-file") or environment.get("AIDER_CHAT_HISTORY_FILE")):
        return Path(os.path.normpath(os.path.join(cwd, os.path.expanduser(chosen))))
    here = Path(os.path.realpath(cwd))
    for directory in (here, *here.parents):
        if os.path.lexists(directory / ".git"):
            return directory / _FILE_NAME
    return here / _FILE_NAME
