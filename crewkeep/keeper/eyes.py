"""What the keeper sees of its agent's work: the conversation it is in, how far it has come, whether it waits for somebody.

Output is progress and is noted by who reads the terminal. Here is what one must look for: the agent's own transcript, and
whether a program waits at the terminal for the user. All looks are cheap, become rarer while nothing changes, and never fail.
"""

from __future__ import annotations

import dataclasses
import math
import os

from coordinator.agents.base import GENERIC, Activity, Agent
from coordinator.agents.hook_events import HookEvent, HookKind
from coordinator.agents.limits import FURTHEST_S
from coordinator.errors import CrewkeepError, Superseded
from coordinator.paths import SessionPaths
from coordinator.sessions.conversation import Conversation, write_conversation
from coordinator.sessions.heartbeat import Progress
from coordinator.sessions.model import LaunchSpec, SessionRecord
from coordinator.system import scan
from coordinator.system.clock import SYSTEM, Clock
from crewkeep.keeper.agent_process import AgentProcess
from crewkeep.process_log import say_error
from recovery.checkpoint import iter_checkpoints

#: What stands in the command line of a shell that an agent runs a hook of ours with.
_HOOK_WORD = b"crewkeep-hook"
#: From a user who pressed a key so recently the agent is not taken.
_TYPING_S = 10.0
#: The pauses between two searches for the conversation: a quarter of the time since the agent began or last stirred, at least and
#: at most this. So one that could be seen for the last quarter of a short life is found, and a long wait costs next to nothing.
_SEARCH_PART, _SHORTEST_SEARCH_S, _LONGEST_SEARCH_S = 0.25, 0.5, 30.0
#: The longest while one is known: the agent may begin another.
_SEARCH_AGAIN_S = 60.0


