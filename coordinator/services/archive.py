"""All past conversations as one: what crewkeep recorded, and what the agents' programs keep themselves.

A conversation is a session's, or one that a program on this machine was in without crewkeep. What a session's program
recorded live and its agent's transcript tells too is shown once: the transcript's form stands, and the recording adds what
only it has, by time.

Not promised: that a conversation's text is searched as of one moment; who writes meanwhile may be found or not.
"""

from __future__ import annotations

import os
import unicodedata
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from coordinator.agents.base import GENERIC, PastConversation, get_agent, list_agents
from coordinator.errors import CrewkeepError, InvalidInput, NotFound
from coordinator.paths import Home
from coordinator.sessions.conversation import Conversation
from coordinator.sessions.history import Command, Item, Message
from coordinator.sessions.model import SessionRecord
from coordinator.sessions.recorded import Entry, Mark, Note, iter_recording
from coordinator.sessions.registry import Registry
from coordinator.sessions.summaries import Summary, list_conversations_of, list_summaries, make_title, summarise

Report = Callable[[str], object]
_EXCERPT_BEFORE, _EXCERPT_LENGTH = 40, 160


@dataclass(frozen=True, slots=True)
class Past:
    """One conversation of the past, or one that still goes on: a session's, or one that is no session's."""

    #: ``None`` for a conversation that is no session's.
    session: Summary | None
    #: What its agent's program tells of it; ``None`` if that was not asked, or does not list it.
    told: PastConversation | None = None

    @property
    def ref(self) -> str:
        """What names it: the session's id, or ``AGENT:ID``."""
        return self.session.id if self.session is not None else f"{self._known.conversation.agent}:{self._known.conversation.id}"

    @property
    def agent(self) -> str:
        """The name of its agent."""
        return self.session.agent if self.session is not None else self._known.conversation.agent

    @property
    def name(self) -> str | None:
        """The session's name."""
        return self.session.name if self.session is not None else None

    @property
    def state(self) -> str | None:
        """The session's phase, or its outcome once it has ended."""
        return self.session.state if self.session is not None else None

    @property
    def cwd(self) -> str | None:
        """The directory it was held in."""
        return self.session.cwd if self.session is not None else self._known.cwd

    @property
    def title(self) -> str:
        """What it is about, one line."""
        told = make_title(self.told.title) if self.told is not None else ""
        return told or (self.session.title if self.session is not None else "")

    @property
    def changed_at(self) -> float:
        """Wall-clock seconds since 1970 of the last thing in it."""
        told_at = self.told.changed_at if self.told is not None else 0.0
        return max(self.session.changed_at, told_at) if self.session is not None else told_at

    @property
    def conversation_ids(self) -> tuple[str, ...]:
        """The agent's own ids of it, oldest first."""
        if self.session is not None:
            return tuple(id for id, _ in self.session.conversations)
        return (self._known.conversation.id,)

    @property
    def _known(self) -> PastConversation:
        assert self.told is not None, "a conversation is a session's or told by its program"
        return self.told


@dataclass(frozen=True, kw_only=True, slots=True)
class Hit:
    """One place where a text was found."""

    past: Past
    #: Counts from 0 among the conversation's entries; ``None`` if it is the title that holds it.
    index: int | None
    entry: Entry | None
    #: The text around the place, in one line.
    excerpt: str


def list_past(home: Home, environment: Mapping[str, str], *, report: Report | None = None) -> list[Past]:
    """Return every conversation that is known, newest first.

    ``report`` is told of an agent's program whose conversations cannot be listed. Raises ``StorageError``.
    """
    summaries = list_summaries(home)
    others = {(one.conversation.agent, one.conversation.id): one for one in _list_told(environment, report)}
    if not others:
        found = [Past(summary) for summary in summaries]
    else:
        found = []
        for summary in summaries:
            told = [one for id, _ in summary.conversations if (one := others.pop((summary.agent, id), None)) is not None]
            found.append(Past(summary, told[-1] if told else None))
        found += [Past(None, told) for told in others.values()]
    return sorted(found, key=lambda past: (-past.changed_at, past.ref))


