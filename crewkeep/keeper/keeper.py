"""One session's keeper: starts its agent, keeps it in step and served, and answers its end.

The agent's end comes as a signal; then the record is read again, the brake decides from it, and the keeper either starts the
next incarnation itself (the same recovery as everybody's, with itself as the starter), waits, parks, or writes the end.

Invariants:
  - what this keeper writes carries its epoch; the first refusal ends its agent and itself, without another write
  - the tree of an incarnation is proven gone before the next one starts and before the session is said to have ended
  - before the record says ``running``, the terminal's socket is there and the agent's identity is known
"""

from __future__ import annotations

import dataclasses
import functools
import os
import signal
import threading
from collections.abc import Callable, Mapping
from typing import Any

from coordinator.agents.base import Activity
from coordinator.config import EXIT_SUPERSEDED, KEEPER_ANSWER_S, SHUTDOWN_TIMEOUT_S, Settings
from coordinator.errors import Conflict, CrewkeepError, Damaged, Missing, NotFound, StartFailed, Superseded
from coordinator.paths import Home
from coordinator.services.features import Features, Recovery
from coordinator.sessions.heartbeat import Progress
from coordinator.sessions.journal import Journal
from coordinator.sessions.model import LaunchSpec, Outcome, Phase, Restart, SessionRecord
from coordinator.sessions.registry import Registry
from coordinator.system.clock import SYSTEM, Clock
from crewkeep.keeper.agent_process import DAEMON_WINDOW_S, ExitStatus, reap_adopted
from crewkeep.keeper.checkpointing import Checkpointer
from crewkeep.keeper.facts import choose, find_cause, note_end, note_owner, note_pause
from crewkeep.keeper.incarnation import Incarnation
from crewkeep.keeper.patrol_side import PatrolSide
from crewkeep.keeper.requests import Requests
from crewkeep.keeper.terminal_side import TerminalSide
from crewkeep.loop import Loop
from crewkeep.notify import WaitingNotice, notify
from crewkeep.pauses import GrowingPause
from crewkeep.process_log import say, say_error
from crewkeep.terminal.output import OutputLog
from recovery import brake
from recovery.brake import Decision, End, EndCause, Ended, Park, StartAt, StartNow
from recovery.checkpoint import take_checkpoint
from recovery.manifest import Manifest
from recovery.restore import RestoredState, recover_session

