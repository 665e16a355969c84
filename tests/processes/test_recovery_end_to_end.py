"""Real keepers, real patrols, real agents: whoever is killed comes back, once, and nothing of before is left."""

from __future__ import annotations

import dataclasses
import itertools
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from support import find_home_processes, wait_until

from coordinator.config import EXIT_SUPERSEDED, Settings
from coordinator.context import SharedContext
from coordinator.errors import Superseded
from coordinator.paths import Home
from coordinator.services.features import Features
from coordinator.sessions.journal import Journal
from coordinator.sessions.launch import build_launch
from coordinator.sessions.model import Hosting, Outcome, Phase, Restart, SessionRecord, State
from coordinator.sessions.registry import Registry
from coordinator.sessions.sight import show_state
from coordinator.sessions.workspace import workspace_id
from coordinator.system import processes, scan
from coordinator.system.lock_holders import find_lock_holders
from coordinator.system.processes import Liveness, ProcessIdentity
from crewkeep.ending import kill_session, stop_session
from crewkeep.patrol_client import ask_patrol, ensure_patrol
from crewkeep.session_settings import settings_of
from crewkeep.starting import start_session
from recovery import manifest
from recovery.checkpoint import find_newest_whole, read_json
from recovery.restore import RecoverOutcome, Result, recover_many, recover_session
from recovery.starter import start_keeper

#: Quick settings, so that a test need not wait for what takes seconds in life.
QUICK = {
    "CREWKEEP_HEARTBEAT_INTERVAL_S": "0.1",
    "CREWKEEP_LEASE_S": "0.5",
    "CREWKEEP_START_DELAY_S": "0.05",
    "CREWKEEP_QUIET_AFTER_S": "0.2",
    "CREWKEEP_HANG_AFTER_S": "0.8",
}
SLEEP = ["sleep", "1000"]
#: Commits to the shared context once and stays: its incarnations are fruitful, as those of working agents are.
WORKER = [
    sys.executable,
    "-c",
    textwrap.dedent("""
        import time, crewkeep
        with crewkeep.Session.current() as session:
            session.context.update(f"work/{session.name}", lambda count: (count or 0) + 1)
            session.context.put(f"epochs/{session.name}/{session.epoch}", session.epoch, expected_version=0)
            while True:
                time.sleep(1)
    """),
]


class Crew:
    """Sessions of one home, started and looked at without the command line."""

    def __init__(self, home: Home, directory: Path) -> None:
        self.home, self.directory = home, directory
        self.registry = Registry(home)

    def start(self, argv: list[str], *, settings: Mapping[str, str] | None = None, **options: Any) -> SessionRecord:
        base = {name: value for name, value in os.environ.items() if not name.startswith("CREWKEEP_")}
        environment = {**base, **QUICK, **(settings or {})}
        return start_session(self.home, argv, cwd=str(self.directory), workspace="crew", environment=environment, **options)

    def get(self, record: SessionRecord) -> SessionRecord:
        return self.registry.get(record.id)

    def wait(
        self, record: SessionRecord, holds: Callable[[SessionRecord], bool], what: str, timeout_s: float = 15
    ) -> SessionRecord:
        def look() -> SessionRecord | None:
            found = self.get(record)
            return found if holds(found) else None

        return wait_until(look, timeout_s=timeout_s, what=f"{record.name}: {what}")

    def wait_running(self, record: SessionRecord, above: int) -> SessionRecord:
        return self.wait(
            record,
            lambda found: (
                found.epoch > above and found.phase is Phase.RUNNING and is_alive(found.agent) and is_alive(found.owner)
            ),
            f"running after epoch {above}",
        )

    def wait_ended(self, record: SessionRecord) -> SessionRecord:
        return self.wait(record, lambda found: found.phase in (Phase.ENDED, Phase.PARKED), "its end")

    def patrol_pid(self) -> int | None:
        answer = ask_patrol(self.home, "status")
        return None if answer is None else int(answer["pid"])

    def wait_watched(self, record: SessionRecord) -> None:
        wait_until(
            lambda: record.id in (ask_patrol(self.home, "status") or {}).get("watched", ()), what=f"{record.name} under watch"
        )

    def wait_fruitful(self, record: SessionRecord) -> None:
        from coordinator.sessions.heartbeat import HeartbeatFile

        def look() -> bool:
            beat = HeartbeatFile(self.home.session(record.id).heartbeat).read()
            return beat is not None and beat.epoch == record.epoch and beat.fruitful

        wait_until(look, what=f"{record.name} seen at work")

    def journal(self, record: SessionRecord, kind: str) -> list[dict[str, Any]]:
        content = Journal(self.home.session(record.id)).read()
        return [entry.body for entry in content.entries if entry.kind == kind]

    def recover(self, record: SessionRecord, **options: Any) -> RecoverOutcome:
        return recover_session(
            self.home,
            self.registry,
            record.id,
            reason="asked",
            starter=lambda raised, launch, restored: start_keeper(self.home, raised, {}, settings_of(launch)),
            secrets={},
            settings=settings_of(self.registry.get_launch(record.id)),
            **options,
        )

    def kill(self, record: SessionRecord) -> Any:
        return kill_session(self.home, self.registry, self.get(record))


