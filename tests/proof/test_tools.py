"""The tools themselves, on toy programs whose crash states can be counted by hand."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from support import find_home_processes

from proof import crash_run
from proof.crashes import Bounds, Model, enumerate_states
from proof.disk import EMPTY, PAGE_BYTES, Content, Tree
from proof.operations import FailedFlush, Flush, Name, Operation, Recording, Resize, Said, Seen, Write
from proof.pool import Pool, make_environment
from proof.reader import Reader, Unmodelled
from proof.recorder import ProgramFailed, record
from proof.trace import Descriptor, read_calls
from proof.witness import Expectation


def write(at: int, inode: int, offset: int, data: bytes) -> Write:
    return Write(inode=inode, offset=offset, data=data, began=at, ended=at)


def flush(at: int, inode: int) -> Flush:
    return Flush(inode=inode, began=at, ended=at)


def list_states(operations: list[Operation], model: Model, old: bytes = b"old") -> set[frozenset[tuple[bytes, bytes]]]:
    """Return the contents that a directory with one file ``f`` can come to."""
    recording = Recording(paths={b"": 0, b"f": 1}, contents={1: old}, operations=operations)
    states = enumerate_states(recording, (model,)).states
    return {frozenset((path, content.whole()) for path, content in state.tree.files.items() if content) for state in states}


def files(**contents: bytes) -> frozenset[tuple[bytes, bytes]]:
    return frozenset((name.encode(), data) for name, data in contents.items())


def test_killed_it_is_at_some_point_of_the_order() -> None:
    operations: list[Operation] = [write(1, 1, 0, b"1"), write(2, 1, 1, b"2")]
    assert list_states(operations, "kill") == {files(f=b"old"), files(f=b"1ld"), files(f=b"12d")}


def test_what_no_flush_has_covered_may_be_there_in_any_order() -> None:
    operations: list[Operation] = [write(1, 1, 0, b"1"), write(2, 1, 1, b"2")]
    assert list_states(operations, "reordered") == {files(f=b"old"), files(f=b"1ld"), files(f=b"o2d"), files(f=b"12d")}


def test_a_flush_parts_what_comes_before_from_what_comes_after() -> None:
    operations: list[Operation] = [write(1, 1, 0, b"1"), flush(2, 1), write(3, 1, 1, b"2")]
    assert list_states(operations, "reordered") == {files(f=b"old"), files(f=b"1ld"), files(f=b"12d")}


def test_a_write_that_was_under_way_when_the_flush_began_is_not_covered() -> None:
    operations: list[Operation] = [Write(inode=1, offset=0, data=b"1", began=1, ended=3), Flush(inode=1, began=2, ended=4)]
    states = enumerate_states(Recording(paths={b"": 0, b"f": 1}, contents={1: b"old"}, operations=operations), ("reordered",))
    [old] = [state for state in states.states if state.tree.files[b"f"] == Content.of(b"old")]
    assert old.last == 2


def test_a_longer_file_may_have_its_length_without_its_bytes() -> None:
    assert list_states([write(1, 1, 3, b"er")], "reordered") == {files(f=b"old"), files(f=b"old\0\0"), files(f=b"older")}


def test_after_a_failed_flush_no_later_one_covers_the_same() -> None:
    failed = FailedFlush(inode=1, began=2, ended=2)
    operations: list[Operation] = [write(1, 1, 0, b"1"), failed, flush(3, 1), write(4, 1, 1, b"2"), flush(5, 1)]
    states = enumerate_states(Recording(paths={b"": 0, b"f": 1}, contents={1: b"old"}, operations=operations), ("reordered",))
    last = {content.whole() for state in states.states if state.last == 5 for content in state.tree.files.values() if content}
    assert last == {b"o2d", b"12d"}


def test_a_rename_is_there_or_not_and_so_are_the_bytes_behind_it() -> None:
    operations: list[Operation] = [
        Name(directory=0, name=b"t", inode=2, new=True, began=1, ended=1),
        write(2, 2, 0, b"new"),
        Name(directory=0, name=b"f", inode=2, given_up=(0, b"t"), began=3, ended=3),
    ]
    bodies = (b"", bytes(3), b"new")
    renamed = {files(f=body) for body in bodies} - {files(f=b"")}
    both = {files(f=b"old", t=body) for body in bodies}
    found = list_states(operations, "reordered")
    assert {state for state in found if len(state) == 1} >= renamed | {files(f=b"old")}
    assert {state for state in found if len(state) == 2} >= both - {files(f=b"old", t=b"")}


def test_names_are_durable_by_a_flush_of_their_directory_alone() -> None:
    made = Name(directory=0, name=b"t", inode=2, new=True, began=1, ended=1)
    lost = files(f=b"old")
    assert any(state == lost for state in list_states([made, write(2, 2, 0, b"x"), flush(3, 2)], "reordered"))
    recording = Recording(paths={b"": 0, b"f": 1}, contents={1: b"old"}, operations=[made, flush(2, 0), write(3, 1, 0, b"x")])
    assert all(b"t" in state.tree.files for state in enumerate_states(recording, ("reordered",)).states if state.last == 3)


def test_a_torn_write_is_torn_at_sectors_and_harms_nothing_else() -> None:
    old, new = bytes([1]) * 1600, bytes([2]) * 1024
    found = [dict(state)[b"f"] for state in list_states([write(1, 1, 512, new)], "torn", old)]
    assert all(len(data) == 1600 and data[:512] == old[:512] and data[1536:] == old[1536:] for data in found)
    assert old[:512] + new[:512] + old[:512] + old[:64] in found
    assert any(data[512:1536] == bytes(1024) for data in found)


def test_a_mapped_file_is_what_was_seen_or_seen_before() -> None:
    seen = [Seen(inode=1, data=data, began=at, ended=at) for at, data in ((1, b"one"), (2, b"two"))]
    assert list_states(list(seen), "reordered") == {files(f=b"old"), files(f=b"one"), files(f=b"two")}


def test_what_was_said_binds_the_states_that_can_still_arise() -> None:
    said = Said(statement={"done": "x"}, began=3, ended=3)
    recording = Recording(
        paths={b"": 0, b"f": 1}, contents={1: b"old"}, operations=[write(1, 1, 0, b"1"), flush(2, 1), said]
    )  # fmt: skip
    last = {state.tree.files[b"f"]: state.last for state in enumerate_states(recording, ("reordered",)).states}
    assert last == {Content.of(b"old"): 1, Content.of(b"1ld"): 3}


def test_many_choices_are_bounded_and_a_seed_repeats_them() -> None:
    operations: list[Operation] = [write(at, 1, 4096 * at, bytes([at])) for at in range(1, 15)]
    recording = Recording(paths={b"": 0, b"f": 1}, contents={1: b""}, operations=operations)
    one, other = (enumerate_states(recording, ("reordered",), Bounds(seed=4)) for _ in range(2))
    assert [state.tree.key for state in one.states] == [state.tree.key for state in other.states]
    assert 100 < len(one.states) <= one.ways < 5000


def test_contents_are_what_was_done_to_them() -> None:
    content = EMPTY.write(PAGE_BYTES - 1, b"ab").resize(3 * PAGE_BYTES)
    assert content.whole() == bytes(PAGE_BYTES - 1) + b"ab" + bytes(2 * PAGE_BYTES - 1)
    assert content.resize(PAGE_BYTES).whole() == bytes(PAGE_BYTES - 1) + b"a"
    assert content.resize(PAGE_BYTES).resize(PAGE_BYTES + 1).whole()[-1:] == b"\0"
    assert content.clear(0, PAGE_BYTES).whole() == bytes(PAGE_BYTES) + b"b" + bytes(2 * PAGE_BYTES - 1)


def test_a_tree_comes_back_from_a_directory(tmp_path: Path) -> None:
    tree = Tree({b"d": None, b"d/one": Content.of(b"x" * 5000), b"two": Content.of(b"x" * 5000)}, {b"two": b"d/one"})
    tree.put(tmp_path / "there")
    assert Tree.read(tmp_path / "there").key == tree.key
    assert os.stat(tmp_path / "there/two").st_nlink == 2


# the trace


def test_calls_are_read_with_their_bytes_and_their_place() -> None:
    lines = [
        rb'7 pwrite64(3<\x2f\x61>, "\x68\x69", 2, 10 <unfinished ...>',
        rb"8 fsync(3<\x2f\x61>(deleted)) = 0",
        rb"7 <... pwrite64 resumed>) = 2",
        rb'7 writev(4<\x2f\x62>, [{iov_base="\x61", iov_len=1}, {iov_base="\x62", iov_len=1}], 2) = 2',
        rb'7 openat(AT_FDCWD<\x2f>, "\x78", O_RDWR|O_CREAT, 0600) = -1 ENOSPC (No space left on device)',
        rb"7 +++ exited with 0 +++",
    ]
    fsync, pwrite, writev, openat = read_calls(lines)
    assert (fsync.began, fsync.ended, pwrite.began, pwrite.ended) == (1, 1, 0, 2)
    assert fsync.arguments == [Descriptor(3, b"/a", True)]
    assert pwrite.arguments[1:] == [b"hi", 2, 10]
    assert writev.arguments[1] == [["iov_base=", b"a", "iov_len=1"], ["iov_base=", b"b", "iov_len=1"]]
    assert openat.failed and openat.arguments[3] == 0o600


OPEN = "O_RDWR|O_CREAT, 0600"
THREAD = "clone3({flags=CLONE_VM|CLONE_FS|CLONE_FILES|CLONE_THREAD}, 88)"


def read_listing(*lines: str) -> Reader:
    """Return who followed these calls in a directory ``/r`` that is empty at first. Paths and strings are written plainly."""

    def escape(path: re.Match[str]) -> str:
        return path[1] + "".join(f"\\x{byte:02x}" for byte in path[2].encode()) + path[3]

    listing = [re.sub(r'(<(?=/)|")([^>"]*)([>"])', escape, line).encode() for line in lines]
    reader = Reader(b"/r", b"/said", {b"": 0}, {})
    reader.follow(read_calls(listing))
    return reader


def follow(*lines: str) -> list[Operation]:
    return read_listing(*lines).operations


def test_a_number_that_is_given_again_before_its_close_has_returned_is_the_new_file() -> None:
    assert [type(operation) for operation in follow(
        f"7 {THREAD} = 8",
        f'7 openat(AT_FDCWD</>, "/r/old", {OPEN}) = 3</r/old>',
        "7 close(3</r/old> <unfinished ...>",
        f'8 openat(AT_FDCWD</>, "/r/new", {OPEN}) = 3</r/new>',
        "7 <... close resumed>) = 0",
        '8 pwrite64(3</r/new>, "x", 1, 0) = 1',
    )] == [Name, Name, Write]  # fmt: skip


def test_a_call_is_about_the_file_that_its_number_was_when_it_began() -> None:
    old, written, new = follow(
        f"7 {THREAD} = 8",
        f'7 openat(AT_FDCWD</>, "/r/old", {OPEN}) = 3</r/old>',
        '8 pwrite64(3</r/old>, "x", 1, 0 <unfinished ...>',
        "7 close(3</r/old>) = 0",
        f'7 openat(AT_FDCWD</>, "/r/new", {OPEN}) = 3</r/new>',
        "8 <... pwrite64 resumed>) = 1",
    )
    assert isinstance(old, Name) and isinstance(new, Name) and isinstance(written, Write)
    assert written.inode == old.inode != new.inode


def test_a_child_has_what_was_open_when_its_making_began_though_it_is_heard_of_before_that_returned() -> None:
    assert [type(operation) for operation in follow(
        f"7 {THREAD} = 8",
        f'7 openat(AT_FDCWD</>, "/r/a", {OPEN}) = 3</r/a>',
        "7 clone(child_stack=NULL, flags=SIGCHLD <unfinished ...>",
        "8 close(3</r/a>) = 0",
        '9 pwrite64(3</r/a>, "x", 1, 0) = 1',
        "7 <... clone resumed>) = 9",
        '9 pwrite64(3</r/a>, "y", 1, 1) = 1',
    )] == [Name, Write, Write]  # fmt: skip


def test_what_others_saw_of_a_call_comes_after_it_though_it_returned_later() -> None:
    kinds = [type(operation) for operation in follow(
        "7 clone(child_stack=NULL, flags=SIGCHLD) = 8",
        f'7 openat(AT_FDCWD</>, "/r/a", {OPEN}) = 3</r/a>',
        '7 pwrite64(3</r/a>, "x", 1, 0 <unfinished ...>',
        f'8 openat(AT_FDCWD</>, "/r/a", {OPEN}) = 3</r/a>',
        '8 write(4</said>, "{}", 2) = 2',
        "7 <... pwrite64 resumed>) = 1",
    )]  # fmt: skip
    assert kinds == [Name, Write, Said]


def test_a_flush_counts_from_where_it_returned() -> None:
    kinds = [type(operation) for operation in follow(
        f"7 {THREAD} = 8",
        f'7 openat(AT_FDCWD</>, "/r/a", {OPEN}) = 3</r/a>',
        "7 fsync(3</r/a> <unfinished ...>",
        '8 pwrite64(3</r/a>, "x", 1, 0) = 1',
        "7 <... fsync resumed>) = 0",
    )]  # fmt: skip
    assert kinds == [Name, Write, Flush]


TWO_WRITES = (
    f"7 {THREAD} = 8",
    f'7 openat(AT_FDCWD</>, "/r/a", {OPEN}) = 3</r/a>',
    '7 pwrite64(3</r/a>, "old", 3, 0) = 3',
    '7 pwrite64(3</r/a>, "one", 3, 0 <unfinished ...>',
    '8 pwrite64(3</r/a>, "two", 3, 0) = 3',
    "7 <... pwrite64 resumed>) = 3",
)


@pytest.mark.parametrize("last", [b"one", b"two"])
def test_writes_that_were_under_way_at_once_are_in_the_order_that_led_to_what_is_there(last: bytes) -> None:
    reader = read_listing(*TWO_WRITES)
    reader.assert_matches(({b"": 0, b"a": 1}, {1: last}))
    assert [each.data for each in reader.operations if isinstance(each, Write)][-1] == last


@pytest.mark.parametrize("found", [b"old", b"owe", b"on", b"ones", b""])
def test_what_no_order_leads_to_is_refused(found: bytes) -> None:
    with pytest.raises(Unmodelled):
        read_listing(*TWO_WRITES).assert_matches(({b"": 0, b"a": 1}, {1: found}))


def test_what_nothing_was_done_to_is_as_it_was() -> None:
    Reader(b"/r", b"/said", {b"": 0, b"a": 1}, {1: b"old"}).assert_matches(({b"": 0, b"a": 9}, {9: b"old"}))


def test_a_process_that_has_the_number_of_one_that_is_gone_has_none_of_its_files() -> None:
    with pytest.raises(Unmodelled):
        follow(
            "7 clone(child_stack=NULL, flags=SIGCHLD) = 8",
            f'8 openat(AT_FDCWD</>, "/r/a", {OPEN}) = 3</r/a>',
            "8 +++ exited with 0 +++",
            "7 clone(child_stack=NULL, flags=SIGCHLD) = 8",
            '8 pwrite64(3</r/a>, "x", 1, 0) = 1',
        )


PROGRAM = """
import os, sys, threading
os.chdir(sys.argv[1])
fd = os.open("a", os.O_RDWR | os.O_CREAT)
os.write(fd, b"one"); os.pwrite(fd, b"2", 1); os.writev(fd, [b"th", b"ree"]); os.pwritev(fd, [b"z"], 20)
os.ftruncate(fd, 30); os.posix_fallocate(fd, 0, 40); os.fdatasync(fd)
twin = os.dup(fd)
if os.fork() == 0:
    os.write(twin, b"by a child"); os._exit(0)