def find_past(home: Home, text: str, environment: Mapping[str, str]) -> Past:
    """Return the conversation that a person means: a session as everywhere, or ``AGENT:ID`` with any unique beginning of ID.

    Raises ``NotFound``, ``InvalidInput`` when it could mean several, and what ``Registry.find`` raises.
    """
    agent, colon, id = text.partition(":")
    if not colon:
        summary = summarise(home, Registry(home).find(text, environment))
        return Past(summary, _find_told(summary, environment))
    matching = [
        one
        for one in list_past(home, environment)
        if one.agent == agent and any(known.startswith(id) for known in one.conversation_ids) and id
    ]
    exact = [one for one in matching if id in one.conversation_ids]
    if len(exact or matching) == 1:
        return (exact or matching)[0]
    if matching:
        listed = ", ".join(one.ref for one in matching[:8])
        raise InvalidInput(f"{text!r} could be any of {len(matching)} conversations: {listed}", hint="type more of the id")
    raise NotFound(f"there is no conversation {text!r:.200}", hint="see `crewkeep history`")


def read_past(home: Home, past: Past) -> list[Entry]:
    """Return what was said and done, oldest first. Never raises for the content."""
    if past.session is not None:
        conversations = list_conversations_of(home.session(past.session.id)) if past.session.conversations else []
        if past.told is not None:  # a session that lost its keeper soon may not have come to know where its transcript is
            told = past.told.conversation
            conversations = [told if one.id == told.id and not (one.transcript or one.store) else one for one in conversations]
        recorded = list(iter_recording(home.session(past.session.id))) if past.session.has_recording else []
        return _combine(conversations, recorded)
    return _combine([past.told.conversation] if past.told is not None else [], [])


def read_session(home: Home, record: SessionRecord) -> list[Entry]:
    """Return what was said and done in a session, oldest first. Never raises for the content."""
    return read_past(home, Past(summarise(home, record)))


def search(home: Home, text: str, environment: Mapping[str, str], *, report: Report | None = None) -> Iterator[Hit]:
    """Yield where ``text`` was said, done or put out, newest conversation first, each as soon as it is found.

    Case does not matter, nor how accents are composed. Raises ``InvalidInput`` for an empty text.
    """
    wanted = fold(text)
    if not wanted:
        raise InvalidInput("there is nothing to search for", hint="crewkeep history search TEXT")
    for past in list_past(home, environment, report=report):
        is_found = False
        for index, entry in enumerate(read_past(home, past)):
            for part in _list_texts(entry):
                folded = fold(part)
                if (place := folded.find(wanted)) >= 0:
                    is_found = True
                    place = place if len(folded) == len(part) else _unfold(part, place)
                    yield Hit(past=past, index=index, entry=entry, excerpt=_cut(part, place))
                    break
        if not is_found and any(wanted in fold(part) for part in (past.title, past.name or "")):
            yield Hit(past=past, index=None, entry=None, excerpt=past.title)


def fold(text: str) -> str:
    """Return a text in which what differs only by case or by composition is the same (Unicode's canonical caseless match)."""
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", text).casefold())


def combine(transcript: Iterable[Item], recorded: Iterable[Entry]) -> list[Entry]:
    """Return a transcript with what only the recording has, each at its time; what both have stands once, the transcript's."""
    told = _fold_by_id(transcript)
    keys = Counter(_key(entry) for entry in told)
    ids = {(type(entry), entry.id) for entry in told if not isinstance(entry, Mark) and entry.id is not None}
    extra: list[Entry] = []
    for entry in _fold_by_id(recorded):
        if isinstance(entry, Mark):
            extra.append(entry)
        elif (entry.id is not None and (type(entry), entry.id) in ids) or keys[_key(entry)] > 0:
            keys[_key(entry)] -= 1
        else:
            extra.append(entry)
    if not extra or not told:
        return [*told, *extra]
    return _merge(told, extra)