@pytest.fixture
def crew(home: Home, tmp_path: Path) -> Crew:
    directory = tmp_path / "project"
    directory.mkdir()
    return Crew(home, directory)


def is_alive(identity: ProcessIdentity | None) -> bool:
    return processes.observe(identity) is Liveness.ALIVE


def kill(*identities: ProcessIdentity | None) -> None:
    for identity in identities:
        assert identity is not None
        # The patrol may have been quicker with the agent of a keeper that was killed first.
        assert processes.send_signal(identity, signal.SIGKILL) or processes.observe(identity).is_gone
    for identity in identities:
        assert identity is not None
        assert processes.wait_gone(identity, 5)


def left_of(record: SessionRecord) -> list[int]:
    return [identity.pid for identity in scan.find_marked([record.nonce])]


def stop_without_lock(pid: int, home: Home) -> bool:
    """Stop a process at a moment at which it holds no lock of the home (or else its recovery would have to kill it)."""
    os.kill(pid, signal.SIGSTOP)
    identity = processes.identify(pid)
    wait_until(lambda: processes.observe(identity) is Liveness.STOPPED, what="the stop")
    if pid not in find_lock_holders(path for path in home.path.rglob("*") if path.is_file()):
        return True
    os.kill(pid, signal.SIGCONT)
    return False


# Whoever is killed comes back


@pytest.mark.parametrize("who", ["agent", "keeper", "keeper and agent", "keeper by SIGTERM"])
def test_a_session_is_running_again_by_itself_after_a_kill(crew: Crew, who: str) -> None:
    before = crew.start(WORKER)
    crew.wait_watched(before)
    crew.wait_fruitful(before)
    killed_at = time.time()
    if who == "keeper by SIGTERM":
        assert before.owner is not None
        processes.send_signal(before.owner, signal.SIGTERM)
    else:
        kill(*([before.owner] * ("keeper" in who) + [before.agent] * ("agent" in who)))
    after = crew.wait_running(before, before.epoch)
    assert after.epoch == before.epoch + 1, "one death, one recovery"
    assert left_of(before) == []
    assert (after.owner == before.owner) == (who == "agent"), "a keeper that lives recovers its own agent"
    assert after.restarts == 1
    crew.wait_fruitful(after)
    context = SharedContext.open(crew.home.context(workspace_id("crew")))
    counted = context.get(f"work/{before.name}")
    context.close()
    assert counted is not None
    assert counted.value == 2, "each incarnation worked once, and neither's acknowledged write was lost"
    noticed = crew.journal(before, "noticed")
    assert len(noticed) == 1
    assert 0 <= noticed[0]["at"] - killed_at < 2.5
    crew.kill(before)


def test_a_killed_patrol_is_replaced_by_the_keepers_and_the_new_one_watches(crew: Crew) -> None:
    first, second = crew.start(WORKER), crew.start(WORKER)
    crew.wait_watched(first)
    crew.wait_watched(second)
    crew.wait_fruitful(first)
    old = crew.patrol_pid()
    assert old is not None
    os.kill(old, signal.SIGKILL)
    wait_until(lambda: crew.patrol_pid() not in (None, old), what="another patrol")
    crew.wait_watched(first)
    crew.wait_watched(second)
    kill(first.owner)
    assert crew.wait_running(first, 1).epoch == 2
    assert crew.get(second).epoch == 1, "who was not killed was left alone"