os.wait()
here = sys.argv[1] + "/"
os.mkdir(here + "d"); os.rename(here + "a", here + "d/b"); os.link(here + "d/b", here + "c")
os.write(fd, b"on"); os.unlink(here + "d/b")
threads = [threading.Thread(target=os.pwrite, args=(fd, b"t" * n, 50 * n)) for n in range(1, 4)]
[thread.start() for thread in threads]; [thread.join() for thread in threads]
said = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
os.write(said, b'{"do": "it"}\\n')
more = os.open("e", os.O_WRONLY | os.O_CREAT | os.O_DSYNC); os.write(more, b"durable"); os.close(more)
directory = os.open(".", os.O_RDONLY); os.fsync(directory)
"""


def test_what_is_recorded_leads_to_what_is_there(strace: str, tmp_path: Path) -> None:
    """The recorder compares names and contents itself, and refuses what does not agree."""
    root, said = tmp_path / "root", tmp_path / "said"
    root.mkdir()
    recording = record(
        strace,
        [sys.executable, "-c", PROGRAM, str(root), str(said)],
        root,
        said,
        env=make_environment(),
        trace=tmp_path / "trace",
    )
    kinds = [type(operation) for operation in recording.operations]
    assert kinds.count(Write) == 10
    assert (kinds.count(Name), kinds.count(Flush), kinds.count(Resize), kinds.count(Said)) == (6, 2, 2, 1)
    assert [operation.durable for operation in recording.operations if isinstance(operation, Write)].count(True) == 1
    assert recording.actors >= 4


@pytest.mark.parametrize(
    "code",
    ["os.mkdir('relative')", "os.symlink('x', 'y')", "os.mkfifo('p')", "os.sendfile(os.open('n', 66), os.open('m', 66), 0, 1)"],
)
def test_what_is_not_modelled_is_refused(strace: str, tmp_path: Path, code: str) -> None:
    root, said = tmp_path / "root", tmp_path / "said"
    root.mkdir()
    (root / "m").write_bytes(b"m")
    command = [sys.executable, "-c", f"import os, sys; os.chdir({str(root)!r}); {code}"]
    with pytest.raises((Unmodelled, AssertionError)):
        record(strace, command, root, said, env=make_environment(), trace=tmp_path / "trace")


MAPPING = """
import mmap, os, sys
from proof.witness import Witness
witness = Witness(sys.argv[2], sys.argv[1])
fd = os.open(sys.argv[1] + "/page", os.O_RDWR | os.O_CREAT)
os.pwrite(fd, bytes(4096), 0); os.fsync(fd)
page = mmap.mmap(fd, 4096)
for word in (b"one", b"two"):
    name = witness.do("write")
    page[:3] = word
    witness.done(name)
