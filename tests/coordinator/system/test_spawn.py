"""Starting programs: it runs, or the exact reason why not; clean inside, nothing left outside."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from support import wait_until

from coordinator.config import LOG_LIMIT_BYTES
from coordinator.errors import InvalidInput, StartFailed, StorageError
from coordinator.system import cgroup, processes, scan, spawn, terminal
from coordinator.system.processes import Liveness
from coordinator.system.spawn import find_program, spawn_detached
from coordinator.system.terminal import Spawned, spawn_on_terminal

ROOT = Path(__file__).parents[3]
ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}


def open_descriptors() -> int:
    gc.collect()  # what earlier tests of this process left behind is closed now, and not in the middle
    return len(os.listdir("/proc/self/fd"))


def my_children() -> list[int]:
    return scan.children_of(os.getpid())


@pytest.fixture
def spawned() -> Iterator[list[Spawned]]:
    made: list[Spawned] = []
    yield made
    for each in made:
        processes.send_signal(each.identity, signal.SIGKILL)
        spawn.reap(each.pid)
        os.close(each.master_fd)


def read_to_end(each: Spawned) -> str:
    """Return all that a program writes to its terminal until it ends."""
    data = b""
    try:
        while part := os.read(each.master_fd, 65536):
            data += part
    except OSError:
        pass  # Linux reports the end of the other side as EIO
    return data.decode("utf-8", "replace").replace("\r\n", "\n")


def run_on_terminal(spawned: list[Spawned], argv: Sequence[str], **options: Any) -> str:
    spawned.append(spawn_on_terminal(argv, **{"cwd": "/", "environment": ENVIRONMENT, **options}))
    return read_to_end(spawned[-1])


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A directory of programs that cannot be executed, each for another reason."""
    for name, text, mode in (
        ("plain", "#!/bin/sh\necho hi\n", 0o644),
        ("interpreter", "#!/no/such/interpreter\n", 0o755),
        ("format", "echo hi\n", 0o755),
        ("good", "#!/bin/sh\necho good\n", 0o755),
    ):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(mode)
    (tmp_path / "directory").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    return tmp_path


FAILURES = [
    (["no-such-command"], "/", "not-found"),
    (["/no/such/command"], "/", "not-found"),
    (["./plain"], ".", "not-executable"),
    (["./directory"], ".", "not-executable"),
    (["./good/x"], ".", "not-executable"),
    (["./loop"], ".", "not-executable"),
    (["plain"], ".", "not-executable"),
    (["./interpreter"], ".", "no-interpreter"),
    (["./format"], ".", "bad-format"),
    (["true"], "no/such/directory", "bad-directory"),
    (["true"], "good", "bad-directory"),
    (["true", "x" * 200_000], "/", "too-long"),
    (["x" * 300], "/", "too-long"),
]


@pytest.mark.parametrize(("argv", "cwd", "reason"), FAILURES)
def test_a_failed_start_names_its_reason_and_leaves_nothing(programs: Path, argv: list[str], cwd: str, reason: str) -> None:
    environment = {**ENVIRONMENT, "PATH": f"{programs}:{ENVIRONMENT['PATH']}"}
    before = open_descriptors(), my_children()
    with pytest.raises(StartFailed) as caught:
        spawn_on_terminal(argv, cwd=str(programs / cwd), environment=environment)
    assert (caught.value.reason, caught.value.program) == (reason, argv[0])
    assert caught.value.hint
    with pytest.raises(StartFailed) as caught:
        spawn_detached(argv, cwd=str(programs / cwd), environment=environment, log=programs / "log")
    assert caught.value.reason == reason
    assert (open_descriptors(), my_children()) == before
    if reason in ("not-found", "not-executable", "bad-directory"):
        with pytest.raises(StartFailed) as caught:
            find_program(argv, cwd=str(programs / cwd), environment=environment)
        assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("argv", "environment"),
    [([], {}), ([""], {}), (["true", "a\0b"], {}), (["true", "\ud800"], {}), (["true"], {"A=B": "c"}), (["true"], {"": "c"})],
)
def test_what_no_system_can_pass_on_is_refused_before_anything(argv: list[str], environment: dict[str, str]) -> None:
    before = open_descriptors()
    with pytest.raises(InvalidInput) as caught:
        spawn_on_terminal(argv, cwd="/", environment=environment)
    assert not isinstance(caught.value, StartFailed)
    with pytest.raises(InvalidInput):
        find_program(argv, cwd="/", environment=environment)
    assert open_descriptors() == before