def test_a_keeper_and_the_patrol_killed_together_are_back_through_another_keeper(crew: Crew) -> None:
    victim, witness = crew.start(WORKER), crew.start(WORKER)
    crew.wait_watched(victim)
    crew.wait_watched(witness)
    crew.wait_fruitful(victim)
    pid = crew.patrol_pid()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    kill(victim.owner)
    assert crew.wait_running(victim, 1).epoch == 2
    assert is_alive(witness.agent)


def test_everything_killed_at_once_is_back_after_recover_many(crew: Crew) -> None:
    sessions = [crew.start(SLEEP, name=name) for name in ("one", "two", "three")]
    for process in find_home_processes(crew.home):
        process.suspend()  # so that nobody can answer the death of another
    for process in find_home_processes(crew.home):
        process.kill()
    for record in sessions:
        wait_until(lambda record=record: processes.observe(record.owner).is_gone, what="the end of everything")  # type: ignore[misc]
    outcomes = recover_many(
        [record.id for record in sessions],
        lambda session_id: crew.recover(crew.registry.get(session_id)),
        settings=Settings(),
        wait=time.sleep,
    )
    # The first keeper that is back starts a patrol, which recovers as well: whoever is first, each is recovered once.
    assert outcomes[0].outcome is Result.RECOVERED
    for record in sessions:
        after = crew.wait_running(record, 1)
        assert after.epoch == 2
        assert left_of(record) == []
        crew.wait_watched(after)  # the keepers started a patrol by themselves


# At most one incarnation acts


def test_a_keeper_stopped_past_its_lease_is_fenced_and_leaves_with_its_own_code(crew: Crew) -> None:
    environment = {**QUICK, "PATH": os.environ["PATH"]}
    launch = build_launch(SLEEP, crew.directory, environment)
    record = crew.registry.create(
        name="frozen", workspace="crew", hosting=Hosting.KEEPER, launch=launch, restart=Restart.ON_CRASH
    )
    # Started by hand, as its child, so that this test sees its exit code.
    argv = [sys.executable, "-P", "-m", "crewkeep.keeper", str(crew.home.path), record.id, "1", "24", "80"]
    with open(crew.home.session(record.id).keeper_log, "wb") as log:
        keeper = subprocess.Popen(argv, stdout=log, stderr=log, env={**os.environ, "CREWKEEP_HOME": str(crew.home.path)})
    try:
        before = crew.wait_running(record, 0)
        settings = settings_of(launch)
        wait_until(lambda: stop_without_lock(keeper.pid, crew.home), what="the keeper to be stopped while it holds no lock")
        wait_until(
            lambda: show_state(crew.home, crew.get(record), settings)[0] is State.HUNG, what="a stopped keeper to be seen as hung"
        )
        refused = crew.recover(before)
        assert refused.outcome is Result.REFUSED, "alive but stopped: only by force"
        outcome = crew.recover(before, force=True)
        assert outcome.outcome is Result.RECOVERED
        after = crew.wait_running(record, 1)
        assert processes.observe(before.agent).is_gone
        with pytest.raises(Superseded):
            crew.registry.change(record.id, epoch=1, change=lambda known: dataclasses.replace(known, reason="late"))
        os.kill(keeper.pid, signal.SIGCONT)
        assert keeper.wait(10) == EXIT_SUPERSEDED
    finally:
        keeper.kill()
        keeper.wait()
    still = crew.get(record)
    assert (still.epoch, still.agent, still.owner, still.phase) == (2, after.agent, after.owner, Phase.RUNNING)
    assert is_alive(still.agent)
    assert crew.home.session(record.id).socket.exists(), "the newer keeper's socket was left alone"


def test_of_two_keepers_at_one_epoch_one_leaves(crew: Crew) -> None:
    record = crew.start(SLEEP)
    argv = [sys.executable, "-P", "-m", "crewkeep.keeper", str(crew.home.path), record.id, "1", "24", "80"]
    second = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)
    assert second.returncode != 0
    assert "running already" in second.stderr
    assert crew.get(record).owner == record.owner
    assert is_alive(record.agent)


def test_many_recoverers_of_one_death_make_one_incarnation(crew: Crew) -> None:
    record = crew.start(SLEEP, restart=Restart.NEVER)  # so that the patrol leaves it to us
    script = textwrap.dedent("""
        import sys
        from coordinator.paths import Home
        from coordinator.sessions.registry import Registry
        from coordinator.config import Settings
        from recovery.restore import recover_session
        from recovery.starter import start_keeper
        home = Home.at(sys.argv[1])
        print("ready", flush=True)
        sys.stdin.readline()
        print(recover_session(home, Registry(home), sys.argv[2], expected_epoch=1, reason="race", revive=True, secrets={},
              starter=lambda record, launch, restored: start_keeper(home, record, {}, Settings())).outcome)
    """)
    kill(record.owner)
    crew.wait_ended(record)
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(crew.home.path), record.id],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    said = []
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    for racer in racers:
        said.append(racer.communicate(timeout=30)[0].strip())
    assert sorted(said) == ["already recovered", "already recovered", "recovered"]
    assert crew.wait_running(record, 1).epoch == 2


