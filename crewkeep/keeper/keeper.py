"""One session's keeper: starts its agent, keeps it in step and served, and answers its end.

The agent's end comes as a signal; then the record is read again, the brake decides from it, and the keeper either starts the
next incarnation itself (the same recovery as everybody's, with itself as the starter), waits, parks, or writes the end.

Invariants:
  - what this keeper writes carries its epoch; the first refusal ends its agent and itself, without another write
  - the tree of an incarnation is proven gone before the next one starts and before the session is said to have ended
  - before the record says ``running``, the terminal's socket is there and the agent's identity is known
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import os
import signal
import threading
from collections.abc import Callable, Mapping
from typing import Any

from coordinator.agents.base import get_agent
from coordinator.config import KEEPER_ANSWER_S, SHUTDOWN_TIMEOUT_S, Settings
from coordinator.context import Context, MemoryContext, SharedContext
from coordinator.errors import Conflict, CrewkeepError, Damaged, InvalidInput, Missing, StartFailed, Superseded
from coordinator.paths import Home
from coordinator.services.features import Features, Recovery
from coordinator.services.sync import CoordinatorThread
from coordinator.sessions.conversation import Conversation, read_conversation
from coordinator.sessions.heartbeat import Progress
from coordinator.sessions.journal import Journal
from coordinator.sessions.launch import build_environment
from coordinator.sessions.model import Hosting, LaunchSpec, Outcome, Phase, SessionRecord
from coordinator.sessions.registry import Registry
from coordinator.sessions.workspace import workspace_id
from coordinator.system import cgroup, files, terminal
from coordinator.system.clock import SYSTEM, Clock
from coordinator.system.processes import identify_self
from crewkeep.ending import group_name
from crewkeep.keeper.agent_process import DAEMON_WINDOW_S, AgentProcess, ExitStatus
from crewkeep.keeper.checkpointing import Checkpointer
from crewkeep.keeper.eyes import Eyes
from crewkeep.loop import READ, WRITE, Loop, Timer
from crewkeep.patrol_client import PatrolLink
from crewkeep.process_log import say, say_error
from crewkeep.terminal.output import OutputLog
from crewkeep.terminal.serve import Handlers, Later, TerminalServer
from recovery import brake
from recovery.brake import Decision, End, EndCause, Ended, Park, StartAt, StartNow
from recovery.checkpoint import take_checkpoint
from recovery.manifest import Manifest
from recovery.restore import RestoredState, recover_session

EXIT_SIGTERM = 128 + signal.SIGTERM
#: What could not be written or locked is tried again after this.
_TRY_AGAIN_S = 1.0
#: The rest of what an agent printed is read up to this much after its end.
_DRAIN_LIMIT_BYTES = 4 << 20
#: Keys that the agent does not take are kept up to this much; then visitors wait.
_INPUT_LIMIT_BYTES = 64 << 10
#: A checkpoint at the end of a session may take so long.
_LAST_CHECKPOINT_S = 3.0
#: While no agent runs (a pause before a start), the record is looked at so often.
_PAUSED_TICK_S = 0.1


class Keeper:
    """The keeper of one session, at ``record.epoch`` and, after its own recoveries, at later ones."""

    def __init__(
        self,
        home: Home,
        record: SessionRecord,
        launch: LaunchSpec,
        secrets: Mapping[str, str],
        settings: Settings,
        *,
        rows: int,
        columns: int,
        clock: Clock = SYSTEM,
    ) -> None:
        self._home, self._paths, self._clock = home, home.session(record.id), clock
        self._record, self._launch, self._settings = record, launch, settings
        self._secrets = {name: secrets[name] for name in launch.secret_names if name in secrets}
        self._registry, self._features = Registry(home, clock), Features(home)
        self._loop = Loop(clock)
        self._progress = Progress(clock)
        self._output = OutputLog(self._paths.output, settings.output_limit_bytes)
        self._progress.output_bytes = self._output.end_offset
        self._size = (rows, columns)
        self._agent: AgentProcess | None = None
        self._eyes: Eyes | None = None
        self._thread: CoordinatorThread | None = None
        self._context: Context | None = None
        self._server: TerminalServer | None = None
        self._link: PatrolLink | None = None
        self._link_fd: int | None = None
        self._link_timer: Timer | None = None
        self._checkpointer: Checkpointer | None = None
        self._input: collections.deque[bytes] = collections.deque()
        self._input_bytes = 0
        self._stamp: tuple[int, int, int] | None = None
        self._ended: tuple[Ended, ExitStatus] | None = None
        self._exit_code = 0

    def run(self) -> int:
        """Keep the session until its end; returns the process's exit code."""
        try:
            self._guard(self._begin)
            self._loop.run()
        finally:
            if self._server is not None:
                self._server.close()
            self._output.close()
        return self._exit_code

    # Beginning

    def _begin(self) -> None:
        self._register()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            self._on_signal(number, functools.partial(self._on_term, number))
        self._on_signal(signal.SIGCHLD, self._on_child)
        self._on_signal(signal.SIGCONT, self._look_at_record)
        handlers = Handlers(
            input=self._type,
            resize=self._resize,
            request=self._answer,
            is_asking=lambda: self._progress.needs_user,
            is_line_mode=lambda: self._agent is not None and not terminal.is_raw(self._agent.master_fd),
        )
        hello = {"session": self._record.id, "name": self._record.name, "epoch": self._record.epoch}
        self._server = TerminalServer(self._loop, self._paths.socket, self._output, handlers, hello=hello)
        self._size = self._server.size or self._size
        try:
            self._start_agent()
        except (Missing, StartFailed) as error:
            self._decide_after_failed_start(error)
        self._link = PatrolLink(self._home, self._record, self._secrets)
        self._keep_link()
        self._checkpointer = Checkpointer(
            self._loop,
            self._settings,
            take=self._take_checkpoint,
            count_progress=lambda: self._progress.count,
            on_superseded=self._give_up,
            clock=self._clock,
        )
        self._tick()

    def _register(self) -> None:
        """Become the owner, unless the session was stopped meanwhile or another keeper of the same epoch is there."""
        me = identify_self()

        def register(known: SessionRecord) -> SessionRecord:
            if known.phase not in (Phase.STARTING, Phase.RECOVERING):
                raise Conflict(f"{known.name} is {known.phase} already", hint=f"crewkeep inspect {known.name}")
            known = brake.note_start(known, self._clock.wall_s(), self._settings)
            return dataclasses.replace(known, owner=me, agent=None, hosting=Hosting.KEEPER)

        self._record = self._registry.change(self._record.id, epoch=self._record.epoch, change=register)

    def _start_agent(self) -> None:
        """Start the agent of the record's epoch and say so in the record. Raises ``Missing``, ``StartFailed``, ``Conflict``."""
        record = self._record
        adapter = get_agent(self._launch.agent)
        launch = adapter.prepare(self._launch)
        conversation = self._read_conversation()
        argv = launch.argv if record.epoch == 1 else adapter.build_resume(launch, conversation)
        environment = {"TERM": "xterm-256color", **build_environment(launch, self._secrets, record, self._home)}
        group = cgroup.create_group(group_name(record)) if self._settings.use_cgroup else None
        rows, columns = self._size
        spawned = terminal.spawn_on_terminal(
            argv, cwd=launch.cwd, environment=environment, rows=rows, columns=columns, cgroup=group
        )
        agent = self._agent = AgentProcess(spawned, nonce=record.nonce, group=group, clock=self._clock)
        now_s = self._clock.wall_s()
        self._record = self._registry.change(
            record.id,
            epoch=record.epoch,
            change=lambda known: dataclasses.replace(
                known,
                phase=Phase.RUNNING,
                agent=agent.identity,
                started_at=now_s,
                not_before_at=None,
                reason=None,
            ),
        )
        self._ended = None
        self._progress.begin_incarnation()
        self._progress.note()
        self._eyes = Eyes(self._paths, self._record, launch, adapter, conversation, self._progress, self._clock)
        self._loop.watch(agent.master_fd, READ, self._on_terminal)
        self._start_thread()
        say(f"agent {agent.identity.pid} of {record.name} ({record.id}) runs at epoch {record.epoch}")

    def _read_conversation(self) -> Conversation | None:
        try:
            return read_conversation(self._paths)
        except CrewkeepError as error:
            say_error("reading the conversation", error, whole=False)
            return None

    def _start_thread(self) -> None:
        self._context = self._open_context()
        self._thread = CoordinatorThread(
            self._home,
            self._record,
            self._context,
            settings=self._settings,
            clock=self._clock,
            progress=self._progress,
            on_superseded=lambda error: self._loop.call_from_thread(self._give_up),
        )
        self._thread.start()

    def _open_context(self) -> Context:
        directory = self._home.context(workspace_id(self._record.workspace))
        try:
            return SharedContext.open(directory, writer=self._record.writer)
        except CrewkeepError as error:
            # The session goes on without it: an agent must not die because a file of the context is damaged.
            say_error("opening the shared context", error, whole=False)
            return MemoryContext(writer=self._record.writer)

    def _stop_thread(self, timeout_s: float) -> None:
        if self._thread is not None and self._thread.stop(timeout_s) and self._context is not None:
            self._context.close()
        self._thread = self._context = None

    # The running agent

    def _on_terminal(self, ready: int) -> None:
        agent = self._agent
        assert agent is not None
        if ready & READ:
            data = agent.read()
            if data is None:
                self._loop.forget(agent.master_fd)  # its end comes as a signal; some close their terminal and live on
                return
            if data:
                self._show(data)
        if ready & WRITE:
            self._type_pending()

    def _show(self, data: bytes) -> None:
        assert self._server is not None
        self._progress.note_output(len(data))
        if self._eyes is not None:
            self._eyes.note_output(data)
        self._server.broadcast(data)

    def _type(self, data: bytes) -> None:
        self._input.append(data)
        self._input_bytes += len(data)
        self._type_pending()

    def _type_pending(self) -> None:
        agent, server = self._agent, self._server
        assert server is not None
        was_full = self._input_bytes > _INPUT_LIMIT_BYTES
        while agent is not None and self._input:
            taken = agent.write(self._input[0])
            self._input_bytes -= taken
            if taken < len(self._input[0]):
                self._input[0] = self._input[0][taken:]
                break
            self._input.popleft()
        if agent is None:
            self._input.clear()
            self._input_bytes = 0
        else:
            self._loop.watch(agent.master_fd, READ | WRITE if self._input else READ, self._on_terminal)
        if was_full or self._input_bytes > _INPUT_LIMIT_BYTES:
            server.pause_input(self._input_bytes > _INPUT_LIMIT_BYTES)

    def _resize(self, rows: int, columns: int) -> None:
        self._size = (rows, columns)
        if self._agent is not None:
            terminal.set_window_size(self._agent.master_fd, rows, columns)

    def _answer(self, verb: str, arguments: dict[str, Any]) -> dict[str, Any] | Later:
        if verb == "status":
            return {
                "session": self._record.id,
                "epoch": self._record.epoch,
                "pid": os.getpid(),
                "attached": self._count_attached(),
            }
        if verb == "look":
            self._loop.call_later(0.0, self._look_at_record)
            return {}
        if verb == "checkpoint" and self._checkpointer is not None:
            later = Later()
            self._checkpointer.ask(functools.partial(_answer_checkpoint, later))
            return later
        raise InvalidInput(f"the keeper does not know {verb!r}", hint="keeper and command must be of one version")

    def _count_attached(self) -> int:
        return 0 if self._server is None else self._server.attached_count

    def _take_checkpoint(self, why: str) -> Manifest:
        conversation = self._eyes.conversation if self._eyes is not None else None
        context = self._context
        return take_checkpoint(
            self._home,
            self._record,
            self._launch,
            conversation=conversation,
            revisions=context.revisions() if isinstance(context, SharedContext) else None,
            output_bytes=self._progress.output_bytes,
            cwd=self._launch.cwd,
            why=why,
            clock=self._clock,
        )

    def _tick(self) -> None:
        """What is due now and then: see who rules, look at the agent's work, take a checkpoint."""
        self._guard(self._look_at_record)
        if self._agent is not None and self._eyes is not None:
            self._guard(functools.partial(self._eyes.look, self._agent))
            if self._checkpointer is not None:
                self._checkpointer.take_if_due()
        if not self._loop.stopped:
            pause_s = self._settings.heartbeat_interval_s if self._agent is not None else _PAUSED_TICK_S
            self._loop.call_later(pause_s, self._tick)

    def _look_at_record(self) -> None:
        """See whether a newer incarnation came, or somebody stops the session while no agent runs. Costs one ``stat``."""
        try:
            status = os.stat(self._paths.record)
        except OSError:
            return
        stamp = status.st_ino, status.st_mtime_ns, status.st_size
        if stamp == self._stamp:
            return
        try:
            known = self._registry.get(self._record.id)
        except Damaged:
            return  # a recovery mends it; who rules is also told under each lock
        self._stamp = stamp
        if known.epoch > self._record.epoch:
            raise Superseded(known.id, self._record.epoch, known.epoch)
        if self._agent is None and known.phase in (Phase.STOPPING, Phase.ENDED):
            self._finish(End(outcome=Outcome.STOPPED), ExitStatus())

    def _keep_link(self) -> None:
        """Let the link do what is due, and watch what it wants watched."""
        link = self._link
        if link is None or self._loop.stopped:
            return
        pause_s = link.maintain()
        fd = link.fileno()
        if fd != self._link_fd:
            if self._link_fd is not None:
                self._loop.forget(self._link_fd)
            if fd is not None:
                self._loop.watch(fd, READ, self._on_link)
            self._link_fd = fd
        if self._link_timer is not None:
            self._link_timer.cancel()
        self._link_timer = None if pause_s is None else self._loop.call_later(pause_s, self._keep_link)

    def _on_link(self, ready: int) -> None:
        assert self._link is not None and self._link_fd is not None
        fd = self._link_fd
        self._link.on_readable()
        if self._link.fileno() is None:
            self._loop.forget(fd)
            self._link_fd = None
        self._keep_link()

    # The agent's end

    def _on_child(self) -> None:
        """Some child changed: see whether it is the agent, and let no zombie stand around."""
        noticed_at = self._clock.wall_s()
        if self._agent is not None and (status := self._agent.collect()) is not None:
            self._guard(functools.partial(self._on_agent_end, status, noticed_at))
        self._reap_adopted()

    def _reap_adopted(self) -> None:
        if self._checkpointer is not None and self._checkpointer.is_busy:
            return  # a program that runs for it is waited for by who started it; the next signal comes
        while True:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if found is None or (self._agent is not None and found.si_pid == self._agent.identity.pid):
                return
            os.waitpid(found.si_pid, os.WNOHANG)

    def _on_agent_end(self, status: ExitStatus, noticed_at: float) -> None:
        agent = self._agent
        assert agent is not None
        self._drain(agent)
        if status.exit_code == 0 and agent.age_s <= DAEMON_WINDOW_S and agent.adopt_background():
            self._record = self._registry.change(
                self._record.id,
                epoch=self._record.epoch,
                change=lambda known: dataclasses.replace(known, agent=agent.identity),
            )
            say(f"the agent went into the background; {agent.identity.pid} is taken for it")
            return
        say(f"agent {agent.identity.pid} ended: code {status.exit_code}, signal {status.exit_signal}")
        cause = EndCause.EXITED if status.exit_signal is None else EndCause.SIGNALLED
        ended = Ended(
            cause=cause,
            exit_code=status.exit_code,
            exit_signal=status.exit_signal,
            fruitful=self._progress.fruitful,
            held=agent.age_s >= brake.HELD_AFTER_S,
        )
        self._loop.forget(agent.master_fd)
        self._agent = None
        try:
            self._journal_noticed(noticed_at, ended)
            self._end_tree(agent)
        finally:
            agent.close()
        self._decide(ended, status)

    def _drain(self, agent: AgentProcess) -> None:
        rest_bytes = _DRAIN_LIMIT_BYTES
        while rest_bytes > 0 and (data := agent.read()):
            self._show(data)
            rest_bytes -= len(data)

    def _journal_noticed(self, noticed_at: float, ended: Ended) -> None:
        body = {
            "what": "the agent ended",
            "by": "keeper",
            "at": noticed_at,
            "exit_code": ended.exit_code,
            "exit_signal": ended.exit_signal,
            "fruitful": ended.fruitful,
        }
        self._tell_journal("noticed", body)

    def _tell_journal(self, kind: str, body: dict[str, Any]) -> None:
        """Note what happened. Raises ``Superseded``; a journal that cannot be written changes nothing else."""
        try:
            Journal(self._paths, self._clock).append(kind, body, epoch=self._record.epoch)
        except Superseded:
            raise
        except (CrewkeepError, OSError) as error:
            say_error("writing the journal", error, whole=False)

    def _end_tree(self, agent: AgentProcess, term_first_s: float = 0.0) -> None:
        if self._checkpointer is not None:
            self._checkpointer.wait(KEEPER_ANSWER_S)  # what runs for it is below us and would be ended as well
        report = agent.end(self._settings.reap_timeout_s, nonces=self._record.unreaped_nonces, term_first_s=term_first_s)
        for left in report.left:
            say(f"could not end {left.identity.pid} ({left.name}): {left.why}")

    def _decide_after_failed_start(self, error: CrewkeepError) -> None:
        say_error("starting the agent", error, whole=False)
        if isinstance(error, Missing):  # a secret: nothing that trying again could mend
            self._finish(Park(reason=error.message), ExitStatus())
            return
        self._decide(Ended(cause=EndCause.START_FAILED, detail=error.message), ExitStatus())

    def _decide(self, ended: Ended, status: ExitStatus) -> None:
        """Let the brake decide from the record as it is now, and act. Tried again when the disk or a lock is in the way."""
        self._ended = ended, status
        try:
            known = self._registry.get(self._record.id)
            if known.epoch != self._record.epoch:
                raise Superseded(known.id, self._record.epoch, known.epoch)
            self._carry_out(self._choose(known, ended), ended, status)
        except (Superseded, Conflict):
            raise
        except (CrewkeepError, OSError) as error:
            say_error("acting on the agent's end", error, whole=False)
            self._loop.call_later(_TRY_AGAIN_S, functools.partial(self._guard, functools.partial(self._decide, ended, status)))

    def _choose(self, known: SessionRecord, ended: Ended) -> Decision:
        if known.phase is Phase.STOPPING:
            return End(outcome=Outcome.STOPPED)
        decision = brake.decide_restart(known, ended, self._clock.wall_s(), self._settings)
        level = self._features.read().recovery
        if level is not Recovery.ON and not isinstance(decision, End):
            return End(
                outcome=Outcome.CRASHED,
                reason=f"it {brake.describe_end(ended)}; not started again: recovery is turned to {level}",
            )
        return decision

    def _carry_out(self, decision: Decision, ended: Ended, status: ExitStatus) -> None:
        if isinstance(decision, (StartNow, StartAt)) and ended.fruitful:
            self._record = self._registry.change(self._record.id, epoch=self._record.epoch, change=brake.mark_fruitful)
        if isinstance(decision, StartNow):
            self._recover(f"it {brake.describe_end(ended)}")
        elif isinstance(decision, StartAt):
            self._pause(decision.at, ended)
        else:
            self._finish(decision, status)

    def _pause(self, start_at: float, ended: Ended) -> None:
        """Wait before the next start; the record says so, in case that this process does not live to see it."""
        self._stop_thread(SHUTDOWN_TIMEOUT_S)
        pause_s = max(0.0, start_at - self._clock.wall_s())
        reason = f"it {brake.describe_end(ended)}; it starts again in {pause_s:.1f} s"
        self._record = self._registry.change(
            self._record.id,
            epoch=self._record.epoch,
            change=lambda known: dataclasses.replace(
                known, phase=Phase.RECOVERING, recoverer=identify_self(), not_before_at=start_at, reason=reason
            ),
        )
        if self._server is not None:
            self._server.notify(reason)
        due_s = self._clock.monotonic_s() + pause_s
        self._loop.call_at(due_s, functools.partial(self._guard, functools.partial(self._end_pause, self._record.epoch)))

    def _end_pause(self, epoch: int) -> None:
        if self._agent is None and self._record.epoch == epoch and not self._loop.stopped:
            self._look_at_record()
        if self._agent is None and self._record.epoch == epoch and not self._loop.stopped:
            self._recover(self._record.reason or "its agent ended")

    def _recover(self, reason: str) -> None:
        """Start the next incarnation in this process."""
        self._stop_thread(SHUTDOWN_TIMEOUT_S)
        outcome = recover_session(
            self._home,
            self._registry,
            self._record.id,
            expected_epoch=self._record.epoch,
            reason=reason,
            starter=self._start_again,
            secrets=self._secrets,
            force=True,  # the plan would refuse: the owner is alive, since it is this process
            clock=self._clock,
            settings=self._settings,
        )
        say(f"recovery: {outcome.outcome}, epoch {outcome.from_epoch} -> {outcome.to_epoch} in {outcome.duration_ms} ms")
        known = self._registry.get(self._record.id)
        if known.epoch != self._record.epoch:
            raise Superseded(known.id, self._record.epoch, known.epoch)
        if self._agent is None and known.phase in (Phase.PARKED, Phase.ENDED):
            self._leave(known, ExitStatus())

    def _start_again(self, record: SessionRecord, launch: LaunchSpec, restored: RestoredState) -> SessionRecord:
        self._record, self._launch = record, launch
        self._register()
        if self._server is not None:
            self._server.begin_incarnation(record.epoch, f"{record.name} is started again ({record.reason})")
        self._start_agent()
        if self._link is not None:
            self._link.follow(self._record)
        return self._record

    # Leaving

    def _finish(self, decision: End | Park, status: ExitStatus) -> None:
        """Write how the session ended and leave. The tree is gone already."""
        if self._checkpointer is not None and not isinstance(decision, Park):
            self._checkpointer.take_last("end", _LAST_CHECKPOINT_S)
        self._stop_thread(SHUTDOWN_TIMEOUT_S)

        def end(known: SessionRecord) -> SessionRecord:
            facts = {
                "exit_code": status.exit_code,
                "exit_signal": status.exit_signal,
                "unreaped_nonces": (),
                "reason": decision.reason,
            }
            if isinstance(decision, Park) and known.phase is not Phase.STOPPING:
                return dataclasses.replace(known, phase=Phase.PARKED, not_before_at=decision.until, **facts)
            if known.phase is Phase.ENDED:
                return known
            outcome = decision.outcome if isinstance(decision, End) else Outcome.STOPPED
            if known.phase is Phase.STOPPING:
                outcome, facts["reason"] = Outcome.STOPPED, None
            return dataclasses.replace(known, phase=Phase.ENDED, outcome=outcome, not_before_at=None, **facts)

        self._leave(self._registry.change(self._record.id, epoch=self._record.epoch, change=end), status)

    def _leave(self, known: SessionRecord, status: ExitStatus) -> None:
        """The record says the end: tell it to everybody and go."""
        say(f"{known.name} is {known.phase}: {known.outcome or known.reason}")
        if self._server is not None:
            self._server.notify_end(
                {
                    "outcome": known.outcome or str(known.phase),
                    "exit_code": status.exit_code,
                    "signal": status.exit_signal,
                    "reason": known.reason,
                }
            )
            files.remove_quietly(self._paths.socket)
        if self._link is not None:
            self._link.leave()
        self._loop.stop()

    def _give_up(self) -> None:
        """A newer incarnation rules: end what is ours, write nothing, and leave with a code of its own."""
        if self._loop.stopped:
            return
        say(f"superseded at epoch {self._record.epoch}: ending this incarnation's agent and leaving")
        from coordinator.config import EXIT_SUPERSEDED

        self._exit_code = EXIT_SUPERSEDED
        self._loop.stop()
        if self._agent is not None:
            self._loop.forget(self._agent.master_fd)
            self._end_tree(self._agent)
            self._agent.close()
        if self._thread is not None:
            self._thread.stop(SHUTDOWN_TIMEOUT_S)
        if self._link is not None:
            self._link.close()

    def _on_term(self, number: int) -> None:
        """End the agent, leave the session to be recovered. Bounded: a second signal, or the time, ends it at once."""
        for again in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(again, lambda *_: os._exit(EXIT_SIGTERM))
        limit = threading.Timer(SHUTDOWN_TIMEOUT_S, os._exit, (EXIT_SIGTERM,))
        limit.daemon = True
        limit.start()
        name = signal.Signals(number).name
        say(f"ended by {name}")
        self._exit_code = EXIT_SIGTERM
        if self._checkpointer is not None and self._agent is not None:
            self._checkpointer.take_last(name, KEEPER_ANSWER_S)
        self._loop.stop()
        if self._agent is not None:
            self._loop.forget(self._agent.master_fd)
            self._end_tree(self._agent, term_first_s=1.0)
        self._stop_thread(KEEPER_ANSWER_S)
        self._registry.change(
            self._record.id,
            epoch=self._record.epoch,
            change=lambda known: dataclasses.replace(known, reason=f"its keeper was ended by {name}"),
        )
        if self._link is not None:
            self._link.close()

    # Edges

    def _on_signal(self, number: int, act: Callable[[], None]) -> None:
        self._loop.on_signal(number, functools.partial(self._guard, act))

    def _guard(self, act: Callable[[], object]) -> None:
        """Do something that may find out that this incarnation may not act any more, or that the session was ended."""
        try:
            act()
        except Superseded:
            self._give_up()
        except Conflict as error:
            self._yield_to(error)

    def _yield_to(self, error: Conflict) -> None:
        """The record took another way (stopped, ended by somebody): end the agent and follow it."""
        say(f"the session took another way: {error}")
        if self._agent is not None:
            agent, self._agent = self._agent, None
            self._loop.forget(agent.master_fd)
            self._end_tree(agent)
            agent.close()
        known = self._registry.get(self._record.id)
        if known.epoch != self._record.epoch:
            self._give_up()
        elif known.phase is Phase.STOPPING:
            self._finish(End(outcome=Outcome.STOPPED), ExitStatus())
        else:
            self._leave(known, ExitStatus())


def _answer_checkpoint(later: Later, result: Manifest | BaseException) -> None:
    if isinstance(result, CrewkeepError):
        later.fail(result)
    elif isinstance(result, BaseException):
        later.fail(CrewkeepError(f"the checkpoint failed: {result}", hint="see the keeper's log"))
    else:
        later.answer({"number": result.number, "bytes": result.bytes})
