"""The shared context under faults: killed at every failpoint, every call failing once, cut, flipped, rebooted.

After each of them: what was acknowledged is there, what was not is there wholly or not at all, and ``check`` is clean -
or the damage is said, and repaired on request without deleting anything.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import make_environment

from coordinator.context import SharedContext, compaction, log
from coordinator.context.base import ContextBase
from coordinator.context.codec import ENTRY, Placed, Record
from coordinator.context.control import PAGE_BYTES, ControlPage, State
from coordinator.context.flush import Doubt, GroupFlush
from coordinator.context.generation import Generation
from coordinator.context.keys import find_shard
from coordinator.context.log import Scan
from coordinator.context.open_shard import CONTROL_NAME
from coordinator.context.shard import Shard
from coordinator.context.table import INDEX_NAME
from coordinator.errors import CrewkeepError, Damaged, FormatTooNew, InvalidInput, RevisionCompacted, StorageError, Superseded
from coordinator.sessions.model import Writer
from coordinator.system import failpoints, files

#: What the script below does to a context, with compaction after every few commits. Prints what was acknowledged.
SCRIPT = """
import json, os, sys
from coordinator.context import SharedContext, compaction
from coordinator.sessions.model import Writer

compaction.COMPACT_ABOVE_BYTES, compaction.RECENT_LIMIT_BYTES, compaction.RECENT_COUNT = 4000, 333, 5

def say(*what):
    os.write(1, (json.dumps(what) + "\\n").encode())

context = SharedContext.open(sys.argv[1], shards=2, writer=Writer(session="s", name="s", epoch=1))
context.set_rule("n", "sum")
for number in range(130):
    context.update("n", delta=1)
    say("n", number + 1)
    if number % 30 == 0:
        context.put(f"k{number}", "x" * 300, expected_version=0)
        say(f"k{number}", "x" * 300)
