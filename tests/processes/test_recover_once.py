"""Recovery happens once: many recoverers, one winner; one that dies is followed by the next, wherever it died."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from stand_in import Starter, kill, start_dead_session, start_session
from support import wait_until

from coordinator.paths import Home
from coordinator.sessions.model import Phase, SessionRecord
from coordinator.sessions.registry import Registry
from coordinator.system import failpoints, processes, scan
from coordinator.system.processes import Liveness
from recovery.checkpoint import list_checkpoints, take_checkpoint
from recovery.model import Verdict
from recovery.restore import RecoverOutcome, Result, recover_session

RECOVER = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
from stand_in import Starter
from coordinator.paths import Home
from coordinator.sessions.registry import Registry
from recovery.restore import recover_session
home, session, count = Home.at(sys.argv[2]), sys.argv[3], int(sys.argv[4])

def recover():
    options = {"reason": "test", "starter": Starter(home), "secrets": {}, "expected_epoch": EPOCH}
    outcome = recover_session(home, Registry(home), session, **options)
    os.write(1, json.dumps(outcome.encode()).encode() + b"\\n")  # one write: lines of many do not mix

EPOCH = int(sys.argv[5]) or None
if count == 1:
    recover()
else:
    readable, writable = os.pipe()
    children = []
    for _ in range(count):
        pid = os.fork()
        if pid == 0:
            os.close(writable)
            os.read(readable, 1)  # all begin when the parent closes its end
            try:
                recover()
            except BaseException as error:
                os.write(1, json.dumps({"outcome": repr(error)}).encode() + b"\\n")
            os._exit(0)
        children.append(pid)
    os.close(writable)
    for pid in children:
        os.waitpid(pid, 0)
"""


def run(home: Home, record: SessionRecord, *, count: int = 1, epoch: int = 0) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", RECOVER, str(Path(__file__).parent.parent), str(home.path), record.id, str(count), str(epoch)],
        capture_output=True,
        text=True,
        check=False,
    )


def find_agents(home: Home, record: SessionRecord) -> list[str]:
    """Return the epoch of every living process that carries the session's mark."""
    found = scan.find_home_processes(home.path)
    return [
        environment["CREWKEEP_EPOCH"]
        for identity, environment in found
        if environment.get("CREWKEEP_SESSION") == record.id and not processes.observe(identity).is_gone
    ]


def test_of_many_recoverers_one_wins(home: Home) -> None:
    record = start_dead_session(home)
    for round_number in range(3):
        before = Registry(home).get(record.id)
        answers = [json.loads(line) for line in run(home, record, count=16, epoch=before.epoch).stdout.splitlines()]
        outcomes = sorted(answer["outcome"] for answer in answers)
        assert outcomes == sorted([str(Result.RECOVERED)] + [str(Result.ALREADY)] * 15), round_number
        now = Registry(home).get(record.id)
        assert now.epoch == before.epoch + 1
        assert find_agents(home, record) == [str(now.epoch)]
        kill(now.owner, now.agent)


def recover(home: Home, record: SessionRecord) -> RecoverOutcome:
    return recover_session(home, Registry(home), record.id, reason="test", starter=Starter(home), secrets={})


def list_places(home: Home) -> list[str]:
    """Return every place that a recovery passes, in order, from a session of its own (whose context is there already)."""
    record = start_dead_session(home)
    for _ in range(2):
        places: list[str] = []
        with failpoints.observe(places.append):
            recover(home, record)
        now = Registry(home).get(record.id)
        kill(now.owner, now.agent)
    Registry(home).change(record.id, epoch=now.epoch, change=_end)
    return places


def die_recovering(home: Home, record: SessionRecord, name: str, nth: int) -> int:
    """Recover in a child process that kills itself at the ``nth`` hit of ``name``; return how it ended."""
    count = 0

    def act(place: str) -> None:
        nonlocal count
        count += place == name
        if place == name and count == nth:
            os.kill(os.getpid(), signal.SIGKILL)

    pid = os.fork()
    if pid == 0:
        try:
            with failpoints.observe(act):
                recover(home, record)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _end(known: SessionRecord) -> SessionRecord:
    return dataclasses.replace(known, phase=Phase.ENDED)


