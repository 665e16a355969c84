"""The coordinator thread: it keeps one session in step with the shared context, and shows that the session lives.

One turn: see whether this incarnation still may act; write the heartbeat when it is due; read what was committed since
and hand it, in order, to the views and then to the watchers; wait. With watchers it waits at the context's bell, without
any it only ticks, so that an idle session is not woken by the commits of others. Whenever the bell cannot be used it polls:
fast after a change, slower and slower while there is none, each session at moments of its own.

Invariants:
  - a watcher sees a shard's changes in revision order, each once, on this thread
  - nothing that a watcher, the disk or the context does ends the thread; it is reported in ``errors`` and the journal
  - an incarnation that was superseded writes nothing more
  - while the breaker is not closed, or ``sync`` is off, the context is left alone and heartbeats go on; afterwards the
    thread goes on from where it was
Not promised: that a watcher which never returns is interrupted. The heartbeat then goes stale, and says so.
"""

from __future__ import annotations

import dataclasses
import random
import threading
import traceback
from collections.abc import Callable, Mapping

from coordinator.config import BREAKER_QUIET_S, CHANGES_LIMIT, SHUTDOWN_TIMEOUT_S, Settings
from coordinator.context.model import Change, Context
from coordinator.context.watch import find_common, find_position
from coordinator.errors import Busy, CrewkeepError, RevisionCompacted, StorageError, Superseded
from coordinator.paths import Home
from coordinator.services.breaker import Breaker, BreakerState
from coordinator.services.failures import Failure, FailureLog
from coordinator.services.features import Features, Sync
from coordinator.services.view import View, Watch, Watcher, find_missed
from coordinator.sessions.fence import EpochLook
from coordinator.sessions.heartbeat import HeartbeatFile, Progress
from coordinator.sessions.journal import Journal
from coordinator.sessions.model import SessionRecord
from coordinator.system import processes
from coordinator.system.clock import SYSTEM, Clock

#: No wait is longer, so that every thread sees the breaker in time even if nobody rings.
_LONGEST_TICK_S = 0.9 * BREAKER_QUIET_S
#: The poll without a bell, and after failures.
_FIRST_POLL_S = 0.05


