"""Where a keeper answers its agent's hooks: what happened is written down, edits are held against claims, letters handed over.

Runs on the keeper's loop, so whatever it does takes at most a few milliseconds; a lock that others hold is not waited for long.

Invariants:
  - an event is only taken from the incarnation that rules; a tool call of an older one is refused
  - what cannot be written down or looked up does not keep the agent from its work, unless claims are enforced
  - a letter is handed over in one answer only; one whose hook never said that it printed it is settled by the transcript
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from coordinator.agents.hook_events import HookEvent, HookKind, HookReply, parse_event, render_reply
from coordinator.config import Settings
from coordinator.context import SharedContext
from coordinator.errors import CrewkeepError, InvalidInput, NotFound, Superseded
from coordinator.paths import Home
from coordinator.services.claims import Claims
from coordinator.services.crew import open_crew
from coordinator.services.mailbox import Letter, LetterState, Mailbox
from coordinator.sessions.heartbeat import Progress
from coordinator.sessions.journal import Journal
from coordinator.sessions.model import SessionRecord
from coordinator.sessions.registry import Registry
from coordinator.system.clock import SYSTEM, Clock
from crewkeep.claim_desk import find_blocked
from crewkeep.keeper.eyes import Eyes
from crewkeep.process_log import say_error

#: The agent waits for the answer; a journal that is locked for longer misses an event.
_LOCK_TIMEOUT_S = 0.2
#: A hook that was given letters and has not said that it printed them by then is not going to.
_PRINT_TIMEOUT_S = 10.0
#: Letters on their way are looked at so often; one that another program took and did not hand over in this time is new again.
_SETTLE_EVERY_S = 30.0
#: Of a prompt or command so much is written into the journal; the transcript has all of it.
_TEXT_LIMIT = 500
#: Tool calls whose end has not come yet. Arbitrary.
_CALLS_LIMIT = 1000


class HookDesk:
    """The desk of one incarnation."""

    def __init__(
        self, home: Home, record: SessionRecord, eyes: Eyes, progress: Progress, settings: Settings, clock: Clock = SYSTEM
    ) -> None:
        self._home, self._record, self._eyes = home, record, eyes
        self._progress, self._settings, self._clock = progress, settings, clock
        self._journal = Journal(home.session(record.id), clock)
        self._crew: SharedContext | None = None
        #: When letters on their way are looked at next, monotonic seconds.
        self._settle_s = 0.0
        #: Begun tool calls: when, monotonic seconds.
        self._calls: dict[str, float] = {}
        #: Letters that a hook was given and has not yet printed: when, monotonic seconds.
        self._printing: dict[str, float] = {}
        #: Whether this incarnation's agent has called a hook.
        self.is_used = False

    def answer(self, words: dict[str, Any]) -> dict[str, Any]:
        """Return what the hook is to print, and the letters in it. Raises ``InvalidInput``, ``Superseded``."""
        event = self._read(words)
        if str(words.get("epoch", "")).isdecimal() and int(words["epoch"]) < self._record.epoch:
            reason = "crewkeep: this session was started again elsewhere; what is left of its older incarnation must not act."
            return {"print": render_reply(event, HookReply(deny=reason))}
        event = self._note(event, words.get("parent"))
        self.is_used |= not event.is_helper
        context: list[str] = []
        letters: list[Letter] = []
        deny = warning = None
        try:
            if event.kind is HookKind.TOOL_START and event.find_edited_paths():
                deny, warning = self._judge_edit(event)
            elif event.kind is HookKind.TOOL_END and event.find_edited_paths() and not self._warns_before(event):
                _, warning = self._judge_edit(event)
            if event.takes_context and not event.is_helper and deny is None:
                letters = self._take_letters()
            if event.kind is HookKind.TURN_END:
                self._note_read()
        except Superseded:
            raise
        except (CrewkeepError, OSError) as error:
            say_error("answering a hook", error, whole=False)
        context += [warning] if warning else []
        context += [letter.tell() for letter in letters]
        printed = render_reply(event, HookReply(deny=deny, context="\n\n".join(context) or None))
        return {"print": printed, "letters": [letter.id for letter in letters]}

    def note_printed(self, words: dict[str, Any]) -> dict[str, Any]:
        """The hook has printed these letters: its agent has them."""
        self.note_handed([id for id in words.get("letters", []) if id in self._printing])
        return {}

    def note_handed(self, ids: list[str]) -> None:
        """The agent has these letters. Raises ``Superseded``, ``StorageError``."""
        if ids and (mailbox := self._open_mailbox()) is not None:
            mailbox.note_handed(self._record.id, self._record.epoch, ids)
        for id in ids:
            self._printing.pop(id, None)

    def close(self) -> None:
        """Let go of the crew's context."""
        crew, self._crew = self._crew, None
        if crew is not None:
            crew.close()

    # What happened

    def _read(self, words: dict[str, Any]) -> HookEvent:
        try:
            payload = json.loads(words["event"])
            if not isinstance(payload, dict):
                raise ValueError("no object")
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise InvalidInput(f"a hook's event is not JSON: {error}", hint="see what the agent gave its hook") from error
        return parse_event(str(words.get("agent", "")), payload)

    def _note(self, event: HookEvent, parent: object) -> HookEvent:
        """Let the eyes see the event, count it as progress, and write it down; returns it as what it is to this session."""
        if event.kind is HookKind.TOOL_END and event.ok is None:
            event = dataclasses.replace(event, ok=self._eyes.find_outcome(event))
        if event.kind is not HookKind.OTHER:
            self._progress.note(fruitful=event.kind is HookKind.TOOL_END and event.ok is not False)
        if not self._eyes.note_hook(event, parent if isinstance(parent, int) else None):
            event = event.as_helpers()
        try:
            self._journal.append("hook", self._describe(event), epoch=self._record.epoch, timeout_s=_LOCK_TIMEOUT_S)
        except Superseded:
            raise
        except (CrewkeepError, OSError) as error:
            say_error("writing the journal", error, whole=False)
        return event

    def _describe(self, event: HookEvent) -> dict[str, Any]:
        told: dict[str, Any] = {"event": str(event.kind), "name": event.name, "agent": event.agent}
        if event.kind in (HookKind.TOOL_START, HookKind.TOOL_END):
            told |= {"tool": event.tool, "call": event.call_id, "duration_s": self._measure(event)}
            if event.kind is HookKind.TOOL_START:
                command = event.arguments.get("command") or event.arguments.get("cmd")
                told |= {"command": _shorten(command), "edits": event.find_edited_paths()[:20] or None}
            told["ok"] = event.ok
        told |= {"text": _shorten(event.text), "reason": _shorten(event.reason)}
        return {name: value for name, value in told.items() if value is not None}

    def _measure(self, event: HookEvent) -> float | None:
        """Return how long a tool call took, measured between its two events if the program does not say."""
        now_s = self._clock.monotonic_s()
        if event.kind is HookKind.TOOL_START:
            if len(self._calls) >= _CALLS_LIMIT:
                self._calls.clear()
            self._calls[event.call_key] = now_s
            return None
        began_s = self._calls.pop(event.call_key, None)
        if event.duration_s is not None:
            return event.duration_s
        return None if began_s is None else round(now_s - began_s, 3)

    # Claims

    def _judge_edit(self, event: HookEvent) -> tuple[str | None, str | None]:
        """Return why the edit is refused, or what the agent is to be warned of."""
        enforces = self._settings.claim_mode == "enforce"
        try:
            crew = self._open_crew()
            found = (
                None if crew is None else find_blocked(Claims(Registry(self._home), crew, self._clock), self._record.id, event)
            )
        except (CrewkeepError, OSError) as error:
            if not enforces:
                raise
            return f"crewkeep: claims are enforced and cannot be read ({error}). Do not write this file now.", None
        return (found, None) if enforces else (None, found)

    @staticmethod
    def _warns_before(event: HookEvent) -> bool:
        """Tell whether the warning of this program's edit was given when the edit began."""
        return event.agent not in ("gemini", "opencode")

    # Letters

    def _take_letters(self) -> list[Letter]:
        self.settle_letters()  # what an older incarnation was given and did not read comes first
        mailbox = self._open_mailbox()
        if mailbox is None:
            return []
        now_s = self._clock.monotonic_s()
        taken = mailbox.take(self._record.id, self._record.epoch)
        self._printing |= dict.fromkeys((letter.id for letter in taken), now_s)
        return taken

    def _note_read(self) -> None:
        mailbox = self._open_mailbox()
        if mailbox is not None:
            mailbox.note_read(self._record.id, self._record.epoch)

    def settle_letters(self) -> None:
        """Decide about letters whose way to the agent nobody saw the end of. Cheap; called at each tick.

        Raises ``Superseded``, ``StorageError``.
        """
        now_s = self._clock.monotonic_s()
        late = {id for id, since_s in self._printing.items() if now_s - since_s > _PRINT_TIMEOUT_S}
        if (not late and now_s < self._settle_s) or (mailbox := self._open_mailbox()) is None:
            return
        mailbox.settle(self._record.id, lambda letter: self._decide(letter, late))
        self._settle_s = now_s + _SETTLE_EVERY_S
        for id in late:
            del self._printing[id]

    def _decide(self, letter: Letter, late: set[str]) -> LetterState | None:
        """The conversation proves that a letter arrived; that it did not is believed of one whose bearer is gone or late."""
        if letter.id in self._printing and letter.id not in late:
            return None
        if self._eyes.holds_text(letter.id):
            return LetterState.READ
        if letter.epoch is None or letter.epoch < self._record.epoch or letter.id in late:
            return LetterState.NEW
        taken_s = self._clock.wall_s() - (letter.taken_at or 0.0)
        return LetterState.NEW if letter.state is LetterState.TAKEN and taken_s > _SETTLE_EVERY_S else None

    # For those that have no hooks

    def take_letters(self) -> list[Letter]:
        """Take what waits, to be typed. Raises ``Superseded``, ``StorageError``."""
        return self._take_letters()

    def _open_mailbox(self) -> Mailbox | None:
        crew = self._open_crew()
        if crew is None:
            return None
        return Mailbox(crew, self._clock)

    def _open_crew(self) -> SharedContext | None:
        """Return the crew's context, ``None`` while nobody has claimed or written anything."""
        if self._crew is None:
            try:
                self._crew = open_crew(self._home, self._record.writer, must_exist=True)
            except NotFound:
                return None
        return self._crew


def _shorten(text: object) -> str | None:
    if text is None:
        return None
    text = text if isinstance(text, str) else json.dumps(text, default=str)
    return text if len(text) <= _TEXT_LIMIT else text[:_TEXT_LIMIT] + "…"