context.delete("k0", expected_version=1)
say("k0", None)
context.fence("other", 5)
say("fence", 5)
"""


def run_script(directory: Path, armed: str) -> tuple[int, dict[str, object]]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(directory)],
        capture_output=True,
        env=make_environment(None, {"CREWKEEP_FAILPOINTS": armed}),
        check=False,
        timeout=50,
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr.decode()
    return done.returncode, dict(json.loads(line) for line in done.stdout.splitlines())


def assert_acknowledged(context: ContextBase, acknowledged: dict[str, object]) -> None:
    total = acknowledged.get("n", 0)
    assert isinstance(total, int)
    for key, value in acknowledged.items():
        if key in ("n", "fence"):
            continue
        entry = context.get(key)
        assert (entry.value if entry else None) in (value, *([None] if key == "k0" else [])), key
    entry = context.get("n")
    found = entry.value if entry else 0
    assert found in (total, total + 1), "the one that was not acknowledged may be there, no more"
    assert [entry.value for entry in context.history("n")] == list(range(found, max(0, found - 50), -1))


def read_log(directory: Path) -> bytes:
    """Return the log of the first shard without the zeros that are written ahead."""
    return (directory / "00/log").read_bytes().rstrip(b"\0")


def count_places(tmp_path_factory: pytest.TempPathFactory) -> Counter[str]:
    """Run the script in this process and count the hits of every failpoint."""
    counts: Counter[str] = Counter()
    before = compaction.COMPACT_ABOVE_BYTES, compaction.RECENT_LIMIT_BYTES, compaction.RECENT_COUNT
    argv, write = sys.argv, os.write
    try:
        sys.argv = ["script", str(tmp_path_factory.mktemp("places") / "context")]
        os.write = lambda fd, data: len(data) if fd == 1 else write(fd, data)
        with failpoints.observe(lambda name: counts.update([name])):
            exec(compile(SCRIPT, "script", "exec"), {})
    finally:
        sys.argv, os.write = argv, write
        compaction.COMPACT_ABOVE_BYTES, compaction.RECENT_LIMIT_BYTES, compaction.RECENT_COUNT = before
    return counts


#: Places between two calls, where a process can die and nothing can fail.
BETWEEN = {"shard.index", "shard.settle", "shard.publish", "shard.recover", "shard.finish", "table.split", "compaction.renamed"}
#: Every place that a context passes on its way; a test below sees to it that none is missing.
PLACES = [
    "files.mkdir",
    "files.sync_directory",
    "files.fsync",
    "files.write",
    "files.open",
    "files.rename",
    "files.read",
    "locks.open",
    "locks.flock",
    "control.open",
    "control.write",
    "table.make",
    "table.open",
    "table.read",
    "table.write",
    "shard.open",
    "shard.read",
    "shard.ahead",
    "shard.append",
    "shard.write",
    "shard.index",
    "shard.settle",
    "shard.flush",
    "shard.publish",
    "compaction.open",
    "compaction.flush",
    "compaction.rename",
    "compaction.renamed",
]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Counter[str]:
    return count_places(tmp_path_factory)


def test_every_place_is_known(places: Counter[str]) -> None:
    assert set(places) == set(PLACES)


@pytest.mark.parametrize("place", PLACES)
def test_killed_at_every_place_nothing_acknowledged_is_lost(tmp_path: Path, places: Counter[str], place: str) -> None:
    hits = places[place]
    for nth in sorted({1, 2, hits // 2, hits} & set(range(1, hits + 1))):
        directory = tmp_path / str(nth)
        code, acknowledged = run_script(directory, f"{place}=kill@{nth}")
        assert code == -signal.SIGKILL, f"{place} was not hit {nth} times"
        with SharedContext.open(directory, shards=2) as context:
            assert context.check() == []
            assert_acknowledged(context, acknowledged)
            for key in ("n", "new", "k0"):
                assert context.put(key, "after", unconditional=True).value == "after"
            assert context.check() == []


# every call fails once


def try_everything(context: ContextBase, acknowledged: dict[str, object]) -> None:
    for number in range(4):
        context.put("a", number, unconditional=True)
        acknowledged["a"] = number
    context.put("b", "x" * 5000, unconditional=True)
    acknowledged["b"] = "x" * 5000
    context.fence("other", 3)
    context.delete("b", unconditional=True)
    acknowledged["b"] = None
    context.snapshot()
    list(context.watch("", 0, timeout_s=0))


@pytest.mark.parametrize("error_name", ["ENOSPC", "EIO", "EROFS", "EMFILE", "EINTR"])
def test_whatever_call_fails_the_error_is_ours_and_nothing_acknowledged_is_lost(tmp_path: Path, error_name: str) -> None:
    number = getattr(errno, error_name)
    causes: set[str] = set()
    for nth in range(1, 1000):
        hits, failed_at = 0, ""

        def fail(name: str) -> None:
            nonlocal hits, failed_at
            if name in BETWEEN:
                return
            hits += 1
            if hits == nth:  # noqa: B023
                failed_at = name
                raise OSError(number, os.strerror(number), name)

        directory = tmp_path / str(nth)
        acknowledged: dict[str, object] = {}
        context = None
        try:
            with failpoints.observe(fail):
                context = SharedContext.open(directory, shards=1)
                try_everything(context, acknowledged)
        except StorageError as error:
            causes.add(error.cause)
        if context is not None:
            if error_name == "ENOSPC" or failed_at not in ("files.fsync", "shard.flush"):
                context.put("resumed", 1, unconditional=True)  # the same handle goes on once the fault is gone
            context.close()
        with SharedContext.open(directory, shards=1) as again:
            assert again.check() == [], failed_at
            assert_whole_or_absent(again, acknowledged, failed_at)
            again.put("after", 1, unconditional=True)
            assert again.check() == []
        if not failed_at:
            assert nth > 40
            assert causes == {error_name}
            return
        shutil.rmtree(directory)
    pytest.fail("the script never ended without a fault")


def assert_whole_or_absent(context: ContextBase, acknowledged: dict[str, object], failed_at: str) -> None:
    entry = context.get("a")
    found = entry.value if entry else -1
    said = acknowledged.get("a", -1)
    assert isinstance(said, int)
    assert found in (said, said + 1), failed_at
    entry = context.get("b")
    assert (entry.value if entry else None) in ((None, "x" * 5000) if "b" not in acknowledged else (acknowledged["b"], None))


def test_a_failed_flush_is_fatal_for_the_handle_and_never_tried_again(tmp_path: Path) -> None:
    context = SharedContext.open(tmp_path / "context", shards=1)
    context.put("a", 1, unconditional=True)
    flushes = 0

    def fail(name: str) -> None:
        nonlocal flushes
        if name == "files.fsync":
            flushes += 1
            raise OSError(errno.EIO, "EIO")

    with failpoints.observe(fail):
        for _ in range(3):
            with pytest.raises(StorageError):
                context.put("a", 2, unconditional=True)
    assert flushes == 1
    with pytest.raises(StorageError):
        context.put("a", 2, unconditional=True)
    entry = context.get("a")
    assert entry is not None
    assert entry.value == 1, "reading goes on"
    with SharedContext.open(tmp_path / "context") as again:
        assert again.put("a", 3, expected_version=1).version == 2
    entry = context.get("a")
    assert entry is not None
    assert entry.value == 3
    context.close()


@pytest.mark.parametrize("is_void", [False, True])
def test_what_could_not_be_flushed_is_given_up_even_if_the_page_is_made_void(tmp_path: Path, is_void: bool) -> None:
    directory = tmp_path / "context"

    def fail(name: str) -> None:
        if name == "files.fsync":
            raise OSError(errno.EIO, "EIO")

    with SharedContext.open(directory, shards=1) as context:
        context.put("a", 1, unconditional=True)
        with failpoints.observe(fail), pytest.raises(StorageError):
            context.put("a", 2, unconditional=True)
        if is_void:
            ControlPage(directory / "00/control").void()
    with SharedContext.open(directory) as context:
        assert context.put("a", 3, expected_version=1).version == 2
        assert [entry.value for entry in context.history("a")] == [3, 1]
        assert context.check() == []


def test_a_full_disk_leaves_everything_readable_and_writing_resumes(tmp_path: Path) -> None:
    with SharedContext.open(tmp_path / "context", shards=1) as context:
        context.put("a", 1, unconditional=True)
        write = os.pwrite

        def fill_up(fd: int, data: bytes, offset: int) -> int:
            if len(data) > 100:
                write(fd, data[:37], offset)  # a part of the record gets through
                raise OSError(errno.ENOSPC, "ENOSPC")
            return write(fd, data, offset)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "pwrite", fill_up)
            for _ in range(3):
                with pytest.raises(StorageError) as caught:
                    context.put("a", "x" * 1000, unconditional=True)
                assert caught.value.cause == "ENOSPC"
                assert [entry.value for entry in context.history("a")] == [1]
        assert context.put("a", 2, expected_version=1).version == 2
        assert context.check() == []


@contextlib.contextmanager
def read_only_disk() -> Iterator[None]:
    """Every opening for writing and every change of a name meets EROFS."""

    def refuse(place: str) -> None:
        if place in ("control.open", "shard.open", "locks.open", "files.open", "files.mkdir"):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), place)

    with failpoints.observe(refuse):
        yield


@pytest.mark.parametrize("rebooted", [False, True])
def test_on_a_read_only_disk_everything_is_readable_and_writing_resumes(tmp_path: Path, rebooted: bool) -> None:
    directory = tmp_path / "context"
    with SharedContext.open(directory) as context:
        for number in range(20):
            context.put(f"k{number % 9}", number, unconditional=True)
        whole = context.snapshot()
    if rebooted:
        for page in directory.glob("*/control"):
            page.write_bytes(bytes(64) + page.read_bytes()[64:])
    with contextlib.ExitStack() as stack:
        with read_only_disk():
            context = stack.enter_context(SharedContext.open(directory))
            assert context.snapshot() == whole
            assert len(context.history("k0")) == 3
            assert len(list(context.watch("", 0, timeout_s=0))) == 20
            assert context.check() == []
            with pytest.raises(StorageError) as caught:
                context.put("k0", "new", unconditional=True)
            assert caught.value.cause == "EROFS"
            assert context.snapshot() == whole
        assert context.put("k0", "new", unconditional=True).version == 4
        assert context.check() == []
        with SharedContext.open(directory) as other:
            assert other.get("k0") == context.get("k0")


def test_a_context_once_made_needs_no_new_file_to_be_read(tmp_path: Path) -> None:
    directory = tmp_path / "context"
    with SharedContext.open(directory) as context:
        context.put("a", 1, unconditional=True)
    before = {path for path in directory.rglob("*") if "set-aside" not in path.parts}
    with SharedContext.open(directory) as context:
        assert list(context.snapshot()) == ["a"]
        assert context.check() == []
    assert {path for path in directory.rglob("*") if "set-aside" not in path.parts} == before


def test_a_compaction_without_space_fails_nobodys_write(tmp_path: Path, small_compaction: None) -> None:
    def fail(name: str) -> None:
        if name.startswith("compaction."):
            raise OSError(errno.ENOSPC, "ENOSPC")

    with SharedContext.open(tmp_path / "context", shards=1) as context:
        with failpoints.observe(fail):
            for number in range(200):
                context.put("a", number, unconditional=True)
        assert len(read_log(tmp_path / "context")) > 10_000
        for number in range(100):
            context.put("a", number, unconditional=True)
        assert len(read_log(tmp_path / "context")) < 15_000
        assert context.check() == []


# compaction


@pytest.fixture
def small_compaction(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "COMPACT_ABOVE_BYTES", 4000)
    monkeypatch.setattr(compaction, "RECENT_LIMIT_BYTES", 333)
    monkeypatch.setattr(compaction, "RECENT_COUNT", 5)


def test_what_is_written_meanwhile_does_not_make_compaction_look_longer(
    tmp_path: Path, small_compaction: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0
    read = Generation.read

    def count(generation: Generation, offset: int) -> Placed:
        nonlocal looks
        looks += 1
        return read(generation, offset)

    with SharedContext.open(tmp_path / "context", shards=1) as context, SharedContext.open(tmp_path / "context") as other:
        with monkeypatch.context() as patch:
            patch.setattr(compaction, "COMPACT_ABOVE_BYTES", 1 << 30)
            for number in range(300):
                context.put("a", number, unconditional=True)
            state = context._shards[0].look()[1]
            for number in range(300, 2300):
                other.put("a", number, unconditional=True)
        with monkeypatch.context() as patch:
            # As if all these had been written since the compaction began.
            patch.setattr(context._shards[0], "look", lambda: (context._shards[0].generation, state))
            patch.setattr(Generation, "read", count)
            compaction.compact(context._shards[0])
        assert looks < 100
        assert context.revisions() == other.revisions() == {0: 2300}
        assert [entry.value for entry in context.history("a")] == list(range(2299, 2249, -1))
        assert context._shards[0].look()[1].generation == 2
        assert context.check() == []


def test_after_a_compaction_nobody_makes_the_index_anew(tmp_path: Path, small_compaction: None) -> None:
    with contextlib.ExitStack() as stack:
        handles = [stack.enter_context(SharedContext.open(tmp_path / "context", shards=1)) for _ in range(3)]
        for number in range(600):
            handles[0].put("a", number, unconditional=True)
            if number % 50 == 0:
                for handle in handles:
                    handle.put("b", number, unconditional=True)
        for handle in handles:
            handle.put("b", 0, unconditional=True)
        state = handles[0]._shards[0].look()[1]
        assert state.generation > 1
        assert state.cuts == 0


def test_compaction_does_not_follow_compaction(tmp_path: Path, small_compaction: None) -> None:
    with SharedContext.open(tmp_path / "context", shards=1) as context:
        inodes = set()
        for number in range(300):
            context.put("a", number, unconditional=True)
            inodes.add((tmp_path / "context/00/log").stat().st_ino)
    assert 2 <= len(inodes) <= 300 // 20, "what history keeps, of a key with many versions as well, is not dead"


def test_compaction_keeps_history_epochs_rules_and_tombstones(tmp_path: Path, small_compaction: None) -> None:
    with SharedContext.open(tmp_path / "context", shards=1) as context, SharedContext.open(tmp_path / "context") as other:
        context.set_rule("n", "sum")
        context.fence("s", 7)
        context.put("gone", 1, unconditional=True)
        context.delete("gone", unconditional=True)
        for number in range(300):
            context.put("a", number, unconditional=True)
        assert len(read_log(tmp_path / "context")) < 20_000
        for handle in (context, other):
            assert [entry.value for entry in handle.history("a")] == list(range(299, 249, -1))
            assert handle.rules() == {"n": "sum"}
        other.adopt(Writer(session="s", name="s", epoch=6))
        with pytest.raises(Superseded):
            other.put("a", 1, unconditional=True)
        other.adopt(None)
        assert other.put("gone", 2, expected_version=0).version == 3, "no version comes back"
        assert other.check() == []


def test_a_watcher_over_compactions_misses_nothing_or_is_told(tmp_path: Path, small_compaction: None) -> None:
    with SharedContext.open(tmp_path / "context", shards=1) as context, SharedContext.open(tmp_path / "context") as other:
        watch = other.watch("", timeout_s=0)
        for number in range(300):
            context.put("a", number, unconditional=True)
            assert next(watch).value == number
        with pytest.raises(RevisionCompacted) as caught:
            other.watch("", 1)
        oldest = caught.value.oldest
        assert [change.revision for change in other.watch("", oldest, timeout_s=0)] == list(range(oldest + 1, 301))


def test_what_a_newer_program_wrote_is_left_as_it_is(tmp_path: Path, small_compaction: None) -> None:

    with SharedContext.open(tmp_path / "context", shards=1) as context:
        shard: Shard = context._shards[0]
        shard._commit(lambda generation, state: ([Record(kind=77, key="unknown", value=b"\0\xff", flags=128)], None, None))
        for number in range(200):
            context.put("a", number, unconditional=True)
        assert context.check() == []
        generation, state = shard.look()
        assert state.generation > 1
        kinds = {placed.record.kind: placed.record for placed in iter_all(generation, state)}
        assert (kinds[77].key, kinds[77].value, kinds[77].flags) == ("unknown", b"\0\xff", 128)


def iter_all(generation: Generation, state: State) -> Iterator[Placed]:
    return log.iter_records(generation.fd, generation.header, Scan(), state.end, generation.path)


# damage


STATE = {"a": "third", "b": {"x": [1, 2]}, "c": "é" * 10}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small whole context: one shard, a few keys, a deletion, a fence."""
    directory = tmp_path_factory.mktemp("store") / "context"
    with SharedContext.open(directory, shards=1, writer=Writer(session="s", name="ada", epoch=2)) as context:
        for value in ("first", "second", "third"):
            context.put("a", value, unconditional=True)
        context.put("b", STATE["b"], unconditional=True)
        context.put("gone", 1, unconditional=True)
        context.delete("gone", unconditional=True)
        context.fence("other", 9)
        context.put("c", STATE["c"], unconditional=True)
    return directory


