"""The ways of systems that lack what Linux has, tried here: no pidfds (old kernels), and psutil instead of /proc (macOS)."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest
from support import wait_until

from coordinator.ids import new_nonce
from coordinator.system import macos, processes, scan
from coordinator.system.processes import Liveness, observe
from coordinator.system.tree import end_tree


@pytest.fixture(params=["no pidfds", "macos"])
def lacking(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Take away what the other system does not have."""
    monkeypatch.delattr(os, "pidfd_open")
    if request.param == "macos":
        monkeypatch.setattr(macos, "boot_id", lambda: "a boot")
        monkeypatch.setattr(processes, "_boot_id", None)
        monkeypatch.setattr(processes, "_pid_namespace", 0)
        monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(processes, "_self", None)
    yield request.param
    monkeypatch.undo()
    processes._forget_self()


@pytest.fixture
def family() -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Start a marked process with a child and a child in a session of its own, both of which ignore SIGTERM."""
    made: dict[str, subprocess.Popen[str]] = {}

    def start(nonce: str) -> subprocess.Popen[str]:
        code = "trap '' TERM; (sleep 1000; :) & setsid sh -c 'sleep 1000; :' & echo up; wait"
        process = subprocess.Popen(
            ["sh", "-c", code], env={"PATH": os.environ["PATH"], "CREWKEEP_NONCE": nonce}, stdout=subprocess.PIPE, text=True
        )
        made[nonce] = process
        assert process.stdout is not None
        process.stdout.readline()
        wait_until(lambda: len(scan.find_marked([nonce])) == 5, what="five processes")
        return process

    yield start
    for who in scan.find_marked(made):
        os.kill(who.pid, signal.SIGKILL)
    for process in made.values():
        process.communicate()


def test_a_life_is_observed_and_ended(lacking: str) -> None:
    with subprocess.Popen(["/bin/sleep", "1000"]) as process:
        who = processes.identify(process.pid)
        assert who is not None
        assert who.pidfd_inode is None
        assert observe(who) is Liveness.ALIVE
        assert observe(dataclasses.replace(who, start_ticks=who.start_ticks - 1)) is Liveness.REUSED
        assert observe(dataclasses.replace(who, boot_id="another")) is Liveness.REBOOTED
        assert processes.send_signal(who, signal.SIGSTOP)
        wait_until(lambda: observe(who) is Liveness.STOPPED, what="the stop")
        assert not processes.wait_gone(who, 0.03)
        assert processes.send_signal(who, signal.SIGKILL)
        assert processes.wait_gone(who, 5)
        wait_until(lambda: observe(who) is Liveness.ZOMBIE, what="a zombie")
        assert not processes.send_signal(who, signal.SIGKILL)
    assert observe(who) is Liveness.EXITED
    assert processes.identify(process.pid) is None
    assert processes.name_of(process.pid) == ""


@pytest.mark.parametrize("by", ["descent", "nonce"])
def test_a_tree_is_ended_and_its_twin_is_not(lacking: str, family: Callable[[str], subprocess.Popen[str]], by: str) -> None:
    nonce, other = new_nonce(), new_nonce()
    process, twin = family(nonce), family(other)
    root, twins = processes.identify(process.pid), scan.find_marked([other])
    assert root is not None
    everybody = scan.find_marked([nonce])
    begun = time.monotonic()
    report = end_tree(roots=[root] if by == "descent" else [], nonces=[nonce] if by == "nonce" else [], timeout_s=6)
    assert report.left == ()
    assert {each.identity.pid for each in report.ended} == {who.pid for who in everybody}
    assert time.monotonic() - begun < 6
    assert all(observe(who).is_gone for who in everybody)
    assert [observe(who) for who in twins] == [Liveness.ALIVE] * 5
    assert end_tree(roots=[], nonces=[other], timeout_s=6).left == ()
    assert twin.wait(5) == -signal.SIGKILL


def test_homes_and_directories_are_read(lacking: str) -> None:
    with subprocess.Popen(["/bin/sleep", "1000"], env={"CREWKEEP_HOME": "."}, cwd="/usr") as process:
        found = wait_until(lambda: scan.find_home_processes("/usr"), what="the process")
        assert [who.pid for who, _ in found] == [process.pid]
        assert process.pid in scan.list_processes()
        assert process.pid in scan.children_of(os.getpid())
        process.kill()
