"""A context of the first format is brought to today's when it is opened: whole, or not at all, and never by guessing.

The first format is written here by hand, from its description; nothing of the code that reads it is used.
"""

from __future__ import annotations

import os
import shutil
import signal
import struct
import subprocess
import sys
import zlib
from hashlib import blake2b
from pathlib import Path

import pytest
from support import make_environment

from coordinator import sealed
from coordinator.context import SharedContext
from coordinator.errors import Damaged, StorageError, Superseded
from coordinator.sessions.model import Writer
from coordinator.system import failpoints, files

ID = bytes(range(16))
ENTRY, FENCE, RULE = 1, 2, 3
#: kind, key, value (``None``: a tombstone), version, session, epoch
RECORDS = [
    (RULE, "n", b"sum", 0, "", 0),
    (ENTRY, "a", b'"first"', 1, "s", 1),
    (ENTRY, "a", b'"second"', 2, "s", 2),
    (ENTRY, "gone", b"1", 1, "", 0),
    (ENTRY, "gone", None, 2, "", 0),
    (FENCE, "", b"", 0, "other", 9),
    (ENTRY, "b", '{"x":"é"}'.encode(), 1, "", 0),
]


def encode_log(*, generation: int = 1) -> bytes:
    header = struct.pack("<8sIIIHHQQ16s", b"CKEEPLOG", 1, 0, 1, 1, 0, generation, 0, ID)
    data = header + struct.pack("<I", zlib.crc32(header))
    own = (0).to_bytes(4, "little") + generation.to_bytes(8, "little")
    seed = zlib.crc32(blake2b(own, key=ID, digest_size=8).digest())
    previous, revision = 0, 0
    for kind, key, value, version, session, epoch in RECORDS:
        revision += kind == ENTRY
        name = "ada" if session and kind == ENTRY else ""
        parts = [part.encode() for part in (key, session, name)] + [value or b""]
        body = struct.pack(
            "<IIBBHHHIQQQd",
            struct.calcsize("<4sIIIBBHHHIQQQd") + sum(map(len, parts)),
            previous,
            kind,
            value is None,
            *map(len, parts),
            revision if kind == ENTRY else 0,
            version,
            epoch,
            1000.5,
        ) + b"".join(parts)
        previous = zlib.crc32(body, zlib.crc32(len(data).to_bytes(8, "little"), seed))
        data += b"\xa7CKr" + struct.pack("<I", previous) + body
    return data


def encode_control(end: int, *, generation: int = 1) -> bytes:
    word = generation << 40 | end
    return (bytes(64) + struct.pack("<QQQ", word, word ^ 0x5A5A_C3C3_A5A5_3C3C, 5)).ljust(4096, b"\0")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A context as the first format left it."""
    directory = tmp_path / "context"
    (directory / "00").mkdir(parents=True, mode=0o700)
    (directory / "00/log").write_bytes(encode_log())
    (directory / "00/control").write_bytes(encode_control(len(encode_log())))
    for name in ("lock", "turn"):
        (directory / "00" / name).touch(0o600)
    sealed.write_sealed(directory / "meta.json", "context", 1, {"id": ID.hex(), "shards": 1, "durability": "durable"})
    return directory


def assert_as_before(directory: Path) -> None:
    with SharedContext.open(directory, writer=Writer(session="other", name="o", epoch=8)) as context:
        assert context.check() == []
        assert {key: entry.value for key, entry in context.snapshot().items()} == {"a": "second", "b": {"x": "é"}}
        assert [(entry.value, entry.author, entry.epoch) for entry in context.history("a")] == [
            ("second", "ada", 2),
            ("first", "ada", 1),
        ]
        assert [entry.deleted for entry in context.history("gone")] == [True, False]
        assert context.rules() == {"n": "sum"}
        assert [change.revision for change in context.watch("", 0, timeout_s=0)] == [1, 2, 3, 4, 5]
        assert context.has_written("s", 2)
        with pytest.raises(Superseded):
            context.put("a", 1, unconditional=True)
        context.adopt(Writer(session="s", name="ada", epoch=1))
        with pytest.raises(Superseded):
            context.put("a", 1, unconditional=True)
        context.adopt(None)
        assert context.put("gone", 2, expected_version=0).version == 3
        assert context.check() == []


def test_everything_is_there_after_the_upgrade(directory: Path) -> None:
    assert_as_before(directory)
    with SharedContext.open(directory) as context:
        assert context.get("gone") is not None


def test_a_torn_last_record_is_left_out(directory: Path) -> None:
    with open(directory / "00/log", "ab") as file:
        file.write(b"\xa7CKr half a record")
    assert_as_before(directory)


@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_damage_is_said_and_the_old_log_stays_until_it_is_repaired(directory: Path, damage: str) -> None:
    whole = encode_log()
    data = whole[:-3] if damage == "cut" else whole[:200] + bytes([whole[200] ^ 4]) + whole[201:]
    (directory / "00/log").write_bytes(data)
    with SharedContext.open(directory) as context:
        with pytest.raises(Damaged):
            context.get("a")
        assert (directory / "00/log").read_bytes() == data
        [finding] = context.check(repair=True)
        assert finding.repaired
        assert context.check() == []
        assert context.get("a") is not None
        assert data in [path.read_bytes() for path in (directory / "set-aside").iterdir()]


def test_without_space_it_stays_as_it_was_and_is_upgraded_later(directory: Path) -> None:
    def refuse(place: str) -> None:
        if place == "files.write":
            raise OSError(28, os.strerror(28), place)

    with SharedContext.open(directory) as context:
        with failpoints.observe(refuse), pytest.raises(StorageError) as caught:
            context.get("a")
        assert caught.value.cause == "ENOSPC"
        assert (directory / "00/log").read_bytes() == encode_log()
    assert_as_before(directory)


def test_killed_at_every_place_of_the_upgrade_nothing_is_lost(directory: Path, tmp_path: Path) -> None:
    places: list[str] = []
    code = "import sys; from coordinator.context import SharedContext; SharedContext.open(sys.argv[1]).get('a')"
    shutil.copytree(directory, tmp_path / "counted")
    with failpoints.observe(places.append):
        SharedContext.open(tmp_path / "counted").get("a")
    assert "compaction.rename" in places
    for place in sorted(set(places)):
        for nth in sorted({1, places.count(place)}):
            image = tmp_path / f"{place}-{nth}"
            shutil.copytree(directory, image)
            environment = make_environment(None, {"CREWKEEP_FAILPOINTS": f"{place}=kill@{nth}"})
            done = subprocess.run([sys.executable, "-c", code, str(image)], env=environment, check=False, timeout=50)
            assert done.returncode == -signal.SIGKILL, place
            assert_as_before(image)


def test_an_older_program_would_refuse_what_is_left(directory: Path) -> None:
    SharedContext.open(directory).get("a")
    data = files.read_bounded(directory / "00/log", 1 << 20)
    assert struct.unpack_from("<8sI", data) == (b"CKEEPLOG", 2), "the first program compares this number with its own"
