"""Random programs on the shared context, checked against a plain dict: several handles, reopenings, reboots, compactions."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from coordinator.config import HISTORY_LIMIT
from coordinator.context import MemoryContext, SharedContext, compaction, merge
from coordinator.context.base import ContextBase
from coordinator.context.codec import (
    Header,
    Placed,
    Record,
    decode_header,
    decode_record,
    encode_header,
    encode_record,
    measure_record,
)
from coordinator.context.keys import check_key, find_shard
from coordinator.context.values import decode_value, encode_value
from coordinator.errors import CrewkeepError, InvalidInput, NotFound, RevisionCompacted, Superseded, VersionConflict
from coordinator.sessions.model import Writer

KEYS = st.sampled_from(["a", "b", "a/x", "a/y", "é", "b/1/2"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
SESSIONS = ["s1", "s2"]


class ContextMachine(RuleBasedStateMachine):
    """Two handles on one context; ``model`` is key -> list of (value, author epoch), the newest last, ``...`` for a tombstone."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="context-"))
        self.model: dict[str, list[Any]] = {}
        self.epochs = dict.fromkeys(SESSIONS, 0)
        self.seen: dict[str, Any] = {}
        self.position: dict[int, int] = {}
        self.commits = 0
        self.handles: list[ContextBase] = []
        self.before = compaction.COMPACT_ABOVE_BYTES, compaction.RECENT_LIMIT_BYTES, compaction.RECENT_COUNT

    @initialize(kind=st.sampled_from(["shared", "memory"]), shards=st.integers(1, 3))
    def begin(self, kind: str, shards: int) -> None:
        self.kind, self.shards = kind, shards
        compaction.COMPACT_ABOVE_BYTES, compaction.RECENT_LIMIT_BYTES, compaction.RECENT_COUNT = 1500, 233, 10
        self.handles = [self.open(), self.open()] if kind == "shared" else [MemoryContext()] * 2

    def open(self) -> ContextBase:
        return SharedContext.open(self.directory / "context", durability="process", shards=self.shards)

    def value_of(self, key: str) -> Any:
        return self.model[key][-1] if self.model.get(key) else ...

    def version_of(self, key: str) -> int:
        return len(self.model.get(key, ())) if self.value_of(key) is not ... else 0

    @rule(which=st.integers(0, 1), key=KEYS, value=JSON, offset=st.integers(-2, 2))
    def put_conditionally(self, which: int, key: str, value: Any, offset: int) -> None:
        version = self.version_of(key)
        expected = max(0, version + offset)
        if expected == version:
            entry = self.handles[which].put(key, value, expected_version=expected)
            self.model.setdefault(key, []).append(value)
            self.commits += 1
            assert entry.version == len(self.model[key])
        else:
            with pytest.raises(VersionConflict) as caught:
                self.handles[which].put(key, value, expected_version=expected)
            assert caught.value.actual_version == version

    @rule(which=st.integers(0, 1), key=KEYS, value=JSON, count=st.integers(1, 30))
    def put_many(self, which: int, key: str, value: Any, count: int) -> None:
        for _ in range(count):
            self.handles[which].put(key, value, unconditional=True)
        self.model.setdefault(key, []).extend([value] * count)
        self.commits += count

    @rule(which=st.integers(0, 1), key=KEYS)
    def delete(self, which: int, key: str) -> None:
        if self.version_of(key):
            assert self.handles[which].delete(key, unconditional=True).deleted
            self.model[key].append(...)
            self.commits += 1
        else:
            with pytest.raises(NotFound):
                self.handles[which].delete(key, unconditional=True)

    @rule(which=st.integers(0, 1), key=KEYS)
    def update(self, which: int, key: str) -> None:
        entry = self.handles[which].update(key, lambda value: [value])
        value = self.value_of(key)
        self.model.setdefault(key, []).append([None if value is ... else value])
        self.commits += 1
        assert same(entry.value, self.model[key][-1])

    @rule(which=st.integers(0, 1), session=st.sampled_from(SESSIONS), epoch=st.integers(1, 6))
    def fence(self, which: int, session: str, epoch: int) -> None:
        self.handles[which].fence(session, epoch)
        self.epochs[session] = max(epoch, self.epochs[session])

    @rule(which=st.integers(0, 1), key=KEYS, session=st.sampled_from(SESSIONS), epoch=st.integers(1, 6))
    def put_as(self, which: int, key: str, session: str, epoch: int) -> None:
        handle = self.handles[which]
        handle.adopt(Writer(session=session, name="n", epoch=epoch))
        try:
            if epoch < self.epochs[session]:
                with pytest.raises(Superseded) as caught:
                    handle.put(key, epoch, unconditional=True)
                assert caught.value.current_epoch <= self.epochs[session]
            else:
                handle.put(key, epoch, unconditional=True)
                self.model.setdefault(key, []).append(epoch)
                self.commits += 1
                handle.fence(session, epoch)  # a write proves its epoch to its own shard only
                self.epochs[session] = epoch
        finally:
            handle.adopt(None)

    @rule(which=st.integers(0, 1))
    def reopen(self, which: int) -> None:
        if self.kind == "shared":
            self.handles[which].close()
            self.handles[which] = self.open()

    @rule()
    def reboot(self) -> None:
        if self.kind == "shared":
            for handle in self.handles:
                handle.close()
            for page in (self.directory / "context").glob("*/control"):
                with open(page, "r+b") as file:
                    file.write(bytes(64))
            self.handles = [self.open(), self.open()]

    @rule(which=st.integers(0, 1), limit=st.integers(1, 20))
    def follow(self, which: int, limit: int) -> None:
        handle = self.handles[which]
        try:
            changes = handle.read_changes("", self.position, limit)
        except RevisionCompacted:
            snapshot = handle.snapshot()
            self.seen = {key: entry.value for key, entry in snapshot.items()}
            self.position = snapshot.revisions
            return
        for change in changes:
            assert change.revision == self.position.get(change.shard, 0) + 1, "in order, without gaps"
            self.position[change.shard] = change.revision
            if change.deleted:
                self.seen.pop(change.key)
            else:
                self.seen[change.key] = change.value
        assert changes.position == {**dict.fromkeys(changes.position, 0), **self.position}
        self.position = changes.position

    @rule(which=st.integers(0, 1))
    def catch_up(self, which: int) -> None:
        while self.position != self.handles[which].revisions():
            self.follow(which, 20)
        assert same(self.seen, {key: self.value_of(key) for key in self.model if self.value_of(key) is not ...})

    @rule(which=st.integers(0, 1), key=KEYS)
    def look_at_history(self, which: int, key: str) -> None:
        history = self.handles[which].history(key)
        kept = self.model.get(key, [])[-HISTORY_LIMIT:]
        assert [entry.version for entry in history] == list(range(len(self.model.get(key, [])), 0, -1))[: len(kept)]
        assert same([entry.value for entry in reversed(history)], [None if value is ... else value for value in kept])
        assert [entry.deleted for entry in reversed(history)] == [value is ... for value in kept]

    @invariant()
    def both_handles_show_the_model(self) -> None:
        present = {key: self.value_of(key) for key in self.model if self.value_of(key) is not ...}
        for handle in self.handles:
            snapshot = handle.snapshot("a")
            assert same(
                {key: entry.value for key, entry in snapshot.items()},
                {key: value for key, value in present.items() if key.startswith("a")},
            )
            assert list(handle.keys()) == sorted(present)
            assert sum(handle.revisions().values()) == self.commits

    def teardown(self) -> None:
        compaction.COMPACT_ABOVE_BYTES, compaction.RECENT_LIMIT_BYTES, compaction.RECENT_COUNT = self.before
        for handle in self.handles:
            if not handle.closed:
                assert handle.check() == []
                handle.close()
        shutil.rmtree(self.directory)


