"""The coordinator thread: in step, in order, never dead of somebody else's error, quiet when it must be."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from session_support import change_session, make_session
from support import wait_until

from coordinator.config import BREAKER_FAILURES, Settings
from coordinator.context import Change, Entry, SharedContext, Snapshot
from coordinator.context.keys import find_shard
from coordinator.errors import InvalidInput, RevisionCompacted, StorageError, Superseded
from coordinator.paths import Home
from coordinator.services.breaker import Breaker, BreakerState
from coordinator.services.features import Features
from coordinator.services.sync import CoordinatorThread
from coordinator.services.view import View
from coordinator.sessions.journal import Journal
from coordinator.sessions.model import Beat, SessionRecord
from coordinator.sessions.registry import Registry
from coordinator.sessions.sight import read_beat
from coordinator.system import failpoints, files, processes
from coordinator.system.processes import identify_self

FAST = Settings(heartbeat_interval_s=0.05, lease_s=0.2)


class Rig:
    """A session with its thread, and a second handle on its context, as another process has it."""

    def __init__(self, home: Home) -> None:
        self.home, self.registry = home, Registry(home)
        self.record: SessionRecord = make_session(home)
        self.context = SharedContext.open(home.context("shop"), writer=self.record.writer)
        self.other = SharedContext.open(home.context("shop"))
        self.lost: list[Superseded] = []
        self.thread = CoordinatorThread(home, self.record, self.context, settings=FAST, on_superseded=self.lost.append)

    def put(self, key: str, value: Any = 1) -> None:
        self.other.put(key, value, unconditional=True)

    def beat(self) -> Beat:
        found = read_beat(self.home, self.registry.get(self.record.id))
        assert found is not None
        return found

    def wait_beats(self, count: int = 3) -> None:
        """Wait until the thread has made some turns."""
        seq = self.beat().seq + count
        wait_until(lambda: self.beat().seq >= seq, what="heartbeats")

    def close(self) -> None:
        self.thread.stop()
        self.context.close()
        self.other.close()


@pytest.fixture
def rig(home: Home) -> Iterator[Rig]:
    rig = Rig(home)
    yield rig
    rig.close()


def collect(into: list[Change]) -> Callable[[Change], None]:
    return lambda change: into.append(change)


def test_a_watcher_is_called_in_order_on_the_thread_from_now_on(rig: Rig) -> None:
    rig.put("tasks/old")
    rig.thread.start()
    seen: list[tuple[str, int, str]] = []
    rig.thread.watch("tasks/", lambda change: seen.append((change.key, change.version, threading.current_thread().name)))
    for number in range(20):
        rig.put(f"tasks/{number % 3}", number)
        rig.put(f"other/{number}")
    wait_until(lambda: len(seen) == 20, what="20 changes")
    assert {name for *_, name in seen} == {f"crewkeep-{rig.record.name}"}
    for key in ("tasks/0", "tasks/1", "tasks/2"):
        versions = [version for seen_key, version, _ in seen if seen_key == key]
        assert versions == list(range(1, len(versions) + 1))
    rig.wait_beats()
    assert len(seen) == 20, "each change once"


def test_a_watcher_is_woken_far_below_a_tick(home: Home) -> None:
    rig = Rig(home)
    rig.thread = CoordinatorThread(home, rig.record, rig.context, settings=Settings())
    rig.thread.start()
    arrived: list[float] = []
    rig.thread.watch("", lambda change: arrived.append(time.monotonic()))
    delays = []
    for number in range(20):
        rig.put(f"k/{number}")
        put = time.monotonic()
        wait_until(lambda: len(arrived) > number, what="the change", every_s=0.001)  # noqa: B023
        delays.append(arrived[number] - put)
    rig.close()
    assert sorted(delays)[10] < 0.1, "woken, not polled (a tick is 0.8 s)"


def test_it_polls_when_the_bell_cannot_be_used(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> int:
        raise StorageError("no bell", operation="open the bell", path="bell", cause="ENOSPC")

    monkeypatch.setattr(rig.context, "bell", fail)
    monkeypatch.setattr(rig.context, "wait_bell", fail)
    rig.thread.start()
    seen: list[Change] = []
    rig.thread.watch("", collect(seen))
    for number in range(5):
        rig.put("k", number)
        wait_until(lambda: len(seen) > number, what="the change")  # noqa: B023
    assert rig.thread.breaker.state() is BreakerState.CLOSED


@pytest.mark.parametrize("error", [ValueError("bad"), SystemExit(3), KeyboardInterrupt(), RecursionError(), StorageError("x")])
def test_what_a_watcher_raises_is_reported_and_the_next_change_comes(rig: Rig, error: BaseException) -> None:
    rig.thread.start()
    seen: list[Change] = []
    after: list[Change] = []

    def fail(change: Change) -> None:
        seen.append(change)
        raise error

    rig.thread.watch("k", fail)
    rig.thread.watch("k", collect(after))
    rig.put("k")
    rig.put("k")
    wait_until(lambda: len(after) == 2, what="both changes")
    assert len(seen) == 2
    wait_until(lambda: len(rig.thread.errors) == 2, what="the reports")
    assert rig.thread.errors[0].kind == "watcher"
    assert type(error).__name__ in rig.thread.errors[0].message
    entries = Journal(rig.home.session(rig.record.id)).read().entries
    assert [entry.body["kind"] for entry in entries if entry.kind == "thread-failure"] == ["watcher", "watcher"]
    assert rig.thread.breaker.failures == 0, "a watcher's error is not the disk's"


def test_reports_to_the_journal_are_bounded(rig: Rig) -> None:
    rig.thread.start()
    seen: list[int] = []

    def fail(change: Change) -> None:
        seen.append(1)
        raise ValueError(str(change.value))

    rig.thread.watch("k", fail)
    for number in range(70):
        rig.put("k", number)
    wait_until(lambda: len(seen) == 70, what="all changes")
    wait_until(lambda: rig.thread.failures.count == 70, what="all reports")
    entries = Journal(rig.home.session(rig.record.id)).read().entries
    assert len([entry for entry in entries if entry.kind == "thread-failure"]) == 50


def test_only_what_somebody_watches_is_held(rig: Rig) -> None:
    rig.put("tasks/a")
    rig.put("notes/b")
    rig.thread.start()
    assert rig.thread.held_prefixes == ()
    watch = rig.thread.watch("tasks/", lambda change: None)
    view = rig.thread.view("tasks/")
    assert dict(view).keys() == {"tasks/a"}
    assert rig.thread.held_prefixes == ("tasks/",)
    rig.put("tasks/c", {"x": 1})
    wait_until(lambda: "tasks/c" in view, what="the view")
    assert view["tasks/c"].value == {"x": 1}
    rig.other.delete("tasks/a", unconditional=True)
    wait_until(lambda: len(view) == 1, what="the deletion")
    rig.thread.release(view)
    assert rig.thread.held_prefixes == ("tasks/",)
    watch.close()
    rig.put("tasks/d")
    wait_until(lambda: rig.thread.held_prefixes == (), what="the view to be dropped")


def test_a_watch_can_begin_further_back_and_others_see_nothing_twice(rig: Rig) -> None:
    start = rig.context.revisions()
    rig.thread.start()
    first: list[Change] = []
    rig.thread.watch("k", collect(first))
    for number in range(5):
        rig.put("k", number)
    wait_until(lambda: len(first) == 5, what="the first five")
    late: list[Change] = []
    rig.thread.watch("k", collect(late), from_revision=start)
    rig.put("k", 5)
    wait_until(lambda: len(late) == 6, what="all six")
    assert [change.value for change in late] == list(range(6))
    assert [change.value for change in first] == list(range(6))


def test_a_watch_that_is_refused_holds_nothing(rig: Rig) -> None:
    rig.thread.start()
    for wrong in ({0: 99}, {99: 0}, {0: -1}, {"x": 0}, 1.5):
        with pytest.raises((InvalidInput, RevisionCompacted)):
            rig.thread.watch("tasks/", print, wrong)  # type: ignore[arg-type]
    assert rig.thread.held_prefixes == ()


def test_a_watch_can_be_made_and_closed_from_within_a_watcher(rig: Rig) -> None:
    rig.thread.start()
    inner: list[Change] = []
    begun = threading.Event()

    def begin(change: Change) -> None:
        outer.close()
        rig.thread.watch("k", collect(inner))
        begun.set()

    outer = rig.thread.watch("k", begin)
    rig.put("k", 1)
    assert begun.wait(5)
    rig.put("k", 2)
    wait_until(lambda: len(inner) == 1, what="the inner change")
    assert inner[0].value == 2


def test_stopping_hands_out_what_is_committed_and_beats_a_last_time(rig: Rig) -> None:
    rig.thread.start()
    seen: list[Change] = []
    rig.thread.watch("", collect(seen))
    for number in range(50):
        rig.put("k", number)
    seq = rig.beat().seq
    assert rig.thread.stop()
    assert [change.value for change in seen] == list(range(50))
    assert rig.beat().seq > seq
    assert not rig.thread.is_running


def test_stopping_does_not_wait_for_a_watcher_that_hangs(rig: Rig) -> None:
    rig.thread.start()
    entered, release = threading.Event(), threading.Event()

    def hang(change: Change) -> None:
        entered.set()
        release.wait(20)

    rig.thread.watch("", hang)
    rig.put("k")
    assert entered.wait(5)
    before = time.monotonic()
    assert not rig.thread.stop(0.2)
    assert time.monotonic() - before < 2
    release.set()
    assert rig.thread.stop(5)


def test_an_idle_thread_stops_at_once(home: Home) -> None:
    rig = Rig(home)
    rig.thread = CoordinatorThread(home, rig.record, rig.context, settings=Settings())
    for watched in (False, True):
        rig.thread = CoordinatorThread(home, rig.record, rig.context, settings=Settings())
        rig.thread.start()
        if watched:
            rig.thread.watch("", lambda change: None)
        before = time.monotonic()
        assert rig.thread.stop()
        assert time.monotonic() - before < 0.5
    rig.close()


def test_its_own_commits_are_progress_and_fruitful_those_of_others_are_not(rig: Rig) -> None:
    rig.thread.start()
    rig.put("k")
    rig.wait_beats()
    assert (rig.beat().progress_count, rig.beat().fruitful) == (0, False)
    mine = SharedContext.open(rig.home.context("shop"), writer=rig.record.writer)
    mine.put("k", 1, unconditional=True)
    mine.close()
    wait_until(lambda: rig.beat().progress_count == 1, what="progress")
    assert rig.beat().fruitful


def test_a_superseded_thread_tells_once_and_writes_nothing_more(rig: Rig) -> None:
    rig.thread.start()
    rig.registry.raise_epoch(rig.record.id, expected=1, reason="x", by=identify_self())
    wait_until(lambda: not rig.thread.is_running, what="the end of the thread")
    assert [error.current_epoch for error in rig.lost] == [2]
    assert rig.thread.superseded is not None
    before = rig.home.session(rig.record.id).heartbeat.read_bytes()
    assert rig.thread.stop()
    assert rig.home.session(rig.record.id).heartbeat.read_bytes() == before
    with pytest.raises(Superseded):
        CoordinatorThread(rig.home, rig.record, rig.context, settings=FAST).start()


def test_it_goes_on_at_a_new_epoch_in_the_same_process(rig: Rig) -> None:
    rig.thread.start()
    raised = rig.registry.raise_epoch(rig.record.id, expected=1, reason="x", by=identify_self())
    rig.thread.stop()
    thread = CoordinatorThread(rig.home, raised, rig.context, settings=FAST)
    thread.start()
    again = rig.registry.raise_epoch(rig.record.id, expected=2, reason="x", by=identify_self())
    thread.adopt(again.epoch)
    if thread.superseded is None:  # it may have looked between the two lines above
        wait_until(lambda: read_beat(rig.home, again) is not None, what="a beat of the new epoch")
        assert rig.context.put("k", 1, unconditional=True).epoch == 3
    thread.stop()


def test_the_breaker_on_request_quiets_it_and_closing_catches_up_without_loss(rig: Rig) -> None:
    rig.thread.start()
    seen: list[Change] = []
    rig.thread.watch("k", collect(seen))
    rig.put("k", 0)
    wait_until(lambda: len(seen) == 1, what="the first change")
    Breaker(rig.home).open("maintenance")
    wait_until(lambda: rig.thread.is_quiet, timeout_s=1, what="quiet")
    for number in range(1, 40):
        rig.put("k", number)
    rig.wait_beats()
    assert len(seen) == 1, "the context is left alone, the heart beats on"
    Breaker(rig.home).close()
    wait_until(lambda: len(seen) == 40, what="all that was missed")
    assert [change.value for change in seen] == list(range(40))


def test_all_threads_of_a_home_are_quiet_within_a_second(home: Home) -> None:
    rigs = [Rig(home) for _ in range(20)]
    for number, rig in enumerate(rigs):
        rig.thread = CoordinatorThread(home, rig.record, rig.context, settings=Settings())
        rig.thread.start()
        if number % 2:
            rig.thread.watch("", lambda change: None)
    Breaker(home).open("maintenance")
    wait_until(lambda: all(rig.thread.is_quiet for rig in rigs), timeout_s=1.0, what="quiet")
    Breaker(home).close()
    wait_until(lambda: not any(rig.thread.is_quiet for rig in rigs), what="work again")
    for rig in rigs:
        rig.close()


def test_with_sync_off_it_leaves_the_context_alone_and_catches_up_after(rig: Rig) -> None:
    rig.thread.start()
    seen: list[Change] = []
    rig.thread.watch("k", collect(seen))
    Features(rig.home).set("sync", "off")
    wait_until(lambda: rig.thread.is_quiet, what="quiet")
    rig.put("k", 1)
    rig.wait_beats()
    assert seen == []
    Features(rig.home).set("sync", "on")
    wait_until(lambda: len(seen) == 1, what="the change")


def test_repeated_io_failures_open_the_breaker_and_a_probe_closes_it(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coordinator.services.breaker.BREAKER_PROBE_S", 0.2)
    failing = threading.Event()
    real = rig.context.read_changes

    def read_changes(*arguments: Any) -> Any:
        if failing.is_set():
            raise StorageError("cannot read: EIO", operation="read", path="x", cause="EIO")
        return real(*arguments)

    monkeypatch.setattr(rig.context, "read_changes", read_changes)
    real_revisions = rig.context.revisions
    monkeypatch.setattr(rig.context, "revisions", lambda: (read_changes("", {}, 1) and None) or real_revisions())
    rig.thread.start()
    seen: list[Change] = []
    rig.thread.watch("k", collect(seen))
    failing.set()
    rig.put("k", 1)
    wait_until(lambda: Breaker(rig.home).state() is not BreakerState.CLOSED, what="the breaker to open")
    wait_until(lambda: rig.thread.failures.count >= BREAKER_FAILURES, what="the failures to be told")
    rig.wait_beats()
    assert rig.thread.is_running
    rig.put("k", 2)
    failing.clear()
    wait_until(lambda: Breaker(rig.home).state() is BreakerState.CLOSED, what="the probe to close it")
    wait_until(lambda: [change.value for change in seen] == [1, 2], what="what was missed")


def test_a_full_disk_does_not_stop_it(rig: Rig) -> None:
    rig.thread.start()
    threads = {rig.thread._thread}

    def fail(name: str) -> None:
        if threading.current_thread() in threads and name in ("heartbeat.write", "journal.open"):
            raise OSError(28, "No space left on device")

    with failpoints.observe(fail):
        wait_until(lambda: rig.thread.errors, what="a report")
        assert rig.thread.errors[-1].kind == "io"
    seq = rig.beat().seq
    wait_until(lambda: rig.beat().seq > seq, what="a beat after space came back")


def test_a_record_that_cannot_be_read_is_reported_once_and_outlived(rig: Rig) -> None:
    rig.thread.start()
    path = rig.home.session(rig.record.id).record
    whole = path.read_bytes()
    files.replace_durably(path, b"rubbish")
    wait_until(lambda: rig.thread.errors, what="the report")
    rig.thread.failures.count = 0
    seq = rig.thread._seq
    wait_until(lambda: rig.thread._seq > seq + 5, what="more beats")
    assert rig.thread.failures.count == 0
    files.replace_durably(path, whole)
    change_session(rig.registry, rig.record, reason="fine")
    rig.wait_beats()


def test_after_changes_were_compacted_the_rest_comes_from_history(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    from coordinator.errors import RevisionCompacted

    rig.thread.start()
    seen: list[Change] = []
    rig.put("k/before", 0)
    rig.put("k/gone", 0)
    view = rig.thread.view("k/")
    rig.thread.watch("k/", collect(seen))
    Features(rig.home).set("sync", "off")
    wait_until(lambda: rig.thread.is_quiet, what="quiet")
    for number in (1, 2, 3):
        rig.put("k/before", number)
    rig.put("k/new", 9)
    rig.other.delete("k/gone", unconditional=True)
    real, failed = rig.context.read_changes, []

    def compacted(prefix: str, after: dict[int, int], limit: int = 1000) -> Any:
        if not failed:
            failed.append(1)
            raise RevisionCompacted("gone", shard=0, revision=0, oldest=5)
        return real(prefix, after, limit)

    monkeypatch.setattr(rig.context, "read_changes", compacted)
    Features(rig.home).set("sync", "on")
    wait_until(lambda: len(seen) == 5, what="what history holds")
    by_key = {key: [change.value for change in seen if change.key == key] for key in ("k/before", "k/new", "k/gone")}
    assert by_key == {"k/before": [1, 2, 3], "k/new": [9], "k/gone": [None]}
    assert set(view) == {"k/before", "k/new"}
    rig.put("k/new", 10)
    wait_until(lambda: len(seen) == 6, what="the stream to go on")
    assert seen[-1].value == 10
    assert rig.thread.errors


def test_a_bug_of_ours_does_not_end_the_heartbeat(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.thread.start()

    def broken() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(rig.thread, "_pull", broken)
    wait_until(lambda: rig.thread.errors, what="the report")
    assert rig.thread.errors[0].kind == "bug"
    rig.wait_beats()


def test_it_beats_only_where_the_heartbeat_is_its_own(rig: Rig) -> None:
    thread = CoordinatorThread(rig.home, rig.record, rig.context, settings=FAST, beats=False)
    thread.start()
    seen: list[Change] = []
    thread.watch("k", collect(seen))
    rig.put("k")
    wait_until(lambda: len(seen) == 1, what="the change")
    assert thread.stop()
    assert not rig.home.session(rig.record.id).heartbeat.exists()


def test_a_session_directory_that_vanished_is_reported_and_nothing_is_made_anew(rig: Rig, tmp_path: Path) -> None:
    rig.thread.start()
    session = rig.home.session(rig.record.id).path
    session.rename(tmp_path / "elsewhere")
    wait_until(lambda: rig.thread.errors, what="the report")
    seq = rig.thread._seq
    wait_until(lambda: rig.thread._seq > seq + 4, what="more turns")
    assert not session.exists()
    assert rig.thread.is_running


def test_beats_follow_the_interval_and_carry_the_boot(rig: Rig) -> None:
    rig.thread.start()
    rig.wait_beats(5)
    beat = rig.beat()
    assert (beat.session, beat.epoch, beat.boot_id) == (rig.record.id, 1, processes.boot_id())
    assert dataclasses.replace(beat, seq=1) != beat


def test_what_a_repair_lost_is_brought_back_by_who_still_holds_it(rig: Rig) -> None:
    """Once, at the version it had, and seen by everybody; what nobody held is gone."""
    held, unheld = "crew/plan", "elsewhere"
    for number in range(3):
        rig.put(held, number)
    rig.put(unheld, "x" * 50)
    view = rig.thread.view("crew/")
    rig.thread.start()
    wait_until(lambda: held in view, what="the view")
    entry = view[held]
    assert entry.version == 3
    for key in (held, unheld):
        log = rig.home.context("shop") / f"{find_shard(key, 4):02d}/log"
        data = bytearray(log.read_bytes())
        data[data.rindex(key.encode())] ^= 1  # of its newest record
        log.write_bytes(data)
    found = rig.other.check(repair=True)
    assert found
    assert all(finding.repaired for finding in found)
    wait_until(lambda: rig.other.get(held) is not None and rig.other.get(held) == entry, what="the entry")
    assert [version.version for version in rig.other.history(held)] == [3, 2, 1]
    assert rig.other.get(unheld) is None
    wait_until(lambda: any("brought back" in failure.message for failure in rig.thread.errors), what="the report")
    assert rig.other.check() == []


def test_what_cannot_be_brought_back_now_is_tried_again(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.put("crew/plan", 1)
    rig.put("crew/plan", 2)
    view = rig.thread.view("crew/")
    entry = view["crew/plan"]
    reinstate, refused = rig.context.reinstate, threading.Event()

    def refuse(entries: Any) -> int:
        refused.set()
        raise StorageError("the disk is full", hint="make room")

    monkeypatch.setattr(rig.context, "reinstate", refuse)
    rig.thread.start()
    log = rig.home.context("shop") / f"{find_shard('crew/plan', 4):02d}/log"
    data = bytearray(log.read_bytes())
    data[data.rindex(b"crew/plan")] ^= 1
    log.write_bytes(data)
    assert all(finding.repaired for finding in rig.other.check(repair=True))
    assert refused.wait(10)
    monkeypatch.setattr(rig.context, "reinstate", reinstate)
    wait_until(lambda: rig.other.get("crew/plan") == entry, what="the entry")


def test_nothing_is_lost_of_a_context_that_went_back_as_a_whole() -> None:
    """Somebody who puts a backup in the context's place wants what is in it."""
    held = [Entry("a", 1, 4), Entry("b", 2, 1)]
    view = View("", Snapshot(held, {0: 9}))
    older = [Entry("a", 1, 3)]
    assert view.find_lost(Snapshot(older, {0: 8})) == []
    assert view.find_lost(Snapshot(older, {0: 9})) == held
    assert view.find_lost(Snapshot([Entry("a", 1, 5), Entry("b", 2, 1)], {0: 10})) == []
