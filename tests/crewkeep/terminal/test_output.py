"""The kept output: bounded, in order, across restarts, and never the agent's problem."""

from __future__ import annotations

import dataclasses
import errno
import os
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.paths import Home
from coordinator.sessions.model import Hosting, LaunchSpec, Outcome, Phase, Restart
from coordinator.sessions.registry import Registry
from coordinator.system import failpoints
from crewkeep.terminal.follow import follow_lines, follow_raw
from crewkeep.terminal.output import Chunk, OutputLog


def size_on_disk(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.iterdir())


def test_what_was_kept_is_read_back_from_any_offset(tmp_path: Path) -> None:
    log = OutputLog(tmp_path / "output", 1 << 16)
    assert (log.end_offset, log.tail(10), log.read_from(0)) == (0, b"", b"")
    log.append(b"hello ")
    log.append(b"world")
    reader = OutputLog(tmp_path / "output", 1 << 16)
    assert reader.read_from(0) == b"hello world"
    assert reader.read_from(6) == b"world"
    assert reader.read_from(6, 2) == b"wo"
    assert reader.read_from(11) == b""
    assert reader.tail(3) == b"rld"
    assert (reader.start_offset, reader.end_offset) == (0, 11)


def test_a_restart_goes_on_where_the_last_ended(tmp_path: Path) -> None:
    for word in (b"one ", b"two ", b"three"):
        log = OutputLog(tmp_path, 1 << 16)
        log.append(word)
        log.close()
    assert OutputLog(tmp_path, 1 << 16).read_from(0) == b"one two three"


def test_the_oldest_goes_when_there_is_too_much(tmp_path: Path) -> None:
    log, limit = OutputLog(tmp_path, 8000), 8000
    for number in range(1000):
        log.append(b"%07d\n" % number * 10)
        assert size_on_disk(tmp_path) <= limit + 1000
    assert log.end_offset == 80_000
    assert log.start_offset > 70_000
    assert log.tail(80) == b"0000999\n" * 10
    chunk = log.read_chunk(0)
    assert chunk.start == log.start_offset
    assert chunk.end == 80_000
    assert len(log.tail(1 << 20)) == 80_000 - log.start_offset


def test_many_restarts_leave_no_heap_of_files(tmp_path: Path) -> None:
    for number in range(200):
        log = OutputLog(tmp_path, 80_000)
        log.append(b"%03d" % number)
        log.close()
        assert len(list(tmp_path.iterdir())) < 40
    assert log.read_from(0) == b"".join(b"%03d" % number for number in range(200))


def test_a_late_write_of_a_suspended_keeper_is_not_seen(tmp_path: Path) -> None:
    old = OutputLog(tmp_path, 1 << 16)
    old.append(b"old")
    new = OutputLog(tmp_path, 1 << 16)
    new.append(b"new")
    old.append(b"LATE")
    new.append(b"er")
    assert OutputLog(tmp_path, 1 << 16).read_from(0) == b"oldnewer"


def test_a_full_disk_leaves_a_gap_and_no_error(tmp_path: Path) -> None:
    log = OutputLog(tmp_path, 1 << 16)
    log.append(b"before")

    def fail(name: str) -> None:
        if name == "output.append":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with failpoints.observe(fail):
        for _ in range(20):
            log.append(b"lost")
        assert log.trouble is not None
        assert log.trouble.cause == "ENOSPC"
    log.append(b"after")
    assert log.trouble is None
    assert log.begin() == 6 + 80 + 5
    assert log.read_from(0) == b"before"
    assert log.read_chunk(6) == (86, b"after")
    assert log.tail(100) == b"beforeafter"
    assert len(list(tmp_path.iterdir())) < 6