def test_a_recoverer_killed_at_any_place_is_followed_by_the_next(home: Home) -> None:
    places = list_places(home)
    assert {"recover.raised", "recover.fence", "recover.reaped", "recover.restored", "recover.start", "recover.started"} <= set(
        places
    )
    ours = [name for name in dict.fromkeys(places) if name.startswith(("recover.", "registry."))]
    # Of the places that every file write passes, the first and the last.
    points = [(name, nth) for name in ours for nth in range(1, places.count(name) + 1)]
    points += [(name, nth) for name in ("files.fsync", "files.rename", "journal.append") for nth in (1, places.count(name))]
    for name, nth in points:
        record = start_session(home)
        take_checkpoint(home, record, Registry(home).get_launch(record.id), state="kept")
        kill(record.owner)  # the agent lives on: whoever recovers must end it
        assert die_recovering(home, record, name, nth) == -signal.SIGKILL, (name, nth)
        died_at = Registry(home).get(record.id)
        if died_at.phase is Phase.RECOVERING and processes.observe(died_at.owner) is Liveness.ALIVE:
            # The new keeper lives and would go on by itself: it is left alone until it dies too.
            assert recover(home, record).verdict is Verdict.STARTING, (name, nth)
            kill(died_at.owner)
        outcome = recover(home, record)
        now = Registry(home).get(record.id)
        assert now.phase is Phase.RUNNING, (name, nth, outcome)
        if died_at.phase is Phase.RUNNING and died_at.epoch > 1:
            assert outcome.to_epoch is None, (name, nth)  # it was all done but the last word
        else:
            assert (outcome.outcome, outcome.to_epoch) == (Result.RECOVERED, died_at.epoch + 1), (name, nth)
        assert find_agents(home, record) == [str(now.epoch)], (name, nth)
        assert now.unreaped_nonces == ()
        assert processes.observe(record.agent).is_gone
        assert now.restored_from == 1
        assert all(one.whole for one in list_checkpoints(home.session(record.id)))
        kill(now.owner, now.agent)
        Registry(home).change(record.id, epoch=now.epoch, change=_end)


def test_a_recoverer_that_is_only_stopped_is_waited_for_and_cannot_act_once_another_was_forced(home: Home) -> None:
    record = start_dead_session(home)
    command = [sys.executable, "-c", RECOVER, str(Path(__file__).parent.parent), str(home.path), record.id, "1", "0"]
    with subprocess.Popen(
        command, env={**os.environ, "CREWKEEP_FAILPOINTS": "recover.start=pause"}, stdout=subprocess.PIPE, text=True
    ) as first:
        identity = processes.identify(first.pid)
        wait_until(lambda: processes.observe(identity) is Liveness.STOPPED, what="the pause")
        refused = json.loads(run(home, record).stdout)
        assert (refused["outcome"], refused["verdict"]) == ("refused", "SUSPENDED")
        forced = recover_session(home, Registry(home), record.id, reason="test", starter=Starter(home), secrets={}, force=True)
        assert forced.outcome is Result.RECOVERED
        now = Registry(home).get(record.id)
        os.kill(first.pid, signal.SIGCONT)
        out, _ = first.communicate(timeout=20)
    assert json.loads(out)["outcome"] == "already recovered"
    assert Registry(home).get(record.id) == now
    assert find_agents(home, record) == [str(now.epoch)]


@pytest.mark.parametrize("delay", range(3))
def test_a_recovery_that_meets_a_still_exiting_owner_leaves_one_incarnation(home: Home, delay: int) -> None:
    record = start_session(home)
    assert record.owner is not None
    processes.send_signal(record.owner, signal.SIGKILL)  # and nobody waits for its end
    if delay:
        processes.wait_gone(record.owner, 0.0005 * delay)

    wait_until(lambda: recover(home, record).outcome is Result.RECOVERED, what="the recovery")
    assert find_agents(home, record) == ["2"]
