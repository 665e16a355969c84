"""Every guarantee of the shared context, run on each implementation."""

from __future__ import annotations

import io
import json
import math
import pickle
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from coordinator.config import HISTORY_LIMIT, KEY_LIMIT_BYTES, VALUE_DEPTH_LIMIT, VALUE_LIMIT_BYTES
from coordinator.context import Entry, MemoryContext, RevisionCompacted, SharedContext, shard
from coordinator.context.base import ContextBase
from coordinator.errors import Conflict, Damaged, FormatTooNew, InvalidInput, NotFound, Superseded, VersionConflict
from coordinator.sessions.model import Writer
from coordinator.system.clock import ManualClock

ADA = Writer(session="0000000ada00", name="ada", epoch=1)
ADA_AGAIN = Writer(session="0000000ada00", name="ada", epoch=2)
BOB = Writer(session="0000000b0b00", name="bob", epoch=7)

Make = Callable[..., ContextBase]


@pytest.fixture(params=["durable", "process", "memory"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    def build(**options: Any) -> ContextBase:
        if request.param == "memory":
            return MemoryContext(**options)
        return SharedContext.open(tmp_path / "context", durability=request.param, **options)

    return build


@pytest.fixture
def context(make: Make) -> Iterator[ContextBase]:
    with make() as context:
        yield context
        if not context.closed:
            assert context.check() == []


def list_files(directory: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path.relative_to(directory)): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in directory.rglob("*")
        if path.is_file()
    }


# entries and versions


def test_a_key_that_was_never_written_is_none(context: ContextBase) -> None:
    assert context.get("a") is None
    assert context.history("a") == []
    assert context.get_version("a", 1) is None


def test_versions_begin_at_one_and_rise_by_one(context: ContextBase) -> None:
    assert [context.put("a", number, unconditional=True).version for number in range(4)] == [1, 2, 3, 4]


def test_an_entry_says_who_wrote_it_and_when(make: Make) -> None:
    clock = ManualClock()
    with make(writer=BOB, clock=clock) as context:
        entry = context.put("a/b", {"x": [1, 2.5, None, True, "é🙂"]}, expected_version=0)
        assert context.get("a/b") == entry
    assert (entry.key, entry.value, entry.version) == ("a/b", {"x": [1, 2.5, None, True, "é🙂"]}, 1)
    assert (entry.author, entry.session, entry.epoch, entry.at, entry.deleted) == ("bob", BOB.session, 7, clock.wall_s(), False)


def test_a_program_that_is_no_session_writes_without_a_name(context: ContextBase) -> None:
    entry = context.put("a", 1, unconditional=True)
    assert (entry.author, entry.session, entry.epoch) == (None, None, 0)


def test_what_is_returned_can_be_changed_without_changing_the_context(context: ContextBase) -> None:
    value = {"list": [1]}
    context.put("a", value, unconditional=True).value["list"].append(2)
    value["list"].append(3)
    entry = context.get("a")
    assert entry is not None
    entry.value["list"].append(4)
    assert context.snapshot()["a"].value == {"list": [1]}
    assert context.history("a")[0].value == {"list": [1]}


@pytest.mark.parametrize(
    "value", [None, True, 0, -1, 2**63 - 1, -(2**63), 0.1, 1e300, "", "\0\n", [], {}, {"": {"": [[]]}}, "ü" * 1000]
)
def test_every_json_value_comes_back_as_it_went_in(context: ContextBase, value: Any) -> None:
    context.put("a", value, unconditional=True)
    entry = context.get("a")
    assert entry is not None
    assert entry.value == value
    assert type(entry.value) is type(value)


@pytest.mark.parametrize(
    "key", ["a", "a/b/c", "ä/日本/🙂", "a b", "*?[x]", "-rf", "a.b..c", "k" * KEY_LIMIT_BYTES, "é" * (KEY_LIMIT_BYTES // 2)]
)
def test_keys_are_any_paths_of_text(context: ContextBase, key: str) -> None:
    context.put(key, 1, expected_version=0)
    assert list(context.keys()) == [key]
    assert context.get(key) is not None


def test_a_value_of_the_largest_size_fits(context: ContextBase) -> None:
    value = "x" * (VALUE_LIMIT_BYTES - 2)
    context.put("a", value, unconditional=True)
    entry = context.get("a")
    assert entry is not None
    assert entry.value == value


# compare and swap


def test_a_conditional_write_at_the_right_version_is_committed(context: ContextBase) -> None:
    assert context.put("a", 1, expected_version=0).version == 1
    assert context.put("a", 2, expected_version=1).version == 2


@pytest.mark.parametrize("expected", [0, 1, 3, 2**40])
def test_a_refused_write_names_the_version_it_met_and_changes_nothing(context: ContextBase, expected: int) -> None:
    context.put("a", 1, unconditional=True)
    context.put("a", 2, unconditional=True)
    before = context.revisions()
    with pytest.raises(VersionConflict) as caught:
        context.put("a", 3, expected_version=expected)
    assert (caught.value.key, caught.value.expected_version, caught.value.actual_version) == ("a", expected, 2)
    assert pickle.loads(pickle.dumps(caught.value)).actual_version == 2
    entry = context.get("a")
    assert entry is not None
    assert entry.value == 2
    assert context.revisions() == before


def test_a_write_must_say_whether_it_is_conditional(context: ContextBase) -> None:
    with pytest.raises(InvalidInput):
        context.put("a", 1)
    with pytest.raises(InvalidInput):
        context.put("a", 1, expected_version=0, unconditional=True)
    with pytest.raises(InvalidInput):
        context.delete("a")
    for wrong in (-1, True, "1", 1.0):
        with pytest.raises(InvalidInput):
            context.put("a", 1, expected_version=wrong)  # type: ignore[arg-type]
    assert context.get("a") is None


def test_of_many_threads_at_one_version_exactly_one_wins(context: ContextBase) -> None:
    won: list[int] = []
    met: list[int] = []
    start = threading.Barrier(4)

    def race(number: int) -> None:
        for version in range(10):
            start.wait(20)
            try:
                context.put("a", number, expected_version=version)
                won.append(number)
            except VersionConflict as error:
                met.append(error.actual_version - version)
            start.wait(20)

    threads = [threading.Thread(target=race, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(won) == 10
    assert met == [1] * 30
    assert [entry.value for entry in reversed(context.history("a"))] == won


# deletion and history


def test_a_deletion_is_a_write_and_the_key_is_absent_then(context: ContextBase) -> None:
    context.put("a", 1, unconditional=True)
    tombstone = context.delete("a", expected_version=1)
    assert (tombstone.version, tombstone.deleted, tombstone.value) == (2, True, None)
    assert context.get("a") is None
    assert list(context.keys()) == []
    assert context.snapshot() == {}


def test_a_version_number_never_comes_back_after_a_deletion(context: ContextBase) -> None:
    context.put("a", 1, unconditional=True)
    context.delete("a", unconditional=True)
    with pytest.raises(VersionConflict) as caught:
        context.put("a", 2, expected_version=1)
    assert caught.value.actual_version == 0
    assert context.put("a", 2, expected_version=0).version == 3


def test_deleting_what_is_not_there_is_said(context: ContextBase) -> None:
    with pytest.raises(NotFound):
        context.delete("a", unconditional=True)
    with pytest.raises(VersionConflict):
        context.delete("a", expected_version=3)
    with pytest.raises(NotFound):
        context.delete("a", expected_version=0)


def test_history_is_newest_first_with_deletions_and_null_is_no_deletion(context: ContextBase) -> None:
    context.put("a", None, unconditional=True)
    context.delete("a", unconditional=True)
    context.put("a", "x", unconditional=True)
    assert [(entry.version, entry.value, entry.deleted) for entry in context.history("a")] == [
        (3, "x", False),
        (2, None, True),
        (1, None, False),
    ]
    first = context.get_version("a", 1)
    assert first is not None
    assert not first.deleted


def test_the_last_versions_are_kept_and_no_more(context: ContextBase) -> None:
    for number in range(HISTORY_LIMIT + 7):
        context.put("a", number, unconditional=True)
    assert [entry.value for entry in context.history("a")] == list(reversed(range(7, HISTORY_LIMIT + 7)))
    assert context.get_version("a", 7) is None
    oldest = context.get_version("a", 8)
    assert oldest is not None
    assert oldest.value == 7


def test_keys_are_sorted_and_of_the_prefix(context: ContextBase) -> None:
    for key in ("b/2", "b/1", "a", "bb", "b"):
        context.put(key, 1, unconditional=True)
    assert list(context.keys("b/")) == ["b/1", "b/2"]
    assert list(context.keys("b")) == ["b", "b/1", "b/2", "bb"]
    assert list(context.keys()) == sorted(["b/2", "b/1", "a", "bb", "b"])


# snapshot


def test_a_snapshot_holds_the_entries_and_the_revisions_to_watch_on_from(context: ContextBase) -> None:
    context.put("a/1", 1, unconditional=True)
    context.put("b", 2, unconditional=True)
    snapshot = context.snapshot("a/")
    assert {key: entry.value for key, entry in snapshot.items()} == {"a/1": 1}
    context.put("a/2", 3, unconditional=True)
    assert "a/2" not in snapshot
    assert [change.key for change in context.watch("", snapshot.revisions, timeout_s=0)] == ["a/2"]


def test_a_snapshot_is_of_one_moment_however_many_shards_it_reads(context: ContextBase) -> None:
    # The writer raises "a0", then "a1", ... : at any moment the values fall along the keys by at most one.
    keys = [f"a{number}" for number in range(6)]
    for key in keys:
        context.put(key, 0, unconditional=True)
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            for key in keys:
                context.put(key, number, unconditional=True)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(40):
            values = [entry.value for _, entry in sorted(context.snapshot().items())]
            assert values == sorted(values, reverse=True)
            assert values[0] - values[-1] <= 1
    finally:
        stop.set()
        writer.join(20)


# update and merge


def test_update_creates_changes_and_returns_the_entry(context: ContextBase) -> None:
    assert context.update("n", lambda value: (value or 0) + 1).version == 1
    assert context.update("n", lambda value: (value or 0) + 1).value == 2


def test_update_makes_it_anew_after_a_conflict(context: ContextBase) -> None:
    seen = []

    def add(value: Any) -> Any:
        seen.append(value)
        if len(seen) <= 3:
            context.put("n", 10 * len(seen), unconditional=True)
        return (value or 0) + 1

    assert context.update("n", add).value == 31
    assert seen == [None, 10, 20, 30]


def test_update_gives_up_after_three_retries_with_the_conflict(context: ContextBase) -> None:
    calls = []

    def always_late(value: Any) -> Any:
        calls.append(value)
        return context.put("n", len(calls), unconditional=True).value

    with pytest.raises(VersionConflict) as caught:
        context.update("n", always_late)
    assert len(calls) == 4
    assert caught.value.actual_version == caught.value.expected_version + 1


def test_an_error_of_the_function_leaves_everything_as_it_was(context: ContextBase) -> None:
    with pytest.raises(ZeroDivisionError):
        context.update("n", lambda value: 1 // 0)
    assert context.get("n") is None


MERGES: list[tuple[str, Any, Any, Any, Any]] = [
    ("last-writer", 1, 2, 3, 2),
    ("max", 1, 2, 3, 3),
    ("max", 1, 9, 3, 9),
    ("min", 5, 2, 3, 2),
    ("sum", 10, 11, 15, 16),
    ("sum", 10, 7, 15, 12),
    ("union", ["a"], ["a", "b"], ["a", "c"], ["a", "c", "b"]),
    ("append", [1], [1, 2], [1, 3], [1, 3, 2]),
    ("deep-merge", {"a": {"x": 1}}, {"a": {"x": 1, "y": 2}}, {"a": {"x": 5}, "b": 1}, {"a": {"x": 1, "y": 2}, "b": 1}),
    ("three-way", {"a": 1, "b": 1, "c": 1}, {"a": 2, "b": 1}, {"a": 1, "b": 3, "c": 1, "d": 4}, {"a": 2, "b": 3, "d": 4}),
    ("three-way", {"o": {"p": 1, "q": 1}}, {"o": {"p": 2, "q": 1}}, {"o": {"p": 1, "q": 3}}, {"o": {"p": 2, "q": 3}}),
    ("three-way", [1], [1], [2], [2]),
]


@pytest.mark.parametrize(("rule", "base", "mine", "theirs", "merged"), MERGES)
def test_two_writes_from_one_version_are_merged_by_the_rule(
    context: ContextBase, rule: str, base: Any, mine: Any, theirs: Any, merged: Any
) -> None:
    context.set_rule("m/", rule)
    context.put("m/x", base, unconditional=True)

    def late(value: Any) -> Any:
        assert value == base
        context.put("m/x", theirs, unconditional=True)
        return mine

    assert context.update("m/x", late).value == merged


@pytest.mark.parametrize(("rule", "base", "mine", "theirs", "merged"), MERGES)
def test_a_value_made_from_an_old_version_is_merged_against_that_version(
    context: ContextBase, rule: str, base: Any, mine: Any, theirs: Any, merged: Any
) -> None:
    context.set_rule("", rule)
    version = context.put("x", base, unconditional=True).version
    context.put("x", theirs, unconditional=True)
    assert context.merge("x", mine, base_version=version).value == merged


def test_three_way_refuses_what_both_changed(context: ContextBase) -> None:
    context.set_rule("", "three-way")
    context.put("x", {"a": 1}, unconditional=True)
    context.put("x", {"a": 2}, unconditional=True)
    with pytest.raises(VersionConflict) as caught:
        context.merge("x", {"a": 3}, base_version=1)
    assert (caught.value.expected_version, caught.value.actual_version) == (1, 2)


def test_a_function_merges_with_base_mine_and_theirs(context: ContextBase) -> None:
    context.set_rule("f/", lambda base, mine, theirs: [base, mine, theirs])
    context.put("f/x", "base", unconditional=True)

    def late(value: Any) -> Any:
        context.put("f/x", "theirs", unconditional=True)
        return "mine"

    assert context.update("f/x", late).value == ["base", "mine", "theirs"]


def test_merging_without_a_rule_or_a_base_is_a_conflict(context: ContextBase) -> None:
    context.put("x", 1, unconditional=True)
    context.put("x", 2, unconditional=True)
    with pytest.raises(VersionConflict):
        context.merge("x", 3, base_version=1)
    context.set_rule("", "sum")
    with pytest.raises(VersionConflict):
        context.merge("x", 3, base_version=77)


def test_a_base_that_the_function_changed_in_place_is_still_the_base(context: ContextBase) -> None:
    context.set_rule("", "append")
    context.put("x", [1], unconditional=True)

    def late(value: Any) -> Any:
        context.put("x", [1, 2], unconditional=True)
        value.append(3)
        return value

    assert context.update("x", late).value == [1, 2, 3]


@pytest.mark.parametrize(
    ("rule", "deltas", "result"),
    [
        ("sum", [1, 2, -5], -2),
        ("max", [1, 9, 3], 9),
        ("min", [4, 2, 3], 2),
        ("union", [["a", "b"], ["b", "c"], [True, 1]], ["a", "b", "c", True, 1]),
        ("append", [["a"], ["b", "a"]], ["a", "b", "a"]),
        ("deep-merge", [{"a": {"b": 1}}, {"a": {"c": 2}}], {"a": {"b": 1, "c": 2}}),
        ("last-writer", [1, 2], 2),
        ("three-way", [{"a": 1}, {"b": 1}], {"b": 1}),
    ],
)
def test_a_delta_is_brought_in_by_the_rule(context: ContextBase, rule: str, deltas: list[Any], result: Any) -> None:
    context.set_rule("d/", rule)
    assert [context.update("d/x", delta=delta).value for delta in deltas][-1] == result


def test_a_delta_that_does_not_fit_the_value_is_refused(context: ContextBase) -> None:
    context.set_rule("", "sum")
    context.put("x", "text", unconditional=True)
    with pytest.raises(InvalidInput):
        context.update("x", delta=1)
    with pytest.raises(InvalidInput):
        context.update("x")
    with pytest.raises(InvalidInput):
        context.update("x", lambda value: 1, delta=1)


def test_the_longest_prefix_wins_and_names_are_checked(context: ContextBase) -> None:
    context.set_rule("", "max")
    context.set_rule("n/", "sum")
    context.update("n/x", delta=5)
    assert context.update("n/x", delta=3).value == 8
    context.update("x", delta=5)
    assert context.update("x", delta=3).value == 5
    assert context.rules() == {"": "max", "n/": "sum"}
    with pytest.raises(InvalidInput):
        context.set_rule("", "no-such-rule")


def test_threads_that_add_deltas_lose_none(context: ContextBase) -> None:
    context.set_rule("", "sum")
    threads = [threading.Thread(target=lambda: [context.update("n", delta=1) for _ in range(15)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    entry = context.get("n")
    assert entry is not None
    assert (entry.value, entry.version) == (60, 60)


# watching


def test_a_watcher_sees_every_change_of_a_shard_in_order_without_gaps(context: ContextBase) -> None:
    context.fence("somebody", 3)  # which takes no revision
    context.set_rule("", "max")
    for number in range(40):
        context.put(f"k{number % 7}", number, unconditional=True)
    context.delete("k0", unconditional=True)
    by_shard: dict[int, list[int]] = {}
    changes = list(context.watch("", 0, timeout_s=0))
    for change in changes:
        by_shard.setdefault(change.shard, []).append(change.revision)
    assert len(changes) == 41
    assert all(revisions == list(range(1, len(revisions) + 1)) for revisions in by_shard.values())
    assert {shard: len(revisions) for shard, revisions in by_shard.items()} == {
        shard: revision for shard, revision in context.revisions().items() if revision
    }
    newest = {change.key: change.entry for change in changes}
    assert {key: entry for key, entry in newest.items() if not entry.deleted} == context.snapshot()
    assert newest["k0"].deleted


def test_a_watcher_goes_on_behind_the_last_revision_it_saw(context: ContextBase) -> None:
    for number in range(5):
        context.put("a", number, unconditional=True)
    first = next(context.watch("", 0))
    rest = context.watch("", {first.shard: first.revision + 1}, timeout_s=0)
    assert [change.value for change in rest] == [2, 3, 4]


def test_a_watch_that_names_no_revision_begins_when_it_is_asked_for(context: ContextBase) -> None:
    context.put("a", 1, unconditional=True)
    watch = context.watch("", timeout_s=0)
    context.put("a", 2, unconditional=True)
    assert [change.value for change in watch] == [2]


def test_a_watch_is_of_its_prefix(context: ContextBase) -> None:
    watch = context.watch("a/", timeout_s=0)
    for key in ("a/1", "b/1", "a/2"):
        context.put(key, 1, unconditional=True)
    assert sorted(change.key for change in watch) == ["a/1", "a/2"]


def test_a_sleeping_watcher_is_woken_and_closing_ends_it(make: Make) -> None:
    context = make()
    seen: list[int] = []
    done = threading.Event()

    def follow() -> None:
        for change in context.watch(""):
            seen.append(change.value)
            done.set()

    watch = threading.Thread(target=follow)
    watch.start()
    for number in range(100):
        context.put("a", number, unconditional=True)
        if done.wait(0.02):
            break
    assert done.wait(10)
    context.close()
    watch.join(10)
    assert not watch.is_alive()
    assert seen == list(range(seen[0], seen[-1] + 1))


def test_a_revision_that_was_never_reached_is_refused(context: ContextBase) -> None:
    context.put("a", 1, unconditional=True)
    with pytest.raises(RevisionCompacted):
        context.watch("", 1000)
    for wrong in (-1, True, {0: -1}, {99: 0}, {"0": 1}, "x", 1.5, [1]):
        with pytest.raises(InvalidInput):
            context.watch("", wrong)  # type: ignore[arg-type]


def test_changes_can_be_read_a_few_at_a_time(context: ContextBase) -> None:
    for number in range(20):
        context.put(f"k{number}", number, unconditional=True)
    seen, position = [], dict[int, int]()
    while changes := context.read_changes("", position, 3):
        assert len(changes) <= 3
        position = changes.position
        seen += [change.value for change in changes]
    assert sorted(seen) == list(range(20))
    assert position == context.revisions()


def test_the_position_moves_past_changes_of_other_prefixes(context: ContextBase) -> None:
    for number in range(10):
        context.put("other", number, unconditional=True)
    changes = context.read_changes("mine/", {})
    assert changes == []
    assert changes.position == context.revisions()


def test_the_bell_tells_of_a_commit_and_of_nothing_else(context: ContextBase) -> None:
    seen = context.bell()
    assert context.wait_bell(seen, 0.001) == seen
    context.put("a", 1, unconditional=True)
    after = context.wait_bell(seen, 5)
    assert after != seen
    context.get("a")
    assert context.bell() == after
    context.ring()
    assert context.wait_bell(after, 5) != after


# epochs


def test_a_fenced_epoch_cannot_write_and_the_newer_one_can(context: ContextBase) -> None:
    context.adopt(ADA)
    for number in range(8):
        context.put(f"k{number}", 1, unconditional=True)
    context.fence(ADA.session, 2)
    before = context.snapshot()
    for number in range(8):
        with pytest.raises(Superseded) as caught:
            context.put(f"k{number}", 2, unconditional=True)
        assert (caught.value.session, caught.value.epoch, caught.value.current_epoch) == (ADA.session, 1, 2)
        with pytest.raises(Superseded):
            context.delete(f"k{number}", unconditional=True)
        with pytest.raises(Superseded):
            context.update(f"k{number}", lambda value: value + 1)
    assert context.snapshot() == before
    context.adopt(ADA_AGAIN)
    assert context.put("k0", 3, unconditional=True).epoch == 2


def test_it_tells_which_incarnation_of_a_session_wrote_last(context: ContextBase) -> None:
    ada = ADA.session
    assert not context.has_written(ada, 1)
    context.adopt(ADA)
    context.put("a", 1, expected_version=0)
    assert context.has_written(ada, 1)
    context.fence(ada, 2)
    assert not context.has_written(ada, 2), "a fence is no deed"
    assert context.has_written(ada, 1)
    context.adopt(ADA_AGAIN)
    context.delete("a", expected_version=1)
    assert [context.has_written(ada, epoch) for epoch in (1, 2)] == [False, True]
    assert not context.has_written(BOB.session, 2)


def test_a_write_of_a_newer_epoch_fences_the_older_one_too(context: ContextBase) -> None:
    context.adopt(ADA_AGAIN)
    context.put("a", 1, unconditional=True)
    context.adopt(ADA)
    with pytest.raises(Superseded):
        context.put("a", 2, unconditional=True)


def test_a_fence_is_of_one_session_and_never_falls(context: ContextBase) -> None:
    context.fence(ADA.session, 2)
    context.fence(ADA.session, 1)
    context.adopt(BOB)
    context.put("a", 1, unconditional=True)
    context.adopt(None)
    context.put("a", 2, unconditional=True)
    context.adopt(ADA)
    with pytest.raises(Superseded):
        context.put("a", 3, unconditional=True)


def test_what_was_lost_comes_back_as_it_was_and_at_its_version(context: ContextBase) -> None:
    context.put("a", 1, unconditional=True)
    before = context.revisions()
    lost = Entry("a", {"n": [2]}, 7, author="ada", epoch=3, at=123.5, session="s1")
    other = Entry("b", "two", 4, at=1.0)
    assert context.reinstate([lost, other]) == 2
    assert context.get("a") == lost
    assert context.get("b") == other
    assert [entry.version for entry in context.history("a")] == [7, 1]
    assert context.get_version("a", 5) is None
    assert {(change.key, change.version) for change in context.read_changes("", before)} == {("a", 7), ("b", 4)}
    assert context.put("a", 3, expected_version=7).version == 8
    assert context.check() == []


def test_what_is_there_or_newer_is_not_brought_back(context: ContextBase) -> None:
    for key, version in (("same", 1), ("newer", 2), ("deleted", 1)):
        for _ in range(version):
            context.put(key, "mine", unconditional=True)
    context.delete("deleted", expected_version=1)
    before = context.revisions()
    assert context.reinstate([Entry(key, "theirs", 1) for key in ("same", "newer", "deleted")]) == 0
    assert context.revisions() == before
    assert context.reinstate([Entry("deleted", "theirs", 3)]) == 1


def test_a_superseded_writer_brings_nothing_back(context: ContextBase) -> None:
    context.fence(ADA.session, 5)
    context.adopt(ADA)
    with pytest.raises(Superseded):
        context.reinstate([Entry("a", 1, 9)])
    context.adopt(None)
    assert context.get("a") is None


@pytest.mark.parametrize(
    "entry",
    [Entry("", 1, 1), Entry("a", object(), 1), Entry("a", 1, 0), Entry("a", 1, -1), Entry("a", None, 2, deleted=True)],
    ids=["key", "value", "no version", "version", "deleted"],
)
def test_what_is_no_entry_is_not_brought_back(context: ContextBase, entry: Entry) -> None:
    with pytest.raises(InvalidInput):
        context.reinstate([entry])
    assert list(context.keys()) == []


def test_a_superseded_writer_is_told_so_even_where_its_version_is_wrong(context: ContextBase) -> None:
    context.put("a", 1, unconditional=True)
    context.fence(ADA.session, 5)
    context.adopt(ADA)
    with pytest.raises(Superseded):
        context.put("a", 2, expected_version=77)


@pytest.mark.parametrize(
    "fact",
    [
        test_a_fenced_epoch_cannot_write_and_the_newer_one_can,
        test_a_write_of_a_newer_epoch_fences_the_older_one_too,
        test_a_fence_is_of_one_session_and_never_falls,
        test_a_superseded_writer_is_told_so_even_where_its_version_is_wrong,
    ],
)
def test_a_missing_epoch_check_would_be_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fact: Callable[[ContextBase], None]
) -> None:
    """The tests above have teeth: with the check planted out of the shard, each of them fails."""
    monkeypatch.setattr(shard, "_check_epoch", lambda view, writer: None)
    with SharedContext.open(tmp_path / "context") as context, pytest.raises((pytest.fail.Exception, VersionConflict)):
        fact(context)


@pytest.mark.parametrize(
    ("session", "epoch"), [("", 1), ("s", 0), ("s", True), ("s", 2**70), ("s" * 600, 1), ("\ud800", 1), (None, 1)]
)
def test_what_cannot_be_a_writer_is_refused(context: ContextBase, session: Any, epoch: Any) -> None:
    with pytest.raises(InvalidInput):
        context.adopt(Writer(session=session, name="n", epoch=epoch))
    with pytest.raises(InvalidInput):
        context.fence(session, epoch)


# bad input


BAD_KEYS: list[Any] = [
    "",
    "/",
    "/etc/passwd",
    "..",
    "../a",
    "a/../b",
    "a/./b",
    "a//b",
    "a/",
    ".",
    "a\0b",
    "a\nb",
    "\x7f",
    "\x85",
    "\ud800",
    "k" * (KEY_LIMIT_BYTES + 1),
    "é" * (KEY_LIMIT_BYTES // 2 + 1),
    b"a",
    None,
    1,
]


def nest(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


def make_cycle() -> Any:
    value: dict[str, Any] = {}
    value["self"] = value
    return value


def make_bomb() -> Any:
    value: Any = [0] * 10
    for _ in range(30):
        value = [value] * 10
    return value


BAD_VALUES: list[Callable[[], Any]] = [
    lambda: math.nan,
    lambda: [math.inf],
    lambda: {"a": -math.inf},
    lambda: "\ud800",
    lambda: {"\udfff": 1},
    lambda: {1: 2},
    lambda: {None: 2},
    lambda: b"bytes",
    lambda: {1, 2},
    lambda: object(),
    lambda: 2**63,
    lambda: -(2**63) - 1,
    lambda: 1j,
    lambda: nest(VALUE_DEPTH_LIMIT + 1),
    lambda: nest(100_000),
    lambda: "x" * VALUE_LIMIT_BYTES,
    lambda: ["é" * 600_000],
    lambda: [0] * (VALUE_LIMIT_BYTES + 1),
    make_cycle,
    make_bomb,
]


@pytest.mark.parametrize("key", BAD_KEYS, ids=lambda key: ascii(key)[:20])
def test_a_bad_key_is_refused_everywhere_with_the_reason(context: ContextBase, tmp_path: Path, key: Any) -> None:
    before = list_files(tmp_path)
    for act in (
        lambda: context.put(key, 1, unconditional=True),
        lambda: context.get(key),
        lambda: context.delete(key, unconditional=True),
        lambda: context.history(key),
        lambda: context.get_version(key, 1),
        lambda: context.update(key, lambda value: 1),
        lambda: context.merge(key, 1, base_version=0),
    ):
        with pytest.raises(InvalidInput) as caught:
            act()
        assert caught.value.message
        assert caught.value.hint
    assert list_files(tmp_path) == before


@pytest.mark.parametrize("make_value", BAD_VALUES)
def test_a_bad_value_is_refused_before_any_file_is_touched(
    context: ContextBase, tmp_path: Path, make_value: Callable[[], Any]
) -> None:
    value = make_value()
    context.snapshot()  # so that every file there is has been opened
    before = list_files(tmp_path)
    for act in (
        lambda: context.put("a", value, unconditional=True),
        lambda: context.update("a", lambda _: value),
        lambda: context.merge("a", value, base_version=0),
    ):
        with pytest.raises(InvalidInput) as caught:
            act()
        assert len(caught.value.message) < 500
    assert list_files(tmp_path) == before
    assert context.get("a") is None


@pytest.mark.parametrize("prefix", ["/", "..", "../", "a//", "a\0", "\ud800", None])
def test_a_bad_prefix_is_refused(context: ContextBase, prefix: Any) -> None:
    if prefix == "..":
        assert list(context.keys(prefix)) == []  # keys like "..a" begin so
        return
    for act in (lambda: context.keys(prefix), lambda: context.snapshot(prefix), lambda: context.watch(prefix)):
        with pytest.raises(InvalidInput):
            act()


# export and import


def test_an_export_comes_back_whole_elsewhere(context: ContextBase) -> None:
    values = {"a": 1, "b/c": {"x": ["é", None]}, "d": None, "gone": 1}
    for key, value in values.items():
        context.put(key, value, unconditional=True)
    context.delete("gone", unconditional=True)
    stream = io.StringIO()
    assert context.export(stream) == 3
    with MemoryContext() as other:
        assert other.import_(io.StringIO(stream.getvalue())) == 3
        assert {key: entry.value for key, entry in other.snapshot().items()} == {"a": 1, "b/c": {"x": ["é", None]}, "d": None}
    assert context.import_(io.StringIO(stream.getvalue())) == 0, "what is here already is not written again"


def test_an_import_does_not_overwrite_unless_told_to(context: ContextBase) -> None:
    with MemoryContext() as other:
        other.put("a", "theirs", unconditional=True)
        other.put("b", "new", unconditional=True)
        stream = io.StringIO()
        other.export(stream)
    context.put("a", "mine", unconditional=True)
    with pytest.raises(Conflict):
        context.import_(io.StringIO(stream.getvalue()))
    assert list(context.keys()) == ["a"]
    assert context.import_(io.StringIO(stream.getvalue()), unconditional=True) == 2
    assert {key: (entry.value, entry.version) for key, entry in context.snapshot().items()} == {
        "a": ("theirs", 2),
        "b": ("new", 1),
    }


def test_a_damaged_import_is_refused_before_anything_is_written(context: ContextBase) -> None:
    with MemoryContext() as other:
        for number in range(3):
            other.put(f"k{number}", number, unconditional=True)
        stream = io.StringIO()
        other.export(stream)
    lines = stream.getvalue().splitlines(keepends=True)
    flipped = [*lines[:2], lines[2].replace('"value":1', '"value":7'), *lines[3:]]
    newer = [json.dumps({"kind": "crewkeep-context", "format": 99}) + "\n", *lines[1:]]
    bad_key = [*lines[:2], lines[2].replace("k1", "../k1"), *lines[3:]]
    wrong: list[tuple[list[str], type[Exception]]] = [
        (lines[:-1], Damaged),
        ([*lines[:1], *lines[2:]], Damaged),
        (flipped, Damaged),
        ([*lines, lines[1]], Damaged),
        ([lines[0], "not json\n"], Damaged),
        ([lines[0], "[]\n"], Damaged),
        ([], Damaged),
        (newer, FormatTooNew),
        (bad_key, InvalidInput),
        (['{"some": "thing"}\n'], InvalidInput),
    ]
    for given, kind in wrong:
        with pytest.raises(kind):
            context.import_(given)
    assert list(context.keys()) == []


def test_a_closed_context_refuses_and_may_be_closed_twice(make: Make) -> None:
    context = make()
    context.close()
    context.close()
    for act in (lambda: context.get("a"), lambda: context.put("a", 1, unconditional=True), context.snapshot, context.revisions):
        with pytest.raises(InvalidInput):
            act()
