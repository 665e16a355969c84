"""What the keeper sees of its agent's work: the conversation it is in, how far it has come, whether it waits for somebody.

Output is progress and is noted by who reads the terminal. Here is what one must look for: the agent's own transcript, and
whether a program waits at the terminal for the user. All looks are cheap, become rarer while nothing changes, and never fail.
"""

from __future__ import annotations

import os

from coordinator.agents.base import GENERIC, Agent
from coordinator.errors import CrewkeepError
from coordinator.paths import SessionPaths
from coordinator.sessions.conversation import Conversation, write_conversation
from coordinator.sessions.heartbeat import Progress
from coordinator.sessions.model import LaunchSpec, SessionRecord
from coordinator.system import scan
from coordinator.system.clock import SYSTEM, Clock
from crewkeep.keeper.agent_process import AgentProcess
from crewkeep.process_log import say_error
from recovery.checkpoint import iter_checkpoints

#: The longest pause between two searches for the conversation while there is none.
_LONGEST_SEARCH_S = 30.0
#: A known conversation is looked for again so often, since an agent may begin another.
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
        self._paths, self._record, self._launch, self._adapter = paths, record, launch, adapter
        self._progress, self._clock = progress, clock
        #: The transcript's progress as this incarnation found it.
        self._seen: int | None = None
        self._search_s = clock.monotonic_s()
        self._pause_s = 0.5
        self._quiet_count: int | None = None
        self._checkpoints_stamp: int | None = None
        self._seen_number = -1
        self._recorded_bytes = self._measure_recording()

    def follow(self, record: SessionRecord) -> None:
        """The agent runs, and its record says since when."""
        self._record = record

    def note_output(self, data: bytes) -> None:
        """Let the adapter see what the agent wrote: some signs show only there."""
        try:
            self._adapter.note_output(data)
        except Exception as error:  # noqa: BLE001 - an adapter reads what another program writes; the agent must not die of it
            say_error("looking at the agent's output", error)

    def look(self, agent: AgentProcess) -> None:
        """Note progress and waiting. Raises ``Superseded``; whatever else is wrong with a transcript is not seen."""
        self._look_at_conversation(agent)
        self.look_at_checkpoints()
        self._look_at_recording()
        if self.conversation is None:
            self._progress.at_prompt = self._waits_at_terminal(agent)

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
            self._pause_s = _SEARCH_AGAIN_S if self.conversation is not None else min(self._pause_s * 2, _LONGEST_SEARCH_S)
            self._search_s = now_s + self._pause_s
        if self.conversation is None:
            return
        activity = self._adapter.read_activity(self.conversation)
        if self._seen is not None and activity.progress > self._seen:
            self._progress.note(activity.progress - self._seen, fruitful=True)
        self._seen = activity.progress
        self._progress.needs_user = activity.needs_user
        self._progress.at_prompt = self._waits_at_terminal(agent) if activity.at_prompt is None else activity.at_prompt

    def _search(self, agent: AgentProcess) -> None:
        pids = [identity.pid for identity in agent.list_tree()]
        found = self._adapter.find_conversation(self._launch, pids, self._record.started_at or self._record.phase_at)
        if found is None or (self.conversation is not None and found.id == self.conversation.id):
            return
        try:
            write_conversation(self._paths, found, epoch=self._record.epoch, clock=self._clock)
        except CrewkeepError as error:
            if error.code == "superseded":
                raise
            return  # looked for again
        self.conversation, self._seen = found, None

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
