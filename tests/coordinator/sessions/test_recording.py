"""A recording gives back what was recorded, in order, and tells what is missing."""

import errno
import math
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from session_support import make_session

from coordinator.config import RECORDED_LIMIT_BYTES
from coordinator.errors import InvalidInput, NotFound, StorageError, Superseded
from coordinator.paths import Home, SessionPaths
from coordinator.sessions.history import Command, Message, Role
from coordinator.sessions.recordable import encode_command, encode_message
from coordinator.sessions.recorded import Entry, Mark, Note, find_title, iter_recording
from coordinator.sessions.recording import Recorder
from coordinator.sessions.registry import Registry
from coordinator.sessions.segments import Gap, encode_record, iter_records, list_segments
from coordinator.system import failpoints
from coordinator.system.processes import identify_self

LIMIT_BYTES = 1 << 20


class Recording:
    """A registered session and how to record for it."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.id = make_session(home, "auth").id
        self.paths: SessionPaths = home.session(self.id)
        self._open: list[Recorder] = []

    def recorder(self, epoch: int = 1, limit_bytes: int = LIMIT_BYTES) -> Recorder:
        recorder = Recorder(self.paths, self.id, epoch, limit_bytes=limit_bytes)
        self._open.append(recorder)
        return recorder

    def read(self) -> list[Entry]:
        return list(iter_recording(self.paths))

    def texts(self) -> list[str]:
        return [entry.text for entry in self.read() if isinstance(entry, Message)]

    def raise_epoch(self) -> None:
        registry = Registry(self.home)
        registry.raise_epoch(self.id, expected=registry.get(self.id).epoch, reason="test", by=identify_self())

    def close(self) -> None:
        for recorder in self._open:
            recorder.close()


@pytest.fixture
def recording(home: Home) -> Any:
    recording = Recording(home)
    yield recording
    recording.close()


ANY_TEXT = st.text(st.characters(codec=None))
SOME_TEXT = st.none() | ANY_TEXT
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
MESSAGES = st.builds(Message, role=st.sampled_from(Role), text=ANY_TEXT, at=NUMBERS, id=SOME_TEXT, raw=SOME_TEXT)
COMMANDS = st.builds(
    Command,
    name=ANY_TEXT,
    text=ANY_TEXT,
    at=NUMBERS,
    id=SOME_TEXT,
    output=SOME_TEXT,
    ok=st.none() | st.booleans(),
    exit_code=st.none() | st.integers(-(1 << 63), (1 << 64) - 1),
    duration_s=st.none() | NUMBERS,
    raw=SOME_TEXT,
)


def record_item(recorder: Recorder, item: Message | Command) -> None:
    fields = {name: getattr(item, name) for name in type(item).__slots__}
    if isinstance(item, Message):
        assert recorder.record_message(**fields)
    else:
        assert recorder.append(encode_command(**fields))


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(items=st.lists(MESSAGES | COMMANDS, max_size=6))
def test_what_is_recorded_comes_back_the_same_whatever_text_it_holds(
    items: list[Message | Command], tmp_path_factory: pytest.TempPathFactory
) -> None:
    recording = Recording(Home.at(tmp_path_factory.mktemp("home") / "home"))
    recorder = recording.recorder()
    for item in items:
        record_item(recorder, item)
    recording.close()
    assert recording.read() == items


@pytest.mark.parametrize(
    "text", ["", "\0", "\ud800", "\udc80\udcff", "\ud83d" + "\ude00", "😀", "e\u0301", "\n\x1e", "\u2028", "\x1e" * 40]
)
def test_odd_text_comes_back_by_the_quick_path(recording: Recording, text: str) -> None:
    recorder = recording.recorder()
    recorder.record_message("user", text)
    recorder.record_message(Role.ASSISTANT, "after it")
    assert recording.texts() == [text, "after it"]


def test_a_message_gets_the_time_of_its_recording(recording: Recording) -> None:
    recorder = recording.recorder()
    recorder.record_message("user", "now")
    recorder.record_message("user", "then", at=5.25)
    now, then = recording.read()
    assert now.at is not None and math.isclose(
        now.at, os.stat(list_segments(recording.paths.recording)[0].path).st_mtime, abs_tol=5
    )
    assert then.at == 5.25


@pytest.mark.parametrize(
    "give",
    [
        lambda recorder: recorder.record_message("tool", "x"),
        lambda recorder: recorder.record_message(["user"], "x"),
        lambda recorder: recorder.record_message("user", b"x"),
        lambda recorder: recorder.record_message("user", "x", at=10**400),
        lambda recorder: recorder.append(encode_command("shell", "x", exit_code=1 << 70)),
        lambda recorder: recorder.record_message("user", "x", at=math.nan),
        lambda recorder: recorder.record_message("user", "x", id=7),
        lambda recorder: recorder.append(encode_command("shell", "x", exit_code="0")),
        lambda recorder: recorder.append(encode_command("shell", "x", ok=1)),
        lambda recorder: recorder.append(encode_command(3, "x")),
        lambda recorder: recorder.record_message("user", "x" * (RECORDED_LIMIT_BYTES + 1)),
    ],
)
def test_what_cannot_be_read_back_is_refused(recording: Recording, give: Any) -> None:
    recorder = recording.recorder()
    with pytest.raises(InvalidInput):
        give(recorder)
    assert recorder.record_message("user", "next")
    assert recording.texts() == ["next"]


def test_nothing_is_recorded_in_a_pause_and_the_pause_is_seen(recording: Recording) -> None:
    recorder = recording.recorder()
    recorder.record_message("user", "before")
    assert recorder.pause() and not recorder.pause()
    assert recorder.record_message("user", "secret") is False
    assert recorder.append(encode_message("user", "secret")) is False
    assert recorder.resume() and not recorder.resume()
    recorder.record_message("user", "after")
    before, paused, resumed, after = recording.read()
    assert isinstance(before, Message) and isinstance(after, Message)
    assert isinstance(paused, Mark) and paused.what is Note.PAUSED and paused.at is not None
    assert isinstance(resumed, Mark) and resumed.what is Note.RESUMED
    assert not any(b"secret" in one.path.read_bytes() for one in list_segments(recording.paths.recording))


def test_threads_share_a_recorder_and_lose_nothing(recording: Recording) -> None:
    recorder = recording.recorder()

    def record(name: int) -> None:
        for number in range(300):
            recorder.record_message("user", f"{name}/{number}")

    threads = [threading.Thread(target=record, args=(name,)) for name in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    texts = recording.texts()
    assert len(texts) == 1800
    for name in range(6):
        assert [text for text in texts if text.startswith(f"{name}/")] == [f"{name}/{number}" for number in range(300)]


def test_two_writers_have_a_file_each_and_are_merged_by_time(recording: Recording) -> None:
    one, other = recording.recorder(), recording.recorder()
    one.record_message("user", "a", at=1.0)
    other.record_message("user", "b", at=2.0)
    one.record_message("user", "c", at=3.0)
    assert len(list_segments(recording.paths.recording)) == 2
    assert recording.texts() == ["a", "b", "c"]


def test_one_writer_keeps_its_order_though_the_clock_went_back(recording: Recording) -> None:
    recorder = recording.recorder()
    for text, at in (("first", 9.0), ("second", 3.0), ("third", 10.0)):
        recorder.record_message("user", text, at=at)
    assert recording.texts() == ["first", "second", "third"]


def test_a_file_whose_writer_left_is_gone_on_with(recording: Recording) -> None:
    for number in range(20):
        recorder = recording.recorder()
        recorder.record_message("user", str(number))
        recorder.close()
    assert len(list_segments(recording.paths.recording)) == 1
    assert recording.texts() == [str(number) for number in range(20)]


def test_beyond_the_limit_the_oldest_goes_and_the_reader_says_so(recording: Recording) -> None:
    recorder = recording.recorder(limit_bytes=1 << 16)
    for number in range(3000):
        recorder.record_message("user", f"{number:06d}" + "x" * 100)
    kept_bytes = sum(one.path.stat().st_size for one in list_segments(recording.paths.recording))
    assert kept_bytes <= 1 << 16
    mark, *rest = recording.read()
    assert isinstance(mark, Mark) and mark.what is Note.DROPPED and (mark.size_bytes or 0) > 200_000
    numbers = [int(entry.text[:6]) for entry in rest if isinstance(entry, Message)]
    assert numbers == list(range(numbers[0], 3000)) and 0 < numbers[0] < 2900


def test_a_file_that_is_written_to_is_never_dropped(recording: Recording) -> None:
    quiet, busy = recording.recorder(limit_bytes=1 << 16), recording.recorder(limit_bytes=1 << 16)
    quiet.record_message("user", "quiet 1", at=1.0)
    for _ in range(1500):
        busy.record_message("user", "x" * 100)
    quiet.record_message("user", "quiet 2", at=2.0)
    assert [text for text in recording.texts() if text.startswith("quiet")] == ["quiet 1", "quiet 2"]


def test_a_superseded_incarnation_records_nothing_more(recording: Recording, monkeypatch: pytest.MonkeyPatch) -> None:
    old = recording.recorder()
    assert old.record_message("user", "in time")
    recording.raise_epoch()
    monkeypatch.setattr(old, "_look_at_s", 0.0)  # the look is due: 10 ms have gone by
    for _ in range(2):
        with pytest.raises(Superseded):
            old.record_message("user", "too late")
    assert recording.texts() == ["in time"]


def test_nothing_counts_that_an_older_incarnation_writes_after_its_successor_recorded(
    recording: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = recording.recorder()
    assert old.record_message("user", "acknowledged")
    recording.raise_epoch()
    new = recording.recorder(2)
    assert new.record_message("user", "the successor's")
    monkeypatch.setattr(old, "_look_at_s", math.inf)  # a program that was stopped between its look and its write
    assert old.record_message("user", "stray")
    other = recording.recorder(2)
    other.record_message("user", "another of its processes")
    assert recording.texts() == ["acknowledged", "the successor's", "another of its processes"]


def test_a_seal_outlives_the_file_in_which_it_was_first_noted(recording: Recording, monkeypatch: pytest.MonkeyPatch) -> None:
    old = recording.recorder(limit_bytes=1 << 16)
    old.record_message("user", "acknowledged", at=1.0)
    recording.raise_epoch()
    new = recording.recorder(2, limit_bytes=1 << 16)
    new.record_message("user", "first", at=2.0)
    monkeypatch.setattr(old, "_look_at_s", math.inf)
    old.record_message("user", "stray", at=3.0)
    for _ in range(2000):
        new.record_message("user", "x" * 100)
    texts = recording.texts()
    assert "first" not in texts and "stray" not in texts and "acknowledged" in texts


def test_a_successor_waits_until_its_predecessor_has_looked(recording: Recording, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    recording.recorder().record_message("user", "x")
    recording.raise_epoch()
    new = recording.recorder(2)
    monkeypatch.setattr("coordinator.sessions.recording.time.sleep", waited.append)
    new.record_message("user", "y")
    assert len(waited) == 1 and 0 <= waited[0] <= 0.02


def test_a_removed_session_is_named(recording: Recording) -> None:
    import shutil

    recorder = recording.recorder()
    recorder.record_message("user", "x")
    shutil.rmtree(recording.paths.path)
    recorder._look_at_s = 0.0
    for _ in range(3):
        with pytest.raises(NotFound):
            recorder.record_message("user", "y")
    assert not recording.paths.path.exists()


@pytest.mark.parametrize("name", ["recording.open", "recording.create", "recording.write"])
def test_a_full_disk_is_one_named_error_and_writing_goes_on_when_there_is_room(recording: Recording, name: str) -> None:
    recorder = recording.recorder()

    def fail(hit: str) -> None:
        if hit == name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with failpoints.observe(fail):
        for _ in range(2):
            with pytest.raises(StorageError) as caught:
                recorder.record_message("user", "lost")
            assert caught.value.cause == "ENOSPC"
    assert recorder.record_message("user", "kept")
    assert recording.texts() == ["kept"]


def test_an_error_of_the_disk_while_syncing_is_told_once_and_another_file_begun(recording: Recording) -> None:
    recorder = recording.recorder()
    recorder.record_message("user", "before")

    def fail(hit: str) -> None:
        if hit == "files.fsync":
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    with failpoints.observe(fail), pytest.raises(StorageError):
        recorder.sync()
    recorder.sync()
    recorder.record_message("user", "after")
    recorder.sync()
    assert recording.texts() == ["before", "after"]


def test_a_sync_covers_every_file_that_was_filled(recording: Recording) -> None:
    recorder = recording.recorder(limit_bytes=1 << 16)
    synced: list[str] = []
    for _ in range(300):
        recorder.record_message("user", "x" * 100)
    with failpoints.observe(synced.append):
        recorder.sync()
        assert synced.count("files.fsync") >= 4
        assert synced.count("files.sync_directory") == 2
        synced.clear()
        recorder.sync()
        assert synced == []


def test_a_fork_records_in_a_file_of_its_own(recording: Recording) -> None:
    recorder = recording.recorder()
    recorder.record_message("user", "parent 1", at=1.0)
    if (pid := os.fork()) == 0:
        os._exit(0 if recorder.record_message("user", "child", at=2.0) else 1)
    assert os.waitpid(pid, 0)[1] == 0
    recorder.record_message("user", "parent 2", at=3.0)
    assert recording.texts() == ["parent 1", "child", "parent 2"]


def test_every_cut_and_every_flipped_bit_spoils_one_record_only(recording: Recording, tmp_path: Path) -> None:
    whole = b"".join(encode_record({"kind": "message", "role": "user", "text": f"number {n}\x1e", "at": 1.0}) for n in range(4))
    texts = [f"number {n}\x1e" for n in range(4)]
    for end in range(len(whole)):
        found = [body["text"] for body in iter_records(whole[:end]) if not isinstance(body, Gap)]
        assert found == texts[: len(found)] and len(found) == end * 4 // len(whole)
    for index in range(len(whole)):
        for bit in (0, 3, 7):
            harmed = whole[:index] + bytes([whole[index] ^ 1 << bit]) + whole[index + 1 :]
            records = list(iter_records(harmed))
            found = [body["text"] for body in records if not isinstance(body, Gap)]
            assert len(found) == 3 and set(found) < set(texts)
            assert sum(isinstance(body, Gap) for body in records) == 1


def test_damage_is_told_with_its_place(recording: Recording) -> None:
    recorder = recording.recorder()
    for text in ("one", "two", "three"):
        recorder.record_message("user", text)
    path = list_segments(recording.paths.recording)[0].path
    data = path.read_bytes()
    path.write_bytes(data.replace(b"two", b"t\0o") + b"\n\x1etorn")
    one, damaged, three, torn = recording.read()
    assert isinstance(one, Message) and isinstance(three, Message)
    assert isinstance(damaged, Mark) and damaged.what is Note.DAMAGED and "wrong-digest" in (damaged.detail or "")
    assert isinstance(torn, Mark) and "truncated" in (torn.detail or "")


def test_a_file_that_was_emptied_is_told_and_not_taken_for_one_without_records(recording: Recording) -> None:
    recording.recorder().record_message("user", "lost")
    recording.raise_epoch()
    recording.recorder(2).record_message("user", "sealed")
    for one in list_segments(recording.paths.recording):
        size = one.path.stat().st_size
        os.truncate(one.path, 0)
        [mark] = [entry for entry in recording.read() if isinstance(entry, Mark)]
        assert mark.what is Note.DAMAGED and one.name in (mark.detail or "") and mark.size_bytes in (None, size)
        one.path.unlink()
    assert recording.read() == []


def test_what_a_newer_program_added_is_passed_over(recording: Recording) -> None:
    recorder = recording.recorder()
    recorder.append(encode_record({"kind": "picture", "at": 1.0}))
    recorder.append(encode_record({"kind": "message", "role": "user", "text": "x", "at": 1.0, "mood": "good"}))
    assert recording.texts() == ["x"] and len(recording.read()) == 1


def test_a_record_of_the_wrong_shape_is_told(recording: Recording) -> None:
    recorder = recording.recorder()
    for body in (
        {"kind": "message", "role": "king", "text": "x"},
        {"kind": "command", "name": "x"},
        {"kind": "message", "text": 3},
        {"kind": "message", "role": "user", "text": None},
        {"kind": "command", "name": "x", "text": "y", "output": {"lines": []}},
        {"kind": "command", "name": "x", "text": "y", "id": 3},
        {"kind": "command", "name": "x", "text": "y", "exit_code": 1.5},
    ):
        recorder.append(encode_record(body))
    assert [type(entry) for entry in recording.read()] == [Mark] * 7


def test_the_title_is_what_the_user_said_first(recording: Recording) -> None:
    assert find_title(recording.paths) is None
    recorder = recording.recorder()
    recorder.record_message("system", "be brief")
    recorder.record_message("user", "mend the login")
    assert find_title(recording.paths) == "mend the login"
