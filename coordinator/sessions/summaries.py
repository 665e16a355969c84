"""One line about each session of a home, quickly: what a list of thousands shows.

A session's directory changes whenever one of its files is replaced, so a summary that was made after the last change of
the directory still holds: one look at each directory instead of reading every record. The summaries are kept in a cache that
anybody may delete; a damaged one is made anew.

Invariants:
  - a summary is never older than the session's record, launch, conversation, or the beginning of its recording
  - a record that cannot be read is summarised as the session's journal last had it; without that there is no summary, and who
    wants to know why asks the registry
"""

from __future__ import annotations

import dataclasses
import os
import time
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from coordinator import sealed
from coordinator.errors import CrewkeepError, StorageError
from coordinator.ids import ID_PATTERN
from coordinator.paths import Home, SessionPaths
from coordinator.sessions.conversation import Conversation, read_conversation
from coordinator.sessions.journal import Journal
from coordinator.sessions.model import RECORD_FORMAT, RECORD_KIND, Phase, SessionRecord
from coordinator.sessions.recorded import find_title
from coordinator.system import files

_FORMAT = 1
_CACHE_LIMIT_BYTES = 1 << 30
#: A directory changed so shortly before it was looked at may change again without its time telling.
_SETTLED_NS = 100_000_000
#: As many are read anew before the cache is written: reading them costs less than writing it.
_WRITE_ABOVE = 32
_TITLE_LENGTH = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """What a list says of a session."""

    id: str
    name: str
    agent: str
    cwd: str
    #: What it was last decided to be: a phase, or its outcome once it has ended.
    state: str
    #: What the user said first as far as it was recorded, else the command.
    title: str
    #: Wall-clock seconds since 1970 of the last thing known to have happened in it.
    changed_at: float
    has_ended: bool
    has_recording: bool
    #: (id, transcript) of its agent's conversations, oldest first.
    conversations: tuple[tuple[str, str | None], ...] = ()


def list_summaries(home: Home) -> list[Summary]:
    """Return a summary of every session of which a record can be read, in no order. Raises ``StorageError``."""
    cached = _read_cache(home.summaries)
    kept: dict[str, list[Any]] = {}
    made = 0
    found = []
    now_ns = time.time_ns()
    try:
        with os.scandir(home.sessions) as entries:
            for entry in entries:
                session_id = entry.name
                if not ID_PATTERN.fullmatch(session_id):
                    continue
                try:
                    changed_ns = entry.stat(follow_symlinks=False).st_mtime_ns
                except OSError:
                    continue  # removed meanwhile
                known = cached.get(session_id)
                if known is None or known[0] != changed_ns:
                    known = [changed_ns, *_summarise(home, session_id)]
                    made += 1
                if now_ns - changed_ns > _SETTLED_NS:
                    kept[session_id] = known
                if len(known) > 1:
                    found.append(_decode(home, session_id, known))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StorageError.from_os(error, "list", home.sessions) from error
    if made > _WRITE_ABOVE or len(cached) > len(kept) + _WRITE_ABOVE:
        _write_cache(home.summaries, kept)
    return found


def summarise(home: Home, record: SessionRecord) -> Summary:
    """Return one session's summary as it is now. Raises ``StorageError``."""
    paths = home.session(record.id)
    try:
        names = set(os.listdir(paths.path))
    except OSError as error:
        raise StorageError.from_os(error, "list", paths.path) from error
    return _decode(home, record.id, [0, *_describe(paths, record.encode(), names)])


def list_conversations_of(paths: SessionPaths) -> list[Conversation]:
    """Return the conversations that the session was ever in, as far as is known, oldest first."""
    try:
        current = read_conversation(paths)
    except CrewkeepError:
        current = None
    found: dict[str, Conversation] = {}
    try:
        entries = Journal(paths).read().entries if current is not None else ()
    except CrewkeepError:
        entries = ()
    for entry in entries:
        if entry.kind == "conversation":
            try:
                one = Conversation.decode(entry.body)
            except (KeyError, ValueError):
                continue
            found[one.id] = one
    if current is not None:
        found.pop(current.id, None)
        found[current.id] = current
    return list(found.values())