def read_all(directory: Path) -> tuple[dict[str, object], int, bool]:
    """Return what a program sees: the values, the version of ``a``, and whether the fence holds. Raises what opening raises."""
    with SharedContext.open(directory, writer=Writer(session="other", name="o", epoch=8)) as context:
        values = {key: entry.value for key, entry in context.snapshot().items()}
        versions = [entry.version for entry in context.history("a")]
        list(context.watch("", 0, timeout_s=0))
        assert versions == list(range(len(versions), 0, -1))
        try:
            context.put("a", "nobody", expected_version=77)
        except Superseded:
            return values, len(versions), True
        except Damaged:
            raise
        except CrewkeepError:
            return values, len(versions), False
    raise AssertionError("a write at a wrong version was committed")


def change_boot(directory: Path) -> None:
    """Let the machine have been started anew since the control pages were written."""
    for page in directory.glob("*/control"):
        data = bytearray(page.read_bytes())
        if len(data) >= 24:
            data[8:24] = bytes(16)
            page.write_bytes(data)


def assert_harmless_or_said(directory: Path, before: bytes, what: str, *, repair: bool = True) -> bool:
    """Tell whether the damage was said. If it was, repair it: nothing that is left is wrong, and nothing was deleted."""
    try:
        seen = read_all(directory)
    except (Damaged, FormatTooNew):
        pass
    else:
        assert seen == (STATE, 3, True), what
        return False
    if not repair:
        return True
    try:
        with SharedContext.open(directory) as context:
            found = context.check(repair=True)
            assert found, what
            assert all(finding.repaired for finding in found), what
            assert context.check() == [], what
            for key, entry in context.snapshot().items():
                assert entry.value == STATE.get(key, 1) or key == "a", what
            context.put("a", "after", unconditional=True)
            context.put("new", 1, expected_version=0)
    except FormatTooNew:
        return True  # a header that proves itself and says so is left alone
    kept = [path.read_bytes() for path in (directory / "set-aside").iterdir()]
    assert before in kept or not before, what
    return True


