"""A keeper that dies at any step of a start or of a recovery of its own: another takes over, and one incarnation acts."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from support import cli, wait_until

from coordinator.errors import CrewkeepError
from coordinator.paths import Home
from coordinator.sessions.journal import Journal
from coordinator.sessions.model import Outcome, Phase, SessionRecord
from coordinator.sessions.registry import Registry
from coordinator.system import processes, scan
from coordinator.system.processes import Liveness
from crewkeep.patrol_client import ask_patrol, ensure_patrol
from crewkeep.starting import start_session

SETTINGS = {"CREWKEEP_HEARTBEAT_INTERVAL_S": "0.1", "CREWKEEP_LEASE_S": "0.5", "CREWKEEP_START_DELAY_S": "0.05"}


def start(home: Home, directory: Path) -> SessionRecord:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CREWKEEP_")} | SETTINGS
    return start_session(home, ["nohup", "sleep", "1000"], cwd=str(directory), workspace="faults", environment=environment)


def is_settled(record: SessionRecord) -> bool:
    alive = [processes.observe(one) is Liveness.ALIVE for one in (record.owner, record.agent)]
    return record.phase is Phase.ENDED or (record.phase is Phase.RUNNING and all(alive))


def find_nonces(home: Home, record: SessionRecord) -> dict[int, str]:
    """Return the nonce of every epoch that the session ever had."""
    content = Journal(home.session(record.id)).read()
    return {entry.body["epoch"]: entry.body["nonce"] for entry in content.entries if entry.kind == "record"}


def check_one_incarnation(home: Home, record: SessionRecord) -> None:
    running = record.phase is Phase.RUNNING
    for epoch, nonce in find_nonces(home, record).items():
        marked = scan.find_marked([nonce])
        assert len(marked) == (1 if running and epoch == record.epoch else 0), f"epoch {epoch} of {record.epoch}: {marked}"


@pytest.mark.parametrize(
    "failpoint",
    [
        "registry.journal=kill@1",
        "registry.record=kill@1",
        "registry.written=kill@1",
        "registry.journal=kill@2",
        "registry.record=kill@2",
        "registry.written=kill@2",
        "heartbeat.write=kill@1",
    ],
)
def test_a_keeper_that_dies_while_it_starts_leaves_one_incarnation_or_none(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failpoint: str
) -> None:
    ensure_patrol(home)
    monkeypatch.setenv("CREWKEEP_KEEPER_FAILPOINTS", failpoint)
    try:
        start(home, tmp_path)
    except CrewkeepError as error:
        told = str(error)
    else:
        told = ""
    registry = Registry(home)
    (record,) = registry.list_all()
    assert isinstance(record, SessionRecord)
    settled = wait_until(lambda: (now := registry.get(record.id)) and is_settled(now) and now, timeout_s=20, what="it to settle")
    if settled.phase is Phase.ENDED:
        assert settled.outcome is Outcome.FAILED
        assert "ended before its agent ran" in told
    check_one_incarnation(home, settled)


@pytest.mark.parametrize(
    "failpoint", ["recover.raised", "recover.fence", "recover.reaped", "recover.restored", "recover.start", "recover.started"]
)
def test_a_keeper_that_dies_in_its_own_recovery_is_followed_by_another(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failpoint: str
) -> None:
    monkeypatch.setenv("CREWKEEP_KEEPER_FAILPOINTS", f"{failpoint}=kill@1")
    record = start(home, tmp_path)
    registry = Registry(home)
    wait_until(lambda: record.id in (ask_patrol(home, "status") or {}).get("watched", ()), what="it under watch")
    assert record.agent is not None
    processes.send_signal(record.agent, signal.SIGKILL)

    def look() -> SessionRecord | None:
        now = registry.get(record.id)
        return now if now.epoch >= 3 and is_settled(now) else None

    settled = wait_until(look, timeout_s=20, what="its second recovery")
    assert settled.phase is Phase.RUNNING
    assert settled.epoch == 3, "the first recoverer died at epoch 2, the second one made it"
    assert settled.owner != record.owner
    check_one_incarnation(home, settled)


def test_a_keeper_that_finds_the_disk_full_at_its_agents_end_starts_it_again_when_there_is_room(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREWKEEP_KEEPER_FAILPOINTS", "probe.write=ENOSPC@1")
    record = start(home, tmp_path)
    assert record.agent is not None
    processes.send_signal(record.agent, signal.SIGKILL)
    registry = Registry(home)
    settled = wait_until(
        lambda: (now := registry.get(record.id)).epoch == 2 and is_settled(now) and now, timeout_s=10, what="it to come back"
    )
    assert settled.phase is Phase.RUNNING
    assert settled.owner == record.owner, "the keeper lived and did it itself"
    assert "refused" in home.session(record.id).keeper_log.read_text()
    check_one_incarnation(home, settled)


def test_a_patrol_that_finds_the_disk_full_tries_again_more_and_more_rarely(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREWKEEP_PATROL_FAILPOINTS", "probe.write=ENOSPC")
    ensure_patrol(home)
    record = start(home, tmp_path)
    wait_until(lambda: record.id in (ask_patrol(home, "status") or {}).get("watched", ()), what="it under watch")
    assert record.owner is not None
    processes.send_signal(record.owner, signal.SIGKILL)
    answer = wait_until(
        lambda: (now := ask_patrol(home, "status") or {}).get("retries", {}).get(record.id, 0) >= 4 and now,
        timeout_s=15,
        what="a pause that grows",
    )
    assert answer["retries"] == {record.id: 4.0}
    assert Registry(home).get(record.id).epoch == 1
    assert home.patrol_log.read_text().count("recovery refused") == 1, "told once, not at each try"


@pytest.mark.parametrize("verb", [("kill",), ("stop", "--grace", "1s")])
def test_a_kill_ends_the_tree_even_if_the_disk_does_not_take_it_at_first(
    home: Home, tmp_path: Path, verb: tuple[str, ...]
) -> None:
    record = start(home, tmp_path)
    done = cli(*verb, record.name, home=home, env={"CREWKEEP_FAILPOINTS": "journal.append=ENOSPC@1"})
    assert (done.returncode, done.stderr) == (0, "")
    ended = Registry(home).get(record.id)
    assert (ended.phase, ended.outcome, ended.epoch) == (Phase.ENDED, Outcome.STOPPED, 1)
    assert "ended, 0 left" in done.stdout
    check_one_incarnation(home, ended)


def test_a_kill_on_a_full_disk_ends_the_tree_and_says_what_is_still_to_do(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREWKEEP_KEEPER_FAILPOINTS", "probe.write=ENOSPC")
    record = start(home, tmp_path)
    done = cli("kill", record.name, home=home, env={"CREWKEEP_FAILPOINTS": "journal.append=ENOSPC"})
    assert done.returncode == 1
    assert f"{record.name}: 1 processes were ended, but cannot" in done.stderr
    assert "when that can be done it starts again" in done.stderr
    assert scan.find_marked([record.nonce]) == []
    assert cli("kill", record.name, home=home).returncode == 0
    ended = Registry(home).get(record.id)
    assert (ended.phase, ended.outcome, ended.epoch) == (Phase.ENDED, Outcome.STOPPED, 1)
