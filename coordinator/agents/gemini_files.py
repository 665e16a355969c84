"""Where Gemini CLI keeps its conversations: ``~/.gemini/tmp/PROJECT/chats/session-MINUTE-ID8.jsonl``.

``PROJECT`` is a name for a directory, which stands in its ``.project_root``. ``ID8`` are the first eight characters of the
conversation's id, so that files of several conversations may have one name; the id itself stands in the first line.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from coordinator.agents import gemini_transcript, transcript
from coordinator.agents.base import PastConversation
from coordinator.agents.gemini_transcript import Replay
from coordinator.sessions.conversation import Conversation

_LOG_LIMIT_BYTES = 4 << 20
#: How far what a user typed and its place in the conversation may lie apart, in seconds: 0.1 s were seen.
_SAME_MOMENT_S = 2.0
_UNSAFE = re.compile(r"[^a-zA-Z0-9_-]")


def find_home(environment: Mapping[str, str]) -> Path:
    """Return the directory of the program's own files for the user of ``environment``."""
    home = environment.get("GEMINI_CLI_HOME") or environment.get("HOME") or os.path.expanduser("~")
    return Path(home) / ".gemini"


def find_settings(environment: Mapping[str, str]) -> dict[str, object]:
    """Return what the program's wrapper reads of the user's settings, where it looks for them; nothing if it cannot."""
    base = environment.get("GEMINI_CLI_HOME")  # the wrapper forgets the .gemini here
    path = Path(base) if base else find_home(environment)
    try:
        found = json.loads((path / "settings.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def find_transcripts(home: Path, id: str) -> list[Path]:
    """Return the transcripts of a conversation, the one that its program would resume first.

    A resume in a later minute than that of the conversation's birth begins a second file that stays empty.
    """
    end = f"-{_UNSAFE.sub('_', id)[:8]}.jsonl"
    found = [path for path in _iter_transcripts(home) if path.name.endswith(end) and gemini_transcript.read_id(path) == id]
    if len(found) < 2:
        return found
    return sorted(found, key=lambda path: (Replay(path).can_resume, _changed_at(path)), reverse=True)


def find_project_root(path: str | os.PathLike[str]) -> str | None:
    """Return the directory in which the conversation of a transcript is held, ``None`` if that is not written down."""
    try:
        return (Path(path).parent.parent / ".project_root").read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def list_conversations(home: Path) -> Iterator[PastConversation]:
    """Yield the conversations of all projects; one that nobody said anything in is none."""
    for path in _iter_transcripts(home):
        head = gemini_transcript.read_head(path)
        if head is None or head[2] == "subagent":
            continue
        at = _changed_at(path)
        yield PastConversation(
            conversation=Conversation(agent="gemini", id=head[0], transcript=str(path), found_at=at),
            cwd=find_project_root(path),
            title=head[1],
            changed_at=at,
        )


def find_listed(home: Path, cwd: str, which: str) -> Conversation | None:
    """Return the conversation that the program means by ``latest`` or by a number, ``None`` if there is none."""
    born: dict[str, tuple[float, Conversation]] = {}
    for path in _iter_transcripts(home):
        root, head = find_project_root(path), transcript.read_first_line(path) or {}
        if root is None or os.path.realpath(root) != os.path.realpath(cwd) or head.get("kind") == "subagent":
            continue
        replay = Replay(path)
        if replay.id is not None and replay.can_resume:
            conversation = Conversation(agent="gemini", id=replay.id, transcript=str(path))
            born[replay.id] = (gemini_transcript.read_time(head.get("startTime")) or 0.0, conversation)
    ordered = [conversation for _, conversation in sorted(born.values(), key=lambda one: one[0])]
    if not ordered:
        return None
    if which == "latest":
        return ordered[-1]
    index = int(which) - 1
    return ordered[index] if 0 <= index < len(ordered) else None


def find_successor(own: Path, id: str, started_at: float) -> Path | None:
    """Return the transcript of the conversation that the user of ``id``'s program went on to inside it, e.g. with ``/clear``.

    The proof: the program writes what its user types into ``logs.json`` under the id that it was *started* with, also after
    it has gone on to another conversation. If the last thing typed stands in another transcript, at that moment, and no other
    program logged it under that transcript's own id, the conversation went on there. ``None`` if it is not proven.
    """
    try:
        log = own.parent.parent / "logs.json"
        if log.stat().st_size > _LOG_LIMIT_BYTES:
            return None
        entries = json.loads(log.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    typed: dict[str, tuple[str, float]] = {}
    for entry in entries if isinstance(entries, list) else ():
        if not isinstance(entry, dict) or entry.get("type") != "user":
            continue
        text, at, by = entry.get("message"), gemini_transcript.read_time(entry.get("timestamp")), entry.get("sessionId")
        if not isinstance(text, str) or not isinstance(by, str) or at is None or at < started_at - _SAME_MOMENT_S:
            continue
        if gemini_transcript.is_said(text):
            typed[by] = (text, at)
    if id not in typed or _was_said(own, *typed[id]):
        return None
    text, at = typed[id]
    found = [
        path
        for path in _iter_sessions(own.parent)
        if path != own
        and _changed_at(path) >= at - _SAME_MOMENT_S
        and gemini_transcript.read_id(path) not in typed
        and _was_said(path, text, at)
    ]
    return found[0] if len(found) == 1 else None


def _was_said(path: Path, text: str, at: float) -> bool:
    for entry in transcript.Tail(path).iter_all():
        if entry.get("type") == "user" and gemini_transcript.text_of(entry.get("content")).strip() == text.strip():
            said_at = gemini_transcript.read_time(entry.get("timestamp"))
            if said_at is not None and abs(said_at - at) <= _SAME_MOMENT_S:
                return True
    return False


def _iter_transcripts(home: Path) -> Iterator[Path]:
    for base in (home, home.parent / ".cache" / home.name):  # the second: inside the sandbox of macOS
        try:
            projects = os.listdir(base / "tmp")
        except OSError:
            continue
        for project in projects:
            yield from _iter_sessions(base / "tmp" / project / "chats")


def _iter_sessions(directory: Path) -> Iterator[Path]:
    try:
        names = os.listdir(directory)
    except OSError:
        return
    yield from (directory / name for name in names if name.startswith("session-") and name.endswith(".jsonl"))


def _changed_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