EXIT_SIGTERM = 128 + signal.SIGTERM
#: A checkpoint at the end of a session may take so long.
_LAST_CHECKPOINT_S = 3.0
#: While no agent runs (a pause before a start), the record is looked at so often.
_PAUSED_TICK_S = 0.1
#: The same while the session is parked until a time, which may be hours.
_PARKED_TICK_S = 1.0
#: While the agent is quiet, its work is looked at so much more rarely (who rules is looked at by the coordinator thread as well).
_QUIET_TICK_FACTOR = 4
#: An agent that is asked to end with its keeper gets so long.
_TERM_FIRST_S = 1.0
_ENDING_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


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
        size: tuple[int, int],
        clock: Clock = SYSTEM,
    ) -> None:
        self._home, self._paths, self._clock = home, home.session(record.id), clock
        self._record, self._launch, self._settings = record, launch, settings
        self._secrets = {name: secrets[name] for name in launch.secret_names if name in secrets}
        self._registry, self._features = Registry(home, clock), Features(home)
        self._loop = Loop(clock)
        self._progress = Progress(clock)
        output = OutputLog(self._paths.output, settings.output_limit_bytes)
        self._progress.output_bytes = output.begin()
        #: What runs; ``None`` while nothing does.
        self._now: Incarnation | None = None
        #: What ran last, for the checkpoint at the end.
        self._last: Incarnation | None = None
        self._stamp: tuple[int, int, int] | None = None
        self._tick_timer = self._loop.call_later(0.0, self._tick)
        self._tick_pause_s = settings.heartbeat_interval_s
        self._ticked_count = -1
        #: Before what the disk or a lock was in the way of is tried again.
        self._retry = GrowingPause()
        self._exit_code = 0
        self._waiting = WaitingNotice(home, record.name)
        #: While parked: when it goes on, wall-clock seconds.
        self._resume_at: float | None = None
        self._register()
        self._requests = Requests(
            tell_status=self._tell_status,
            look=self._look_soon,
            take_checkpoint=lambda done: self._checkpointer.ask(done),
            find_desk=lambda: None if self._now is None else self._now.desk,
        )
        self._terminal = TerminalSide(
            self._loop,
            self._paths,
            record,
            output,
            self._progress,
            size=size,
            answer=self._requests.answer,
            on_output=self._on_output,
            on_input=self._on_input,
        )
        self._checkpointer = Checkpointer(
            self._loop,
            settings,
            take=self._take_checkpoint,
            count_progress=lambda: self._progress.count,
            on_superseded=self._give_up,
            clock=clock,
        )
        self._patrol = PatrolSide(self._loop, home, self._record, self._secrets)

    def run(self) -> int:
        """Keep the session until its end; returns the process's exit code."""
        for number in _ENDING_SIGNALS:
            self._on_signal(number, functools.partial(self._on_term, number))
        self._on_signal(signal.SIGCHLD, self._on_child)
        self._on_signal(signal.SIGCONT, self._look_at_record)
        self._guard(self._begin)
        self._loop.run()
        self._terminal.close(remove=False)
        return self._exit_code

    # Starting

    def _register(self) -> None:
        """Become the owner. Raises ``Conflict`` if the session was stopped meanwhile, ``Superseded``."""
        change = functools.partial(note_owner, now_s=self._clock.wall_s())
        self._record = self._registry.change(self._record.id, epoch=self._record.epoch, change=change)

    def _begin(self) -> None:
        try:
            self._start_incarnation()
        except Missing as error:  # a secret: nothing that trying again could mend
            self._finish(Park(reason=error.message), ExitStatus())
        except StartFailed as error:
            say_error("starting the agent", error, whole=False)
            self._decide(None, Ended(cause=EndCause.START_FAILED, detail=error.message), ExitStatus())

    def _start_incarnation(self) -> None:
        now = Incarnation.start(
            self._home,
            self._registry,
            self._record,
            self._launch,
            self._secrets,
            self._settings,
            self._progress,
            size=self._terminal.size,
            connect=self._terminal.connect,
            type_text=self._terminal.server.type_text,
            clock=self._clock,
        )
        self._now = self._last = now
        self._record = now.record
        now.start_thread(lambda: self._loop.call_from_thread(self._give_up))

    # While it runs

    def _tell_status(self) -> dict[str, Any]:
        attached = self._terminal.server.attached_count
        return {"session": self._record.id, "epoch": self._record.epoch, "pid": os.getpid(), "attached": attached}

    def _look_soon(self) -> None:
        self._loop.call_later(0.0, functools.partial(self._guard, self._look_at_record))

    def _take_checkpoint(self, why: str) -> Manifest:
        """Runs on the checkpointer's thread."""
        last = self._last
        return take_checkpoint(
            self._home,
            self._record,
            self._launch,
            conversation=None if last is None else last.eyes.conversation,
            revisions=None if last is None else last.list_revisions(),
            output_bytes=self._progress.output_bytes,
            cwd=self._launch.cwd,
            why=why,
            clock=self._clock,
        )

    def _tick(self) -> None:
        """What is due now and then: see who rules, look at the agent's work, take a checkpoint."""
        self._guard(self._look_at_record)
        if not self._loop.stopped:
            self._guard(self._resume_if_due)
        if self._now is not None and not self._loop.stopped:
            self._guard(functools.partial(self._look_at_work, self._now))
            self._checkpointer.take_if_due()
        if not self._loop.stopped:
            self._set_next_tick(self._find_tick_pause_s())

    def _find_tick_pause_s(self) -> float:
        """Rarer while the agent is quiet: a wake-up of a sleeping process costs more than what it looks at."""
        if self._now is None:
            return _PAUSED_TICK_S if self._resume_at is None else _PARKED_TICK_S
        interval_s = self._settings.heartbeat_interval_s
        quiet = self._progress.count == self._ticked_count
        self._ticked_count = self._progress.count
        pause_s = min(self._tick_pause_s * 2, interval_s * _QUIET_TICK_FACTOR) if quiet else interval_s
        return max(interval_s, min(pause_s, self._now.eyes.search_in_s))

    def _set_next_tick(self, pause_s: float) -> None:
        self._tick_pause_s = pause_s
        self._tick_timer.cancel()
        self._tick_timer = self._loop.call_later(pause_s, self._tick)

    def _on_output(self) -> None:
        if self._tick_pause_s > self._settings.heartbeat_interval_s:
            self._set_next_tick(self._settings.heartbeat_interval_s)

    def _on_input(self) -> None:
        if self._now is not None:
            self._now.eyes.note_typed()

    def _look_at_work(self, now: Incarnation) -> None:
        try:
            now.eyes.look(now.agent)
            now.desk.settle_letters()
            now.typing.look()
            self._waiting.note(self._progress.needs_user)
            limit = now.eyes.find_limit() if self._record.restart is not Restart.NEVER else None
        except Conflict:
            raise
        except Exception as error:  # noqa: BLE001 - an adapter reads what another program writes; the agent must not die of it
            say_error("looking at the agent's work", error)
            return
        if limit is not None and self._features.read().recovery is Recovery.ON:
            self._stop_for_limit(now, limit)  # outside: what fails here must not leave a keeper without an agent behind

    def _look_at_record(self) -> None:
        """See whether a newer incarnation came, or somebody stops the session while no agent runs. Costs one ``stat``."""
        try:
            status = os.stat(self._paths.record)
        except OSError as error:
            if self._now is None and isinstance(error, FileNotFoundError) and not self._paths.path.exists():
                self._leave_without_record(None, NotFound(f"the session is gone: {error}"))
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
        if self._now is None and known.phase in (Phase.STOPPING, Phase.ENDED):
            self._finish(End(outcome=Outcome.STOPPED), ExitStatus())

    def _on_child(self) -> None:
        """Some child changed: see whether it is the agent, and let no zombie stand around."""
        noticed_at = self._clock.wall_s()
        if self._now is not None and (status := self._now.agent.collect()) is not None:
            self._on_agent_end(self._now, status, noticed_at)
        if self._checkpointer.is_busy:
            return  # a program that runs for it is waited for by who started it; the next signal comes
        reap_adopted(None if self._now is None else self._now.agent)

    # The agent's end

    def _on_agent_end(self, now: Incarnation, status: ExitStatus, noticed_at: float) -> None:
        agent = now.agent
        self._terminal.drain()
        if status.exit_code == 0 and agent.age_s <= DAEMON_WINDOW_S and now.adopt_background(self._registry):
            self._record = now.record
            return
        self._terminal.disconnect()
        self._now = None
        say(f"agent {agent.identity.pid} ended: code {status.exit_code}, signal {status.exit_signal}")
        now.stop_thread()  # its last look shows what was committed until the end
        now.eyes.look_at_checkpoints()
        ended = Ended(
            cause=find_cause(status, self._terminal.interrupted_s, self._clock.monotonic_s()),
            exit_code=status.exit_code,
            exit_signal=status.exit_signal,
            held=agent.age_s >= brake.HELD_AFTER_S,
            **self._tell_work(now.eyes.read_last(status.exit_code)),
        )
        facts = {"exit_code": status.exit_code, "exit_signal": status.exit_signal, "fruitful": ended.fruitful}
        self._tell_journal("noticed", {"what": "the agent ended", "by": "keeper", "at": noticed_at, **facts})
        self._decide(now, ended, status)

    def _tell_work(self, activity: Activity) -> dict[str, Any]:
        """Return what an end is to say of the agent's work."""
        return {
            "fruitful": self._progress.fruitful,
            "failure": activity.failure,
            "limited_until": activity.limited_until,
        }

    def _stop_for_limit(self, now: Incarnation, activity: Activity) -> None:
        """A usage limit stopped the agent, which waits for nobody: end it, and let it go on when the limit ends."""
        say(f"the agent met a usage limit: {activity.failure}")
        self._terminal.disconnect()
        self._now = None
        now.stop_thread()
        self._decide(now, Ended(cause=EndCause.LIMITED, held=True, **self._tell_work(activity)), ExitStatus())

    def _end_tree(self, now: Incarnation, term_first_s: float = 0.0) -> None:
        self._checkpointer.wait(KEEPER_ANSWER_S)  # what runs for it is below us and would be ended as well
        now.end_tree(self._record.unreaped_nonces, term_first_s)

    def _decide(self, last: Incarnation | None, ended: Ended, status: ExitStatus) -> None:
        """Let the brake decide from the record as it is now, and act. Tried again when the disk or a lock is in the way."""
        try:
            known = self._registry.get(self._record.id)
            if known.epoch != self._record.epoch:
                raise Superseded(known.id, self._record.epoch, known.epoch)
            decision = choose(known, ended, self._features.read().recovery, self._clock.wall_s(), self._settings)
            if last is not None and isinstance(decision, StartNow):
                self._checkpointer.wait(KEEPER_ANSWER_S)  # what runs for it is below us; recovery reaps that, epoch first
                last.agent.close()
            elif last is not None:
                self._end_tree(last)
            self._carry_out(decision, ended, status)
        except Conflict:
            raise
        except NotFound as error:
            self._leave_without_record(last, error)
        except (CrewkeepError, OSError) as error:
            say_error("acting on the agent's end", error, whole=False)
            self._loop.call_later(
                self._retry.fail(), functools.partial(self._guard, functools.partial(self._decide, last, ended, status))
            )

    def _carry_out(self, decision: Decision, ended: Ended, status: ExitStatus) -> None:
        if isinstance(decision, (StartNow, StartAt)) and ended.fruitful:
            self._record = self._registry.change(self._record.id, epoch=self._record.epoch, change=brake.mark_fruitful)
        if isinstance(decision, StartNow):
            self._recover(f"it {brake.describe_end(ended)}")
        elif isinstance(decision, StartAt):
            self._pause(decision.at, ended)
        elif isinstance(decision, Park) and decision.until is not None:
            self._park(decision, status)
        else:
            self._finish(decision, status)

    def _pause(self, start_at: float, ended: Ended) -> None:
        """Wait before the next start; the record says so, in case that this process does not live to see it."""
        pause_s = max(0.0, start_at - self._clock.wall_s())
        reason = f"it {brake.describe_end(ended)}; it starts again in {pause_s:.1f} s"
        self._record = self._registry.change(
            self._record.id,
            epoch=self._record.epoch,
            change=functools.partial(note_pause, start_at=start_at, reason=reason),
        )
        self._terminal.server.notify(reason)
        self._recover_later(pause_s, f"it {brake.describe_end(ended)}")

    def _park(self, decision: Park, status: ExitStatus) -> None:
        """Nothing runs until a time that is known. This keeper stays, since it alone holds the session's secrets."""
        change = functools.partial(note_end, decision=decision, status=status)
        self._record = self._registry.change(self._record.id, epoch=self._record.epoch, change=change)
        if self._record.phase is not Phase.PARKED:  # a stop came meanwhile
            self._leave(self._record, status)
            return
        self._resume_at = decision.until
        self._checkpointer.take_last("parked", _LAST_CHECKPOINT_S)
        notify(self._home, self._record.name, "parked", self._record.reason)
        self._terminal.server.notify(decision.reason, until=decision.until)
        say(f"parked until {decision.until}: {decision.reason}")
        self._set_next_tick(_PARKED_TICK_S)

    def _resume_if_due(self) -> None:
        """Go on once a limit is over. What is in the way then is tried again by itself, not at each tick."""
        is_due = self._resume_at is not None and self._clock.wall_s() >= self._resume_at
        if self._now is None and is_due and self._features.read().recovery is Recovery.ON:
            self._resume_at = None
            self._recover("its usage limit is over")

    def _recover_later(self, pause_s: float, reason: str) -> None:
        epoch = self._record.epoch

        def end_pause() -> None:
            if self._now is None and self._record.epoch == epoch and not self._loop.stopped:
                self._look_at_record()
                if not self._loop.stopped and self._features.read().recovery is Recovery.ON:
                    self._recover(reason)
                elif not self._loop.stopped:
                    self._recover_later(_PARKED_TICK_S, reason)

        self._loop.call_later(pause_s, functools.partial(self._guard, end_pause))

    def _recover(self, reason: str) -> None:
        """Start the next incarnation in this process; later, if the disk or a lock is in the way."""
        try:
            outcome = recover_session(
                self._home,
                self._registry,
                self._record.id,
                expected_epoch=self._record.epoch,
                reason=reason,
                starter=self._start_again,
                secrets=self._secrets,
                revive=self._record.phase is Phase.PARKED,
                clock=self._clock,
                settings=self._settings,
            )
            epochs = f"epoch {outcome.from_epoch} -> {outcome.to_epoch}"
            say(f"recovery: {outcome.outcome}, {epochs} in {outcome.duration_ms} ms; {outcome.reason or 'nothing else to tell'}")
            known = self._registry.get(self._record.id)
        except (Conflict, NotFound):
            raise
        except (CrewkeepError, OSError) as error:
            say_error("recovering", error, whole=False)
            self._recover_later(self._retry.fail(), reason)
            return
        if known.epoch != self._record.epoch:
            raise Superseded(known.id, self._record.epoch, known.epoch)
        if self._now is not None:
            self._retry.reset()
        elif known.phase in (Phase.PARKED, Phase.ENDED):
            self._leave(known, ExitStatus())
        else:  # refused, as on a full disk: as long as we live, nobody else comes to do it
            self._recover_later(self._retry.fail(), reason)

    def _start_again(self, record: SessionRecord, launch: LaunchSpec, restored: RestoredState) -> SessionRecord:
        self._record, self._launch = record, launch
        self._register()
        self._terminal.server.begin_incarnation(record.epoch, f"{record.name} is started again: {record.reason}")
        self._start_incarnation()
        self._patrol.follow(self._record)
        return self._record

    # Leaving

    def _finish(self, decision: End | Park, status: ExitStatus) -> None:
        """Write how the session ended and leave. The tree is gone already."""
        if isinstance(decision, End) and decision.outcome is not Outcome.CRASHED:
            self._checkpointer.take_last("end", _LAST_CHECKPOINT_S)
        change = functools.partial(note_end, decision=decision, status=status)
        self._leave(self._registry.change(self._record.id, epoch=self._record.epoch, change=change), status)

    def _leave(self, known: SessionRecord, status: ExitStatus) -> None:
        """The record says the end: tell it to everybody and go."""
        said = known.outcome or known.phase
        notify(self._home, known.name, str(said), known.reason)
        say(f"{known.name} is {said}: {known.reason or 'no reason to tell'}")
        facts = {"exit_code": status.exit_code, "signal": status.exit_signal, "reason": known.reason}
        self._terminal.server.notify_end({"outcome": str(said), **facts})
        self._terminal.close(remove=True)
        self._patrol.leave()
        self._loop.stop()

    def _leave_without_record(self, last: Incarnation | None, error: NotFound) -> None:
        """The session was removed or moved away, and its agent has ended: if it comes back, the patrol finds it crashed."""
        say_error("leaving", error, whole=False)
        if last is not None:
            self._end_tree(last)
        self._terminal.close(remove=False)
        self._patrol.close()
        self._loop.stop()

    def _give_up(self) -> None:
        """A newer incarnation rules: end what is ours, write nothing, and leave with a code of its own."""
        if self._loop.stopped:
            return
        say(f"superseded at epoch {self._record.epoch}: ending this incarnation's agent and leaving")
        self._exit_code = EXIT_SUPERSEDED
        self._loop.stop()
        self._terminal.close(remove=False)
        if self._now is not None:
            self._end_tree(self._now)
            self._now.stop_thread(KEEPER_ANSWER_S)
        self._patrol.close()

    def _yield_to(self, error: Conflict) -> None:
        """The record took another way (stopped, ended by somebody): end the agent and follow it."""
        say(f"the session took another way: {error}")
        now, self._now = self._now, None
        if now is not None:
            self._terminal.disconnect()
            self._end_tree(now)
            now.stop_thread()
        known = self._registry.get(self._record.id)
        if known.epoch != self._record.epoch:
            self._give_up()
        elif known.phase is Phase.STOPPING:
            self._finish(End(outcome=Outcome.STOPPED), ExitStatus())
        elif known.phase in (Phase.ENDED, Phase.PARKED):
            self._leave(known, ExitStatus())
        else:  # another keeper of the same epoch has it
            self._terminal.close(remove=False)
            self._patrol.close()
            self._loop.stop()

    def _on_term(self, number: int) -> None:
        """End the agent, leave the session to be recovered. Bounded: a second signal, or the time, ends it at once."""
        for again in _ENDING_SIGNALS:
            signal.signal(again, lambda *_: os._exit(EXIT_SIGTERM))
        limit = threading.Timer(SHUTDOWN_TIMEOUT_S, os._exit, (EXIT_SIGTERM,))
        limit.daemon = True
        limit.start()
        name = signal.Signals(number).name
        say(f"ended by {name}")
        self._exit_code = EXIT_SIGTERM
        if self._now is not None:
            self._checkpointer.take_last(name, KEEPER_ANSWER_S)
        self._loop.stop()
        self._terminal.disconnect()
        if self._now is not None:
            self._end_tree(self._now, _TERM_FIRST_S)
            self._now.stop_thread(KEEPER_ANSWER_S)
        reason = f"its keeper was ended by {name}"
        self._registry.change(
            self._record.id, epoch=self._record.epoch, change=lambda known: dataclasses.replace(known, reason=reason)
        )
        self._patrol.close()

    # Edges

    def _tell_journal(self, kind: str, body: dict[str, Any]) -> None:
        """Note what happened. Raises ``Superseded``; a journal that cannot be written changes nothing else."""
        try:
            Journal(self._paths, self._clock).append(kind, body, epoch=self._record.epoch)
        except Superseded:
            raise
        except (CrewkeepError, OSError) as error:
            say_error("writing the journal", error, whole=False)

    def _on_signal(self, number: int, act: Callable[[], object]) -> None:
        self._loop.on_signal(number, functools.partial(self._guard, act))

    def _guard(self, act: Callable[[], object]) -> None:
        """Do something that may find out that this incarnation may not act any more, or that the session was ended."""
        try:
            act()
        except Superseded:
            self._give_up()
        except Conflict as error:
            self._yield_to(error)