# Ends


def test_a_session_ends_as_its_agent_did(crew: Crew) -> None:
    done = crew.start(["true"])
    failed = crew.start(["sh", "-c", "exit 7"])
    crashed = crew.start(["sh", "-c", "kill -9 $$"], restart=Restart.NEVER)
    ended = [crew.wait_ended(record) for record in (done, failed, crashed)]
    assert [(one.outcome, one.exit_code, one.exit_signal) for one in ended] == [
        (Outcome.DONE, 0, None),
        (Outcome.FAILED, 7, None),
        (Outcome.CRASHED, None, 9),
    ]
    assert ended[0].reason is None
    assert all(one.epoch == 1 for one in ended)


@pytest.mark.parametrize("start", ["setsid", "setsid env -i"], ids=["with its environment", "without any"])
def test_an_agent_that_goes_into_the_background_is_kept_and_its_rest_ended_with_it(crew: Crew, start: str) -> None:
    record = crew.start(["sh", "-c", f"{start} sleep 1000 & sleep 0.5; exit 0"])
    adopted = crew.wait(
        record, lambda found: is_alive(found.agent) and found.agent != record.agent, "the background agent adopted"
    )
    assert adopted.phase is Phase.RUNNING
    kill(adopted.agent)  # killed: a crash, answered as any other
    assert crew.wait_running(record, 1).epoch == 2


def test_a_done_agent_leaves_nothing_behind(crew: Crew) -> None:
    record = crew.start(["sh", "-c", "setsid sleep 1000 & sleep 2.2; exit 0"])
    ended = crew.wait_ended(record)
    assert ended.outcome is Outcome.DONE
    assert left_of(record) == []


NASTY = textwrap.dedent("""
    import os, signal, sys, time
    def leaf(stop=False):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if stop:
            os.kill(os.getpid(), signal.SIGSTOP)
        while True:
            time.sleep(100)
    for number in range(6):
        if os.fork() == 0:
            leaf(stop=number % 2 == 0)
    for number in range(6):
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                leaf(stop=number % 2 == 1)
            if number % 3 == 0:
                os._exit(0)  # double forked: its child is nobody's
            leaf()
    open(sys.argv[1], "w").close()
    leaf()
""")


def test_kill_ends_a_nasty_tree_and_says_so(crew: Crew, tmp_path: Path) -> None:
    stranger = subprocess.Popen(SLEEP)
    try:
        record = crew.start([sys.executable, "-c", NASTY, str(tmp_path / "ready")])
        wait_until((tmp_path / "ready").exists, what="the tree")
        tree = wait_until(lambda: found if len(found := left_of(record)) >= 17 else None, what="17 processes")
        began_s = time.monotonic()
        result = crew.kill(record)
        assert time.monotonic() - began_s < 6
        assert result.left == ()
        assert set(tree) <= set(result.ended)
        assert left_of(record) == []
        assert processes.observe(record.owner).is_gone
        ended = crew.get(record)
        assert (ended.phase, ended.outcome) == (Phase.ENDED, Outcome.STOPPED)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_stop_gives_grace_takes_a_checkpoint_and_ends_stopped(crew: Crew, tmp_path: Path) -> None:
    script = f'trap "echo bye > {tmp_path}/bye; exit 3" TERM; echo ready; while :; do sleep 0.1; done'
    record = crew.start(["sh", "-c", script])
    wait_until(lambda: list(crew.home.session(record.id).output.glob("*.raw")), what="its first output")
    result = stop_session(crew.home, crew.registry, record, grace_s=5)
    assert result.left == ()
    assert (tmp_path / "bye").exists(), "it was asked before it was killed"
    ended = crew.get(record)
    assert (ended.phase, ended.outcome, ended.epoch) == (Phase.ENDED, Outcome.STOPPED, 1)
    assert [path.name for path in crew.home.session(record.id).checkpoints.iterdir() if path.name.isdigit()]
    again = stop_session(crew.home, crew.registry, ended, grace_s=5)
    assert (again.ended, again.left) == ((), ())


