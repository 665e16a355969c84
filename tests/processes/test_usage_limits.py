"""A session that a usage limit parked goes on at the limit's end, once, whoever dies meanwhile, and not if a person ended it."""

from __future__ import annotations

import contextlib
import datetime
import itertools
import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from limited_agent import Place, install
from support import cli, cli_json, find_home_processes, wait_until

from coordinator import sealed
from coordinator.errors import CrewkeepError
from coordinator.paths import Home
from coordinator.services.features import Features
from coordinator.sessions.model import LAUNCH_KIND, Outcome, Phase, Restart, SessionRecord
from coordinator.sessions.registry import Registry
from coordinator.system import processes
from coordinator.system.processes import ProcessIdentity
from crewkeep import control
from crewkeep.patrol_client import ask_patrol, ensure_patrol
from crewkeep.starting import start_session

QUICK = {"CREWKEEP_HEARTBEAT_INTERVAL_S": "0.1", "CREWKEEP_LEASE_S": "0.5", "CREWKEEP_START_DELAY_S": "0.05"}
HOUR_S = 3600.0
WORK = {"work": True}


class Shop:
    """One session of the program that meets limits."""

    def __init__(self, home: Home, place: Place) -> None:
        self.home, self.place, self.registry = home, place, Registry(home)
        self.id = ""

    def start(self, *acts: dict[str, Any], restart: Restart = Restart.ON_CRASH) -> None:
        self.place.plan(*acts)
        base = {name: value for name, value in os.environ.items() if not name.startswith("CREWKEEP_")}
        environment = {**base, **QUICK, **self.place.environment}
        argv = [str(self.place.path / "limited")]
        self.id = start_session(
            self.home, argv, name="shop", agent="limited", cwd="/", workspace="w", environment=environment, restart=restart
        ).id

    def get(self) -> SessionRecord:
        return self.registry.get(self.id)

    def wait(self, holds: Callable[[SessionRecord], bool], what: str, timeout_s: float = 20) -> SessionRecord:
        return wait_until(lambda: found if holds(found := self.get()) else None, timeout_s=timeout_s, what=what)

    def wait_parked(self, epoch: int = 1) -> SessionRecord:
        """Return the record once it is parked at ``epoch`` and its keeper does nothing more but wait."""
        log = self.home.session(self.id).keeper_log

        def waits(found: SessionRecord) -> bool:
            told = log.read_text().rpartition(f" runs at epoch {epoch}\n")[2]
            return found.phase is Phase.PARKED and found.epoch == epoch and " parked until " in told

        return self.wait(waits, f"parked at epoch {epoch}")

    def wait_running(self, epoch: int) -> SessionRecord:
        """Return the record once the program of this epoch, or a later one, is at work."""

        def runs(found: SessionRecord) -> bool:
            starts = self.place.list_starts()
            return found.phase is Phase.RUNNING and found.epoch >= epoch and bool(starts) and starts[-1]["epoch"] == found.epoch

        return self.wait(runs, f"running at epoch {epoch}")

    def wait_looks(self, pid: int, count: int = 3) -> None:
        """Return when the process has looked at the clock so often since now."""
        before = self.place.count_looks(pid)
        wait_until(lambda: self.place.count_looks(pid) >= before + count, timeout_s=20, what="looks at the clock")

    def wait_ticks(self, count: int = 3) -> None:
        """Return when the session's keeper has looked at the clock so often since now, and is through with what it did then."""
        self.wait_looks(owner_pid(self.get()), count)
        control.request(self.home.session(self.id), "status", timeout_s=20)  # answered between two ticks, never within one

    def wait_attended(self) -> None:
        """Return when the patrol has attended to whatever it sees now: it sweeps before it answers again."""
        assert ask_patrol(self.home, "look") is not None
        wait_until(lambda: (ask_patrol(self.home, "status") or {"busy": 1})["busy"] == [], what="nobody attended to")

    def patrol(self) -> ProcessIdentity:
        answer = wait_until(lambda: ask_patrol(self.home, "status"), what="a patrol")
        identity = processes.identify(answer["pid"])
        assert identity is not None
        return identity

    def check_ran_once(self, record: SessionRecord, epoch: int) -> None:
        assert [start["epoch"] for start in self.place.list_starts()] == list(range(1, epoch + 1))
        assert record.epoch == epoch
        assert self.get().epoch == epoch