def _merge(told: list[Entry], extra: list[Entry]) -> list[Entry]:
    merged: list[Entry] = []
    position = 0
    for entry in told:
        while position < len(extra) and entry.at is not None:
            at = extra[position].at
            if at is not None and at > entry.at:
                break
            merged.append(extra[position])
            position += 1
        merged.append(entry)
    return [*merged, *extra[position:]]


def _combine(conversations: list[Conversation], recorded: list[Entry]) -> list[Entry]:
    transcript: list[Item] = []
    marks: list[Entry] = []
    for conversation in conversations:
        kept_in = conversation.transcript or conversation.store
        if kept_in is not None and not os.path.lexists(kept_in):
            marks.append(Mark(what=Note.DAMAGED, detail=f"{conversation.agent}'s transcript is gone: {kept_in}"))
        try:
            transcript += get_agent(conversation.agent).read_history(conversation)
        except Exception as error:  # noqa: BLE001 - adapters read what others wrote, and may be others' code themselves
            detail = f"{conversation.agent}'s conversation {conversation.id}: {type(error).__name__}: {error}"
            marks.append(Mark(what=Note.DAMAGED, detail=detail))
    return [*marks, *combine(transcript, recorded)]


def _fold_by_id(entries: Iterable[Entry]) -> list[Entry]:
    """Return the entries, those with an id that comes again replaced by the last of them."""
    found: list[Entry] = []
    places: dict[tuple[type, str], int] = {}
    for entry in entries:
        if not isinstance(entry, Mark) and entry.id is not None:
            place = places.setdefault((type(entry), entry.id), len(found))
            if place < len(found):
                found[place] = entry
                continue
        found.append(entry)
    return found


def _key(entry: Entry) -> tuple[str, ...]:
    if isinstance(entry, Message):
        return "message", str(entry.role), entry.text.strip()
    if isinstance(entry, Command):
        return "command", entry.name, entry.text.strip()
    return ("mark",)


def _find_told(summary: Summary, environment: Mapping[str, str]) -> PastConversation | None:
    """Return what the session's agent tells of its last conversation."""
    if not summary.conversations:
        return None
    told = _list_told(environment, None, [summary.agent])
    return next((one for one in told if one.conversation.id == summary.conversations[-1][0]), None)


def _list_told(
    environment: Mapping[str, str], report: Report | None, agents: Iterable[str] | None = None
) -> Iterator[PastConversation]:
    for name in list_agents() if agents is None else agents:
        if name == GENERIC:
            continue
        try:
            yield from get_agent(name).list_conversations(environment)
        except Exception as error:  # noqa: BLE001 - see _combine; the other agents' conversations are still listed
            if report is not None:
                what = error.message if isinstance(error, CrewkeepError) else f"{type(error).__name__}: {error}"
                report(f"the conversations of {name} cannot be listed: {what}")


def _list_texts(entry: Entry) -> list[str]:
    if isinstance(entry, Message):
        return [entry.text]
    if isinstance(entry, Command):
        return [text for text in (entry.text, entry.output, entry.name) if text]
    return []


def _unfold(text: str, place: int) -> int:
    """Return where in ``text`` that is which stands at ``place`` once it is folded."""
    begin = 0
    for line in text.splitlines(keepends=True):  # nothing is composed across the end of a line
        length = len(fold(line))
        if place < length:
            return begin + bisect_left(range(len(line)), place, key=lambda count: len(fold(line[:count])))
        begin, place = begin + len(line), place - length
    return begin


def _cut(text: str, place: int) -> str:
    """Return what stands around a place, in one line."""
    begin = max(0, place - _EXCERPT_BEFORE)
    cut = " ".join(text[begin : begin + _EXCERPT_LENGTH].split())
    return ("…" if begin else "") + cut + ("…" if begin + _EXCERPT_LENGTH < len(text) else "")


__all__ = ["Hit", "Past", "combine", "find_past", "fold", "list_past", "read_past", "read_session", "search"]
