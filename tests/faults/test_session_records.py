"""Every truncation and every flipped bit of a session's files is detected or harmless, and mended without guessing."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from session_support import change_session, make_launch, make_session

from coordinator.errors import CrewkeepError, Damaged, FormatTooNew
from coordinator.paths import Home, SessionPaths
from coordinator.sessions.conversation import Conversation, read_conversation, rebuild_conversation, write_conversation
from coordinator.sessions.heartbeat import HeartbeatFile, Progress
from coordinator.sessions.journal import Journal
from coordinator.sessions.model import Phase, SessionRecord
from coordinator.sessions.registry import Damage, Registry
from coordinator.system import failpoints

CONVERSATION = Conversation(agent="codex", id="0199", transcript="/t.jsonl", found_at=3.5)


class Session:
    """A session with every file there is."""

    def __init__(self, home: Home) -> None:
        self.home, self.registry = home, Registry(home)
        record = make_session(home, "auth", phase=Phase.RUNNING, started_at=5.0)
        self.record: SessionRecord = change_session(self.registry, record, reason="busy")
        self.paths: SessionPaths = home.session(record.id)
        write_conversation(self.paths, CONVERSATION, epoch=1)
        file = HeartbeatFile(self.paths.heartbeat)
        file.write(Progress().make_beat(session=record.id, epoch=1, seq=1, boot_id="b"))
        file.close()
        self.beat = HeartbeatFile(self.paths.heartbeat).read()

    def readers(self) -> dict[Path, tuple[Callable[[], Any], Any]]:
        """Each file, how it is read, and what must come out."""
        return {
            self.paths.record: (lambda: self.registry.get(self.record.id), self.record),
            self.paths.launch: (lambda: self.registry.get_launch(self.record.id), make_launch()),
            self.paths.heartbeat: (lambda: HeartbeatFile(self.paths.heartbeat).read(), self.beat),
            self.paths.conversation: (lambda: read_conversation(self.paths), CONVERSATION),
        }


@pytest.fixture
def session(home: Home) -> Session:
    return Session(home)


def cuts(whole: bytes) -> Iterator[bytes]:
    for length in range(len(whole)):
        yield whole[:length]


def flips(whole: bytes) -> Iterator[bytes]:
    for index in range(len(whole)):
        for bit in range(8):
            yield whole[:index] + bytes([whole[index] ^ 1 << bit]) + whole[index + 1 :]


def blanks(whole: bytes) -> Iterator[bytes]:
    yield bytes(len(whole))
    for block in (64, 512):
        for start in range(0, len(whole), block):
            yield whole[:start] + bytes(min(block, len(whole) - start)) + whole[start + block :]


def additions(whole: bytes) -> Iterator[bytes]:
    yield from (whole + b"\0", whole + b"x", whole + b"\n", whole + whole, b"\xef\xbb\xbf" + whole, whole.replace(b"\n", b"\r\n"))


@pytest.mark.parametrize("name", ["record", "launch", "heartbeat", "conversation"])
@pytest.mark.parametrize("damage", [cuts, flips, blanks, additions])
def test_a_damaged_file_is_never_believed(
    session: Session, name: str, damage: Callable[[bytes], Iterator[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    read, right = session.readers()[getattr(session.paths, name)]
    whole = getattr(session.paths, name).read_bytes()
    data, detected = whole, 0
    # Thousands of contents: handed to the reader where it reads the file, instead of written to the disk first.
    monkeypatch.setattr("coordinator.system.files.read_bounded", lambda path, limit_bytes: data)
    assert read() == right
    for data in damage(whole):
        try:
            assert read() == right, f"read wrongly after {damage.__name__}: {data!r}"
        except Damaged:
            detected += 1
    assert detected > 0


@pytest.mark.parametrize("damage", [cuts, flips, blanks])
def test_a_damaged_journal_loses_no_more_than_what_was_damaged_and_says_so(
    session: Session, damage: Callable[[bytes], Iterator[bytes]]
) -> None:
    journal, path = Journal(session.paths), session.paths.journal
    whole = path.read_bytes()
    right = journal.read().entries
    spread = list(damage(whole))
    for data in random.Random(7).sample(spread, min(400, len(spread))):
        if data == whole:
            continue
        path.write_bytes(data)
        content = journal.read()
        assert all(entry in right for entry in content.entries), "nothing is made up"
        lost = len(right) - len(content.entries)
        assert lost <= 2 or damage is not flips
        if lost and damage is not cuts:
            assert content.damage


def test_a_journal_cut_between_two_lines_is_noticed_by_the_record_being_ahead(session: Session) -> None:
    lines = session.paths.journal.read_bytes().splitlines(keepends=True)
    session.paths.journal.write_bytes(b"".join(lines[:2]))
    assert session.registry.find_rollback(session.record.id) is None
    assert session.registry.rebuild_record(session.record.id) == session.record, "a whole record wins over a shorter journal"


@pytest.mark.parametrize("seed", range(6))
def test_any_damaged_record_is_rebuilt_as_it_was(session: Session, seed: int) -> None:
    chance = random.Random(seed)
    path = session.paths.record
    whole = path.read_bytes()
    damaged = chance.choice([whole[: chance.randrange(len(whole))], bytes(len(whole)), b"[]\n", whole + b"rest"])
    path.write_bytes(damaged)
    assert isinstance(session.registry.list_all()[0], Damage)
    rebuilt = session.registry.rebuild_record(session.record.id)
    assert rebuilt is not None
    assert (rebuilt.name, rebuilt.phase, rebuilt.epoch, rebuilt.reason) == ("auth", Phase.RUNNING, 1, "busy")
    assert session.registry.get(session.record.id) == rebuilt
    assert damaged in [file.read_bytes() for file in (session.home.quarantine / session.record.id).iterdir()]


def test_all_files_damaged_at_once_come_back(session: Session) -> None:
    for path in session.readers():
        path.write_bytes(path.read_bytes()[:-3])
    assert session.registry.rebuild_record(session.record.id) is not None
    assert session.registry.rebuild_launch(session.record.id) == make_launch()
    assert rebuild_conversation(session.home, session.record.id) == CONVERSATION
    assert session.registry.get(session.record.id).reason == "busy"


@pytest.mark.parametrize("kind", ["record", "launch", "conversation"])
def test_a_repair_that_is_interrupted_anywhere_is_done_by_the_next(session: Session, kind: str) -> None:
    rebuild = {
        "record": lambda: session.registry.rebuild_record(session.record.id),
        "launch": lambda: session.registry.rebuild_launch(session.record.id),
        "conversation": lambda: rebuild_conversation(session.home, session.record.id),
    }[kind]
    path = getattr(session.paths, kind)
    read, _ = session.readers()[path]
    whole = path.read_bytes()
    for stop_at in range(1, 60):
        path.write_bytes(whole[:-3])
        hits = 0

        def die(_: str) -> None:
            nonlocal hits
            hits += 1
            if hits == stop_at:  # noqa: B023
                raise KeyboardInterrupt

        try:
            with failpoints.observe(die):
                rebuild()
        except KeyboardInterrupt:
            assert rebuild() is not None
            assert read()
        else:
            return
    pytest.fail("the repair has no end")


def test_every_place_where_a_change_can_die_leaves_the_old_record_or_the_new(session: Session) -> None:
    record = session.record
    for stop_at in range(1, 60):
        before = session.registry.get(record.id)
        hits = 0

        def die(_: str) -> None:
            nonlocal hits
            hits += 1
            if hits == stop_at:  # noqa: B023
                raise KeyboardInterrupt

        try:
            with failpoints.observe(die):
                change_session(session.registry, before, reason=f"at {stop_at}")
        except KeyboardInterrupt:
            found = session.registry.get(record.id)
            assert found.reason in (before.reason, f"at {stop_at}")
            assert session.registry.find_rollback(record.id) is None
            assert not Journal(session.paths).read().damage
        else:
            assert session.registry.get(record.id).reason == f"at {stop_at}"
            return
    pytest.fail("a change has no end")


def test_json_that_no_reader_survives_is_damage_and_no_crash(session: Session) -> None:
    for data in (
        b"[" * 100_000 + b"\n",
        b'{"kind":' + b"9" * 5000 + b"}\n",
        b'{"a":NaN}\n',
        b"\xff\xfe{}\n",
        b'"\\ud800"\n',
        b"null\n",
    ):
        for path, (read, _) in session.readers().items():
            whole = path.read_bytes()
            path.write_bytes(data)
            with pytest.raises((Damaged, FormatTooNew)):
                read()
            path.write_bytes(whole)
        whole = session.paths.journal.read_bytes()
        session.paths.journal.write_bytes(whole + data)
        assert Journal(session.paths).read().damage
        session.paths.journal.write_bytes(whole)


@pytest.mark.parametrize(
    "put", [lambda path: path.mkdir(), lambda path: path.symlink_to("/etc/passwd"), lambda path: path.write_bytes(bytes(2 << 20))]
)
def test_what_is_no_file_of_ours_is_set_aside_and_the_record_rebuilt(session: Session, put: Callable[[Path], object]) -> None:
    for path in (session.paths.record, session.paths.launch, session.paths.conversation):
        path.unlink()
        put(path)
    assert session.registry.rebuild_record(session.record.id) is not None
    assert session.registry.rebuild_launch(session.record.id) == make_launch()
    assert rebuild_conversation(session.home, session.record.id) == CONVERSATION
    assert session.registry.get(session.record.id).reason == "busy"


def test_links_directories_and_pipes_in_place_of_files_are_refused(session: Session, tmp_path: Path) -> None:
    import os

    for path, (read, _) in session.readers().items():
        whole = path.read_bytes()
        for put in (lambda: path.symlink_to("/etc/passwd"), path.mkdir, lambda: os.mkfifo(path)):  # noqa: B023
            path.unlink()
            put()
            with pytest.raises(CrewkeepError):
                read()
            path.rename(tmp_path / "aside")
            path.write_bytes(whole)
            (tmp_path / "aside").rmdir() if (tmp_path / "aside").is_dir() else (tmp_path / "aside").unlink()
