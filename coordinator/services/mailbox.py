"""Letters between sessions: left for an agent's next turn, and brought into its conversation exactly once.

A letter is an entry of the crew's context. Whoever brings letters to an agent takes them first, by compare-and-swap, so that no
two bring the same. Whether one that was taken has really reached the conversation is known only from the agent: it is settled by
what its transcript holds when its incarnation has ended, and by the end of its turn while it lives. Each letter carries its id
into the conversation, so that it can be found there.

A letter is ``new``, then ``taken`` by an incarnation that has not yet said that it was given, then ``handed``, then ``read``.

Invariants:
  - a letter is acknowledged to who writes it only once it is durable
  - a letter is taken at most once by an incarnation, unless it says that the letter was not handed over
  - nothing but proof of its reading lets a letter be forgotten; the newest ``LETTERS_KEPT`` that were read are still shown
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from coordinator.config import LETTER_LIMIT_BYTES, LETTERS_KEPT, LETTERS_LIMIT
from coordinator.context.model import Context, Entry
from coordinator.errors import InvalidInput, Refused, VersionConflict
from coordinator.ids import new_id
from coordinator.sessions.model import Writer
from coordinator.system.clock import SYSTEM, Clock

PREFIX = "letters/"


class LetterState(StrEnum):
    """How far a letter has come."""

    NEW = "new"
    TAKEN = "taken"
    HANDED = "handed"
    READ = "read"


@dataclass(frozen=True, kw_only=True, slots=True)
class Letter:
    """One letter. Times are wall-clock seconds since 1970."""

    #: Sorts by the time of its writing, and stands in its text as the agent gets it.
    id: str
    #: Id of the session that it is for.
    to: str
    #: Name and id of the session that wrote it; ``user`` and nothing for somebody at a terminal.
    sender: str
    sender_id: str | None
    text: str
    written_at: float
    state: LetterState = LetterState.NEW
    #: The incarnation that took it, and when.
    epoch: int | None = None
    taken_at: float | None = None

    def encode(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def decode(cls, body: dict[str, Any]) -> Letter:
        """Raises ``KeyError``, ``TypeError`` or ``ValueError`` on a wrong shape."""
        known = {item.name: body[item.name] for item in dataclasses.fields(cls) if item.name != "taken_at"}
        return cls(**{**known, "taken_at": body.get("taken_at"), "state": LetterState(body["state"])})

    def tell(self) -> str:
        """Return the text as its reader gets it."""
        return f"[Message {self.id} from {self.sender}, another session of this crew]\n{self.text}"


class Mailbox:
    """The letters of a home, through its crew's context."""

    def __init__(self, crew: Context, clock: Clock = SYSTEM) -> None:
        self._crew, self._clock = crew, clock

    def write(self, to: str, text: str, *, writer: Writer | None) -> Letter:
        """Leave a letter for the session ``to``; returns it once it is durable.

        ``crew`` must write as ``writer``. Raises ``InvalidInput`` for a text that is empty or too long, ``Refused`` if too many
        wait there already, ``Superseded``, ``StorageError``.
        """
        if not text.strip():
            raise InvalidInput("there is nothing to tell", hint="give a text")
        size = len(text.encode("utf-8", "surrogatepass"))
        if size > LETTER_LIMIT_BYTES:
            hint = "put it into the shared context or a file, and tell where it is"
            raise InvalidInput(f"a letter of {size} bytes is more than {LETTER_LIMIT_BYTES}", hint=hint)
        self.check_room(to)
        now_s = self._clock.wall_s()
        letter = Letter(
            id=new_id(now_s),
            to=to,
            sender="user" if writer is None else writer.name,
            sender_id=None if writer is None else writer.session,
            text=text.encode("utf-8", "replace").decode(),
            written_at=now_s,
        )
        self._crew.put(_key(letter), letter.encode(), expected_version=0)
        return letter

    def check_room(self, to: str, name: str | None = None) -> None:
        """Raise ``Refused`` if too many letters wait for the session ``to`` already; ``name`` is what people call it."""
        waiting = sum(letter.state is not LetterState.READ for letter in self.list_letters(to))
        if waiting >= LETTERS_LIMIT:
            raise Refused(f"{waiting} letters wait for session {name or to} already", hint="wait until it has read some")

    def list_letters(self, session_id: str) -> list[Letter]:
        """Return the letters of a session, oldest first, those it has read with them."""
        return [letter for letter, _ in self._read(session_id)]

    def count_new(self, session_id: str) -> int:
        """Return how many letters wait for the session."""
        return sum(letter.state is LetterState.NEW for letter in self.list_letters(session_id))

    def take(self, session_id: str, epoch: int) -> list[Letter]:
        """Take what waits for the session, as its incarnation ``epoch``, to hand it to its agent. Raises ``Superseded``."""
        taken = [self._move(letter, entry, LetterState.TAKEN, epoch) for letter, entry in self._read(session_id, LetterState.NEW)]
        return [letter for letter in taken if letter is not None]

    def note_handed(self, session_id: str, epoch: int, ids: list[str]) -> None:
        """Write down that the agent was given these letters. Raises ``Superseded``."""
        for letter, entry in self._read(session_id, LetterState.TAKEN):
            if letter.id in ids and letter.epoch == epoch:
                self._move(letter, entry, LetterState.HANDED, epoch)

    def note_read(self, session_id: str, epoch: int) -> None:
        """Write down that the agent has read all that it was given (its turn has come to its end). Raises ``Superseded``."""
        for letter, entry in self._read(session_id, LetterState.HANDED):
            if letter.epoch == epoch:
                self._move(letter, entry, LetterState.READ, epoch)
        self._forget_old(session_id)

    def settle(self, session_id: str, decide: Callable[[Letter], LetterState | None]) -> None:
        """Let each letter on its way become what ``decide`` says: read, new again, or (``None``) what it is.

        Raises ``Superseded``.
        """
        for letter, entry in self._read(session_id, LetterState.TAKEN, LetterState.HANDED):
            state = decide(letter)
            if state is not None and state is not letter.state:
                self._move(letter, entry, state, None if state is LetterState.NEW else letter.epoch)
        self._forget_old(session_id)

    def _read(self, session_id: str, *states: LetterState) -> list[tuple[Letter, Entry]]:
        found = []
        for entry in self._crew.snapshot(f"{PREFIX}{session_id}/").values():
            try:
                letter = Letter.decode(entry.value)
            except (AttributeError, KeyError, TypeError, ValueError):
                continue  # a newer program's
            if not states or letter.state in states:
                found.append((letter, entry))
        return sorted(found, key=lambda item: (item[0].written_at, item[0].id))

    def _move(self, letter: Letter, entry: Entry, state: LetterState, epoch: int | None) -> Letter | None:
        """Write the letter's next state; ``None`` if somebody else was quicker."""
        taken_at = {LetterState.NEW: None, LetterState.TAKEN: self._clock.wall_s()}.get(state, letter.taken_at)
        moved = dataclasses.replace(letter, state=state, epoch=epoch, taken_at=taken_at)
        try:
            self._crew.put(entry.key, moved.encode(), expected_version=entry.version)
        except VersionConflict:
            return None
        return moved

    def _forget_old(self, session_id: str) -> None:
        for _, entry in self._read(session_id, LetterState.READ)[:-LETTERS_KEPT]:
            try:
                self._crew.delete(entry.key, expected_version=entry.version)
            except VersionConflict:
                continue


def _key(letter: Letter) -> str:
    return f"{PREFIX}{letter.to}/{letter.id}"