def copy_store(store: Path, tmp_path: Path) -> Path:
    target = tmp_path / "copy"
    if target.exists():
        shutil.rmtree(target)
    shutil.copytree(store, target)
    return target


@pytest.mark.parametrize("rebooted", [False, True], ids=["same boot", "after a reboot"])
def test_a_log_cut_at_any_length_is_noticed_and_repaired(store: Path, tmp_path: Path, rebooted: bool) -> None:
    whole = read_log(store)
    for length in range(len(whole)):
        directory = copy_store(store, tmp_path)
        (directory / "00/log").write_bytes(whole[:length])
        if rebooted:
            change_boot(directory)
        what = f"cut to {length}"
        assert assert_harmless_or_said(directory, whole[:length], what, repair=length % 7 == 0), f"{what}, and nobody said so"


@pytest.mark.parametrize("rebooted", [False, True], ids=["same boot", "after a reboot"])
def test_a_flipped_bit_in_the_log_is_noticed_and_repaired(store: Path, tmp_path: Path, rebooted: bool) -> None:
    whole = (store / "00/log").read_bytes()
    chance = random.Random(5)
    for index in range(len(read_log(store))):
        directory = copy_store(store, tmp_path)
        data = bytearray(whole)
        data[index] ^= 1 << chance.randrange(8)
        (directory / "00/log").write_bytes(data)
        if rebooted:
            change_boot(directory)
        what = f"flipped in {index}"
        assert assert_harmless_or_said(directory, bytes(data), what, repair=index % 7 == 0), f"{what}, and nobody said so"


def test_a_damaged_control_page_is_made_anew(store: Path, tmp_path: Path) -> None:
    whole = (store / "00/control").read_bytes()
    chance = random.Random(6)
    for index in range(160):
        directory = copy_store(store, tmp_path)
        data = bytearray(whole)
        data[index] ^= 1 << chance.randrange(8)
        (directory / "00/control").write_bytes(data)
        assert not assert_harmless_or_said(directory, b"", f"control flipped in {index}")
    for length in [*range(0, 160, 4), 1000, PAGE_BYTES - 1]:
        directory = copy_store(store, tmp_path)
        (directory / "00/control").write_bytes(whole[:length])
        assert not assert_harmless_or_said(directory, b"", f"control cut to {length}")
    (directory / "00/control").unlink()
    assert not assert_harmless_or_said(directory, b"", "control removed")


def test_a_damaged_meta_is_set_aside_and_made_anew_from_the_logs(store: Path, tmp_path: Path) -> None:
    whole = (store / "meta.json").read_bytes()
    chance = random.Random(7)
    damages = [whole[:length] for length in range(0, len(whole), 3)]
    for index in range(len(whole)):
        data = bytearray(whole)
        data[index] ^= 1 << chance.randrange(8)
        damages.append(bytes(data))
    for number, damage in enumerate(damages):
        directory = copy_store(store, tmp_path)
        (directory / "meta.json").write_bytes(damage)
        assert read_all(directory) == (STATE, 3, True), f"damage {number}"
        if (directory / "meta.json").read_bytes() != damage:
            assert damage in [path.read_bytes() for path in (directory / "set-aside").iterdir()]
    (directory / "meta.json").unlink()
    assert read_all(directory) == (STATE, 3, True)


@pytest.mark.parametrize("missing", ["00/log", "00"])
def test_a_missing_shard_is_never_taken_for_an_empty_one(store: Path, tmp_path: Path, missing: str) -> None:
    directory = copy_store(store, tmp_path)
    path = directory / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with SharedContext.open(directory) as context:
        for act in (lambda: context.get("a"), lambda: context.put("a", 1, expected_version=0), context.snapshot):
            with pytest.raises(Damaged) as caught:
                act()
            assert caught.value.reason == "missing"
        findings = context.check()
        assert [(finding.shard, finding.reason, finding.repaired) for finding in findings] == [(0, "missing", False)]


def test_a_damaged_shard_leaves_the_others_in_use_and_takes_fences_from_them(tmp_path: Path) -> None:
    directory = tmp_path / "context"
    with SharedContext.open(directory, shards=4) as context:
        context.set_rule("n", "sum")
        for number in range(20):
            context.put(f"k{number}", number, unconditional=True)
        context.fence("s", 4)
        position = context.revisions()
    (directory / "02/log").write_bytes(b"")
    with SharedContext.open(directory, writer=Writer(session="s", name="s", epoch=3)) as context:
        readable = 0
        for number in range(20):
            try:
                context.get(f"k{number}")
                readable += 1
            except Damaged:
                continue
        assert 10 <= readable < 20
        [finding] = context.check(repair=True)
        assert (finding.shard, finding.reason, finding.repaired) == (2, "empty", True)
        assert context.check() == []
        for number in range(20):
            with pytest.raises(Superseded):
                context.put(f"k{number}", 0, unconditional=True)
        assert len(context.snapshot()) == readable
        with pytest.raises(RevisionCompacted):
            context.watch("", 0)
        assert list(context.watch("", position, timeout_s=0)) == [], "who had seen everything goes on"
        context.adopt(None)
        for number in range(20):
            context.put(f"k{number}", 0, unconditional=True)
        assert len(list(context.watch("", position, timeout_s=0))) == 20