"""


def test_what_is_written_through_memory_is_known_where_the_program_looked(strace: str, tmp_path: Path) -> None:
    root, said = tmp_path / "root", tmp_path / "said"
    root.mkdir()
    command = [sys.executable, "-c", MAPPING, str(root), str(said)]
    recording = record(strace, command, root, said, env=make_environment(), trace=tmp_path / "trace")
    assert [operation.data[:3] for operation in recording.operations if isinstance(operation, Seen)] == [b"one", b"two"]
    killed = [state for state in enumerate_states(recording, ("kill",)).states if state.tree.files.get(b"page")]
    contents = [content.whole()[:3] for state in killed if (content := state.tree.files[b"page"])]
    assert contents[-2:] == [b"one", b"two"]
    lost = enumerate_states(recording, ("reordered",)).states
    last = [state for state in lost if state.last == len(recording.operations)]
    held = {content.whole()[:3] for state in last if (content := state.tree.files.get(b"page"))}
    assert held >= {bytes(3), b"one", b"two"}


@pytest.mark.parametrize(("code", "how"), [("os._exit(3)", "ended with 3"), ("1 / 0", "division by zero")])
def test_a_program_that_fails_is_told_with_its_last_words(strace: str, tmp_path: Path, code: str, how: str) -> None:
    root, said = tmp_path / "root", tmp_path / "said"
    root.mkdir()
    command = [sys.executable, "-c", f"import os; {code}"]
    with pytest.raises(ProgramFailed, match=how):
        record(strace, command, root, said, env=make_environment(), trace=tmp_path / "trace")


def test_a_program_that_does_not_end_is_told_and_nothing_of_it_is_left(strace: str, tmp_path: Path) -> None:
    root, said = tmp_path / "root", tmp_path / "said"
    root.mkdir()
    command = [sys.executable, "-c", "import os, signal; os.fork(); signal.pause()", str(root)]
    with pytest.raises(ProgramFailed, match="did not end within 1 s"):
        record(strace, command, root, said, env=make_environment(), trace=tmp_path / "trace", timeout_s=1)
    assert find_home_processes(root) == []


@pytest.mark.parametrize("phase", ["record", "play"])
def test_a_scenario_that_does_not_end_is_a_finding(strace: str, monkeypatch: pytest.MonkeyPatch, phase: str) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise ProgramFailed("it did not end")

    monkeypatch.setattr(crash_run, phase, fail)
    figures = crash_run.run_scenario(strace, "create", limit=1, recoveries=0, bounds=Bounds())
    assert figures.bad == ["create: it did not end"]


# witnesses and the pool


def test_what_is_done_must_be_there_and_what_was_begun_may() -> None:
    begun: list[dict[str, Any]] = [{"do": "1", "kind": "put", "key": "a", "value": 5}, {"done": "1", "version": 1}]
    later = [*begun, {"do": "2", "kind": "delete", "key": "a"}, {"done": "2", "version": 2}]
    expected = Expectation.make(begun, later)
    assert expected.acknowledged["a"].keys() == {1, 2}
    assert expected.begun["a"] == 1


def die_of(scratch: Path, what: str) -> str:
    if what == "death":
        os.abort()
    return what


def test_a_task_that_kills_its_worker_is_told_and_the_next_goes_on() -> None:
    with Pool("proof.test_tools.die_of", count=1) as pool:
        answers = dict(pool.map([("life",), ("death",), ("life again",)]))
    assert (answers[0], answers[2]) == ("life", "life again")
    assert "died" in answers[1][0]