class CoordinatorThread:
    """The coordinator thread of one incarnation of a session. Any thread may call its methods."""

    def __init__(
        self,
        home: Home,
        record: SessionRecord,
        context: Context,
        *,
        settings: Settings,
        clock: Clock = SYSTEM,
        progress: Progress | None = None,
        on_superseded: Callable[[Superseded], object] | None = None,
        beats: bool = True,
    ) -> None:
        """``context`` belongs to the caller, who closes it after ``stop``.

        ``on_superseded`` is called once, on this thread, when a newer incarnation exists. With ``beats=False`` the
        heartbeat is somebody else's (a program inside a keeper's session).
        """
        self._home, self._paths, self._record = home, home.session(record.id), record
        self._context, self._settings, self._clock = context, settings, clock
        self.progress = progress or Progress(clock)
        #: The process's own count of I/O failures and the home's breaker.
        self.breaker = Breaker(home, clock)
        self._features = Features(home)
        self._heartbeat = HeartbeatFile(self._paths.heartbeat) if beats else None
        self._on_superseded = on_superseded
        #: Set once a newer incarnation was seen.
        self.superseded: Superseded | None = None
        #: What went wrong and did not end the thread.
        self.failures = FailureLog(Journal(self._paths, clock), clock)
        self._lock = threading.RLock()
        self._upkeep: tuple[Callable[[], object], ...] = ()
        self._watches: tuple[Watch, ...] = ()
        self._views: dict[str, View] = {}
        #: What all views begin with: commits elsewhere need not wake the thread.
        self._watched = ""
        self._position: dict[int, int] | None = None
        self._floors: dict[int, int] = {}
        self._stopping = threading.Event()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._seq = 0
        self._next_beat_s = 0.0
        self._poll_s = _FIRST_POLL_S
        self._epoch_look = EpochLook(self._paths)
        self._is_quiet = False

    # Start and stop

    def start(self) -> None:
        """Write the first heartbeat and begin. Raises ``Superseded``, or ``Busy`` when the system gives no thread."""
        assert self._thread is None, "a coordinator thread starts once"
        self._look_at_record()
        if self.superseded is not None:
            raise self.superseded
        self._beat()
        try:
            self._position = self._context.revisions()
        except (CrewkeepError, OSError) as error:
            self._report_io(error)  # the thread tries again; what is committed meanwhile came before any watch
        thread = threading.Thread(target=self._run, name=f"crewkeep-{self._record.name}", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            raise Busy(f"no thread could be started: {error}", hint="raise `ulimit -u` or end other programs") from error
        self._thread = thread

    def stop(self, timeout_s: float = SHUTDOWN_TIMEOUT_S) -> bool:
        """Hand out what is committed by now, write a last heartbeat, and end; tell whether it ended in time.

        A thread that does not (a watcher or the disk hangs) is left behind as a daemon and writes nothing for later.
        """
        self._stopping.set()
        self._wake.set()
        thread = self._thread
        if thread is None or thread is threading.current_thread():
            return thread is None
        try:
            self._context.ring(self._watched)
        except (CrewkeepError, OSError):
            pass  # it ticks
        thread.join(timeout_s)
        return not thread.is_alive()

    @property
    def is_running(self) -> bool:
        """Whether the thread lives."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def is_quiet(self) -> bool:
        """Whether it leaves the context alone at present (breaker, ``sync`` off)."""
        return self._is_quiet

    @property
    def errors(self) -> tuple[Failure, ...]:
        """The last things that went wrong, oldest first."""
        return self.failures.last

    def adopt(self, epoch: int) -> None:
        """Go on as the incarnation ``epoch`` of the same session, in the same process: writes carry it from now on."""
        with self._lock:
            self._record = dataclasses.replace(self._record, epoch=epoch)
            self._context.adopt(self._record.writer)
            self.progress.begin_incarnation()
            self._next_beat_s = 0.0
        self._wake.set()

    # Watching

    def watch(self, prefix: str, call: Watcher, from_revision: Mapping[int, int] | None = None) -> Watch:
        """Call ``call(change)`` on this thread for every change below ``prefix`` committed from now on.

        ``from_revision`` (shard to revision) begins behind those instead. What ``call`` raises is reported and the next
        change goes on. Raises ``InvalidInput``, ``RevisionCompacted``, ``StorageError``.
        """
        with self._lock:
            now = self._context.revisions()
            after = find_position(now, from_revision)
            if from_revision is not None:
                self._check_kept(after)  # before anything is held for a watch that is then refused
            view = self._hold_view(prefix)
            watch = Watch(view=view, call=call, after=after)
            if from_revision is not None:
                self._position = _behind(self._position or now, after)
            elif self._position is None:
                self._position = now
            self._watches = (*self._watches, watch)
        self._wake.set()
        return watch

    def view(self, prefix: str) -> View:
        """Return the living view of ``prefix``; it is held in memory until ``release(view)``."""
        with self._lock:
            view = self._hold_view(prefix)
        self._wake.set()
        return view

    def add_upkeep(self, do: Callable[[], object]) -> None:
        """Call ``do()`` on this thread at every turn, thus at least about once a second, and a last time at the end.

        What it raises is reported; while it runs there is no heartbeat.
        """
        with self._lock:
            self._upkeep = (*self._upkeep, do)

    def release(self, view: View) -> None:
        """Let go of a view; without watchers or other holders it is dropped."""
        with self._lock:
            view.holders -= 1
            if view.holders <= 0:
                self._views.pop(view.prefix, None)
                self._watched = find_common(self._views)

    @property
    def held_prefixes(self) -> tuple[str, ...]:
        """The prefixes that are in memory."""
        return tuple(sorted(self._views))

    def _hold_view(self, prefix: str) -> View:
        view = self._views.get(prefix)
        if view is None:
            if not self._views:
                self._floors = self._context.floors()  # before the snapshot: a repair from here on is seen
            view = self._views[prefix] = View(prefix, self._context.snapshot(prefix))
            before, self._watched = self._watched, find_common(self._views)
            if self._thread is not None and before != self._watched:
                self._context.ring(before)  # the thread may be waiting for too little
        view.holders += 1
        return view

    def _check_kept(self, after: Mapping[int, int]) -> None:
        self._context.read_changes("", dict(after), 1)

    # The thread

    def _run(self) -> None:
        while not self._stopping.is_set() and self.superseded is None:
            watched = self._watched
            seen = self._read_bell(watched)
            moved = self._turn()
            if self.superseded is None and not self._stopping.is_set():
                self._wait(seen, watched, moved)
        if self.superseded is None:
            self._turn(last=True)
        if self._heartbeat is not None:
            self._heartbeat.close()

    def _turn(self, *, last: bool = False) -> bool:
        """Do what is due; tell whether anything was committed since. The outermost edge of the thread: nothing gets out."""
        try:
            self._look_at_record()
            if self.superseded is not None:
                return False
            self._keep_up()
            if last or self._clock.monotonic_s() >= self._next_beat_s:
                self._beat()
            self._is_quiet = not self._may_sync()
            return False if self._is_quiet else self._pull()
        except Superseded as error:
            self._lose(error)
        except (StorageError, OSError) as error:
            self._report_io(error)
        except CrewkeepError as error:
            self._report("io", str(error))
        except BaseException:  # noqa: BLE001 - a bug of ours must not leave a session without its heartbeat
            self._report("bug", traceback.format_exc(limit=-4))
        return False

    def _keep_up(self) -> None:
        for do in self._upkeep:
            try:
                do()
            except (StorageError, OSError) as error:
                self._report_io(error)

    def _wait(self, seen: int | None, watched: str, moved: bool) -> None:
        """Wait for the next turn: for a ring if anybody watches, else for the tick."""
        tick_s = min(self._settings.heartbeat_interval_s, _LONGEST_TICK_S) * random.uniform(0.9, 1.0)
        if self._is_quiet or not self._views:
            self._wake.wait(tick_s)
            self._wake.clear()
            return
        self._wake.clear()
        if self._stopping.is_set():
            return
        if seen is not None and not self.breaker.failures:
            try:
                self._context.wait_bell(seen, tick_s, watched)
                return
            except (CrewkeepError, OSError) as error:
                self._report_io(error)
        self._poll_s = _FIRST_POLL_S if moved else min(self._poll_s * 2, tick_s)
        self._wake.wait(self._poll_s * random.uniform(0.7, 1.0))

    def _read_bell(self, watched: str) -> int | None:
        if not self._views:
            return None
        try:
            return self._context.bell(watched)
        except (CrewkeepError, OSError):
            return None

    def _may_sync(self) -> bool:
        if self._features.read().sync is Sync.OFF:
            return False
        if self.breaker.state() is BreakerState.CLOSED:
            return True
        return self.breaker.probe_if_due(self._try_context)

    def _try_context(self) -> None:
        self._context.revisions()

    # The stream of changes

    def _pull(self) -> bool:
        """Read and hand out what was committed since; tell whether there was anything."""
        moved = self._look_for_repair()
        while True:
            with self._lock:
                position = self._position
            if position is None:
                position = self._context.revisions()
                with self._lock:
                    self._position = self._position or position
            try:
                changes = self._context.read_changes("", position, CHANGES_LIMIT)
            except RevisionCompacted:
                self._catch_up("changes were compacted before they were seen")
                self.breaker.note_success()
                return True
            self.breaker.note_success()
            if changes.position == position:
                return moved
            moved = True
            for change in changes:
                self._hand_out(change)
                self._beat_if_due()
                if self.superseded is not None:
                    return moved
            with self._lock:
                if self._position == position:  # else a watch that begins further back has been added: read on from there
                    self._position = dict(changes.position)
                for view in self._views.values():
                    view.follow(changes.position)
            if self._may_sync_no_more():
                return moved

    def _may_sync_no_more(self) -> bool:
        """In the middle of a long stretch: whether the breaker was opened or the end was asked for meanwhile."""
        return self.breaker.state() is not BreakerState.CLOSED

    def _hand_out(self, change: Change) -> None:
        if change.session == self._record.id and change.epoch == self._record.epoch:
            self.progress.note_commit(change.shard, change.revision)
        with self._lock:
            views, watches = tuple(self._views.values()), self._watches
            for view in views:
                if change.key.startswith(view.prefix) and not view.is_ahead_of(change):
                    view.apply(change)
        for watch in watches:
            if watch.wants(change):
                watch.after[change.shard] = change.revision
                self._call(watch, change)
        if any(watch.closed for watch in watches):
            self._drop_closed()

    def _call(self, watch: Watch, change: Change) -> None:
        try:
            watch.call(change)
        except BaseException:  # noqa: BLE001 - a watcher may raise anything, SystemExit included; the thread goes on
            watch.failures += 1
            what = traceback.format_exc(limit=-4)
            self._report("watcher", f"a watcher of {watch.prefix!r} failed at {change.key!r} version {change.version}: {what}")

    def _drop_closed(self) -> None:
        with self._lock:
            for watch in [watch for watch in self._watches if watch.closed]:
                self._watches = tuple(other for other in self._watches if other is not watch)
                self.release(watch.view)

    def _look_for_repair(self) -> bool:
        """Bring back what a repair lost and a view holds, although the thread missed nothing; tell whether there was a repair."""
        if not self._views:
            return False
        before, floors = self._floors, self._context.floors()
        with self._lock:
            position = self._position or {}
        is_repaired = any(
            floor >= position.get(shard, 0) and floor != before.get(shard, floor) for shard, floor in floors.items()
        )
        if is_repaired:
            self._catch_up("the context was repaired")
        self._floors = floors  # only now: what could not be brought back is tried again
        return is_repaired

    def _catch_up(self, why: str) -> None:
        """Go on although the stream is not kept that far back: what is missing comes from the keys' own history."""
        with self._lock:
            views = tuple(self._views.values())
        target: dict[int, int] | None = None
        brought_back = 0
        for view in views:
            # A repair may have lost what is held here.
            if lost := view.find_lost(self._context.snapshot(view.prefix)):
                brought_back += self._context.reinstate(lost)
            missed, snapshot = find_missed(self._context, view)
            for change in missed:
                with self._lock:
                    watches = [watch for watch in self._watches if watch.view is view and not watch.closed]
                    view.apply(change)
                for watch in watches:
                    self._call(watch, change)
                self._beat_if_due()
            with self._lock:
                view.reset(snapshot)
                for watch in self._watches:
                    if watch.view is view:
                        watch.after = dict(snapshot.revisions)
            target = dict(snapshot.revisions) if target is None else _behind(target, snapshot.revisions)
        revisions = self._context.revisions() if target is None else target
        with self._lock:
            self._position = dict(revisions)
        message = f"{why}; watchers got what the keys' history still holds"
        if brought_back:
            message += f"; {brought_back} entries that a repair had lost were brought back"
        self._report("io", message)

    # The heartbeat and the right to act

    def _beat_if_due(self) -> None:
        """In the middle of handing out: look again whether to go on at all, and show that one lives."""
        now_s = self._clock.monotonic_s()
        if now_s >= self._next_beat_s:
            self._look_at_record()
            if self.superseded is None:
                self._beat()

    def _beat(self) -> None:
        interval_s = self._settings.heartbeat_interval_s
        self._next_beat_s = self._clock.monotonic_s() + 0.8 * interval_s  # ticks are a little irregular: rather early
        if self._heartbeat is None:
            return
        with self._lock:
            record = self._record
        self._seq += 1
        beat = self.progress.make_beat(session=record.id, epoch=record.epoch, seq=self._seq, boot_id=processes.boot_id())
        try:
            self._heartbeat.write(beat)
        except Superseded as error:
            if error.current_epoch > self._record.epoch:
                self._lose(error)
        except StorageError as error:
            self._report_io(error)

    def _look_at_record(self) -> None:
        """See whether a newer incarnation exists."""
        try:
            newer = self._epoch_look.find_newer(self._record.epoch)
        except (CrewkeepError, OSError) as error:
            self._report("record", str(error))
            return
        if newer is not None:
            self._lose(newer)

    def _lose(self, error: Superseded) -> None:
        if self.superseded is not None:
            return
        self.superseded = error
        if self._on_superseded is not None:
            try:
                self._on_superseded(error)
            except BaseException:  # noqa: BLE001 - see _call
                self._report("watcher", traceback.format_exc(limit=-4))

    # Reports

    def _report_io(self, error: BaseException) -> None:
        opened = self.breaker.note_failure(error)
        self._report("io", f"{error}{'; the breaker is open now' if opened else ''}")

    def _report(self, kind: str, message: str) -> None:
        self.failures.note(kind, message, epoch=self._record.epoch)


def _behind(one: Mapping[int, int], other: Mapping[int, int]) -> dict[int, int]:
    """Return the earlier revision of each shard."""
    return {shard: min(revision, other.get(shard, revision)) for shard, revision in one.items()}
