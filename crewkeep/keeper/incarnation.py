"""One incarnation of a session in its keeper: the agent, the thread that keeps it in step, and the eyes on its work.

The order of ``start`` is the promise: the agent's group and mark exist before its first instruction, its
identity is on disk before the record says ``running``, and a record that says otherwise by then (stopped, superseded) ends it
again.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping

from coordinator.agents.base import Agent, get_agent, name_culprit
from coordinator.config import SHUTDOWN_TIMEOUT_S, Settings
from coordinator.context import Context, MemoryContext, SharedContext
from coordinator.errors import CrewkeepError
from coordinator.paths import Home, SessionPaths
from coordinator.services.sync import CoordinatorThread
from coordinator.sessions.conversation import Conversation, read_conversation, write_conversation
from coordinator.sessions.heartbeat import Progress
from coordinator.sessions.launch import build_environment
from coordinator.sessions.model import LaunchSpec, SessionRecord
from coordinator.sessions.registry import Registry
from coordinator.sessions.workspace import workspace_id
from coordinator.system import cgroup, terminal
from coordinator.system.clock import SYSTEM, Clock
from crewkeep.keeper.agent_process import AgentProcess
from crewkeep.keeper.eyes import Eyes
from crewkeep.keeper.facts import note_running
from crewkeep.keeper.hook_desk import HookDesk
from crewkeep.keeper.letter_typing import LetterTyping
from crewkeep.process_log import say, say_error
from crewkeep.terminal.serve import Later
from recovery.reap import name_group


class Incarnation:
    """What runs at one epoch. Made by ``start``; ``end_tree`` and ``stop_thread`` may be called in any order, and twice."""

    def __init__(
        self,
        home: Home,
        record: SessionRecord,
        agent: AgentProcess,
        eyes: Eyes,
        progress: Progress,
        settings: Settings,
        launch: LaunchSpec,
        type_text: Callable[[str], Later],
        clock: Clock,
    ) -> None:
        self.record, self.agent, self.eyes = record, agent, eyes
        self._home, self._progress, self._settings, self._clock = home, progress, settings, clock
        #: Where the agent's hooks are answered.
        self.desk = HookDesk(home, record, eyes, progress, settings, clock)
        self.typing = LetterTyping(self.desk, launch, progress, type_text)
        self._thread: CoordinatorThread | None = None
        self._context: Context | None = None
        self._revisions: dict[int, int] | None = None

    @classmethod
    def start(
        cls,
        home: Home,
        registry: Registry,
        record: SessionRecord,
        launch: LaunchSpec,
        secrets: Mapping[str, str],
        settings: Settings,
        progress: Progress,
        *,
        size: tuple[int, int],
        connect: Callable[[AgentProcess, Callable[[bytes], None]], None],
        type_text: Callable[[str], Later],
        clock: Clock = SYSTEM,
    ) -> Incarnation:
        """Start the agent of the record's epoch, on a terminal of ``size`` that ``connect`` takes over.

        Raises ``Missing`` naming secrets, ``StartFailed``, ``Conflict`` when the session was stopped meanwhile, ``Superseded``,
        ``StorageError``, ``Busy``; then nothing of it is left.
        """
        paths = home.session(record.id)
        conversation = _read_conversation_quietly(home, record)
        with name_culprit(launch.agent):
            adapter = get_agent(launch.agent)
            prepared = adapter.prepare(launch)
            if record.epoch == 1:
                argv, conversation = _begin(paths, record, prepared, adapter)
            else:
                argv = adapter.build_resume(prepared, conversation)
        environment = {"TERM": "xterm-256color", **build_environment(prepared, secrets, record, home)}
        group = cgroup.create_group(name_group(record.id, record.epoch)) if settings.use_cgroup else None
        spawned = terminal.spawn_on_terminal(
            argv, cwd=prepared.cwd, environment=environment, rows=size[0], columns=size[1], cgroup=group
        )
        agent = AgentProcess(spawned, nonce=record.nonce, group=group, clock=clock)
        progress.begin_incarnation()
        progress.note()
        eyes = Eyes(paths, record, prepared, adapter, conversation, progress, clock)
        try:
            connect(agent, eyes.note_output)
            record = registry.change(
                record.id, epoch=record.epoch, change=functools.partial(note_running, agent=agent, now_s=clock.wall_s())
            )
        except (CrewkeepError, OSError):
            agent.end(settings.reap_timeout_s)
            agent.close()
            raise
        say(f"agent {agent.identity.pid} of {record.name} ({record.id}) runs at epoch {record.epoch}")
        eyes.follow(record)
        return cls(home, record, agent, eyes, progress, settings, prepared, type_text, clock)

    def start_thread(self, on_superseded: Callable[[], None]) -> None:
        """Start the coordinator thread. ``on_superseded`` is called on it. Raises ``Superseded``, ``StorageError``, ``Busy``."""
        self._context = self._open_context()
        self._thread = CoordinatorThread(
            self._home,
            self.record,
            self._context,
            settings=self._settings,
            clock=self._clock,
            progress=self._progress,
            on_superseded=lambda error: on_superseded(),
        )
        self._thread.start()

    def stop_thread(self, timeout_s: float = SHUTDOWN_TIMEOUT_S) -> None:
        """Stop the coordinator thread; one that hangs is left behind."""
        self._revisions = self.list_revisions()
        self.desk.close()
        thread, context, self._thread, self._context = self._thread, self._context, None, None
        if thread is not None and thread.stop(timeout_s) and context is not None:
            context.close()

    def list_revisions(self) -> dict[int, int] | None:
        """Return the durable revisions of the session's context, the last known if it cannot be read now. Any thread."""
        context = self._context
        try:
            return dict(context.revisions()) if isinstance(context, SharedContext) else self._revisions
        except (CrewkeepError, OSError, ValueError):
            return self._revisions

    def adopt_background(self, registry: Registry) -> bool:
        """Take the eldest process that the agent left behind for the agent; ``False`` if there is none."""
        if not self.agent.adopt_background():
            return False
        identity = self.agent.identity
        self.record = registry.change(
            self.record.id, epoch=self.record.epoch, change=lambda known: dataclasses.replace(known, agent=identity)
        )
        say(f"the agent went into the background; {identity.pid} is taken for it")
        return True

    def end_tree(self, nonces: Collection[str] = (), term_first_s: float = 0.0) -> None:
        """End whatever of the agent's tree still lives, and give back its terminal."""
        report = self.agent.end(self._settings.reap_timeout_s, nonces=nonces, term_first_s=term_first_s)
        for left in report.left:
            say(f"could not end {left.identity.pid} ({left.name}): {left.why}")
        self.agent.close()

    def _open_context(self) -> Context:
        directory = self._home.context(workspace_id(self.record.workspace))
        try:
            return SharedContext.open(directory, writer=self.record.writer)
        except CrewkeepError as error:
            # The session goes on without it: an agent must not die because a file of the context is damaged.
            say_error("opening the shared context", error, whole=False)
            return MemoryContext(writer=self.record.writer)


def _begin(
    paths: SessionPaths, record: SessionRecord, launch: LaunchSpec, adapter: Agent
) -> tuple[tuple[str, ...], Conversation | None]:
    """Return the first start's argv and, if its id is ours to choose, the conversation, which is on disk before it begins."""
    argv, conversation = adapter.begin(launch, record.id)
    if conversation is not None:
        write_conversation(paths, conversation, epoch=record.epoch)
    return argv, conversation


def _read_conversation_quietly(home: Home, record: SessionRecord) -> Conversation | None:
    try:
        return read_conversation(home.session(record.id))
    except CrewkeepError as error:
        say_error("reading the conversation", error, whole=False)  # recovery mends it; without it, it is the first start's argv
        return None