def test_stop_works_on_a_stopped_and_on_a_dead_keeper(crew: Crew) -> None:
    frozen = crew.start(SLEEP)
    assert frozen.owner is not None
    processes.send_signal(frozen.owner, signal.SIGSTOP)
    assert kill_session(crew.home, crew.registry, frozen).left == ()
    dead = crew.start(SLEEP, restart=Restart.NEVER)
    assert dead.owner is not None
    kill(dead.owner)
    stop_session(crew.home, crew.registry, crew.get(dead), grace_s=1)
    for record in (frozen, dead):
        assert crew.get(record).phase is Phase.ENDED
        assert processes.observe(record.owner).is_gone
        assert left_of(record) == []


def test_a_session_started_inside_another_outlives_it(crew: Crew) -> None:
    script = textwrap.dedent("""
        import os, sys, time
        from coordinator.paths import Home
        from crewkeep.starting import start_session
        home = Home.find()
        start_session(home, ["sleep", "1000"], name="inner", workspace="crew")
        time.sleep(1000)
    """)
    outer = crew.start([sys.executable, "-c", script], name="outer")

    def find_inner() -> SessionRecord | None:
        found = [record for record in crew.registry.list_all() if isinstance(record, SessionRecord) and record.name == "inner"]
        return found[0] if found and found[0].phase is Phase.RUNNING else None

    inner = wait_until(find_inner, what="the inner session")
    assert inner.parent == outer.id
    assert crew.kill(outer).left == ()
    assert is_alive(inner.owner)
    assert is_alive(inner.agent)
    assert crew.get(inner).epoch == 1
    assert crew.patrol_pid() is not None
    assert crew.kill(inner).left == ()


def test_with_recovery_turned_off_the_dead_are_told_and_left(crew: Crew) -> None:
    Features(crew.home).set("recovery", "off")
    first, second = crew.start(SLEEP), crew.start(SLEEP)
    crew.wait_watched(second)
    kill(first.agent)
    ended = crew.wait_ended(first)
    assert ended.outcome is Outcome.CRASHED
    assert "recovery is turned to off" in (ended.reason or "")
    kill(second.owner)
    settings = settings_of(crew.registry.get_launch(second.id))
    assert show_state(crew.home, crew.get(second), settings)[0] is State.CRASHED
    wait_until(lambda: crew.patrol_pid() is None, what="the patrol to have looked, and left")
    assert crew.get(second).epoch == 1
    assert crew.recover(second).outcome is Result.RECOVERED, "asked for, it is done"


@pytest.mark.parametrize("who_waits", ["keeper", "patrol"])
def test_a_session_that_waits_for_its_next_start_can_be_stopped(crew: Crew, who_waits: str) -> None:
    record = crew.start(["sh", "-c", "kill -9 $$"], settings={"CREWKEEP_START_DELAY_S": "60"})
    waiting = crew.wait(record, lambda found: found.not_before_at is not None, "a pause")
    assert waiting.phase is Phase.RECOVERING
    if who_waits == "patrol":
        kill(waiting.owner)
    result = stop_session(crew.home, crew.registry, crew.get(record), grace_s=1)
    assert result.left == ()
    ended = crew.get(record)
    assert (ended.phase, ended.outcome, ended.epoch) == (Phase.ENDED, Outcome.STOPPED, waiting.epoch)
    wait_until(lambda: not find_home_processes(crew.home), what="keeper and patrol to leave")


# Loops, secrets, hangs


def test_a_crash_loop_is_parked_after_five_starts_with_growing_delay(crew: Crew) -> None:
    record = crew.start(["sh", "-c", "kill -9 $$"])
    parked = crew.wait_ended(record)
    assert parked.phase is Phase.PARKED
    assert parked.reason is not None
    assert "crash loop: 5 starts" in parked.reason
    assert parked.epoch == 5
    at = [start.at for start in parked.starts]
    pauses = [later - earlier for earlier, later in itertools.pairwise(at)]
    assert [pause >= least for pause, least in zip(pauses, (0, 0.05, 0.1, 0.2), strict=True)] == [True] * 4, pauses
    wait_until(lambda: not find_home_processes(crew.home), what="keeper and patrol to leave")