@pytest.fixture
def shop(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    (tmp_path / "place").mkdir()
    place = install(tmp_path / "place")
    for name, value in place.environment.items():
        monkeypatch.setenv(name, value)  # keepers and patrols have it from whoever starts them
    monkeypatch.syspath_prepend(str(tmp_path / "place" / "site"))
    return Shop(home, place)


def kill(*identities: ProcessIdentity | None) -> None:
    for identity in identities:
        assert identity is not None
        processes.send_signal(identity, signal.SIGKILL)
    for identity in identities:
        assert identity is not None
        assert processes.wait_gone(identity, 5)


def owner_pid(record: SessionRecord) -> int:
    assert record.owner is not None
    return record.owner.pid


def count_wakes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))


def is_gone(identity: ProcessIdentity) -> bool:
    return processes.observe(identity).is_gone


# The keeper that waits


@pytest.mark.parametrize("limit", [{"limit_s": HOUR_S}, {"limit_s": HOUR_S, "exit": 1}, {"limit_s": HOUR_S, "exit": 0}])
def test_a_parked_session_goes_on_when_its_limit_ends_once_and_not_before(shop: Shop, limit: dict[str, Any]) -> None:
    shop.start(limit, WORK)
    parked = shop.wait_parked()
    assert parked.resumes_at is not None
    assert "usage limit" in (parked.reason or "")
    shop.place.turn_clock(parked.resumes_at - shop.place.now_s() - 60)
    shop.wait_ticks()
    assert shop.get() == parked, "a minute before, nothing was done"
    shop.place.turn_clock(60)
    running = shop.wait_running(2)
    assert running.owner == parked.owner
    assert shop.place.list_starts()[1]["at"] >= parked.resumes_at
    shop.wait_ticks()
    shop.wait_attended()
    shop.check_ran_once(running, 2)


def test_a_machine_that_slept_over_the_limits_end_finds_the_session_going_on(shop: Shop) -> None:
    shop.start({"limit_s": HOUR_S}, WORK)
    parked = shop.wait_parked()
    shop.place.turn_clock(48 * HOUR_S)
    shop.check_ran_once(shop.wait_running(2), 2)
    assert shop.get().owner == parked.owner


def test_a_clock_that_is_set_back_only_makes_it_wait_longer(shop: Shop) -> None:
    shop.start({"limit_s": HOUR_S}, WORK)
    parked = shop.wait_parked()
    shop.place.turn_clock(-48 * HOUR_S)
    shop.wait_ticks()
    assert shop.get() == parked
    shop.place.turn_clock(50 * HOUR_S)
    shop.check_ran_once(shop.wait_running(2), 2)


def test_a_resume_that_fails_is_tried_again_after_growing_pauses_and_not_at_each_tick(shop: Shop) -> None:
    shop.start({"limit_s": HOUR_S}, WORK)
    parked = shop.wait_parked()
    paths = shop.home.session(shop.id)
    launch = paths.launch.read_bytes()
    body = sealed.decode_sealed(launch, LAUNCH_KIND, 1, path=paths.launch)
    paths.launch.write_bytes(sealed.encode_sealed(LAUNCH_KIND, 99, body))  # an older program does not touch it
    shop.place.turn_clock(2 * HOUR_S)

    def list_tries() -> list[float]:
        lines = [line for line in paths.keeper_log.read_text().splitlines() if " recovering: " in line]
        return [datetime.datetime.fromisoformat(line.split()[0]).timestamp() for line in lines]

    tries = wait_until(lambda: found if len(found := list_tries()) >= 3 else None, timeout_s=30, what="three tries")
    pauses = [later - earlier for earlier, later in itertools.pairwise(tries[:3])]
    assert pauses[0] >= 0.99 and pauses[1] >= 1.99, f"each later than the one before: {pauses}"
    assert shop.get() == parked, "nothing was begun"
    paths.launch.write_bytes(launch)
    shop.check_ran_once(shop.wait_running(2), 2)


