"""The heartbeat: one whole beat or an answer why not, and never an older epoch over a newer one."""

import dataclasses
import struct
import threading
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.errors import Damaged, FormatTooNew, Superseded
from coordinator.sessions.heartbeat import BEAT_SIZE_BYTES, HeartbeatFile, Progress, decode_beat, encode_beat
from coordinator.sessions.model import Beat
from coordinator.system.clock import ManualClock

BEAT = Progress(ManualClock()).make_beat(session="0000000000aa", epoch=3, seq=1, boot_id="a" * 36)
_counts = st.integers(0, 2**63)
_times = st.floats(allow_nan=False)


@given(
    st.builds(
        Beat,
        session=st.just("0000000000aa"),
        epoch=_counts,
        seq=_counts,
        boot_id=st.sampled_from(["", "b", "c" * 36]),
        monotonic_s=_times,
        boottime_s=_times,
        wall_s=_times,
        progress_count=_counts,
        progress_monotonic_s=_times,
        progress_wall_s=_times,
        at_prompt=st.booleans(),
        needs_user=st.booleans(),
        fruitful=st.booleans(),
        output_bytes=_counts,
    )
)
def test_a_beat_comes_back_as_it_was(beat: Beat) -> None:
    assert decode_beat(encode_beat(beat), Path("heartbeat")) == beat


def test_no_beat_yet_is_none(tmp_path: Path) -> None:
    assert HeartbeatFile(tmp_path / "heartbeat").read() is None


def test_an_older_epoch_does_not_beat_over_a_newer_one(tmp_path: Path) -> None:
    old, new = HeartbeatFile(tmp_path / "heartbeat"), HeartbeatFile(tmp_path / "heartbeat")
    old.write(BEAT)
    new.write(dataclasses.replace(BEAT, epoch=4))
    with pytest.raises(Superseded):
        old.write(dataclasses.replace(BEAT, seq=2))
    found = new.read()
    assert found is not None
    assert found.epoch == 4
    old.close()
    new.close()


def test_a_damaged_beat_is_set_aside_by_the_next(tmp_path: Path) -> None:
    path = tmp_path / "heartbeat"
    path.write_bytes(b"rubbish")
    file = HeartbeatFile(path)
    with pytest.raises(Damaged):
        file.read()
    file.write(BEAT)
    assert file.read() == BEAT
    assert (tmp_path / "heartbeat.damaged-1").read_bytes() == b"rubbish"
    file.close()


def test_a_writer_follows_when_its_file_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "heartbeat"
    file = HeartbeatFile(path)
    file.write(BEAT)
    path.rename(tmp_path / "aside")
    for seq in range(2, 8):
        file.write(dataclasses.replace(BEAT, seq=seq))
    found = file.read()
    assert found is not None
    assert found.seq == 7
    file.close()


def test_a_symbolic_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"precious")
    (tmp_path / "heartbeat").symlink_to(tmp_path / "target")
    with pytest.raises(OSError):
        HeartbeatFile(tmp_path / "heartbeat").write(BEAT)
    assert (tmp_path / "target").read_bytes() == b"precious"


def test_a_newer_format_is_told_apart_from_damage() -> None:
    data = bytearray(encode_beat(BEAT))
    struct.pack_into("<H", data, 4, 2)
    struct.pack_into("<I", data, BEAT_SIZE_BYTES - 4, zlib.crc32(bytes(data[:-4])))
    with pytest.raises(FormatTooNew):
        decode_beat(bytes(data), Path("heartbeat"))


def test_readers_never_see_half_a_beat(tmp_path: Path) -> None:
    writer, reader = HeartbeatFile(tmp_path / "heartbeat"), HeartbeatFile(tmp_path / "heartbeat")
    writer.write(BEAT)
    done = threading.Event()

    def write() -> None:
        for seq in range(2, 3000):
            writer.write(dataclasses.replace(BEAT, seq=seq, output_bytes=seq))
        done.set()

    thread = threading.Thread(target=write)
    thread.start()
    seen = 0
    while not done.is_set():
        beat = reader.read()
        assert beat is not None
        assert beat.seq >= seen
        assert beat.output_bytes == (beat.seq if beat.seq > 1 else 0)
        seen = beat.seq
    thread.join()
    writer.close()


def test_progress_counts_what_was_seen_and_when() -> None:
    clock = ManualClock()
    progress = Progress(clock)
    clock.advance(7)
    progress.note_output(100)
    progress.note(2, fruitful=True)
    clock.advance(7)
    beat = progress.make_beat(session="s", epoch=1, seq=1, boot_id="b")
    assert (beat.progress_count, beat.output_bytes, beat.fruitful) == (3, 100, True)
    assert beat.monotonic_s - beat.progress_monotonic_s == 7
    progress.begin_incarnation()
    assert not progress.make_beat(session="s", epoch=2, seq=2, boot_id="b").fruitful


def test_a_commit_of_its_own_is_progress_once() -> None:
    progress = Progress(ManualClock())
    for revision in (1, 2, 2, 1, 3):
        progress.note_commit(0, revision)
    assert progress.count == 3
