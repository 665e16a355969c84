"""A record that is damaged while its session lives: nobody loses sight of the session, and it is mended."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
from support import cli, cli_json, wait_until

from coordinator.errors import Damaged
from coordinator.paths import Home
from coordinator.sessions.model import Phase, SessionRecord
from coordinator.sessions.registry import Damage, Registry
from coordinator.system import processes
from coordinator.system.processes import Liveness

DAMAGE = {"cut": lambda data: data[: len(data) // 2], "zeroed": lambda data: bytes(len(data)), "empty": lambda data: b""}


@pytest.fixture
def record(home: Home) -> SessionRecord:
    assert cli("run", "-d", "--name", "auth", "--", "sleep", "1000", home=home).returncode == 0
    return Registry(home).find("auth")


def damage(home: Home, record: SessionRecord, how: str) -> Path:
    path = home.session(record.id).record
    path.write_bytes(DAMAGE[how](path.read_bytes()))
    return path


@pytest.mark.parametrize("how", DAMAGE)
def test_the_patrol_mends_it_and_the_session_goes_on_as_it_was(home: Home, record: SessionRecord, how: str) -> None:
    path = damage(home, record, how)

    def mended() -> bool:
        try:
            return Registry(home).get(record.id).version >= record.version
        except Damaged:
            return False

    wait_until(mended, what="the mended record")
    now = Registry(home).get(record.id)
    assert (now.epoch, now.owner, now.agent) == (record.epoch, record.owner, record.agent)
    assert any(path.name in name for _, _, names in os.walk(home.quarantine) for name in names), "the damaged file is kept"
    assert cli("kill", "auth", home=home).returncode == 0


@pytest.mark.parametrize("words", [["--all"], ["auth"]])
def test_kill_ends_a_session_whose_record_is_damaged(home: Home, record: SessionRecord, words: list[str]) -> None:
    damage(home, record, "cut")
    ended = cli_json("kill", *words, "--json", home=home)
    assert [(one["name"], one["left"]) for one in ended] == [("auth", [])]
    assert processes.observe(record.agent).is_gone
    wait_until(lambda: processes.observe(record.owner).is_gone, what="the keeper's end")


def test_a_removed_record_is_mended_as_well(home: Home, record: SessionRecord) -> None:
    os.unlink(home.session(record.id).record)
    assert cli_json("kill", "--all", "--json", home=home)[0]["left"] == []
    assert processes.observe(record.agent).is_gone


def test_it_is_listed_by_its_name_and_with_its_processes_before_anybody_mends_it(home: Home, record: SessionRecord) -> None:
    damage(home, record, "cut")
    registry = Registry(home)
    found = registry.list_all()[0]
    known = found.known if isinstance(found, Damage) else found  # the patrol may have been quicker
    assert known is not None
    assert (known.name, known.agent) == ("auth", record.agent)
    assert registry.find("auth").owner == record.owner
    row = cli_json("ps", "--json", home=home)[0]
    assert (row["name"], row["state"] in ("working", "idle"), row["agent_pid"]) == (
        "auth",
        True,
        record.agent and record.agent.pid,
    )
    assert cli("kill", "auth", home=home).returncode == 0


def test_the_patrol_brings_back_a_session_whose_launch_is_damaged(home: Home, record: SessionRecord) -> None:
    path = damage_launch(home, record)
    os.kill(record.owner.pid if record.owner else 0, signal.SIGKILL)
    wait_until(lambda: is_running_at(home, record, 2), what="it to come back")
    assert Registry(home).get_launch(record.id).argv == ("sleep", "1000")
    assert any(path.name in name for _, _, names in os.walk(home.quarantine) for name in names), "the damaged file is kept"
    assert cli("kill", "auth", home=home).returncode == 0


def damage_launch(home: Home, record: SessionRecord) -> Path:
    path = home.session(record.id).launch
    path.write_text('{"kind": "launch", "format": 1, "digest": "x", "body": []}\n')
    return path


def is_running_at(home: Home, record: SessionRecord, epoch: int) -> bool:
    now = Registry(home).get(record.id)
    return now.phase is Phase.RUNNING and now.epoch == epoch


@pytest.mark.parametrize("speaks_first", ["before it is moved", "when it is away"])
def test_a_session_directory_that_is_moved_away_is_not_made_again_and_works_when_it_is_back(
    home: Home, tmp_path: Path, speaks_first: str
) -> None:
    settings = {"CREWKEEP_CHECKPOINT_INTERVAL_S": "0.1", "CREWKEEP_HEARTBEAT_INTERVAL_S": "0.1"}
    may_speak, has_spoken = tmp_path / "may-speak", tmp_path / "has-spoken"
    talk = f"until [ -e {may_speak} ]; do sleep 0.05; done; while :; do echo on; touch {has_spoken}; sleep 0.05; done"
    assert cli("run", "-d", "--name", "talker", "--", "sh", "-c", talk, home=home, env=settings).returncode == 0
    record = Registry(home).find("talker")
    place = home.session(record.id).path
    elsewhere = place.with_name("elsewhere")
    if speaks_first == "before it is moved":
        may_speak.touch()
        wait_until(lambda: read_output(home) != "", what="the agent's first words")
    place.rename(elsewhere)
    may_speak.touch()
    wait_until(has_spoken.exists, what="the agent's words")
    log = elsewhere / "keeper.log"
    failed = log.read_text().count("taking a checkpoint")
    wait_until(lambda: log.read_text().count("taking a checkpoint") >= failed + 3, what="checkpoints that fail")
    assert not place.exists()
    elsewhere.rename(place)
    assert cli("checkpoint", "talker", home=home).returncode == 0
    wait_until(lambda: "on" in read_output(home), what="what the agent says")
    assert Registry(home).get(record.id).epoch == 1
    assert cli("kill", "talker", home=home).returncode == 0


def read_output(home: Home) -> str:
    return cli("logs", "talker", home=home).stdout


def test_a_keeper_whose_session_was_removed_by_hand_leaves_when_its_agent_ends(home: Home, record: SessionRecord) -> None:
    shutil.rmtree(home.session(record.id).path)
    assert processes.observe(record.agent) is Liveness.ALIVE, "what is not proven to be unwanted is left alone"
    assert record.agent is not None
    processes.send_signal(record.agent, signal.SIGKILL)
    wait_until(lambda: processes.observe(record.owner).is_gone, what="the keeper's end")
    assert cli_json("ps", "-a", "--json", home=home) == []
    assert not home.session(record.id).path.exists()


def test_recovering_all_tells_of_a_session_that_nothing_is_known_of_in_its_row(home: Home) -> None:
    lost = home.session("0" * 11 + "1")
    lost.path.mkdir(parents=True, mode=0o700)
    lost.heartbeat.touch()
    done = cli("recover", "--all", "--yes", "--json", home=home)
    assert done.returncode == 1
    assert [(row["id"], row["outcome"]) for row in json.loads(done.stdout)] == [(lost.path.name, "failed")]
    named = cli("recover", lost.path.name, "--yes", "--json", home=home)
    assert (named.returncode, named.stdout, json.loads(named.stderr)["error"]) == (1, "", "damaged")
