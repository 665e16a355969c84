"""Who is who: identities, what is observed of them, and signals that reach nobody else."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import wait_until

import coordinator.system
from coordinator.errors import Unsupported
from coordinator.system import processes
from coordinator.system.processes import Liveness, ProcessIdentity, observe
from coordinator.system.procfs import read_stat

ROOT = Path(__file__).parents[3]


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["/bin/sleep", "1000"]) as process:
        yield process
        process.kill()


def identify(pid: int) -> ProcessIdentity:
    found = processes.identify(pid)
    assert found is not None
    return found


def test_an_identity_survives_encoding(sleeper: subprocess.Popen[bytes]) -> None:
    who = identify(sleeper.pid)
    assert ProcessIdentity.decode(who.encode()) == who
    assert observe(ProcessIdentity.decode(who.encode())) is Liveness.ALIVE


def test_nobody_is_identified_by_a_free_pid_or_a_thread() -> None:
    done = subprocess.Popen(["/bin/true"])
    done.wait()
    assert processes.identify(done.pid) is None
    assert processes.identify(0) is None
    assert processes.identify(-1) is None
    ready, end = threading.Event(), threading.Event()
    threads: list[int] = []

    def run() -> None:
        threads.append(threading.get_native_id())
        ready.set()
        end.wait()

    thread = threading.Thread(target=run)
    thread.start()
    ready.wait()
    try:
        assert processes.identify(threads[0]) is None
        other = dataclasses.replace(processes.identify_self(), pid=threads[0])
        assert observe(other) is Liveness.REUSED
        assert processes.open_proven(other) is None
    finally:
        end.set()
        thread.join()


def test_a_life_is_observed_from_running_to_reaped(sleeper: subprocess.Popen[bytes]) -> None:
    who = identify(sleeper.pid)
    assert observe(who) is Liveness.ALIVE
    assert processes.send_signal(who, signal.SIGSTOP)
    wait_until(lambda: observe(who) is Liveness.STOPPED, what="the stop")
    assert not observe(who).is_gone
    assert processes.send_signal(who, signal.SIGCONT)
    wait_until(lambda: observe(who) is Liveness.ALIVE, what="the continuation")
    assert processes.send_signal(who, signal.SIGKILL)
    assert processes.wait_gone(who, 5)
    assert observe(who) is Liveness.ZOMBIE
    assert processes.identify(who.pid) == who
    assert processes.open_proven(who) is None
    sleeper.wait()
    assert observe(who) is Liveness.EXITED
    assert observe(None) is Liveness.NONE


def test_a_zombie_gets_no_signal(sleeper: subprocess.Popen[bytes]) -> None:
    who = identify(sleeper.pid)
    sleeper.kill()
    assert processes.wait_gone(who, 5)
    os.kill(who.pid, 0)  # what a bare pid would say
    assert not processes.send_signal(who, 0)


def test_a_leader_that_left_its_threads_behind_still_acts() -> None:
    code = """
import ctypes, threading, time
threading.Thread(target=time.sleep, args=(1000,)).start()
ctypes.CDLL(None).pthread_exit(0)
"""
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL) as process:
        who = identify(process.pid)

        def leader_state() -> bool:
            row = read_stat(process.pid)
            return row is not None and row.state == "Z"

        try:
            wait_until(leader_state, what="a leader that ended before its threads")
            assert observe(who) is Liveness.ALIVE
            assert not processes.wait_gone(who, 0.05)
        finally:
            assert processes.send_signal(who, signal.SIGKILL)
        assert processes.wait_gone(who, 5)
        process.wait()


def test_another_boot_or_namespace_is_told_first(sleeper: subprocess.Popen[bytes]) -> None:
    who = identify(sleeper.pid)
    assert observe(dataclasses.replace(who, boot_id="another", pid_namespace=1)) is Liveness.REBOOTED
    elsewhere = dataclasses.replace(who, pid_namespace=1)
    assert observe(elsewhere) is Liveness.UNKNOWN
    assert not observe(elsewhere).is_gone
    assert not processes.send_signal(elsewhere, signal.SIGKILL)
    assert not processes.wait_gone(elsewhere, 0.01)
    assert observe(who) is Liveness.ALIVE


def test_the_pidfd_inode_decides_where_it_is_known(sleeper: subprocess.Popen[bytes]) -> None:
    who = identify(sleeper.pid)
    if who.pidfd_inode is None:
        pytest.skip("this kernel has no pidfs")
    same_tick = dataclasses.replace(who, pidfd_inode=who.pidfd_inode + 1)
    assert observe(same_tick) is Liveness.REUSED
    assert not processes.send_signal(same_tick, signal.SIGKILL)
    assert observe(dataclasses.replace(who, start_ticks=who.start_ticks + 360_000)) is Liveness.ALIVE  # a time namespace
    assert observe(who) is Liveness.ALIVE


def test_start_ticks_decide_where_the_inode_is_not_known(sleeper: subprocess.Popen[bytes]) -> None:
    old = dataclasses.replace(identify(sleeper.pid), pidfd_inode=None)
    assert observe(old) is Liveness.ALIVE
    assert observe(dataclasses.replace(old, start_ticks=old.start_ticks - 1)) is Liveness.REUSED
    assert not processes.send_signal(dataclasses.replace(old, start_ticks=old.start_ticks - 1), signal.SIGKILL)
    assert processes.send_signal(old, signal.SIGKILL)


def test_without_pidfds_everything_still_works(sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "pidfd_open")
    who = identify(sleeper.pid)
    assert who.pidfd_inode is None
    assert observe(who) is Liveness.ALIVE
    assert not processes.send_signal(dataclasses.replace(who, start_ticks=1), signal.SIGKILL)
    assert not processes.wait_gone(who, 0.02)
    with pytest.raises(Unsupported):
        processes.open_proven(who)
    assert processes.send_signal(who, signal.SIGKILL)
    assert processes.wait_gone(who, 5)
    assert observe(who) is Liveness.ZOMBIE


def test_a_forked_child_finds_its_own_identity() -> None:
    mine = processes.identify_self()
    assert mine.pid == os.getpid()
    assert processes.identify_self() is mine
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, str(processes.identify_self().pid).encode())
        os._exit(0)
    os.close(write)
    assert int(os.read(read, 20)) == child
    os.close(read)
    os.waitpid(child, 0)


@pytest.mark.parametrize("name", [") R 1 (", "a b", "((", "))", ") Z 1 1 1 1", "\n"])
def test_a_process_may_call_itself_anything(name: str) -> None:
    code = f"import ctypes, sys; ctypes.CDLL(None).prctl(15, {name.encode()!r}, 0, 0, 0); print(flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-S", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        row = read_stat(process.pid)
        assert row is not None
        assert (row.name, row.parent) == (name, os.getpid())
        assert processes.name_of(process.pid) == name
        assert observe(identify(process.pid)) is Liveness.ALIVE
        process.kill()


def test_out_of_descriptors_is_unknown_and_never_gone(sleeper: subprocess.Popen[bytes]) -> None:
    code = f"""
