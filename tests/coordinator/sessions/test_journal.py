"""The journal: appended by right, bounded, and spoiled by a torn line only where it was torn."""

import pytest
from session_support import change_session, make_session

from coordinator.config import JOURNAL_LIMIT_BYTES
from coordinator.errors import NotFound, StorageError
from coordinator.paths import Home, SessionPaths
from coordinator.sessions.journal import Journal
from coordinator.sessions.registry import Registry
from coordinator.system import failpoints


@pytest.fixture
def paths(home: Home) -> SessionPaths:
    return home.session(make_session(home).id)


def test_what_is_appended_is_read_in_order(paths: SessionPaths) -> None:
    journal = Journal(paths)
    for number in range(3):
        journal.append("noted", {"number": number}, epoch=1, durable=number == 1)
    content = journal.read()
    assert [entry.kind for entry in content.entries] == ["launch", "record", "noted", "noted", "noted"]
    assert [entry.body["number"] for entry in content.entries[2:]] == [0, 1, 2]
    assert content.damage == ()


def test_a_torn_tail_is_told_and_the_next_line_is_whole(paths: SessionPaths) -> None:
    journal = Journal(paths)
    journal.append("noted", {"number": 1}, epoch=1)
    paths.journal.write_bytes(paths.journal.read_bytes()[:-5])
    journal.append("noted", {"number": 2}, epoch=1)
    content = journal.read()
    assert [entry.body.get("number") for entry in content.entries if entry.kind == "noted"] == [2]
    assert [damage.reason for damage in content.damage] == ["unreadable"]


def test_an_append_that_fails_leaves_nothing(paths: SessionPaths) -> None:
    before = paths.journal.read_bytes()

    def fail(name: str) -> None:
        if name == "files.write":
            raise OSError(28, "No space left on device")

    with failpoints.observe(fail), pytest.raises(StorageError):
        Journal(paths).append("noted", {}, epoch=1)
    assert paths.journal.read_bytes() == before


def test_a_rotation_keeps_the_journal_bounded_and_what_files_are_rebuilt_from(home: Home) -> None:
    registry = Registry(home)
    record = make_session(home)
    paths = home.session(record.id)
    journal = Journal(paths)
    text = "x" * 100_000
    for number in range(40):
        journal.append("noted", {"number": number, "text": text}, epoch=1)
    record = change_session(registry, record, reason="last")
    assert sum(file.stat().st_size for file in paths.path.glob("journal*")) < 2 * JOURNAL_LIMIT_BYTES + 500_000
    content = journal.read()
    assert content.damage == ()
    last = content.find_last("record")
    assert last is not None
    assert last.body["reason"] == "last"
    assert content.find_last("launch") is not None
    assert [entry.body["number"] for entry in content.entries if entry.kind == "noted"][-1] == 39
    paths.record.write_bytes(b"")
    rebuilt = registry.rebuild_record(record.id)
    assert rebuilt is not None
    assert rebuilt.reason == "last"


@pytest.mark.parametrize("place", ["files.open", "files.rename", "files.fsync", "files.sync_directory"])
def test_a_rotation_that_fails_loses_nothing(paths: SessionPaths, place: str) -> None:
    journal = Journal(paths)
    while paths.journal.stat().st_size <= JOURNAL_LIMIT_BYTES:
        journal.append("noted", {"text": "x" * 300_000}, epoch=1)
    before = [entry for entry in journal.read().entries if entry.kind == "noted"]

    def fail(name: str) -> None:
        if name == place:
            raise OSError(5, "Input/output error")

    with failpoints.observe(fail), pytest.raises(StorageError):
        journal.append("noted", {"number": 1}, epoch=1)
    after = journal.read()
    assert after.damage == ()
    assert {entry.at for entry in before} <= {entry.at for entry in after.entries}
    journal.append("noted", {"number": 1}, epoch=1)
    assert journal.read().entries[-1].body == {"number": 1}


def test_the_tail_is_read_without_the_rest(paths: SessionPaths) -> None:
    journal = Journal(paths)
    for number in range(100):
        journal.append("noted", {"number": number}, epoch=1)
    tail = journal.read_tail(1000)
    assert 0 < len(tail.entries) < 10
    assert tail.entries[-1].body == {"number": 99}
    assert tail.damage == ()


def test_there_is_no_journal_for_a_session_that_is_not(home: Home) -> None:
    journal = Journal(home.session("0" * 12))
    assert journal.read().entries == ()
    with pytest.raises(NotFound):
        journal.append("noted", {}, epoch=1)