def same(left: Any, right: Any) -> bool:
    return merge.is_same(left, right)


TestContext = ContextMachine.TestCase
TestContext.settings = settings(
    max_examples=150,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@given(value=JSON)
@settings(deadline=None)
def test_every_value_comes_back_as_it_was(value: Any) -> None:
    assert same(decode_value(encode_value(value)), value)


ANYTHING = st.recursive(
    st.none() | st.floats() | st.binary() | st.text() | st.integers(), lambda inner: st.lists(inner, max_size=3)
)


@given(value=ANYTHING)
@settings(deadline=None)
def test_a_value_is_taken_or_refused_with_our_own_error(value: Any) -> None:
    try:
        data = encode_value(value)
    except InvalidInput:
        return
    assert same(decode_value(data), value)


@given(key=st.text(st.characters(), max_size=20) | st.text(alphabet="a/.", max_size=8))
@settings(deadline=None)
def test_a_key_that_is_taken_is_a_relative_path_without_tricks(key: str) -> None:
    try:
        check_key(key)
    except InvalidInput:
        return
    parts = key.split("/")
    assert all(part not in ("", ".", "..") for part in parts)
    assert "\0" not in key
    assert 0 <= find_shard(key, 5) < 5


RECORDS = st.builds(
    Record,
    kind=st.integers(1, 255),
    key=st.text(max_size=30),
    value=st.binary(max_size=200),
    deleted=st.just(False),
    revision=st.integers(0, 2**64 - 1),
    version=st.integers(0, 2**64 - 1),
    epoch=st.integers(0, 2**63 - 1),
    at=st.floats(allow_nan=False),
    session=st.text(max_size=12),
    name=st.text(max_size=12),
    before=st.integers(0, 2**40),
    flags=st.sampled_from([0, 2, 128]),
)


@given(
    record=RECORDS,
    seed=st.integers(0, 2**32 - 1),
    offset=st.integers(0, 2**40),
    previous=st.integers(0, 2**32 - 1),
    flushed=st.integers(0, 2**40),
)
@settings(deadline=None)
def test_a_record_comes_back_in_its_own_place_only(record: Record, seed: int, offset: int, previous: int, flushed: int) -> None:
    data, checksum = encode_record(
        record, seed=seed, offset=offset, previous=previous, previous_length=previous // 2, flushed=flushed
    )
    placed = Placed(record, offset, len(data), checksum, previous, previous // 2, flushed)
    assert decode_record(data, seed=seed, offset=offset) == placed
    assert decode_record(memoryview(data + b"more"), seed=seed, offset=offset) == placed
    assert measure_record(data) == len(data)
    assert decode_record(data, seed=seed, offset=offset + 1) is None
    assert decode_record(data, seed=seed ^ 1, offset=offset) is None
    assert decode_record(data[:-1], seed=seed, offset=offset) is None


@given(data=st.binary(max_size=200), offset=st.integers(0, 2**40))
@settings(deadline=None)
def test_any_bytes_are_decoded_or_refused_but_never_crash(data: bytes, offset: int) -> None:
    assert decode_record(memoryview(b"\xa7CKr" + data), seed=0, offset=offset) is None
    assert isinstance(decode_header(data), str)


@given(generation=st.integers(1, 2**63), floor=st.integers(0, 2**63), context_id=st.binary(min_size=16, max_size=16))
@settings(deadline=None)
def test_a_header_comes_back(generation: int, floor: int, context_id: bytes) -> None:
    header = Header(shard=3, shard_count=4, durable=True, generation=generation, floor=floor, context_id=context_id)
    assert decode_header(encode_header(header)) == header


NUMBERS = st.none() | st.integers(-1000, 1000)
OBJECTS = st.dictionaries(st.sampled_from("abc"), st.integers(0, 3) | st.dictionaries(st.sampled_from("xy"), st.integers(0, 3)))


@given(base=OBJECTS, mine=OBJECTS, theirs=OBJECTS)
@settings(deadline=None)
def test_three_way_merging_is_even_handed(base: Any, mine: Any, theirs: Any) -> None:
    def run(left: Any, right: Any) -> Any:
        try:
            return merge.three_way(base, left, right)
        except merge.Irreconcilable:
            return "irreconcilable"

    assert same(run(mine, theirs), run(theirs, mine))
    assert same(run(mine, base), mine)
    assert same(run(base, theirs), theirs)
    assert same(run(mine, mine), mine)


@given(base=NUMBERS, added=st.lists(st.integers(-5, 5), max_size=5), theirs=NUMBERS)
@settings(deadline=None)
def test_sums_do_not_depend_on_the_order(base: Any, added: list[int], theirs: Any) -> None:
    forth = back = theirs
    for number in added:
        forth = merge.total(base, (base or 0) + number, forth)
    for number in reversed(added):
        back = merge.total(base, (base or 0) + number, back)
    assert forth == back == ((theirs or 0) + sum(added) if added else theirs)


@given(lists=st.lists(st.lists(st.integers(0, 5) | st.booleans()), min_size=1, max_size=4))
@settings(deadline=None)
def test_a_union_holds_everything_once(lists: list[list[Any]]) -> None:
    result: list[Any] = []
    for given_list in lists:
        result = merge.union(None, given_list, result)
    keys = [repr(value) for value in result]
    assert len(keys) == len(set(keys))
    assert set(keys) == {repr(value) for given_list in lists for value in given_list}


@given(rule=st.sampled_from(sorted(merge.RULES)), base=JSON, mine=JSON, theirs=JSON)
@settings(deadline=None)
def test_every_rule_answers_or_says_that_it_cannot(rule: str, base: Any, mine: Any, theirs: Any) -> None:
    try:
        encode_value(merge.RULES[rule](base, mine, theirs))
    except (merge.Irreconcilable, CrewkeepError):
        return