def test_always_restarts_what_fails_and_the_count_survives_keeper_and_patrol(crew: Crew) -> None:
    record = crew.start(["false"], restart=Restart.ALWAYS, settings={"CREWKEEP_START_DELAY_S": "0.3"})
    waiting = crew.wait(record, lambda found: found.epoch >= 2 and found.not_before_at is not None, "a pause")
    pid = crew.patrol_pid()
    assert pid is not None
    kill(waiting.owner)
    patrol = processes.identify(pid)
    kill(patrol)
    ensure_patrol(crew.home)
    parked = crew.wait_ended(record)
    assert parked.phase is Phase.PARKED
    assert crew.home.session(record.id).keeper_log.read_text().count(" runs at epoch ") == 5


def test_a_session_whose_secret_is_missing_parks_and_names_it(crew: Crew) -> None:
    record = crew.start(SLEEP, settings={"SHOP_API_KEY": "s3cret-v4lue"})
    crew.wait_watched(record)
    kill(record.owner)  # the patrol has the secret in memory
    after = crew.wait_running(record, 1)
    environment = scan.read_environment(after.agent.pid if after.agent else 0)
    assert environment is not None
    assert environment["SHOP_API_KEY"] == "s3cret-v4lue"
    crew.wait_watched(after)
    pid = crew.patrol_pid()
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    kill(after.owner)
    os.kill(pid, signal.SIGKILL)
    outcome = crew.recover(after)
    assert outcome.outcome is Result.PARKED
    parked = crew.get(record)
    assert parked.phase is Phase.PARKED
    assert "SHOP_API_KEY" in (parked.reason or "")
    held = [path for path in crew.home.path.rglob("*") if path.is_file() and b"s3cret-v4lue" in path.read_bytes()]
    assert held == [], "a secret is never written to disk"


def test_a_silent_agent_shows_hung_and_is_left_alone(crew: Crew) -> None:
    record = crew.start(SLEEP)
    settings = settings_of(crew.registry.get_launch(record.id))
    wait_until(lambda: show_state(crew.home, crew.get(record), settings)[0] is State.HUNG, what="hung")
    ask_patrol(crew.home, "look")
    assert crew.recover(record).outcome is Result.REFUSED
    assert crew.get(record).epoch == 1
    assert is_alive(record.agent)


def test_a_hung_agent_is_started_again_if_the_policy_says_so(crew: Crew) -> None:
    record = crew.start(SLEEP, settings={"CREWKEEP_HANG_POLICY": "restart"})
    after = crew.wait_running(record, 1)
    assert processes.observe(record.agent).is_gone
    assert left_of(record) == []
    assert after.epoch >= 2


# Python programs, and the end of everything


def test_a_program_that_asked_for_it_is_started_again_under_a_keeper(crew: Crew) -> None:
    script = crew.directory / "planner.py"
    script.write_text(
        textwrap.dedent("""
            import time, crewkeep
            with crewkeep.Session.start("planner", workspace="crew", restart="on-crash") as session:
                known = session.restored_state or {"seen": []}
                session.checkpoint({"seen": [*known["seen"], session.epoch]})
                print("ready", flush=True)
                while True:
                    time.sleep(0.2)
        """)
    )
    environment = {**os.environ, **QUICK, "CREWKEEP_HOME": str(crew.home.path)}
    program = subprocess.Popen([sys.executable, str(script)], env=environment, stdout=subprocess.PIPE, text=True)
    assert program.stdout is not None
    try:
        assert program.stdout.readline() == "ready\n"
        before = crew.registry.find("planner")
        assert before.hosting is Hosting.PROGRAM
        crew.wait_watched(before)
    finally:
        program.kill()
        program.communicate()
    after = crew.wait_running(before, 1)
    assert (after.hosting, after.epoch, after.id) == (Hosting.KEEPER, 2, before.id)

    def read_state() -> Any:
        newest = find_newest_whole(crew.home.session(before.id))
        return None if newest is None else read_json(newest, manifest.STATE)

    wait_until(lambda: read_state() == {"seen": [1, 2]}, what="the restored state to have been worked on")


def test_the_patrol_leaves_soon_after_the_last_session(crew: Crew) -> None:
    first, second = crew.start(SLEEP), crew.start(SLEEP)
    crew.kill(first)
    assert crew.patrol_pid() is not None
    crew.kill(second)
    wait_until(lambda: not find_home_processes(crew.home), timeout_s=8, what="the patrol to leave")
    assert not crew.home.patrol_socket.exists()
