"""What one session does with the others: claims, and messages. The same for the command line, MCP and Python programs.

Each call opens the crew's context to act by the session's own right, so what is left of an older incarnation is refused.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from coordinator.agents.base import GENERIC
from coordinator.config import CLAIM_LEASE_S
from coordinator.context import SharedContext
from coordinator.errors import InvalidInput, Refused
from coordinator.paths import Home
from coordinator.services.claims import Claim, Claims, Target, find_target
from coordinator.services.crew import open_crew
from coordinator.services.mailbox import Letter, LetterState, Mailbox
from coordinator.sessions.model import Phase, SessionRecord, Writer
from coordinator.sessions.registry import Damage, Registry
from coordinator.system.clock import SYSTEM, Clock
from coordinator.system.home import prepare_home


class Crew:
    """The crew as the session ``own`` sees it, or (``None``) somebody outside of any session."""

    def __init__(
        self, home: Home, registry: Registry, own: SessionRecord | None, *, directory: str | None = None, clock: Clock = SYSTEM
    ) -> None:
        """``directory`` is what relative paths are relative to; default: the working directory at each call."""
        self._home, self._registry, self._own = home, registry, own
        self._directory, self._clock = directory, clock

    # Claims

    def claim(self, what: str, *, lease_s: float = CLAIM_LEASE_S, shared: bool = False) -> Claim:
        """Claim a file, a directory, a pattern of paths or a name for ``lease_s`` seconds; claiming again renews.

        Raises ``Claimed`` naming who has it and until when, ``InvalidInput``, ``Refused`` outside of a session or in one that
        has ended, ``Superseded``, ``StorageError``.
        """
        own = self._get_own("a claim")
        if own.phase is Phase.ENDED:
            raise Refused(f"session {own.name} has ended", hint="claim for one that goes on")
        with self._open_claims() as claims:
            return claims.acquire(own.writer, what, self._find_target(own, what), lease_s=lease_s, shared=shared)

    @contextmanager
    def claimed(self, what: str, *, lease_s: float = CLAIM_LEASE_S, shared: bool = False) -> Iterator[Claim]:
        """Hold a claim for as long as the block, but not longer than its lease. Raises as ``claim``."""
        claim = self.claim(what, lease_s=lease_s, shared=shared)
        try:
            yield claim
        finally:
            self._release(lambda held: [one for one in held if one.target == claim.target])

    def release(self, what: str | None = None) -> list[Claim]:
        """Give back what was claimed in these words, or what they mean here; without any, everything. Returns what it was.

        Raises ``NotFound`` if the session holds no such claim, ``Refused`` outside of a session, ``Superseded``.
        """
        own = self._get_own("a claim")
        if what is None:
            return self._release(lambda held: held)
        here = self._find_target(own, what)

        def choose(held: list[Claim]) -> list[Claim]:
            same = [one for one in held if one.target == here]
            return same or [one for one in held if what in (one.what, one.target.value)][:1]

        released = self._release(choose)
        if not released:
            with self._open_claims() as claims:
                claims.release(own.writer, here)  # says that it is not held
        return released

    def list_claims(self) -> list[Claim]:
        """Return the claims of all sessions that are in force, oldest first."""
        with self._open_claims() as claims:
            return claims.list_claims()

    # Messages

    def tell(self, session: str, text: str) -> Letter:
        """Leave a message for the session that ``session`` names; returns it once it is durable.

        Raises ``NotFound``, ``Refused`` if that session has ended, ``InvalidInput``, ``Superseded``, ``StorageError``.
        """
        return self.tell_all([self._registry.find(session)], text)[0]

    def tell_all(self, sessions: list[SessionRecord], text: str) -> list[Letter]:
        """Leave the same message for several sessions; none gets it if one has ended or has no room. Raises as ``tell``."""
        for to in sessions:
            if to.phase is Phase.ENDED:
                hint = f"bring it back first: crewkeep resume {to.name}"
                raise Refused(f"session {to.name} has ended and would not read it", hint=hint)
        with self._open() as crew:
            mailbox = Mailbox(crew, self._clock)
            for to in sessions:
                mailbox.check_room(to.id, to.name)
            return [mailbox.write(to.id, text, writer=self._writer) for to in sessions]

    def list_others(self, workspace: str) -> list[SessionRecord]:
        """Return the other sessions of a workspace that have not ended."""
        known = (found.known if isinstance(found, Damage) else found for found in self._registry.list_all())
        return [
            record
            for record in known
            if record is not None
            and record.workspace == workspace
            and record.phase is not Phase.ENDED
            and (self._own is None or record.id != self._own.id)
        ]

    def take_letters(self) -> list[Letter]:
        """Take the messages that wait for this session. Hand them over with ``note_handed``; what is not comes again.

        Raises ``Refused`` outside of a session, ``Superseded``, ``StorageError``.
        """
        own = self._get_own("an inbox")
        with self._open() as crew:
            return Mailbox(crew, self._clock).take(own.id, own.epoch)

    def note_handed(self, letters: list[Letter]) -> None:
        """Write down that these were handed over. A program that has no transcript has read them with that."""
        own = self._get_own("an inbox")
        if not letters:
            return
        with self._open() as crew:
            mailbox = Mailbox(crew, self._clock)
            mailbox.note_handed(own.id, own.epoch, [letter.id for letter in letters])
            if own.agent_name == GENERIC:
                mailbox.note_read(own.id, own.epoch)

    def inbox(self) -> list[Letter]:
        """Return the messages that wait for this session; they count as read. Raises as ``take_letters``."""
        letters = self.take_letters()
        self.note_handed(letters)
        return letters

    def list_letters(self, session_id: str, *, read_too: bool = False) -> list[Letter]:
        """Return a session's messages, oldest first, and leave them as they are."""
        with self._open() as crew:
            letters = Mailbox(crew, self._clock).list_letters(session_id)
        return [one for one in letters if read_too or one.state is not LetterState.READ]

    # Who, and where

    @property
    def _writer(self) -> Writer | None:
        return None if self._own is None else self._own.writer

    def _get_own(self, what: str) -> SessionRecord:
        if self._own is None:
            raise InvalidInput(f"{what} belongs to a session, and this is none", hint="start it with: crewkeep run -- COMMAND")
        return self._own

    def _find_target(self, own: SessionRecord, what: str) -> Target:
        return find_target(what, directory=self._directory or os.getcwd(), workspace=own.workspace)

    def _release(self, choose: Callable[[list[Claim]], list[Claim]]) -> list[Claim]:
        own = self._get_own("a claim")
        with self._open_claims() as claims:
            held = [one for one in claims.list_claims() if one.session == own.id]
            return [claims.release(own.writer, one.target) for one in choose(held)]

    @contextmanager
    def _open_claims(self) -> Iterator[Claims]:
        with self._open() as crew:
            yield Claims(self._registry, crew, self._clock)

    def _open(self) -> SharedContext:
        prepare_home(self._home)
        return open_crew(self._home, self._writer)
