"""Brings one session back. ``recover_session`` reads as the safety argument: the order of its steps is what makes it safe.

First the epoch rises by compare-and-swap: of many recoverers one wins, and from then on nobody can write for the old
incarnation. Then every shared context of the session is fenced, the old incarnation's processes are proven gone, its newest
whole checkpoint is put back, and only then is the agent started and seen to run. Each step can be done twice. A recoverer that
dies leaves the session ``recovering`` under its name; the next one's compare-and-swap takes the work over from the beginning.

Not promised: undoing what the old incarnation did outside the shared context before it was reaped.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from coordinator.config import Settings
from coordinator.errors import Conflict, CrewkeepError, Damaged, Missing, StartFailed, Superseded
from coordinator.paths import Home
from coordinator.sessions.journal import Journal
from coordinator.sessions.launch import find_missing_secrets
from coordinator.sessions.model import Hosting, LaunchSpec, Outcome, Phase, SessionRecord
from coordinator.sessions.registry import Registry
from coordinator.system import failpoints, processes
from coordinator.system.clock import SYSTEM, Clock
from coordinator.system.tree import EndReport
from recovery import brake
from recovery.cascade import diagnose
from recovery.evidence import Look, gather, infer_end
from recovery.fencing import fence, list_fenced, try_fence
from recovery.model import ActionKind, Evidence, Plan, Verdict
from recovery.outcome import RecoverOutcome as RecoverOutcome
from recovery.outcome import Result as Result
from recovery.outcome import recover_many as recover_many
from recovery.plan import plan_recovery
from recovery.putting_back import RestoredState as RestoredState
from recovery.putting_back import check_wanted, find_launch, put_back
from recovery.reap import find_spared, free_locks, reap_earlier, reap_incarnation

Starter = Callable[[SessionRecord, LaunchSpec, RestoredState], SessionRecord]


def propose_recovery(
    home: Home,
    registry: Registry,
    session_id: str,
    *,
    expected_epoch: int | None = None,
    force: bool = False,
    revive: bool = False,
    checkpoint: int | None = None,
    clock: Clock = SYSTEM,
    settings: Settings | None = None,
) -> tuple[Plan | None, Evidence]:
    """Return the plan for a session as it is now (``None`` without any record to plan for), changing nothing.

    Raises ``NotFound``.
    """
    evidence = gather(home, registry, session_id, clock, settings, expected_epoch=expected_epoch, look=Look.QUICK)
    if evidence.record is None:
        return None, evidence
    newest = next((sight.number for sight in evidence.checkpoints if sight.whole), None)
    plan = plan_recovery(
        diagnose(evidence),
        evidence.record,
        newest_whole=newest,
        checkpoint=checkpoint,
        revive=revive,
        now_s=clock.wall_s(),
        # An owner that recovers its own agent needs no force, and must not undo a stop that came meanwhile.
        force=force and not evidence.owner_is_self,
    )
    return plan, evidence


def recover_session(
    home: Home,
    registry: Registry,
    session_id: str,
    *,
    expected_epoch: int | None = None,
    reason: str,
    starter: Starter,
    secrets: Mapping[str, str],
    force: bool = False,
    revive: bool = False,
    checkpoint: int | None = None,
    clock: Clock = SYSTEM,
    settings: Settings | None = None,
) -> RecoverOutcome:
    """Bring a session back, if its plan says so; returns what was done.

    ``expected_epoch`` is the incarnation that is to be followed: if a newer one exists, the outcome is ``ALREADY``. With
    ``revive`` also one that has ended or is parked; with ``force`` also one whose processes are not proven gone. ``starter``
    starts the agent of the raised record and returns the record once it says that it runs, has ended or is parked.
    ``checkpoint`` asks for one by number instead of the newest whole one.

    Missing secrets and a program that cannot be started park the session. Other errors are raised, and calling again is safe
    after all of them: ``NotFound``, ``Refused`` (a damaged checkpoint was asked for), ``Damaged``, ``StorageError``, ``Busy``,
    ``Conflict`` (it was stopped meanwhile), ``TimedOut``.
    """
    settings = settings or Settings()
    mend_records(home, registry, session_id)
    plan, evidence = propose_recovery(
        home,
        registry,
        session_id,
        expected_epoch=expected_epoch,
        force=force,
        revive=revive,
        checkpoint=checkpoint,
        clock=clock,
        settings=settings,
    )
    judged = evidence.record
    if plan is None or judged is None:
        raise Damaged(
            f"session {session_id} has no record, and its journal holds none",
            hint=f"see `crewkeep doctor`; its files are below {home.session(session_id).path}",
            path=str(home.session(session_id).record),
            reason="missing",
        )
    steps = _Steps(home, registry, plan, judged, clock, settings)
    if not plan.acts:
        return steps.do_without_start()
    if checkpoint is not None:
        check_wanted(home, judged, checkpoint)
    launch = find_launch(home, registry, judged)
    missing = find_missing_secrets(launch, secrets)
    if missing and not (evidence.owner.is_gone or evidence.owner_is_self):
        return steps.tell(Result.REFUSED, f"it needs {', '.join(missing)}; what lives of it is left alone")
    contexts = list_fenced(home, judged)
    try:
        # A stopped process that holds a lock we need would stop us as well.
        free_locks(judged, home, contexts, with_owner=force)
        # 1. From here on nobody writes for an older epoch: no record, no checkpoint, no journal, no claim.
        record = steps.raised(
            registry.raise_epoch(
                session_id, expected=judged.epoch, reason=reason, by=processes.identify_self(), phase=judged.phase
            )
        )
        # 2. Nor in any shared context (where a process of its own holds the lock, once that one is gone).
        unfenced = try_fence(record, contexts)
        # 3. Nor does anybody act for it: the whole tree is proven gone.
        report = steps.reaped(
            reap_incarnation(record, home, spare=find_spared(record), vouched=force, timeout_s=settings.reap_timeout_s)
        )
        fence(record, unfenced)
        if report.left:
            return steps.park(record, f"processes of its old incarnation cannot be ended: {_name_left(report)}", keep=True)
        # 4. What the agent lost is put back; what it has is its own. One durable write then says: reaped, restored, counted.
        restored = put_back(home, registry, record, launch, checkpoint)
        record = steps.restored(record, restored, infer_end(evidence), by_hand=revive)
        if missing:
            return steps.park(record, f"it needs {', '.join(missing)}, which is never written to disk and is not set here")
        # 5. Only now may the next incarnation start, and it counts as recovered only when it was seen to run.
        failpoints.hit("recover.start")
        started = starter(record, launch, restored)
        return steps.verify(started)
    except Superseded as error:
        return steps.tell_already(error)
    except (StartFailed, Missing) as error:
        return steps.park(registry.get(session_id), f"it could not be started: {error}")
    except CrewkeepError as error:
        steps.note_failure(error)
        raise


def mend_records(home: Home, registry: Registry, session_id: str) -> None:
    """Rebuild a damaged record from the journal, so that the session can be judged; a whole one is left alone.

    Raises ``NotFound``, ``FormatTooNew``, ``StorageError``, ``Busy``.
    """
    try:
        damage = registry.find_rollback(session_id)
        registry.get(session_id)
    except Damaged as error:
        damage = error
    if damage is not None:
        registry.rebuild_record(session_id)


@dataclass(slots=True)
class _Steps:
    """The durable traces of one recovery, and its outcome."""

    home: Home
    registry: Registry
    plan: Plan
    judged: SessionRecord
    clock: Clock
    settings: Settings
    to_epoch: int | None = None
    checkpoint: int | None = None
    notes: list[str] = field(default_factory=list)
    began_s: float = 0.0

    def __post_init__(self) -> None:
        self.began_s = self.clock.monotonic_s()

    def tell(self, result: Result, reason: str = "") -> RecoverOutcome:
        """Return the outcome."""
        return RecoverOutcome(
            id=self.judged.id,
            name=self.judged.name,
            verdict=self.plan.verdict,
            actions=tuple(str(action) for action in self.plan.actions),
            outcome=result,
            reason="; ".join(filter(None, (reason, *self.notes))),
            from_epoch=self.judged.epoch,
            to_epoch=self.to_epoch,
            checkpoint=self.checkpoint,
            duration_ms=round((self.clock.monotonic_s() - self.began_s) * 1000),
        )

    def do_without_start(self) -> RecoverOutcome:
        """Carry out a plan that starts nothing."""
        kinds = [action.kind for action in self.plan.actions]
        if self.plan.verdict is Verdict.SUPERSEDED:
            return self.tell(Result.ALREADY, self.plan.reason)
        if self.plan.refused is not None:
            return self.tell(Result.REFUSED, self.plan.refused)
        if ActionKind.REAP not in kinds:
            return self.tell(Result.NOTHING, self.plan.reason)
        record, timeout_s = self.judged, self.settings.reap_timeout_s
        if record.phase in (Phase.STARTING, Phase.RUNNING):
            report = reap_earlier(record, timeout_s=timeout_s)
        else:
            report = reap_incarnation(record, self.home, timeout_s=timeout_s)
        self.reaped(report)
        if report.left:
            return self.tell(Result.FAILED, f"processes cannot be ended: {_name_left(report)}")

        def settle(known: SessionRecord) -> SessionRecord:
            known = dataclasses.replace(known, unreaped_nonces=())
            if ActionKind.END in kinds and known.phase is Phase.STOPPING:
                known = dataclasses.replace(known, phase=Phase.ENDED, outcome=Outcome.STOPPED, not_before_at=None)
            return known

        try:
            self.registry.change(record.id, epoch=record.epoch, change=settle)
        except Conflict as error:
            return self.tell(Result.ALREADY, str(error))
        outcome = self.tell(Result.ENDED if ActionKind.END in kinds else Result.REAPED)
        self._journal(outcome, record.epoch)
        return outcome

    def raised(self, record: SessionRecord) -> SessionRecord:
        self.to_epoch = record.epoch
        failpoints.hit("recover.raised")
        return record

    def reaped(self, report: EndReport) -> EndReport:
        failpoints.hit("recover.reaped")
        if report.ended:
            self.notes.append(f"ended {len(report.ended)} processes that were left")
        return report

    def restored(self, record: SessionRecord, restored: RestoredState, ended: brake.Ended, *, by_hand: bool) -> SessionRecord:
        """Write that nothing of the old incarnation lives and from where the new one starts."""
        self.checkpoint = restored.checkpoint
        self.notes += restored.notes
        now_s = self.clock.wall_s()

        def begin(known: SessionRecord) -> SessionRecord:
            known = dataclasses.replace(
                known,
                owner=None,
                agent=None,
                unreaped_nonces=(),
                restarts=known.restarts + 1,
                restored_from=restored.checkpoint,
                not_before_at=None,
            )
            return brake.note_start(known, now_s, self.settings, after=ended, by_hand=by_hand)

        failpoints.hit("recover.restored")
        return self.registry.change(record.id, epoch=record.epoch, change=begin)

    def park(self, record: SessionRecord, reason: str, *, keep: bool = False) -> RecoverOutcome:
        """Park the session with the reason; with ``keep`` what could not be reaped stays on record."""

        def park(known: SessionRecord) -> SessionRecord:
            # Not until a time, not even one from before: what was in the way does not pass by itself.
            known = dataclasses.replace(known, phase=Phase.PARKED, reason=reason, recoverer=None, not_before_at=None)
            return known if keep else dataclasses.replace(known, owner=None, agent=None)

        if record.epoch == self.to_epoch and record.phase is Phase.RECOVERING:
            self.registry.change(record.id, epoch=record.epoch, change=park)
        outcome = self.tell(Result.PARKED, reason)
        self._journal(outcome, record.epoch)
        return outcome

    def verify(self, started: SessionRecord) -> RecoverOutcome:
        """Tell how it stands: running only if its process was seen alive."""
        failpoints.hit("recover.started")
        if started.epoch != self.to_epoch:
            return self.tell(Result.ALREADY, f"epoch {started.epoch} is at work")
        who = started.agent if started.hosting is Hosting.KEEPER else started.owner
        if started.phase is Phase.RUNNING and processes.observe(who).is_gone:
            started = self.registry.get(started.id)  # it ended at once; its keeper may have written how
        if started.phase is Phase.PARKED:
            outcome = self.tell(Result.PARKED, started.reason or "")
        elif started.phase in (Phase.ENDED, Phase.STOPPING):
            outcome = self.tell(Result.ENDED, f"it ran and is {started.outcome or started.phase}")
        elif started.phase is Phase.RUNNING and not processes.observe(who).is_gone:
            outcome = self.tell(Result.RECOVERED)
        else:
            outcome = self.tell(Result.FAILED, "its agent ended right after its start")
        self._journal(outcome, started.epoch)
        return outcome

    def tell_already(self, error: Superseded) -> RecoverOutcome:
        """Say who was first."""
        try:
            now = self.registry.get(self.judged.id)
        except CrewkeepError:
            return self.tell(Result.ALREADY, str(error))
        by = f" by process {now.recoverer.pid}" if now.recoverer is not None else ""
        return self.tell(Result.ALREADY, f"epoch {now.epoch} was begun{by}")

    def note_failure(self, error: CrewkeepError) -> None:
        """Say in the record why it is not back, and that nobody is at it any more: the next recoverer need not wait for us."""
        if self.to_epoch is None:
            return
        try:
            self.registry.change(
                self.judged.id,
                epoch=self.to_epoch,
                change=lambda known: (
                    dataclasses.replace(known, recoverer=None, reason=f"its recovery failed: {error}")
                    if known.phase is Phase.RECOVERING
                    else known
                ),
            )
            self._journal(self.tell(Result.FAILED, str(error)), self.to_epoch)
        except CrewkeepError:
            return  # what is raised is the first error; a disk that is full for the one is full for the other

    def _journal(self, outcome: RecoverOutcome, epoch: int) -> None:
        try:
            Journal(self.home.session(outcome.id), self.clock).append("recovery", outcome.encode(), epoch=epoch)
        except CrewkeepError as error:
            # The session runs; that this could not be written down changes nothing about it. The caller is told.
            self.notes.append(f"the journal could not be written: {error}")


def _name_left(report: EndReport) -> str:
    return ", ".join(f"{one.identity.pid} ({one.name or 'unknown'}: {one.why})" for one in report.left)