def test_a_program_is_found_as_its_own_environment_says(programs: Path, spawned: list[Spawned]) -> None:
    assert find_program(["good"], cwd="/", environment={"PATH": str(programs)}) == str(programs / "good")
    assert find_program(["./good"], cwd=str(programs), environment={}) == f"{programs}/./good"
    assert find_program(["sh"], cwd="/", environment={}).endswith("/sh")
    assert run_on_terminal(spawned, ["good"], environment={"PATH": f"/no/such:{programs}/plain:{programs}"}) == "good\n"
    assert run_on_terminal(spawned, ["./good"], cwd=str(programs)) == "good\n"
    assert run_on_terminal(spawned, ["good"], cwd=str(programs), environment={"PATH": ":/bin"}) == "good\n"


def test_the_agent_leads_a_session_with_a_terminal_of_its_size(spawned: list[Spawned], tmp_path: Path) -> None:
    text = run_on_terminal(
        spawned,
        ["sh", "-c", "stty size; tty; pwd; echo $MARK; ps -o sid=,pgid=,tpgid= -p $$"],
        rows=33,
        columns=99,
        cwd=str(tmp_path),
        environment={**ENVIRONMENT, "MARK": "ü \udcff"},
    )
    size, tty, cwd, mark, ids = text.splitlines()
    pid = str(spawned[0].pid)
    assert (size, cwd, ids.split()) == ("33 99", str(tmp_path), [pid, pid, pid])
    assert tty.startswith("/dev/")
    assert mark.startswith("ü ")
    assert spawned[0].identity.pid == spawned[0].pid
    assert os.waitpid(spawned[0].pid, 0)[1] == 0


def test_the_child_starts_with_a_clean_sheet(spawned: list[Spawned]) -> None:
    """Whatever the parent blocked, ignored or left open. Python itself ignores two signals at its start: so not Python."""
    leaked = os.dup(1)
    os.set_inheritable(leaked, True)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)}
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD})
    try:
        text = run_on_terminal(spawned, ["sh", "-c", "grep -E 'Sig(Blk|Ign)' /proc/self/status; ls /proc/$$/fd"])
        during = signal.pthread_sigmask(signal.SIG_BLOCK, set())
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(leaked)
    lines = text.split()
    for_programs = (1 << 31) - 1  # 32 and 33 are the C library's own; what a grandparent made of them stays
    assert [int(lines[1], 16) & for_programs, int(lines[3], 16) & for_programs] == [0, 0], text
    assert {int(fd) for fd in lines[4:]} <= {0, 1, 2, 10}, text  # 10: some shells keep their script's terminal there
    assert during == blocked | {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}


def test_many_threads_may_start_programs_at_once(spawned: list[Spawned]) -> None:
    """Other threads take locks and memory all the time; a child that needed one of theirs would hang."""
    stop = threading.Event()

    def disturb() -> None:
        while not stop.is_set():
            json.dumps({str(n): [n] * 10 for n in range(200)})
            time.sleep(0)

    disturbers = [threading.Thread(target=disturb) for _ in range(3)]
    results: list[Spawned] = []

    def start() -> None:
        for _ in range(8):
            results.append(spawn_on_terminal(["sh", "-c", "echo $0"], cwd="/", environment=ENVIRONMENT))

    starters = [threading.Thread(target=start) for _ in range(3)]
    for thread in (*disturbers, *starters):
        thread.start()
    for thread in starters:
        thread.join(30)
    stop.set()
    for thread in disturbers:
        thread.join()
    spawned += results
    assert len(results) == 24
    assert [read_to_end(each) for each in results] == ["sh\n"] * 24


