"""A patrol's first moments: killed in them, it is followed by another at once; while they last, nobody starts a second one."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest
from support import cli, wait_until

import crewkeep
from coordinator.config import PATROL_IDLE_S
from coordinator.paths import Home
from coordinator.system.processes import Liveness, ProcessIdentity, observe
from crewkeep import patrol_client
from crewkeep.patrol_client import PatrolStart, ask_patrol, ensure_patrol


def find_patrol(home: Home) -> int:
    answer = ask_patrol(home, "status")
    return int(answer["pid"]) if answer else 0


def test_a_patrol_killed_as_soon_as_it_answers_is_replaced_at_once(home: Home) -> None:
    assert cli("run", "-d", "--name", "quiet", "--", "sleep", "300", home=home).returncode == 0
    killed = {0}
    for _ in range(6):
        pid = wait_until(lambda: ({find_patrol(home)} - killed or {0}).pop(), timeout_s=5, what="another patrol")
        os.kill(pid, signal.SIGKILL)
        killed.add(pid)
    assert cli("kill", "quiet", home=home).returncode == 0


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[ProcessIdentity]:
    """Every patrol that this process starts."""
    patrols: list[ProcessIdentity] = []
    spawn: Callable[..., ProcessIdentity] = patrol_client.spawn_detached

    def note(*words: Any, **more: Any) -> ProcessIdentity:
        patrols.append(spawn(*words, **more))
        return patrols[-1]

    monkeypatch.setattr(patrol_client, "spawn_detached", note)
    return patrols


def test_sessions_that_are_over_before_a_patrol_is_up_start_one_together(home: Home, started: list[ProcessIdentity]) -> None:
    for _ in range(12):
        crewkeep.Session.start(home=home, workspace="shop").close()
    wait_until(lambda: len(started) > 0 and find_patrol(home), what="the patrol")
    assert [patrol.pid for patrol in started] == [find_patrol(home)]


@pytest.mark.parametrize("harm", [signal.SIGKILL, signal.SIGSTOP])
def test_a_patrol_that_was_left_before_it_answered_is_followed_if_it_never_does(
    home: Home, started: list[ProcessIdentity], harm: signal.Signals
) -> None:
    first, second = PatrolStart(home), PatrolStart(home)
    first.go_on()
    os.kill(started[0].pid, harm)
    wait_until(lambda: observe(started[0]) is not Liveness.ALIVE, what="its end, or its stop")
    first.end()
    wait_until(lambda: second.go_on() or find_patrol(home), what="another patrol")
    second.end()
    assert [patrol.pid for patrol in started[1:]] == [find_patrol(home)]


def test_a_disk_that_takes_no_word_of_the_start_does_not_keep_a_patrol_from_it(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", fail)
    ensure_patrol(home)
    assert find_patrol(home)


def test_a_patrol_stays_while_short_sessions_come_and_go(home: Home, started: list[ProcessIdentity]) -> None:
    end_s = time.monotonic() + 3 * PATROL_IDLE_S
    while time.monotonic() < end_s:
        crewkeep.Session.start(home=home, workspace="shop").close()
        wait_until(
            lambda: (ask_patrol(home, "status") or {"watched": ["not yet up"]})["watched"] == [], what="a patrol that is idle"
        )
        for _ in range(300):  # idle far longer than not
            ask_patrol(home, "status")
    assert len(started) == 1


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"{}", b"\0" * 50, b'{"pid": 1}', b'{"pid": "x", "start_ticks": 1, "boot_id": ""}']
)
def test_whatever_stands_in_the_lock_a_patrol_is_started(home: Home, content: bytes) -> None:
    home.patrol.mkdir()
    home.patrol_start_lock.write_bytes(content)
    ensure_patrol(home)
    assert find_patrol(home)