import os, resource
from coordinator.system import processes
who = processes.identify({sleeper.pid})
resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) - 1, 4096))
print(processes.observe(who).value)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert done.stdout.strip() == "unknown", done.stderr


def test_another_users_process_is_there_and_refuses_signals(sleeper: subprocess.Popen[bytes]) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    code = f"""
import os
from coordinator.system import processes
os.setresuid(65534, 65534, 65534)
who = processes.identify({sleeper.pid})
print(processes.observe(who).value)
try:
    processes.send_signal(who, 9)
except PermissionError:
    print("refused")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert done.stdout.split() == ["alive", "refused"], done.stderr


#: Runs in a pid namespace of its own, where the next pid can be chosen; prints how often the successor was told apart.
REUSE = """
import os, signal, sys
from coordinator.system import processes
told, same_tick, hit = 0, 0, 0
for _ in range(50):
    first = os.fork()
    if first == 0:
        signal.pause()
    who = processes.identify(first)
    os.kill(first, 9)
    os.waitpid(first, 0)
    with open("/proc/sys/kernel/ns_last_pid", "w") as file:
        file.write(str(first - 1))
    second = os.fork()
    if second == 0:
        signal.pause()
    if second == first:
        hit += 1
        same_tick += processes.start_ticks(second) == who.start_ticks
        told += processes.observe(who) is processes.Liveness.REUSED and not processes.send_signal(who, 9)
        told -= processes.observe(processes.identify(second)) is not processes.Liveness.ALIVE
    os.kill(second, 9)
    os.waitpid(second, 0)
print(hit, same_tick, told)
"""


def test_a_pid_given_away_within_one_tick_is_told_apart() -> None:
    if shutil.which("unshare") is None or processes.identify_self().pidfd_inode is None:
        pytest.skip("needs unshare and a kernel with pidfs")
    done = subprocess.run(
        ["unshare", "--map-root-user", "--pid", "--fork", "--mount-proc", sys.executable, "-c", REUSE],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
    )
    if done.returncode != 0 and "unshare" in done.stderr:
        pytest.skip(f"no pid namespace can be made here: {done.stderr.strip()}")
    hit, same_tick, told = map(int, done.stdout.split())
    assert told == hit > 25, done.stderr
    assert same_tick > 0  # otherwise it would not have shown anything that start times do not show


def test_a_frozen_process_counts_as_stopped(sleeper: subprocess.Popen[bytes]) -> None:
    freezer = Path("/sys/fs/cgroup/freezer") / f"crewkeep-test-{os.getpid()}"
    try:
        freezer.mkdir()
    except OSError:
        pytest.skip("no freezer here")
    try:
        (freezer / "cgroup.procs").write_text(str(sleeper.pid))
        (freezer / "freezer.state").write_text("FROZEN")
        wait_until(lambda: observe(identify(sleeper.pid)) is Liveness.STOPPED, what="the freeze")
        (freezer / "freezer.state").write_text("THAWED")
        wait_until(lambda: observe(identify(sleeper.pid)) is Liveness.ALIVE, what="the thaw")
    finally:
        (freezer / "freezer.state").write_text("THAWED")
        sleeper.kill()
        sleeper.wait()
        wait_until(lambda: _removed(freezer), what="an empty control group")


def _removed(group: Path) -> bool:
    try:
        group.rmdir()
    except OSError:
        return False
    return True


def test_waiting_for_an_end_takes_no_time_of_the_processor(sleeper: subprocess.Popen[bytes]) -> None:
    who = identify(sleeper.pid)
    before = time.process_time()
    assert not processes.wait_gone(who, 0.3)
    assert time.process_time() - before < 0.05


def test_windows_gets_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    coordinator.system.check_platform()
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(Unsupported, match="does not run on Windows") as caught:
        coordinator.system.check_platform()
    assert "WSL" in caught.value.hint


def test_the_room_imports_nothing_heavy() -> None:
    heavy = ("psutil", "asyncio", "multiprocessing", "subprocess", "logging", "filelock", "tenacity", "typer", "tempfile")
    code = f"""
import sys
from coordinator.system import cgroup, processes, scan, sockets, spawn, terminal, tree, wakeup
print([name for name in {heavy!r} if name in sys.modules])
"""
    environment = {"PATH": os.environ["PATH"]}  # coverage would bring modules of its own
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=30)
    assert done.stdout.strip() == "[]", done.stderr