def test_a_keeper_that_fails_in_the_midst_of_a_resume_leaves_it_to_the_patrol(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREWKEEP_KEEPER_FAILPOINTS", "recover.reaped=EIO@1")
    shop.start({"limit_s": HOUR_S}, WORK)
    shop.wait_parked()
    shop.place.turn_clock(2 * HOUR_S)
    running = shop.wait_running(3)
    shop.wait_attended()
    assert [start["epoch"] for start in shop.place.list_starts()] == [1, 3]
    assert shop.get().epoch == running.epoch == 3


@pytest.mark.parametrize("waits_for", ["its time", "recovery to be turned on"])
def test_a_parked_keeper_looks_at_the_clock_once_a_second(shop: Shop, waits_for: str) -> None:
    shop.start({"limit_s": HOUR_S}, WORK)
    parked = shop.wait_parked()
    if waits_for != "its time":
        Features(shop.home).set("recovery", "off")
        shop.place.turn_clock(2 * HOUR_S)
    pid = owner_pid(parked)
    shop.wait_looks(pid, 1)
    before, began_s = shop.place.count_looks(pid), time.monotonic()
    shop.wait_looks(pid, 4)
    count, took_s = shop.place.count_looks(pid) - before, time.monotonic() - began_s
    assert count <= took_s + 1, "a busy machine makes it fewer, never more"


# What is told of it


def test_when_a_parked_session_goes_on_is_told(shop: Shop) -> None:
    shop.start({"until": float(int(time.time()) + 24 * 3600), "text": "you have hit your limit"}, WORK)
    parked = shop.wait_parked()
    at = datetime.datetime.fromtimestamp(parked.resumes_at or 0, datetime.UTC)
    (row,) = cli_json("ps", "--json", home=shop.home)
    told_at = f"{at:%Y-%m-%dT%H:%M:%S}.000Z"
    assert (row["state"], row["reason"], row["resumes_at"]) == ("parked", "usage limit: you have hit your limit", told_at)
    assert cli_json("inspect", "shop", "--json", home=shop.home)["not_before_at"] == told_at
    told = cli_json("why", "shop", "--json", home=shop.home)
    assert f"it goes on by itself at {at:%Y-%m-%dT%H:%M:%SZ}" in told["action"]
    assert "you have hit your limit" in told["reason"]


@pytest.mark.parametrize(
    ("until", "leaves"),
    [("1e999", False), ("1e999", True), ("1800000000000", False), ("1800000000000", True), ("1" + "0" * 400, False)],
    ids=["never", "never, leaves", "in milliseconds", "in milliseconds, leaves", "a number of 401 digits"],
)
def test_an_end_of_the_limit_that_cannot_be_meant_parks_nothing(shop: Shop, until: str, leaves: bool) -> None:
    shop.start({"until": json.loads(until), **({"exit": 1} if leaves else {})})
    if leaves:
        ended = shop.wait(lambda found: found.phase is Phase.ENDED, "its end")
        assert "usage limit reached" in (ended.reason or "")
        assert cli_json("ps", "-a", "--json", home=shop.home)[0]["state"] == "failed"
    else:
        running = shop.wait_running(1)
        shop.wait_ticks(20)
        assert shop.get() == running
    assert len(shop.place.list_starts()) == 1


@pytest.mark.parametrize("garbage", ["NaN", '"soon"'])
def test_a_record_with_garbage_for_the_time_is_mended_from_its_journal(shop: Shop, garbage: str) -> None:
    shop.start({"limit_s": HOUR_S}, WORK)
    parked = shop.wait_parked()
    path = shop.home.session(shop.id).record
    whole = path.read_text()
    torn = whole.replace(f'"not_before_at":{parked.not_before_at!r}', f'"not_before_at":{garbage}')
    assert torn != whole
    path.write_text(torn)
    assert cli_json("ps", "--json", home=shop.home)[0]["state"] == "parked"
    wait_until(lambda: isinstance(shop.registry.list_all()[0], SessionRecord), timeout_s=20, what="the record mended")
    assert torn in [one.read_text() for one in shop.home.quarantine.rglob("record*") if one.is_file()], "set aside, not lost"
    assert shop.get().resumes_at == parked.resumes_at
    kill(parked.owner)
    shop.place.turn_clock(2 * HOUR_S)
    shop.wait_attended()
    shop.check_ran_once(shop.wait_running(2), 2)


# Recovery turned off


@pytest.mark.parametrize("level", ["off", "observe"])
def test_with_recovery_turned_down_a_parked_session_waits_on_until_it_is_turned_up(shop: Shop, level: str) -> None:
    shop.start({"limit_s": HOUR_S}, WORK)
    parked = shop.wait_parked()
    Features(shop.home).set("recovery", level)
    shop.place.turn_clock(2 * HOUR_S)
    shop.wait_ticks()
    assert shop.get() == parked
    Features(shop.home).set("recovery", "on")
    shop.check_ran_once(shop.wait_running(2), 2)


def test_with_recovery_turned_off_a_resume_that_failed_is_not_tried_again_until_it_is_turned_on(shop: Shop) -> None:
    shop.start({"limit_s": HOUR_S}, WORK)
    parked = shop.wait_parked()
    paths = shop.home.session(shop.id)
    launch = paths.launch.read_bytes()
    body = sealed.decode_sealed(launch, LAUNCH_KIND, 1, path=paths.launch)
    paths.launch.write_bytes(sealed.encode_sealed(LAUNCH_KIND, 99, body))
    shop.place.turn_clock(2 * HOUR_S)
    wait_until(lambda: " recovering: " in paths.keeper_log.read_text(), timeout_s=20, what="a try")
    Features(shop.home).set("recovery", "off")
    paths.launch.write_bytes(launch)
    before = count_wakes(owner_pid(parked))  # ten a second, and it would try again after one
    wait_until(lambda: count_wakes(owner_pid(parked)) >= before + 40, timeout_s=30, what="the keeper awake again and again")
    control.request(shop.home.session(shop.id), "status", timeout_s=20)
    assert shop.get() == parked
    Features(shop.home).set("recovery", "on")
    shop.check_ran_once(shop.wait_running(2), 2)


@pytest.mark.parametrize("level", ["off", "observe"])
def test_with_recovery_turned_down_the_patrol_leaves_a_parked_session_of_a_dead_keeper(shop: Shop, level: str) -> None:
    shop.start({"limit_s": HOUR_S}, WORK)
    parked = shop.wait_parked()
    Features(shop.home).set("recovery", level)
    kill(parked.owner)
    shop.place.turn_clock(2 * HOUR_S)
    shop.wait_attended()
    assert shop.get() == parked
    Features(shop.home).set("recovery", "on")
    shop.wait_attended()
    shop.check_ran_once(shop.wait_running(2), 2)


# The keeper is dead


def test_the_patrol_brings_it_back_at_the_limits_end_if_its_keeper_was_killed(shop: Shop) -> None:
    shop.start({"limit_s": 4}, WORK)
    parked = shop.wait_parked()
    kill(parked.owner)
    shop.wait_attended()
    assert shop.get() == parked, "not before"
    running = shop.wait_running(2)
    assert shop.place.list_starts()[1]["at"] >= (parked.resumes_at or 0)
    shop.wait_attended()
    shop.check_ran_once(running, 2)


@pytest.mark.parametrize("who", ["patrol first", "keeper first"])
def test_another_patrol_brings_it_back_if_keeper_and_patrol_were_killed(shop: Shop, who: str) -> None:
    shop.start({"limit_s": HOUR_S}, WORK)
    parked = shop.wait_parked()
    patrol = shop.patrol()
    if who == "patrol first":
        os.kill(owner_pid(parked), signal.SIGSTOP)  # or it would start another at once
        kill(patrol, parked.owner)
    else:
        kill(parked.owner)
        shop.wait_attended()
        kill(patrol)
    ensure_patrol(shop.home)
    assert shop.patrol() != patrol
    shop.wait_attended()
    assert shop.get() == parked
    shop.place.turn_clock(2 * HOUR_S)
    shop.wait_attended()
    running = shop.wait_running(2)
    shop.wait_attended()
    shop.check_ran_once(running, 2)


def test_a_patrol_that_dies_while_it_brings_it_back_is_followed_by_one_that_does(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.start({"limit_s": HOUR_S}, WORK)
    parked = shop.wait_parked()
    os.kill(owner_pid(parked), signal.SIGSTOP)
    kill(shop.patrol(), parked.owner)
    shop.place.turn_clock(2 * HOUR_S)
    monkeypatch.setenv("CREWKEEP_PATROL_FAILPOINTS", "recover.restored=kill")
    with contextlib.suppress(CrewkeepError):
        ensure_patrol(shop.home)  # it may be dead before it answers
    shop.wait(lambda found: found.epoch == 2 and found.recoverer is not None and is_gone(found.recoverer), "a recovery cut short")
    monkeypatch.delenv("CREWKEEP_PATROL_FAILPOINTS")
    ensure_patrol(shop.home)
    running = shop.wait_running(2)
    shop.wait_attended()
    assert [start["epoch"] for start in shop.place.list_starts()] == [1, running.epoch]
    assert shop.get().epoch == running.epoch == 3


# A person ended it


@pytest.mark.parametrize("keeper", ["alive", "dead"])
@pytest.mark.parametrize("how", ["stop", "kill", "rm --force"])
def test_what_a_person_ended_while_it_was_parked_never_goes_on(shop: Shop, how: str, keeper: str) -> None:
    shop.start({"limit_s": HOUR_S}, WORK)
    parked = shop.wait_parked()
    if keeper == "dead":
        kill(parked.owner)
        shop.wait_attended()
    done = cli(*how.split(), "shop", home=shop.home)
    assert done.returncode == 0, done.stderr
    wait_until(lambda: not find_home_processes(shop.home), timeout_s=20, what="keeper and patrol to leave")
    shop.place.turn_clock(2 * HOUR_S)
    ensure_patrol(shop.home)
    if how == "rm --force":
        assert not shop.home.session(shop.id).path.exists()
    else:
        shop.wait_attended()
        ended = shop.get()
        assert (ended.phase, ended.epoch, ended.resumes_at) == (Phase.ENDED, 1, None)
        left_by_itself = "shop is stopped" in shop.home.session(shop.id).keeper_log.read_text()
        assert left_by_itself == (keeper == "alive"), "a keeper that waits need not be killed"
    assert cli_json("recover", "--all", "--json", home=shop.home) == []
    assert len(shop.place.list_starts()) == 1


def test_a_session_whose_files_were_taken_away_while_it_was_parked_is_given_up_by_its_keeper(shop: Shop) -> None:
    shop.start({"limit_s": HOUR_S}, WORK)
    parked = shop.wait_parked()
    shutil.rmtree(shop.home.session(shop.id).path)
    assert parked.owner is not None
    assert processes.wait_gone(parked.owner, 20)
    wait_until(lambda: not find_home_processes(shop.home), timeout_s=20, what="the patrol to leave")


# Limit upon limit


@pytest.mark.parametrize("limit", [{}, {"exit": 0}], ids=["stays", "leaves"])
def test_limits_in_a_row_park_it_again_and_are_no_crash_loop(shop: Shop, limit: dict[str, Any]) -> None:
    shop.start(*[{"limit_s": HOUR_S, **limit}] * 7, WORK)
    for epoch in range(1, 8):
        parked = shop.wait_parked(epoch)
        assert "usage limit" in (parked.reason or "")
        assert parked.resumes_at is not None, parked.reason
        shop.place.turn_clock(HOUR_S + 1)
    running = shop.wait_running(8)
    kill(running.agent)
    again = shop.wait(lambda found: found.phase is Phase.RUNNING and found.epoch == 9, "a crash after them answered as any other")
    assert again.epoch == 9


@pytest.mark.parametrize("who", ["keeper", "patrol"])
def test_what_stands_in_the_conversation_from_before_does_not_park_it_again(shop: Shop, who: str) -> None:
    shop.start({"until": shop.place.now_s() + 24 * HOUR_S}, {"quiet": True})
    parked = shop.wait_parked()
    if who == "patrol":
        kill(parked.owner)
    assert cli("recover", "shop", "--yes", home=shop.home).returncode == 0, "its user does not wait for the limit's end"
    shop.wait_running(2)
    shop.wait_ticks(20)
    assert (shop.get().phase, shop.get().epoch) == (Phase.RUNNING, 2)


@pytest.mark.parametrize(("code", "outcome"), [(0, Outcome.DONE), (3, Outcome.FAILED)])
def test_an_agent_that_leaves_is_not_parked_for_what_stands_in_the_conversation_from_before(
    shop: Shop, code: int, outcome: Outcome
) -> None:
    shop.start({"until": shop.place.now_s() + 24 * HOUR_S}, {"quiet": True, "exit": code})
    shop.wait_parked()
    cli("recover", "shop", "--yes", home=shop.home)
    ended = shop.wait(lambda found: found.phase is Phase.ENDED, "its end")
    assert (ended.outcome, ended.exit_code, ended.epoch) == (outcome, code, 2)
    assert "limit" not in (ended.reason or "")


def test_a_user_who_goes_on_before_the_limits_end_meets_it_again_and_it_is_parked_again(shop: Shop) -> None:
    limit = {"until": shop.place.now_s() + 24 * HOUR_S}
    shop.start(limit, limit, WORK)
    parked = shop.wait_parked()
    cli("recover", "shop", "--yes", home=shop.home)
    again = shop.wait_parked(2)
    assert (again.resumes_at, again.reason) == (parked.resumes_at, parked.reason)
    shop.place.turn_clock(25 * HOUR_S)
    shop.check_ran_once(shop.wait_running(3), 3)


@pytest.mark.parametrize("exit_code", [None, 1])
def test_with_restart_never_a_limit_parks_nothing(shop: Shop, exit_code: int | None) -> None:
    shop.start({"limit_s": HOUR_S, **({} if exit_code is None else {"exit": exit_code})}, restart=Restart.NEVER)
    if exit_code is None:
        running = shop.wait_running(1)
        shop.wait_ticks(20)
        assert shop.get() == running
    else:
        assert shop.wait(lambda found: found.phase is Phase.ENDED, "its end").outcome is Outcome.FAILED