def test_a_fence_reaches_every_shard_that_is_not_damaged(tmp_path: Path) -> None:
    with SharedContext.open(tmp_path / "context", shards=4) as context:
        context.put("a", 1, unconditional=True)
    (tmp_path / "context/00/log").write_bytes(b"")
    with SharedContext.open(tmp_path / "context") as context:
        with pytest.raises(Damaged):
            context.fence("s", 2)
        context.adopt(Writer(session="s", name="s", epoch=1))
        refused = 0
        for number in range(20):
            with pytest.raises((Superseded, Damaged)) as caught:
                context.put(f"k{number}", 1, unconditional=True)
            refused += caught.type is Superseded
        assert refused > 10
        context.check(repair=True)
        for number in range(20):
            with pytest.raises(Superseded):
                context.put(f"k{number}", 1, unconditional=True)


def test_a_handle_that_was_open_sees_the_repair(store: Path, tmp_path: Path) -> None:
    directory = copy_store(store, tmp_path)
    with SharedContext.open(directory) as context, SharedContext.open(directory) as other:
        assert context.get("a") is not None
        data = bytearray(read_log(directory))
        data[-3] ^= 4
        with open(directory / "00/log", "r+b") as file:
            file.write(data)
        with pytest.raises(Damaged):
            context.get("c")
        assert [finding.reason for finding in other.check(repair=True)] == ["wrong-digest"]
        for handle in (context, other):
            assert handle.get("c") is None
        assert context.put("c", 1, unconditional=True).value == 1
        assert len(other.history("c")) == 1
        assert other.check() == []


def flip(path: Path, wanted: bytes) -> None:
    """Damage the last record with these bytes in it."""
    data = bytearray(path.read_bytes())
    data[data.rindex(wanted)] ^= 1
    path.write_bytes(data)


def test_what_only_a_log_that_was_set_aside_still_has_is_brought_back(tmp_path: Path) -> None:
    directory = tmp_path / "context"
    with SharedContext.open(directory, shards=1) as context:
        for number in range(3):
            context.put("first", f"first-{number}", unconditional=True)
            context.put("second", f"second-{number}", unconditional=True)
        context.put("gone", "gone-0", unconditional=True)
        context.delete("gone", expected_version=1)
        flip(directory / "00/log", b"second-2")
        [finding] = context.check(repair=True)
        assert finding.repaired
        assert context.get("second").value == "second-1"  # type: ignore[union-attr]
        assert context.get("first").version == 3  # type: ignore[union-attr]
        flip(directory / "00/log", b"first-2")
        [finding] = context.check(repair=True)
        assert "1 entry came from logs set aside before" in finding.message
        entry = context.get("first")
        assert (entry.value, entry.version) == ("first-2", 3)  # type: ignore[union-attr]
        assert context.get("gone") is None
        assert context.check() == []
        assert context.put("first", "next", expected_version=3).version == 4


@pytest.mark.parametrize("kind", ["directory", "link", "pipe"])
@pytest.mark.parametrize("name", ["00", "00/log", "00/control", "00/lock", "00/turn", "meta.lock", "set-aside"])
def test_what_stands_in_the_place_of_a_file_is_found_and_set_aside(tmp_path: Path, name: str, kind: str) -> None:
    directory = tmp_path / "context"
    with SharedContext.open(directory, shards=2) as context:
        for number in range(8):
            context.put(f"k{number}", number, unconditional=True)
    place = directory / name
    if place.exists():
        place.rename(tmp_path / "before")
    if name in ("00", "set-aside"):
        place.write_text("not a directory")
    elif kind == "directory":
        place.mkdir()
    elif kind == "link":
        place.symlink_to(tmp_path / "before")
    else:
        os.mkfifo(place)
    with SharedContext.open(directory) as context:
        assert [str(place)] == [finding.path for finding in context.check()]
        repaired = context.check(repair=True)
        assert all(finding.repaired for finding in repaired)
        assert context.check() == []
        for number in range(8):
            context.put(f"k{number}", "new", unconditional=True)
        assert len(context.snapshot()) == 8
    kept = [path for path in directory.rglob("*") if "wrong-shape" in path.name]
    assert len(kept) == 1, "nothing is deleted"


def test_the_log_of_another_shard_is_noticed(tmp_path: Path) -> None:
    with SharedContext.open(tmp_path / "context", shards=2) as context:
        context.put("a", 1, unconditional=True)
    shutil.copy(tmp_path / "context/01/log", tmp_path / "context/00/log")
    with SharedContext.open(tmp_path / "context") as context:
        [finding] = context.check()
        assert (finding.shard, finding.reason) == (0, "wrong-shape")


def test_an_older_generation_put_back_is_noticed(tmp_path: Path, small_compaction: None) -> None:
    log = tmp_path / "context/00/log"
    with SharedContext.open(tmp_path / "context", shards=1) as context:
        context.put("a", "old", unconditional=True)
        older = log.read_bytes()
        for number in range(200):
            context.put("a", number, unconditional=True)
    log.write_bytes(older)
    with SharedContext.open(tmp_path / "context") as context:
        assert [finding.reason for finding in context.check()] == ["rolled-back"]
        assert [finding.repaired for finding in context.check(repair=True)] == [True]
        assert [entry.value for entry in context.history("a")] == ["old"]
        assert context.check() == []
        with pytest.raises(RevisionCompacted):
            context.watch("", 100)


def test_a_log_cut_under_an_open_handle_takes_no_writes(tmp_path: Path) -> None:
    with SharedContext.open(tmp_path / "context", shards=1) as context, SharedContext.open(tmp_path / "context") as other:
        context.put("a", 1, unconditional=True)
        context.put("a", 2, unconditional=True)
        assert other.revisions() == {0: 2}
        os.truncate(tmp_path / "context/00/log", 70)
        for handle in (context, other):
            with pytest.raises(Damaged) as caught:
                handle.put("a", 3, unconditional=True)
            assert caught.value.reason == "truncated"
        with pytest.raises(Damaged):
            other.history("a")


@pytest.mark.parametrize("is_filled", [False, True], ids=["short", "zeros"])
@pytest.mark.parametrize("left_bytes", [0, 1, 16, 64, 80, 124, 128, 200, 252, 4096, 5000, 266_240])
@pytest.mark.parametrize("name", [CONTROL_NAME, INDEX_NAME])
def test_a_page_or_index_cut_under_an_open_handle_hides_nothing(
    tmp_path: Path, name: str, left_bytes: int, is_filled: bool
) -> None:
    path = tmp_path / "context/00" / name

    def cut() -> None:
        size = path.stat().st_size
        os.truncate(path, min(size, left_bytes))
        os.truncate(path, size if is_filled else min(size, left_bytes))

    with SharedContext.open(tmp_path / "context", shards=1) as writer, SharedContext.open(tmp_path / "context") as other:
        writer.put("written", 1, unconditional=True)
        writer.put("read", 1, unconditional=True)
        assert writer.get("read")
        assert other.get("read")
        assert other.get("absent") is None
        for handle in (writer, other):
            for key in ("written", "read"):
                cut()
                entry = handle.get(key)
                assert entry is not None and entry.value == 1
            cut()
            assert handle.get("absent") is None
            cut()
            assert list(handle.keys("")) == ["read", "written"]
            cut()
            assert sorted(handle.snapshot("")) == ["read", "written"]
            cut()
            handle.put("absent", 1, expected_version=0)
            cut()
            handle.update("written", lambda value: value)
            cut()
            handle.delete("absent", unconditional=True)
        cut()
        assert {finding.repaired for finding in writer.check(repair=True)} <= {True}
        assert writer.check() == []