def test_an_agent_whose_parent_dies_before_it_goes_never_runs(tmp_path: Path) -> None:
    code = f"""
import os
from coordinator.system import spawn
null = os.open("/dev/null", os.O_RDWR)
spawn.start(["touch", {str(tmp_path / "ran")!r}], cwd="/", environment={ENVIRONMENT!r}, stdio=(null, null, null),
            before_go=lambda pid: (print(pid, flush=True), os.kill(os.getpid(), 9)))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert done.returncode == -signal.SIGKILL
    wait_until(lambda: processes.observe(processes.identify(int(done.stdout))).is_gone, what="the end of the child")
    assert not (tmp_path / "ran").exists()


def test_an_agent_is_in_its_control_group_from_the_first_instruction(spawned: list[Spawned]) -> None:
    group = cgroup.create_group(f"test-spawn-{os.getpid()}")
    if group is None:
        pytest.skip("no control group can be made here")
    try:
        assert f"/{group.name}\n" in run_on_terminal(spawned, ["cat", "/proc/self/cgroup"], cgroup=group)
        text = run_on_terminal(spawned, ["echo", "without"], cgroup=group / "no such group")
        assert text == "without\n"  # a group is a help, not a condition
    finally:
        for each in spawned:
            spawn.reap(each.pid)
        wait_until(lambda: cgroup.remove(group), what="an empty control group")


def test_a_window_follows_and_its_program_hears_of_it(spawned: list[Spawned]) -> None:
    spawned.append(
        spawn_on_terminal(
            ["sh", "-c", "trap 'stty size; exit' WINCH; echo up; while :; do sleep 0.01; done"], cwd="/", environment=ENVIRONMENT
        )
    )
    master = spawned[0].master_fd
    assert terminal.get_window_size(master) == (24, 80)
    assert os.read(master, 100).startswith(b"up")
    terminal.set_window_size(master, 50, 132)
    assert "50 132" in read_to_end(spawned[0])
    terminal.set_window_size(-1, 1, 1)
    assert terminal.get_window_size(-1) == (24, 80)
    terminal.set_window_size(master, 0, 1_000_000)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what waits at the other end of a terminal")
def test_what_was_typed_and_not_read_yet_is_seen_from_the_master() -> None:
    master, slave = os.openpty()
    try:
        with terminal.raw_mode(slave):
            assert not terminal.has_unread_input(master)
            os.write(master, b"text")
            wait_until(lambda: terminal.has_unread_input(master), what="the text")
            os.read(slave, 2)
            assert terminal.has_unread_input(master)
            os.read(slave, 2)
            assert not terminal.has_unread_input(master)
        os.close(slave)
        slave = -1
        assert not terminal.has_unread_input(master)
        assert not terminal.has_unread_input(-1)
    finally:
        os.close(master)
        if slave >= 0:
            os.close(slave)


def test_raw_mode_is_seen_from_the_master_and_undone_in_every_case() -> None:
    master, slave = os.openpty()
    try:
        before = termios.tcgetattr(slave)
        assert not terminal.is_raw(master)
        with pytest.raises(RuntimeError), terminal.raw_mode(slave):  # noqa: PT012
            assert terminal.is_raw(master)
            raise RuntimeError
        assert termios.tcgetattr(slave) == before
        assert not terminal.is_raw(-1)
        read, write = os.pipe()
        with terminal.raw_mode(read):
            pass
        os.close(read)
        os.close(write)
    finally:
        os.close(master)
        os.close(slave)


def test_a_detached_process_is_nobodys_child_and_its_words_are_kept(tmp_path: Path) -> None:
    log = tmp_path / "log"
    script = "echo out; echo err >&2; readlink /proc/$$/fd/0; ps -o ppid=,sid= -p $$; echo nonce $CREWKEEP_NONCE; exec sleep 1000"
    before = open_descriptors(), my_children()
    who = spawn_detached(["sh", "-c", script], environment={**ENVIRONMENT, "CREWKEEP_NONCE": "of the caller"}, log=log)
    try:
        assert (open_descriptors(), my_children()) == before
        wait_until(lambda: "nonce" in log.read_text(), what="its words")
        out, err, stdin, ids, nonce = log.read_text().splitlines()
        assert (out, err, stdin) == ("out", "err", "/dev/null")
        parent, session = ids.split()
        assert (int(session), int(parent) == os.getpid()) == (who.pid, False)
        assert len(nonce.split()[1]) == 32
        assert processes.observe(who) is Liveness.ALIVE
        assert log.stat().st_mode & 0o777 == 0o600
    finally:
        processes.send_signal(who, signal.SIGKILL)
    assert processes.wait_gone(who, 5)


def test_a_subreaper_does_not_become_the_parent_of_what_it_detaches(tmp_path: Path) -> None:
    code = f"""
