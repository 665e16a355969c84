"""Which conversation of its agent a session is: what the agent's own resume mechanism is given after a crash.

Kept in a sealed file beside the record and, before that, as a line of the journal, from which a damaged file is rebuilt.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from coordinator import sealed
from coordinator.errors import Damaged, Refused
from coordinator.paths import Home, SessionPaths
from coordinator.sessions.aside import name_damage, set_aside
from coordinator.sessions.fence import fenced, session_lock
from coordinator.sessions.journal import Journal
from coordinator.system.clock import SYSTEM, Clock

CONVERSATION_KIND, CONVERSATION_FORMAT = "conversation", 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversation:
    """One conversation of one agent program."""

    #: The adapter's name.
    agent: str
    #: The agent's own id of it.
    id: str
    #: Absolute path of the transcript that the agent keeps, if it keeps one.
    transcript: str | None = None
    #: Absolute path of the database in which the agent keeps it among others, if it has no transcript of its own.
    store: str | None = None
    #: Wall-clock seconds since 1970.
    found_at: float = 0.0

    def encode(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def decode(cls, body: dict[str, Any]) -> Conversation:
        """Raises ``KeyError`` or ``ValueError`` on a wrong shape."""
        agent, id, found_at = body["agent"], body["id"], body.get("found_at", 0.0)
        transcript, store = body.get("transcript"), body.get("store")
        if not (isinstance(agent, str) and isinstance(id, str)):
            raise ValueError("conversation")
        if not (isinstance(transcript, (str, type(None))) and isinstance(store, (str, type(None)))):
            raise ValueError("transcript")
        if isinstance(found_at, bool) or not isinstance(found_at, (int, float)):
            raise ValueError("found_at")
        return cls(agent=agent, id=id, transcript=transcript, store=store, found_at=float(found_at))


def read_conversation(paths: SessionPaths) -> Conversation | None:
    """Return the session's conversation, ``None`` if none was found yet. Raises ``Damaged``, ``FormatTooNew``."""
    try:
        body = sealed.read_sealed(paths.conversation, CONVERSATION_KIND, CONVERSATION_FORMAT)
        return Conversation.decode(body)
    except Damaged as error:
        if error.reason == "missing":
            return None
        raise
    except (KeyError, ValueError) as error:
        raise Damaged(
            f"{paths.conversation} has the wrong shape",
            hint="crewkeep recover rebuilds it",
            path=str(paths.conversation),
            reason="wrong-shape",
        ) from error


def write_conversation(paths: SessionPaths, conversation: Conversation, *, epoch: int, clock: Clock = SYSTEM) -> None:
    """Keep the conversation, durably, as the incarnation ``epoch``. Raises ``Superseded``, ``StorageError``, ``Busy``."""
    with fenced(paths, epoch):
        Journal(paths, clock).append_locked("conversation", conversation.encode(), epoch=epoch)
        sealed.write_sealed(paths.conversation, CONVERSATION_KIND, CONVERSATION_FORMAT, conversation.encode())


def rebuild_conversation(home: Home, session_id: str, clock: Clock = SYSTEM) -> Conversation | None:
    """Mend a damaged conversation from the journal; the damaged file is set aside first.

    Returns the conversation in force, or ``None`` when none was found yet or the journal holds none: then nothing was
    touched. Raises ``FormatTooNew``, ``NotFound``, ``StorageError``, ``Busy``.
    """
    paths = home.session(session_id)
    with session_lock(paths):
        try:
            if (found := read_conversation(paths)) is not None:
                return found
        except (Damaged, Refused) as error:
            damage: str | None = name_damage(error)
        else:
            damage = None
        last = Journal(paths, clock).read().find_last("conversation")
        if last is None:
            return None
        try:
            conversation = Conversation.decode(last.body)
        except (KeyError, ValueError):
            return None
        if damage is not None:
            set_aside(home, paths.conversation, damage, session_id)
        sealed.write_sealed(paths.conversation, CONVERSATION_KIND, CONVERSATION_FORMAT, conversation.encode())
        return conversation