def test_a_record_that_is_whole_but_wrong_is_found(tmp_path: Path) -> None:
    with SharedContext.open(tmp_path / "context", shards=2) as context:
        context.put("a", 1, unconditional=True)
        shard = context._shards[0]
        strangers = [key for key in ("x", "y", "z", "v") if find_shard(key, 2) == 1]
        mine = next(key for key in ("x", "y", "z", "v", "w") if find_shard(key, 2) == 0)
        for key, value in ((strangers[0], b"1"), (mine, b"{broken")):
            before = context.revisions()[0]
            shard._commit(
                lambda generation, state, key=key, value=value: (  # type: ignore[misc]
                    [Record(kind=ENTRY, key=key, value=value, revision=state.revision + 1, version=1)],
                    None,
                    None,
                )
            )
            assert context.revisions()[0] == before + 1
            assert [finding.reason for finding in context.check()] == ["wrong-shape"]
            assert [finding.repaired for finding in context.check(repair=True)] == [True]
            assert context.check() == []


def test_large_changes_are_handed_out_a_few_at_a_time(tmp_path: Path) -> None:
    with SharedContext.open(tmp_path / "context", shards=1, durability="process") as context:
        for number in range(12):
            context.put("a", [number, "x" * 1_000_000], unconditional=True)
        changes = context.read_changes("", {})
        assert len(changes) == 9
        rest = context.read_changes("", changes.position)
        assert [change.value[0] for change in [*changes, *rest]] == list(range(12))


def test_a_newer_format_is_refused_and_left_alone(store: Path, tmp_path: Path) -> None:
    from coordinator.context import codec

    directory = copy_store(store, tmp_path)
    data = (directory / "00/log").read_bytes()
    header = codec.decode_header(data)
    assert not isinstance(header, str)
    import dataclasses

    newer = codec.encode_header(dataclasses.replace(header, format=3)) + data[codec.HEADER_BYTES :]
    (directory / "00/log").write_bytes(newer)
    with SharedContext.open(directory) as context:
        for act in (
            lambda: context.get("a"),
            lambda: context.put("a", 1, unconditional=True),
            lambda: context.check(repair=True),
        ):
            with pytest.raises(FormatTooNew):
                act()
    assert (directory / "00/log").read_bytes() == newer


# reboots


def test_after_a_reboot_everything_acknowledged_is_there(store: Path, tmp_path: Path) -> None:
    directory = copy_store(store, tmp_path)
    change_boot(directory)
    assert read_all(directory) == (STATE, 3, True)
    assert not (directory / "set-aside").exists()


def test_a_torn_tail_after_a_reboot_is_cut_and_set_aside(store: Path, tmp_path: Path) -> None:
    whole = read_log(store)
    last = whole.rfind(b"\xa7CKr")
    for tail in (whole[last : last + 40], whole[last:], b"\xa7CKr" + os.urandom(100) + b"x", bytes(600) + b"x"):
        directory = copy_store(store, tmp_path)
        (directory / "00/log").write_bytes(whole + tail + bytes(100))
        change_boot(directory)
        assert read_all(directory) == (STATE, 3, True)
        assert read_log(directory) == whole
        assert [path.read_bytes() for path in (directory / "set-aside").iterdir()] == [tail.rstrip(b"\0")]
        with SharedContext.open(directory) as context:
            assert context.put("new", 1, expected_version=0).version == 1
            assert context.check() == []


def test_a_tail_of_the_same_boot_is_a_killed_writers_and_is_cut_by_the_next(store: Path, tmp_path: Path) -> None:
    directory = copy_store(store, tmp_path)
    (directory / "00/log").write_bytes(read_log(store) + b"\xa7CKr half a record")
    assert read_all(directory) == (STATE, 3, True)
    with SharedContext.open(directory) as context:
        context.put("new", 1, expected_version=0)
        assert context.check() == []
    change_boot(directory)
    with SharedContext.open(directory) as context:
        assert context.get("new") is not None


def test_a_hole_in_what_was_durable_is_damage_and_no_torn_tail(store: Path, tmp_path: Path) -> None:
    """A record says how much was durable when it was written, so a whole one behind a hole may prove that the hole is damage."""
    directory = copy_store(store, tmp_path)
    data = bytearray((directory / "00/log").read_bytes())
    fence = data.find(b"\xa7CKr")
    first = data.find(b"\xa7CKr", fence + 1)
    data[first + 20 : first + 24] = bytes(4)
    (directory / "00/log").write_bytes(data)
    (directory / "00/control").unlink()
    with SharedContext.open(directory) as context:
        with pytest.raises(Damaged):
            context.get("a")
        [finding] = context.check(repair=True)
        assert finding.repaired
        assert [entry.value for entry in context.history("a")] == ["third", "second"]
        assert {key: entry.value for key, entry in context.snapshot().items()} == STATE


def test_a_hole_in_what_was_not_yet_durable_is_what_power_loss_leaves(tmp_path: Path) -> None:
    """Several records may be waiting for one flush, and the disk may take the last of them first."""
    directory = tmp_path / "context"
    with SharedContext.open(directory, shards=1) as context:
        context.put("a", 1, unconditional=True)
        whole = len(read_log(directory))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(GroupFlush, "wait", lambda *_: None)
            for number in range(3):
                context.put("b", number, unconditional=True)
    data = bytearray((directory / "00/log").read_bytes())
    data[whole + 30 : whole + 60] = bytes(30)
    (directory / "00/log").write_bytes(data)
    change_boot(directory)
    with SharedContext.open(directory) as context:
        assert list(context.snapshot()) == ["a"]
        assert context.check() == []
        assert context.put("b", "new", expected_version=0).version == 1