def test_a_session_that_is_moved_away_is_not_made_again_for_its_output(tmp_path: Path) -> None:
    session, elsewhere = tmp_path / "session", tmp_path / "elsewhere"
    log = OutputLog(session / "output", 1 << 16)
    log.append(b"lost")
    assert log.trouble is not None and log.trouble.cause == "ENOENT"
    assert not session.exists()
    session.mkdir()
    log.append(b"one")
    session.rename(elsewhere)
    log.append(b"two")
    log.close()
    log.append(b"lost")
    assert log.trouble is not None and not session.exists()
    elsewhere.rename(session)
    log.append(b"three")
    assert (log.trouble, log.read_from(0), log.tail(1 << 16)) == (None, b"onetwo", b"onetwothree")


def test_who_began_to_write_goes_on_behind_what_was_kept_though_it_is_away_by_then(tmp_path: Path) -> None:
    session, elsewhere = tmp_path / "session", tmp_path / "elsewhere"
    session.mkdir()
    before = OutputLog(session / "output", 1 << 16)
    before.append(b"before")
    before.close()
    log = OutputLog(session / "output", 1 << 16)
    assert log.begin() == 6
    session.rename(elsewhere)
    log.append(b"lost")
    elsewhere.rename(session)
    log.append(b"after")
    assert (log.read_from(0), log.read_chunk(6)) == (b"before", Chunk(10, b"after"))


def test_strangers_in_the_directory_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "x.raw").write_text("mine")
    log = OutputLog(tmp_path, 1 << 16)
    log.append(b"hello")
    assert log.read_from(0) == b"hello"
    assert (tmp_path / "x.raw").read_text() == "mine"


def test_the_size_is_a_hint(tmp_path: Path) -> None:
    log = OutputLog(tmp_path / "output", 1 << 16)
    assert log.find_size() is None
    log.note_size(24, 80)
    assert log.find_size() == (24, 80)
    (tmp_path / "output" / "size").write_bytes(b"\xff")
    assert log.find_size() is None
    assert log.end_offset == 0


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.binary(min_size=1, max_size=300), st.booleans()), max_size=40),
    st.integers(0, 6000),
    st.integers(1, 999),
)
def test_reading_agrees_with_one_long_string(
    tmp_path_factory: object, pieces: list[tuple[bytes, bool]], at: int, limit: int
) -> None:
    directory = Path(tmp_path_factory.mktemp("output"))  # type: ignore[attr-defined]
    log, whole = OutputLog(directory, 1 << 20), b""
    log._segment_bytes = 500
    for piece, restart in pieces:
        if restart:
            log.close()
            log = OutputLog(directory, 1 << 20)
            log._segment_bytes = 500
        log.append(piece)
        whole += piece
    assert log.read_from(0) == whole
    assert log.read_from(at, limit) == whole[at : at + limit]
    assert log.tail(limit) == whole[-limit:]
    log.close()


def test_following_goes_on_through_rotation_and_recovery_until_the_end(home: Home) -> None:
    registry = Registry(home)
    launch = LaunchSpec(argv=("auth",), cwd="/", environment={})
    record = registry.create(name="auth", workspace="/", hosting=Hosting.KEEPER, launch=launch, restart=Restart.NEVER)
    directory = home.session(record.id).output
    log = OutputLog(directory, 8000)
    log.append(b"0\r\n1\r\n2\r\n")
    scenes = iter(
        [
            lambda: log.append(b"".join(b"%d\r\n" % number for number in range(3, 1000))),
            lambda: None,
            lambda: OutputLog(directory, 8000).append(b"again\r\n10%\r20%"),
            lambda: registry.change(
                record.id, epoch=1, change=lambda known: dataclasses.replace(known, phase=Phase.ENDED, outcome=Outcome.DONE)
            ),
        ]
    )
    lines = list(follow_lines(home, registry, record.id, last=2, wait=lambda _: next(scenes)()))
    assert lines == [*map(str, range(1, 1000)), "again", "20%"]
    raw = b"".join(follow_raw(home, registry, record.id, from_offset=3))
    assert raw.startswith(b"1\r\n2\r\n")
    assert raw.endswith(b"10%\r20%")
    registry.remove(record.id)
    assert list(follow_raw(home, registry, record.id, from_offset=0)) == []