def make_title(text: str) -> str:
    """Return the first line of a text that says something, cut to a title's length."""
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return line if len(line) <= _TITLE_LENGTH else line[: _TITLE_LENGTH - 1] + "…"


#: The order of a summary's fields in the cache.
_FIELDS = tuple(field.name for field in dataclasses.fields(Summary) if field.name != "id")


def _summarise(home: Home, session_id: str) -> list[Any]:
    """Return a summary's fields, none for a session of which no record can be read."""
    paths = home.session(session_id)
    try:
        names = os.listdir(paths.path)
        return _describe(paths, _read_body(paths), set(names))
    except (CrewkeepError, OSError, KeyError, TypeError, ValueError):
        return []


def _read_body(paths: SessionPaths) -> sealed.Body:
    """Return the record's body, or what the journal last had of it. Raises ``CrewkeepError`` if neither can be read."""
    try:
        return sealed.read_sealed(paths.record, RECORD_KIND, RECORD_FORMAT)
    except CrewkeepError:
        if (last := Journal(paths).read().find_last("record")) is None:
            raise
        return last.body


def _describe(paths: SessionPaths, body: sealed.Body, names: set[str]) -> list[Any]:
    """Return a summary's fields. Raises ``KeyError``, ``TypeError`` or ``ValueError`` for a record of the wrong shape."""
    has_recording = paths.recording.name in names
    phase, outcome = Phase(body["phase"]), body.get("outcome")
    has_ended = phase is Phase.ENDED
    texts = [body["name"], body["agent_name"], body["cwd"], str(outcome) if has_ended and outcome else str(phase)]
    title = find_title(paths) if has_recording else None
    texts.append(make_title(title or " ".join(body["command"])))
    conversations: list[list[str | None]] = []
    if paths.conversation.name in names:
        conversations = [[one.id, one.transcript] for one in list_conversations_of(paths)]
    # Whatever bytes a command holds, the cache can.
    texts = [text.encode("utf-8", "replace").decode() for text in texts]
    # One flat list: of thousands, each one more is a burden to the garbage collector.
    return [*texts, float(body["phase_at"]), has_ended, has_recording, conversations or None]


def _decode(home: Home, session_id: str, known: list[Any]) -> Summary:
    _, name, agent, cwd, state, title, changed_at, has_ended, has_recording, conversations = known
    if has_recording:
        changed_at = max(changed_at, _find_newest(home.session(session_id).recording))
    if conversations and not has_ended and (transcript := conversations[-1][1]) is not None:
        changed_at = max(changed_at, _find_time(transcript))
    return Summary(
        id=session_id,
        name=name,
        agent=agent,
        cwd=cwd,
        state=state,
        title=title,
        changed_at=changed_at,
        has_ended=has_ended,
        has_recording=has_recording,
        conversations=tuple((one, transcript) for one, transcript in conversations) if conversations else (),
    )


def _find_newest(directory: Path) -> float:
    try:
        with os.scandir(directory) as entries:
            return max((entry.stat(follow_symlinks=False).st_mtime for entry in entries), default=0.0)
    except OSError:
        return 0.0


def _find_time(path: str) -> float:
    try:
        return os.stat(path).st_mtime
    except (OSError, ValueError):
        return 0.0


def _read_cache(path: Path) -> dict[str, list[Any]]:
    """Return session -> [time of its directory, *fields]; nothing if there is no whole cache of this format."""
    try:
        data = files.read_bounded(path, _CACHE_LIMIT_BYTES)
        if not data or int(data[:8], 16) != zlib.crc32(memoryview(data)[8:]):
            return {}
        body = orjson.loads(memoryview(data)[8:])
        if body["format"] != _FORMAT or body["fields"] != list(_FIELDS):
            return {}
        found: dict[str, list[Any]] = body["sessions"]
        return found
    except (OSError, CrewkeepError, ValueError, KeyError, TypeError):
        return {}


def _write_cache(path: Path, sessions: dict[str, list[Any]]) -> None:
    try:
        data = orjson.dumps({"format": _FORMAT, "fields": _FIELDS, "sessions": sessions})
        files.replace_durably(path, b"%08x" % zlib.crc32(data) + data, durable=False)
    except (TypeError, CrewkeepError, OSError):
        return  # a list that is slow the next time too