def test_process_mode_gives_up_what_power_loss_took_and_says_nothing_wrong(tmp_path: Path) -> None:
    directory = tmp_path / "context"
    with SharedContext.open(directory, durability="process", shards=1) as context:
        for number in range(5):
            context.put("a", number, unconditional=True)
    data = (directory / "00/log").read_bytes()
    third = [index for index in range(len(data)) if data.startswith(b"\xa7CKr", index)][3]
    (directory / "00/log").write_bytes(data[:third])
    change_boot(directory)
    with SharedContext.open(directory, durability="process") as context:
        assert [entry.value for entry in context.history("a")] == [2, 1, 0]
        assert context.check() == []


# making and opening


def test_a_context_is_made_with_private_modes(tmp_path: Path) -> None:
    with SharedContext.open(tmp_path / "deep/er/context") as context:
        context.put("a", 1, unconditional=True)
    for path in (tmp_path / "deep").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path


def test_a_context_keeps_the_durability_and_shards_it_was_made_with(tmp_path: Path) -> None:
    SharedContext.open(tmp_path / "context", shards=2, durability="process").close()
    with pytest.raises(InvalidInput):
        SharedContext.open(tmp_path / "context")
    with SharedContext.open(tmp_path / "context", shards=7, durability="process") as context:
        assert context.revisions() == {0: 0, 1: 0}


@pytest.mark.parametrize("options", [{"durability": "maybe"}, {"shards": 0}, {"shards": 65}, {"shards": "4"}])
def test_a_context_that_cannot_be_is_not_begun(tmp_path: Path, options: dict[str, object]) -> None:
    with pytest.raises(InvalidInput):
        SharedContext.open(tmp_path / "context", **options)  # type: ignore[arg-type]
    assert not (tmp_path / "context").exists()


def test_what_must_exist_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(LookupError):
        SharedContext.open(tmp_path / "context", must_exist=True)
    assert not (tmp_path / "context").exists()


def test_strange_directories_are_directories(tmp_path: Path) -> None:
    for name in ("with space", "ünïcode", "glob*[x]?", "-dash", "new\nline"):
        with SharedContext.open(tmp_path / name) as context:
            context.put("a", 1, unconditional=True)
            assert context.check() == []
    (tmp_path / "link").symlink_to(tmp_path / "with space")
    with SharedContext.open(tmp_path / "link") as context:
        assert context.get("a") is not None


def test_nothing_is_left_open(tmp_path: Path) -> None:
    with SharedContext.open(tmp_path / "context") as context:
        context.put("a", 1, unconditional=True)
        context.check(repair=True)
    del context
    gc.collect()
    paths = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the listing's own
            paths.append(os.readlink(f"/proc/self/fd/{name}"))
    assert [path for path in paths if path.startswith(str(tmp_path))] == []


# power loss


def crash_at_every_step(directory: Path, images: Path, *, forgetful: bool = False) -> tuple[int, list[str]]:
    """Lose power at every step of some commits: the log as it was flushed last and a part of what was written since.

    A ``forgetful`` disk does nothing more once something was flushed. Returns how many times, and which
    acknowledged writes were lost.
    """
    chance = random.Random(8)
    acknowledged: dict[str, object] = {}
    lost: list[str] = []
    flushed = b""
    count = 0
    sync = files.sync_data

    def note_flush(fd: int) -> None:
        nonlocal flushed
        if forgetful and flushed:
            return
        sync(fd)
        if not failing:  # the image's log is flushed as well when it is opened
            flushed = os.pread(fd, 1 << 20, 0)

    def lose_power(name: str) -> None:
        nonlocal count
        if failing or not (directory / "00/control").exists() or not flushed:
            return
        count += 1
        failing.append(name)
        try:
            image = images / str(count)
            shutil.copytree(directory, image)
            written = (directory / "00/log").read_bytes()
            before = flushed.ljust(len(written), b"\0")
            torn = bytearray(before)
            for at in range(0, len(written), 512):  # each sector that was written since is there, or is not, or is zeros
                new, old = written[at : at + 512], before[at : at + 512]
                if new != old:
                    torn[at : at + 512] = chance.choice([new, new, old, bytes(len(new)) if not old.strip(b"\0") else old])
            (image / "00/log").write_bytes(torn)
            change_boot(image)
            try:
                with SharedContext.open(image) as context:
                    found = {key: entry.value for key, entry in context.snapshot().items()}
                    if context.check():
                        lost.append(f"{name}: check")
            except Damaged as error:
                lost.append(f"{name}: {error}")
            else:
                lost.extend(f"{name}: {key}" for key, value in acknowledged.items() if found.get(key) != value)
            shutil.rmtree(image)
        finally:
            failing.clear()

    failing: list[str] = []
    with pytest.MonkeyPatch.context() as patch, SharedContext.open(directory, shards=1) as context:
        patch.setattr(files, "sync_data", note_flush)
        with failpoints.observe(lose_power):
            for number in range(12):
                key = f"k{number}"
                acknowledged[key] = context.put(key, "x" * chance.randint(0, 300), expected_version=0).value
    return count, lost


def test_power_loss_at_any_step_takes_nothing_acknowledged(tmp_path: Path) -> None:
    count, lost = crash_at_every_step(tmp_path / "context", tmp_path / "images")
    assert count > 60
    assert lost == []


def test_a_dropped_flush_would_be_noticed(tmp_path: Path) -> None:
    """The test above has teeth: where all flushes but the first are dropped, it finds lost writes."""
    _, lost = crash_at_every_step(tmp_path / "context", tmp_path / "images", forgetful=True)
    assert lost


@pytest.mark.parametrize("place", ["compaction.renamed", "files.sync_directory", "shard.open", "table.open", "control.write"])
def test_a_compaction_that_fails_at_its_end_leaves_one_log_that_everybody_writes_to(
    tmp_path: Path, small_compaction: None, place: str
) -> None:
    """The clock that the disk notes changes by may not have moved between the swap and the failure."""
    for nth in range(1, 30):
        directory = tmp_path / str(nth)
        with SharedContext.open(directory, shards=1) as context:
            for number in range(60):
                context.put("a", number, unconditional=True)
            hits = 0

            def fail(name: str) -> None:
                nonlocal hits
                if name in (place, "compaction.rename"):
                    hits = max(hits, 1) if name == "compaction.rename" else hits + (hits > 0)
                    if hits == nth + 1:  # noqa: B023
                        raise OSError(errno.EIO, os.strerror(errno.EIO), name)

            stat = os.stat
            known = stat(directory / "00")

            def stopped_clock(path: object, **options: object) -> os.stat_result:
                return known if path == directory / "00" else stat(path, **options)  # type: ignore[call-overload, no-any-return]  # noqa: B023

            versions = []
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(os, "stat", stopped_clock)
                with failpoints.observe(fail):
                    for number in range(60):
                        with contextlib.suppress(StorageError):
                            versions.append(context.put("a", number, unconditional=True).version)
                versions.append(context.put("a", "last", unconditional=True).version)
            with SharedContext.open(directory) as other:
                assert next(entry.version for entry in other.history("a")) == versions[-1]
                assert other.check() == []
            if hits <= nth:
                return