import json, os, subprocess, sys, time
from pathlib import Path
from coordinator.system import processes, procfs, scan, spawn, terminal
assert terminal.become_subreaper()
who = spawn.spawn_detached(["sleep", "1000"], environment={ENVIRONMENT!r}, log=Path({str(tmp_path / "log")!r}))
print(who in scan.descendants_of(processes.identify_self()))
processes.send_signal(who, 9)
subprocess.run(["sh", "-c", "sleep 1000 & echo $! > {tmp_path}/pid"])
orphan = int(Path({str(tmp_path / "pid")!r}).read_text())
print(procfs.read_stat(orphan).parent == os.getpid())
os.kill(orphan, 9)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert done.stdout.split() == ["False", "True"], done.stderr


def test_a_log_above_its_limit_is_set_aside_and_a_link_is_not_followed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"x" * (LOG_LIMIT_BYTES + 1))
    os.close(spawn.open_log(log))
    assert log.stat().st_size == 0
    assert (tmp_path / "log.1").stat().st_size == LOG_LIMIT_BYTES + 1
    (tmp_path / "link").symlink_to(log)
    with pytest.raises(StorageError):
        spawn_detached(["true"], environment=ENVIRONMENT, log=tmp_path / "link")


def test_a_process_without_standard_descriptors_can_start_others(tmp_path: Path) -> None:
    code = f"""
import os
from pathlib import Path
from coordinator.system import spawn, terminal
for fd in (0, 1, 2):
    os.close(fd)
each = terminal.spawn_on_terminal(["sh", "-c", "echo from the terminal; exit 7"], cwd="/", environment={ENVIRONMENT!r})
text = os.read(each.master_fd, 100)
status = os.waitpid(each.pid, 0)[1]
spawn.spawn_detached(["sh", "-c", "echo detached"], environment={ENVIRONMENT!r}, log=Path({str(tmp_path / "log")!r}))
Path({str(tmp_path / "answer")!r}).write_text(f"{{text!r}} {{os.waitstatus_to_exitcode(status)}}")
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=30, check=True)
    assert (tmp_path / "answer").read_text() == r"b'from the terminal\r\n' 7"
    wait_until(lambda: (tmp_path / "log").read_text() == "detached\n", what="the detached one's words")


def test_out_of_descriptors_is_said_and_leaks_nothing() -> None:
    code = f"""
import os, resource
from coordinator.errors import StartFailed, StorageError
from coordinator.system import spawn, terminal
import warnings, select
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
start = len(os.listdir("/proc/self/fd"))
seen = set()
for room in range(0, 14):
    resource.setrlimit(resource.RLIMIT_NOFILE, (start - 1 + room, hard))
    try:
        each = terminal.spawn_on_terminal(["true"], cwd="/", environment={ENVIRONMENT!r})
    except StartFailed as error:
        seen.add(error.reason)
    else:
        seen.add("started")
        os.waitpid(each.pid, 0)
        os.close(each.master_fd)
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
try:
    os.waitpid(-1, os.WNOHANG)
except ChildProcessError:
    print(len(os.listdir("/proc/self/fd")) - start, sorted(seen))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert done.stdout.strip() == "0 ['no-room', 'started']", done.stderr
