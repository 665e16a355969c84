"""A patrol that is there and does not answer is seen, roused, and replaced by the sessions that it should watch."""

from __future__ import annotations

import json
import os
import select
import signal
from collections.abc import Iterator

import pytest
from support import cli, cli_json, find_home_processes, wait_until

from coordinator.paths import Home
from coordinator.sessions.registry import Registry
from coordinator.system import processes
from coordinator.system.processes import Liveness, ProcessIdentity, identify
from crewkeep import patrol_client, patrol_rousing
from crewkeep.patrol_client import ask_patrol, ensure_patrol


@pytest.fixture
def patrol(home: Home) -> Iterator[ProcessIdentity]:
    """The patrol of a home with one session."""
    cli_json("run", "-d", "--json", "--name", "quiet", "--", "sleep", "300", home=home)
    answer = wait_until(lambda: (now := ask_patrol(home, "status") or {}).get("watched") and now, what="the session under watch")
    identity = identify(answer["pid"])
    assert identity is not None
    yield identity
    assert cli("kill", "quiet", home=home).returncode == 0


def stop(identity: ProcessIdentity) -> None:
    processes.send_signal(identity, signal.SIGSTOP)
    wait_until(lambda: processes.observe(identity) is Liveness.STOPPED, what="the patrol stopped")


def check_watched_again(home: Home, patrol: ProcessIdentity) -> None:
    """The session's keeper, killed now, is brought back."""
    keeper = cli_json("inspect", "quiet", "--json", home=home)["keeper_pid"]
    os.kill(keeper, signal.SIGKILL)
    wait_until(lambda: cli_json("inspect", "quiet", "--json", home=home)["epoch"] == 2, what="it to come back", every_s=0.1)


def test_a_stopped_patrol_is_told_by_doctor_and_ps(home: Home, patrol: ProcessIdentity) -> None:
    stop(patrol)
    told = {check["name"]: check for check in cli_doctor(home)}
    assert told["patrol"]["level"] == "bad"
    assert f"process {patrol.pid} is stopped" in told["patrol"]["message"]
    stop(patrol)
    assert f"process {patrol.pid}) is stopped" in cli("ps", home=home).stderr


def cli_doctor(home: Home) -> list[dict[str, str]]:
    done = cli("doctor", "--json", home=home)
    found: list[dict[str, str]] = json.loads(done.stdout)
    return found


def test_the_keepers_continue_a_stopped_patrol_and_it_watches_on(home: Home, patrol: ProcessIdentity) -> None:
    stop(patrol)
    wait_until(lambda: processes.observe(patrol) is Liveness.ALIVE, timeout_s=20, what="the patrol continued")
    check_watched_again(home, patrol)
    assert processes.observe(patrol) is Liveness.ALIVE


def test_whoever_needs_a_patrol_continues_a_stopped_one(home: Home, patrol: ProcessIdentity) -> None:
    stop(patrol)
    ensure_patrol(home)
    assert (ask_patrol(home, "status") or {}).get("pid") == patrol.pid


def test_a_patrol_that_stays_silent_is_killed_and_another_watches(home: Home, patrol: ProcessIdentity) -> None:
    stop(patrol)
    told = patrol_rousing.rouse_patrol(home, patrol_rousing.PATROL_SILENCE_S)
    assert told is not None
    assert f"killed patrol {patrol.pid}" in told
    follower = wait_until(lambda: (ask_patrol(home, "status") or {}).get("pid"), what="another patrol")
    assert follower != patrol.pid
    wait_until(lambda: (ask_patrol(home, "status") or {}).get("watched"), what="the session under watch again")
    check_watched_again(home, patrol)


def test_an_owner_that_was_stopped_itself_does_not_hold_the_patrol_for_silent(
    home: Home, patrol: ProcessIdentity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patrol_client, "PATROL_CHECK_S", 0.001)
    roused: list[float] = []
    monkeypatch.setattr(patrol_client, "rouse_patrol", lambda home, silent_s: roused.append(silent_s))
    link = patrol_client.PatrolLink(home, Registry(home).find("quiet"), {})
    try:
        link.maintain()
        for _ in range(3):
            fd = link.fileno()
            assert fd is not None
            assert select.select([fd], [], [], 10)[0], "the patrol answers"
            wait_until(lambda: link.maintain() == 0.001, what="the next check")  # the first that sees the answer
    finally:
        link.close()
    assert roused == []


def test_a_patrol_that_was_never_written_down_is_not_roused(home: Home) -> None:
    assert patrol_rousing.rouse_patrol(home, 1000) is None
    home.patrol.mkdir(parents=True)
    home.patrol_record.write_text("{}")
    assert patrol_rousing.rouse_patrol(home, 1000) is None
    assert find_home_processes(home) == []


def test_a_patrol_begins_its_watch_although_the_disk_does_not_take_who_it_is(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREWKEEP_PATROL_FAILPOINTS", "files.rename=ENOSPC@1")
    ensure_patrol(home)
    assert ask_patrol(home, "status") is not None
    assert not home.patrol_record.exists()