class Eyes:
    """One incarnation's. ``look`` is called at each tick of the keeper."""

    def __init__(
        self,
        paths: SessionPaths,
        record: SessionRecord,
        launch: LaunchSpec,
        adapter: Agent,
        conversation: Conversation | None,
        progress: Progress,
        clock: Clock = SYSTEM,
    ) -> None:
        self.conversation = conversation
        #: What the transcript showed at the last look.
        self._activity = Activity()
        #: The failure that the conversation stood at before this incarnation, as it was told, until its next turn shows.
        self._stale: tuple[str | None, float | None] | None = None
        #: Before the agent was started: what was said earlier is not of its own turns.
        self._began_at = record.phase_at
        self._paths, self._record, self._launch, self._adapter = paths, record, launch, adapter
        self._progress, self._clock = progress, clock
        #: The transcript's progress as this incarnation found it.
        self._seen: int | None = None
        self._stirred_s = self._search_s = clock.monotonic_s()
        self._quiet_count: int | None = None
        #: What hooks told last: that the user was asked something, and whether the turn is over (``None``: nothing yet).
        self._is_asked = False
        self._is_turn_over: bool | None = None
        #: When somebody last pressed keys, monotonic seconds.
        self._typed_s: float | None = None
        self._checkpoints_stamp: int | None = None
        self._seen_number = -1
        self._recorded_bytes = self._measure_recording()

    def follow(self, record: SessionRecord) -> None:
        """The agent runs, and its record says since when."""
        self._record = record

    def note_output(self, data: bytes) -> None:
        """Let the adapter see what the agent wrote: some signs show only there."""
        if self.conversation is None:
            self._search_soon()  # many begin one when they are first spoken to, however long they waited for that
        try:
            self._adapter.note_output(data)
        except Exception as error:  # noqa: BLE001 - an adapter reads what another program writes; the agent must not die of it
            say_error("looking at the agent's output", error)

    def note_hook(self, event: HookEvent, parent_pid: int | None) -> bool:
        """Let an event that was told to a hook count: whether the agent waits, and which conversation it is in.

        ``parent_pid`` is the hook's parent. Only the session's own agent says which conversation is the session's; returns
        whether the event is of that one, not of an agent that it started. Raises ``Superseded``.
        """
        if event.kind is HookKind.OTHER:
            return True
        self._learn_conversation(event, parent_pid)
        if self.conversation is not None and event.conversation_id not in (None, self.conversation.id):
            return False
        self._is_asked = event.kind is HookKind.NEEDS_USER
        if event.kind in (HookKind.TURN_END, HookKind.SESSION_START):
            self._is_turn_over = True
        elif event.kind is not HookKind.SESSION_END:
            self._is_turn_over = False
        self._progress.needs_user = self._is_asked
        return True

    def _learn_conversation(self, event: HookEvent, parent_pid: int | None) -> None:
        agent = self._record.agent
        if agent is None or parent_pid is None or event.agent != self._adapter.name or not event.conversation_id:
            return
        if scan.is_child_by(parent_pid, agent.pid, _HOOK_WORD):
            self._adopt(
                Conversation(
                    agent=event.agent,
                    id=event.conversation_id,
                    transcript=event.transcript,
                    store=event.store,
                    found_at=self._clock.wall_s(),
                )
            )

    def find_outcome(self, event: HookEvent) -> bool | None:
        """Tell whether the tool call that ``event`` ends succeeded, as far as the transcript tells."""
        if event.agent != self._adapter.name or event.call_id is None or event.conversation_id is None:
            return None
        talk = Conversation(
            agent=event.agent, id=event.conversation_id, transcript=event.transcript, found_at=self._clock.wall_s()
        )
        return self._adapter.find_outcome(talk, event.call_id)

    def note_typed(self) -> None:
        """Somebody pressed keys: what the user was asked is being answered, or another conversation begins."""
        self._is_asked = False
        self._typed_s = self._clock.monotonic_s()
        self._search_soon()

    def holds_text(self, text: str) -> bool:
        """Tell whether the conversation is known to hold ``text``."""
        return self.conversation is not None and self._adapter.holds_text(self.conversation, text) is True

    def read_last(self, exit_code: int | None) -> Activity:
        """Return what the transcript shows after the agent's end, whose output has told what it did. Raises ``Superseded``.

        The agent is not blamed for what failed before it was started. Where no time is told, what stands there may be of before
        or said again: then the exit code decides.
        """
        try:
            if not self._is_located() and (found := self._find([])) is not None:
                self._adopt(found)  # what ended soon was never found with its transcript while it ran
            if self.conversation is None:
                return Activity()
            activity = self._read(self.conversation)
            may_be_new = self._stale is None or (activity.failed_at is None and exit_code != 0)
            return activity if may_be_new else Activity()
        except Superseded:
            raise
        except Exception as error:  # noqa: BLE001 - an adapter reads what another program writes
            say_error("looking at how the agent's work ended", error)
            return Activity()

    def find_limit(self) -> Activity | None:
        """Return what the last look showed if a usage limit has stopped the agent and nobody is at its terminal."""
        seen, now_s = self._activity, self._clock.monotonic_s()
        if seen.failure is None or seen.limited_until is None or seen.at_prompt is False or self._stale is not None:
            return None
        is_alone = self._typed_s is None or now_s - self._typed_s > _TYPING_S
        return seen if is_alone and seen.limited_until > self._clock.wall_s() else None

    @property
    def search_in_s(self) -> float:
        """How long until the conversation is to be looked for again."""
        return math.inf if self._adapter.name == GENERIC else self._search_s - self._clock.monotonic_s()

    def look(self, agent: AgentProcess) -> None:
        """Note progress and waiting. Raises ``Superseded``; whatever else is wrong with a transcript is not seen."""
        self._look_at_conversation(agent)
        self.look_at_checkpoints()
        self._look_at_recording()
        if self.conversation is None:
            self._progress.needs_user = self._is_asked
            self._progress.at_prompt = self._waits_at_terminal(agent) if self._is_turn_over is None else self._is_turn_over

    def look_at_checkpoints(self) -> None:
        """Note it as work brought further if the program itself gave a checkpoint. Costs one ``stat`` if none was taken."""
        try:
            stamp = os.stat(self._paths.checkpoints).st_mtime_ns
        except OSError:
            return
        if stamp == self._checkpoints_stamp:
            return
        self._checkpoints_stamp = stamp
        try:
            seen = self._seen_number
            for found in iter_checkpoints(self._paths):  # newest first
                if found.number <= seen:
                    break
                self._seen_number = max(self._seen_number, found.number)
                if found.manifest is not None and found.manifest.epoch == self._record.epoch and found.manifest.why == "program":
                    self._progress.note(fruitful=True)
                    break
        except (CrewkeepError, OSError):
            return  # looked at again when it changes

    def _look_at_recording(self) -> None:
        """Note it as work brought further if a program of the session recorded something."""
        size = self._measure_recording()
        if size > self._recorded_bytes:
            self._progress.note(fruitful=True)
        self._recorded_bytes = size

    def _measure_recording(self) -> int:
        try:
            with os.scandir(self._paths.recording) as entries:
                return sum(entry.stat(follow_symlinks=False).st_size for entry in entries)
        except OSError:
            return 0  # none yet; or one was just dropped: looked at again

    def _look_at_conversation(self, agent: AgentProcess) -> None:
        if self._adapter.name == GENERIC:
            return
        now_s = self._clock.monotonic_s()
        if now_s >= self._search_s:
            self._search(agent)
            longest_s = _SEARCH_AGAIN_S if self._is_located() else _LONGEST_SEARCH_S
            self._search_s = now_s + min(max((now_s - self._stirred_s) * _SEARCH_PART, _SHORTEST_SEARCH_S), longest_s)
        if self.conversation is None:
            return
        activity = self._activity = self._read(self.conversation)
        if self._seen is not None and activity.progress > self._seen:
            self._progress.note(activity.progress - self._seen, fruitful=True)
        self._seen = activity.progress
        self._progress.needs_user = activity.needs_user or self._is_asked
        if activity.at_prompt is not None:
            self._progress.at_prompt = activity.at_prompt
        else:
            self._progress.at_prompt = self._waits_at_terminal(agent) if self._is_turn_over is None else self._is_turn_over

    def _read(self, conversation: Conversation) -> Activity:
        """Return what the transcript shows, and see whether a failure in it is of this incarnation's own turns.

        The time at which it was told says so, since an agent may fail again in the same words between two looks. Where no time is
        told, it is what the first look at a resumed conversation showed.
        """
        activity = self._adapter.read_activity(conversation)
        if activity.limited_until is not None and not activity.limited_until <= self._clock.wall_s() + FURTHEST_S:
            activity = dataclasses.replace(activity, limited_until=None)  # misread, or no number at all: no end that is known
        told = None if activity.failure is None else (activity.failure, activity.limited_until)
        if activity.failed_at is not None:
            self._stale = told if activity.failed_at < self._began_at else None
        elif self._seen is None and self._record.epoch > 1:
            self._stale = told
        elif told != self._stale or activity.at_prompt is False:
            self._stale = None
        return activity

    def _search_soon(self) -> None:
        self._stirred_s = self._clock.monotonic_s()
        self._search_s = min(self._search_s, self._stirred_s + _SHORTEST_SEARCH_S)

    def _search(self, agent: AgentProcess) -> None:
        if (found := self._find([identity.pid for identity in agent.list_tree()])) is not None:
            self._adopt(found)

    def _find(self, pids: list[int]) -> Conversation | None:
        return self._adapter.find_conversation(self._launch, pids, self._record.started_at or self._record.phase_at)

    def _adopt(self, found: Conversation) -> None:
        """Let ``found`` be the session's conversation from now on, unless it is that already."""
        if self.conversation is not None and _is_same(found, self.conversation):
            return
        try:
            write_conversation(self._paths, found, epoch=self._record.epoch, clock=self._clock)
        except Superseded:
            raise
        except CrewkeepError:
            return  # looked for again
        self.conversation, self._seen = found, None

    def _is_located(self) -> bool:
        """Tell whether the conversation is known, and where: of one whose id was chosen there may be no transcript yet."""
        return self.conversation is not None and bool(self.conversation.transcript or self.conversation.store)

    def _waits_at_terminal(self, agent: AgentProcess) -> bool:
        """Tell whether who is in the foreground reads the terminal; while it prints, nobody needs to ask."""
        if self._progress.count != self._quiet_count:
            self._quiet_count = self._progress.count
            return False
        if scan.is_reading_terminal(agent.identity.pid):
            return True
        try:
            leader = os.tcgetpgrp(agent.master_fd)
        except OSError:
            return False
        return leader != agent.identity.pid and leader > 0 and scan.is_reading_terminal(leader)


def _is_same(found: Conversation, known: Conversation) -> bool:
    """Tell whether ``found`` says no more than what is known."""
    return found.id == known.id and found.transcript in (None, known.transcript) and found.store in (None, known.store)
