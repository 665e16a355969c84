"""Looking at all processes: marks, families, homes under any spelling, and who waits at a terminal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import wait_until

from coordinator.ids import new_nonce
from coordinator.system import processes, scan, spawn, terminal
from coordinator.system.procfs import read_stat

Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start() -> Iterator[Start]:
    made: list[subprocess.Popen[bytes]] = []

    def run(*argv: str, cwd: Path | None = None, **variables: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(argv or ("/bin/sleep", "1000"), env=variables, cwd=cwd)
        made.append(process)
        wait_until(lambda: scan.read_raw_environment(process.pid), what="its environment")  # an exec shows none for a moment
        return process

    yield run
    for process in made:
        process.kill()
        process.wait()


def test_a_process_is_known_by_the_words_it_was_started_with(start: Start) -> None:
    process = start("/bin/sleep", "1000", MARK="1")
    assert scan.read_arguments(process.pid) == ["/bin/sleep", "1000"]
    process.kill()
    process.wait()
    assert scan.read_arguments(process.pid) is None


def test_a_mark_is_found_whole_and_only_whole(start: Start) -> None:
    nonce = new_nonce()
    marked = [start(CREWKEEP_NONCE=nonce), start(A="b", CREWKEEP_NONCE=nonce, Z="")]
    start(CREWKEEP_NONCE=nonce + "0")
    start(CREWKEEP_NONCE="0" + nonce)
    start(MY_CREWKEEP_NONCE=nonce)
    start(OTHER=f"CREWKEEP_NONCE={nonce}")
    start(CREWKEEP_NONCE="")
    assert {who.pid for who in scan.find_marked([nonce, ""])} == {process.pid for process in marked}
    assert scan.find_marked([]) == scan.find_marked([""]) == []


def test_a_zombie_carries_no_mark(start: Start) -> None:
    nonce = new_nonce()
    process = start(CREWKEEP_NONCE=nonce)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert scan.find_marked([nonce]) == []


def test_an_environment_is_read_as_it_was_given(start: Start) -> None:
    process = start(A="b=c", EMPTY="", LINES="one\ntwo", BYTES="\udcff", BIG="x" * 100_000)
    assert scan.read_environment(process.pid) == {
        "A": "b=c",
        "EMPTY": "",
        "LINES": "one\ntwo",
        "BYTES": "\udcff",
        "BIG": "x" * 100_000,
    }
    assert scan.read_environment(2**22 + 1) is None


def test_descendants_are_found_parents_first(start: Start) -> None:
    process = start("/bin/sh", "-c", "sh -c 'sleep 1000; :' & setsid sleep 1000 & wait", PATH=os.environ["PATH"])
    who = processes.identify(process.pid)
    assert who is not None
    found = wait_until(lambda: len(scan.descendants_of(who)) >= 3 and scan.descendants_of(who), what="three descendants")
    assert isinstance(found, list)
    parents = {each.pid: row.parent for each in found if (row := read_stat(each.pid)) is not None}
    for index, each in enumerate(found):
        assert parents[each.pid] in {who.pid, *(earlier.pid for earlier in found[:index])}
    assert set(scan.children_of(who.pid)) <= {each.pid for each in found}
    for each in found:
        processes.send_signal(each, signal.SIGKILL)
    process.wait()
    assert scan.descendants_of(who) == []


@pytest.mark.parametrize(
    "name", ["plain", "with a space", "[x]*?", "émoji 🙂", unicodedata.normalize("NFD", "é"), "new\nline", "-dash", "trailing."]
)
def test_a_home_is_found_under_every_spelling(start: Start, tmp_path: Path, name: str) -> None:
    home = tmp_path / name
    home.mkdir()
    (tmp_path / "inside").mkdir()
    (tmp_path / "link").symlink_to(home)
    (tmp_path / "other").mkdir()
    spellings = [str(home), f"{home}/", f"{tmp_path}/inside/../{name}", str(tmp_path / "link"), f"{tmp_path}//./{name}"]
    ours = [start(CREWKEEP_HOME=spelling) for spelling in spellings]
    ours += [
        start(CREWKEEP_HOME=name, cwd=tmp_path),
        start(CREWKEEP_HOME=".", cwd=home),
        start(CREWKEEP_HOME="../link", cwd=home),
    ]
    for spelling in (str(tmp_path), str(tmp_path / "other"), f"{home}x", "", name):
        start(CREWKEEP_HOME=spelling, MINE="no", cwd=tmp_path / "other")
    found = scan.find_home_processes(home)
    assert {who.pid for who, _ in found} == {process.pid for process in ours}
    assert all("MINE" not in environment for _, environment in found)
    assert scan.find_home_processes(tmp_path / "link") == found


def test_a_home_that_was_deleted_is_still_known_by_its_name(start: Start, tmp_path: Path) -> None:
    home = tmp_path / "home"
    process = start(CREWKEEP_HOME=str(home))
    assert [who.pid for who, _ in scan.find_home_processes(home)] == [process.pid]


WAITING = {
    "read": ("import os; os.read(0, 1)", True),
    "input": ("input()", True),
    "select": ("import select; select.select([0], [], [])", True),
    "poll": ("import select; p = select.poll(); p.register(0, 1); p.poll()", True),
    "pipe": ("import os; r, w = os.pipe(); os.read(r, 1)", False),
    "sleep": ("import time; time.sleep(1000)", False),
    "poll of another": ("import os, select; r, w = os.pipe(); p = select.poll(); p.register(r, 1); p.poll()", False),
    "busy": ("while True: pass", False),
}


@pytest.mark.parametrize("how", WAITING)
def test_who_waits_at_its_terminal_is_seen(how: str) -> None:
    code, expected = WAITING[how]
    each = terminal.spawn_on_terminal(
        [
            sys.executable,
            "-S",
            "-E",
            "-c",
            f"print('up', flush=True); {code}" if how != "busy" else f"print('up', flush=True)\n{code}",
        ],
        cwd="/",
        environment={},
    )
    try:
        os.read(each.master_fd, 10)
        if expected:
            wait_until(lambda: scan.is_reading_terminal(each.pid), what="its waiting")
        else:
            for _ in range(20):
                assert not scan.is_reading_terminal(each.pid)
                time.sleep(0)
    finally:
        processes.send_signal(each.identity, signal.SIGKILL)
        spawn.reap(each.pid)
        os.close(each.master_fd)
    assert not scan.is_reading_terminal(each.pid)


def test_a_shell_at_its_prompt_waits_and_while_it_runs_a_command_does_not() -> None:
    each = terminal.spawn_on_terminal(["/bin/sh"], cwd="/", environment={"PATH": os.environ["PATH"]})
    try:
        wait_until(lambda: scan.is_reading_terminal(each.pid), what="the prompt")
        os.write(each.master_fd, b"sleep 1000\n")
        wait_until(lambda: scan.children_of(each.pid), what="the command")
        wait_until(lambda: not scan.is_reading_terminal(each.pid), what="the end of its waiting")
    finally:
        processes.send_signal(each.identity, signal.SIGKILL)
        for pid in scan.children_of(each.pid):
            os.kill(pid, signal.SIGKILL)
        spawn.reap(each.pid)
        os.close(each.master_fd)


def test_a_scan_that_ran_out_of_descriptors_is_no_empty_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "open", full)
    with pytest.raises(OSError, match="Too many"):
        scan.read_table()
    with pytest.raises(OSError, match="Too many"):
        scan.find_marked(["nonce"])