def test_whoever_flushes_the_records_of_others_wakes_those_who_watch_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer may be stopped or killed when its record is durable and it has woken nobody."""

    class Stopped(Exception):
        pass

    def stop(self: GroupFlush, *_: object) -> bool:
        raise Stopped

    with SharedContext.open(tmp_path / "context", shards=1) as one, SharedContext.open(tmp_path / "context") as other:
        for name in ("mine/a", "yours/b"):
            one.put(name, 1, unconditional=True)
        with monkeypatch.context() as patch:
            patch.setattr(GroupFlush, "wait", stop)
            for name in ("mine/a", "yours/b", "new/c"):
                with pytest.raises(Stopped):
                    one.put(name, 2, unconditional=True)
        before = {prefix: other.bell(prefix) for prefix in ("mine/", "yours/", "new/", "none/", "")}
        other.put("theirs/d", 3, unconditional=True)
        rung = {prefix for prefix, number in before.items() if other.bell(prefix) != number}
        assert rung == {"mine/", "yours/", "new/", ""}
        assert {key: entry.value for key, entry in other.snapshot().items()} == {
            "mine/a": 2,
            "yours/b": 2,
            "new/c": 2,
            "theirs/d": 3,
        }


def remake_again(shard: Shard) -> None:
    """Have a shard's page and table made anew."""
    with shard.alone() as page:
        page.void()
        shard.prepare(page)


@pytest.mark.timeout(30)
@pytest.mark.parametrize("how", ["remake", "compaction"])
def test_who_waits_for_a_flush_goes_on_when_somebody_died_replacing_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Death between saying what is written and what is published: the flushes of the others can publish nothing then."""

    class Died(BaseException):
        pass

    waiting: list[tuple[GroupFlush, tuple[Any, ...]]] = []

    def stop(self: GroupFlush, *given: Any) -> bool:
        waiting.append((self, given))
        raise Died

    def die(*_: object) -> None:
        raise Died

    with SharedContext.open(tmp_path / "context", shards=1) as one, SharedContext.open(tmp_path / "context") as other:
        for number in range(20):
            one.put("a", number, unconditional=True)
        other.get("a")
        with monkeypatch.context() as patch:
            patch.setattr(GroupFlush, "wait", stop)
            with pytest.raises(Died):
                one.put("b", 1, unconditional=True)
        shard = other._shards[0]
        with monkeypatch.context() as patch:
            patch.setattr(ControlPage, "publish", die)
            patch.setattr(compaction, "is_due", lambda *_: True)
            with pytest.raises(Died):
                remake_again(shard) if how == "remake" else compaction.compact(shard)
        ((flush, given),) = waiting
        with pytest.raises(Doubt):  # which the shard lock settles
            flush.wait(*given)
        one.put("c", 2, unconditional=True)
        assert {key: entry.value for key, entry in one.snapshot().items()} == {"a": 19, "b": 1, "c": 2}
        assert one.check() == []


def test_a_commit_is_flushed_although_whoever_leads_does_nothing(tmp_path: Path) -> None:
    """Stopped after taking the lead, and before it could say so."""
    with SharedContext.open(tmp_path / "context", shards=1) as one, SharedContext.open(tmp_path / "context") as other:
        one.put("a", 1, unconditional=True)
        lead = other._shards[0].flush._lead
        assert lead.try_acquire()
        try:
            assert one.put("a", 2, expected_version=1).version == 2
            assert other.get("a").value == 2  # type: ignore[union-attr]
        finally:
            lead.release()


def test_while_a_record_is_being_flushed_nobody_is_shown_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[Any, ...]] = []
    flush = files.sync_data

    def look_and_flush(fd: int) -> None:
        for handle in (context, other):
            entry = handle.get("a")
            shown.append((entry and entry.value, dict(handle.snapshot("")), [found.version for found in handle.history("a")]))
        flush(fd)

    with SharedContext.open(tmp_path / "context", shards=1) as context, SharedContext.open(tmp_path / "context") as other:
        for version in range(4):
            for handle in (context, other):
                handle.get("a")
            before = context.snapshot("")
            shown.clear()
            with monkeypatch.context() as patch:
                patch.setattr(files, "sync_data", look_and_flush)
                context.put("a", version + 1, expected_version=version)
            assert shown == [(version or None, dict(before), list(range(version, 0, -1)))] * 2
            assert [handle.get("a") for handle in (context, other)] == [context.history("a")[0]] * 2


def test_a_flush_that_ends_behind_another_publishes_nothing(tmp_path: Path) -> None:
    """There are two at once where a leader was stopped, and others did without it."""
    with SharedContext.open(tmp_path / "context", shards=1) as context:
        context.put("a", 1, unconditional=True)
        shard = context._shards[0]
        page, (_, before) = shard.page, shard.look()
        assert page is not None
        context.put("a", 2, expected_version=1)
        _, after = shard.look()
        assert shard.flush._publish(page, 9, page.encode(before), before.end) < 0
        assert page.read_published() == after
        assert context.get("a").value == 2  # type: ignore[union-attr]


def test_a_flush_beside_one_that_failed_publishes_nothing(tmp_path: Path) -> None:
    with SharedContext.open(tmp_path / "context", shards=1) as context:
        context.put("a", 1, unconditional=True)
        shard = context._shards[0]
        page, (_, state) = shard.page, shard.look()
        assert page is not None
        later = state._replace(end=state.end + 100, length=100)
        shard.flush.give_up(page)
        assert shard.flush._publish(page, 9, page.encode(later), later.end) < 0
        assert page.read_published() == state


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ENOTDIR])
def test_a_directory_that_cannot_be_looked_at_is_one_named_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    look = os.stat

    def refuse(path: Any, *given: Any, **options: Any) -> os.stat_result:
        if path == str(tmp_path / "context/00"):
            raise OSError(number, os.strerror(number), path)
        return look(path, *given, **options)

    with SharedContext.open(tmp_path / "context", shards=1) as context:
        context.put("a", 1, unconditional=True)
        with monkeypatch.context() as patch:
            patch.setattr(os, "stat", refuse)
            with pytest.raises(StorageError) as caught:
                context.delete("a", unconditional=True)
            assert caught.value.cause == errno.errorcode[number]
        assert context.get("a").value == 1  # type: ignore[union-attr]
        assert context.put("a", 2, expected_version=1).version == 2
