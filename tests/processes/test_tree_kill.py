"""Ending a tree: twenty processes that do all they can to survive, and a neighbour that looks just like them.

The one who ends it runs as a process of its own (a subreaper, as a keeper is), so that orphans come to it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import wait_until

from coordinator.ids import new_nonce
from coordinator.system import cgroup, processes, scan
from coordinator.system.processes import Liveness, ProcessIdentity
from coordinator.system.tree import EndReport, end_tree

GROVE = Path(__file__).with_name("grove.py")
TREE_COUNT = 20
LIMIT_S = 6.0

#: Starts a grove below itself on a terminal, as a keeper would; ends it when told, or is killed before.
KEEPER = """
import json, os, sys, time
from pathlib import Path
from coordinator.system import cgroup, processes, terminal, tree
plan = json.loads(sys.argv[1])
assert terminal.become_subreaper()
group = cgroup.create_group(plan["group"]) if plan["group"] else None
agent = terminal.spawn_on_terminal(
    [sys.executable, "-S", "-E", plan["grove"], plan["directory"], plan["endless"]],
    cwd="/", environment={**os.environ, "CREWKEEP_NONCE": plan["nonce"]}, cgroup=group,
)
while not Path(plan["directory"], "ready").exists():
    time.sleep(0.005)
print("ready", agent.pid, flush=True)
sys.stdin.readline()
if plan["agent_dies_first"]:
    processes.send_signal(agent.identity, 9)
    processes.wait_gone(agent.identity, 5)
begun = time.monotonic()
roots = [agent.identity, processes.identify_self()]
report = tree.end_tree(roots=roots, nonces=plan["nonces"], cgroup=group, timeout_s=6, term_first=plan["term_first"])
took = time.monotonic() - begun
print(json.dumps({
    "took": took, "ended": [each.identity.pid for each in report.ended],
    "left": [[each.identity.pid, each.why] for each in report.left], "group": str(group) if group else None,
}), flush=True)
if group:
    cgroup.remove(group)
"""


class Grove:
    """A tree below its keeper."""

    def __init__(
        self, directory: Path, *, group: str = "", endless: bool = False, marked_only: bool = False, **plan: Any
    ) -> None:
        directory.mkdir()
        self.nonce = new_nonce()
        self.group = group
        full = {
            "grove": str(GROVE),
            "directory": str(directory),
            "endless": "1" if endless else "0",
            "nonce": self.nonce,
            "nonces": [self.nonce],
            "group": group,
            "term_first": 0.0,
            "agent_dies_first": False,
            **plan,
        }
        self.keeper = subprocess.Popen(
            [sys.executable, "-c", KEEPER, json.dumps(full)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=GROVE.parents[2],
            env={**os.environ, **({"MARKED_ONLY": "1"} if marked_only else {})},
        )
        assert self.keeper.stdout is not None
        assert self.keeper.stdin is not None
        word, agent = self.keeper.stdout.readline().split()
        assert word == "ready"
        pids = [int(agent), *(int(file.name) for file in directory.iterdir() if file.name.isdigit())]
        self.everybody = [found for pid in pids if (found := processes.identify(pid)) is not None]
        self.agent = self.everybody[0]

    def end(self) -> dict[str, Any]:
        """Let the keeper end the tree; return its report."""
        out, _ = self.keeper.communicate("end\n", timeout=30)
        assert self.keeper.returncode == 0
        report: dict[str, Any] = json.loads(out)
        return report

    def living(self) -> list[ProcessIdentity]:
        return [who for who in self.everybody if not processes.observe(who).is_gone]

    def clean_up(self) -> None:
        for who in self.everybody:
            processes.send_signal(who, signal.SIGKILL)
        self.keeper.kill()
        self.keeper.communicate()
        end_tree(roots=[], nonces=[self.nonce], timeout_s=5)
        if self.group and (group := cgroup.find_group(self.group)) is not None:
            cgroup.kill(group)
            wait_until(lambda: cgroup.remove(group), what="an empty control group")


class Neighbour:
    """A tree of the same program, arguments and name, with a nonce of its own."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.process = subprocess.Popen(
            [sys.executable, "-S", "-E", str(GROVE), str(directory), "0"],
            env={**os.environ, "CREWKEEP_NONCE": new_nonce(), "MARKED_ONLY": "1"},
            start_new_session=True,
        )
        wait_until(lambda: (directory / "ready").exists(), what="the neighbour")
        pids = [self.process.pid, *(int(file.name) for file in directory.iterdir() if file.name.isdigit())]
        found = [who for pid in pids if (who := processes.identify(pid)) is not None]
        wait_until(lambda: sum(processes.observe(who) is Liveness.STOPPED for who in found) == 2, what="two stopped ones")
        self.everybody = [(who, processes.observe(who)) for who in found]

    def is_untouched(self) -> bool:
        return [processes.observe(who) for who, _ in self.everybody] == [before for _, before in self.everybody]

    def clean_up(self) -> None:
        for who, _ in self.everybody:
            processes.send_signal(who, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def neighbour(tmp_path: Path) -> Iterator[Neighbour]:
    neighbour = Neighbour(tmp_path / "neighbour")
    yield neighbour
    neighbour.clean_up()


@pytest.fixture
def groves() -> Iterator[list[Grove]]:
    made: list[Grove] = []
    yield made
    for grove in made:
        grove.clean_up()


def need_group() -> None:
    group = cgroup.create_group("test-whether-one-can")
    if group is None:
        pytest.skip("no control group can be made here")
    cgroup.remove(group)


@pytest.mark.parametrize(
    ("how", "plan"),
    [
        ("by everything", {"group": "test-tree-everything"}),
        ("without a control group", {}),
        ("by descent alone", {"nonces": []}),
        ("after asking", {"term_first": 0.2}),
        ("after the agent died", {"agent_dies_first": True}),
        ("after the agent died, by descent alone", {"agent_dies_first": True, "nonces": []}),
    ],
)
def test_a_tree_of_twenty_is_ended_and_nobody_else(
    how: str, plan: dict[str, Any], tmp_path: Path, groves: list[Grove], neighbour: Neighbour
) -> None:
    if plan.get("group"):
        need_group()
        plan = {**plan, "group": f"{plan['group']}-{os.getpid()}"}
    groves.append(grove := Grove(tmp_path / "grove", endless=True, **plan))
    assert len(grove.everybody) == TREE_COUNT + 1
    report = grove.end()
    assert report["left"] == []
    assert grove.living() == []
    assert scan.find_marked([grove.nonce]) == []
    if not plan.get("agent_dies_first"):  # otherwise the hang-up of its terminal has ended some of them before
        assert set(report["ended"]) >= {who.pid for who in grove.everybody}
    assert report["took"] < LIMIT_S
    assert neighbour.is_untouched(), how


def test_the_tree_of_a_dead_keeper_is_found_by_its_nonce(tmp_path: Path, groves: list[Grove], neighbour: Neighbour) -> None:
    groves.append(grove := Grove(tmp_path / "grove", endless=True, marked_only=True))
    grove.keeper.kill()
    grove.keeper.wait()
    # The terminal hung up and some of them died of it: the agent is gone or going, the deaf and the daemons live.
    begun = time.monotonic()
    report = end_tree(roots=[grove.agent], nonces=[grove.nonce], cgroup=None, timeout_s=LIMIT_S)
    assert report.left == ()
    assert time.monotonic() - begun < LIMIT_S
    assert [who for who in grove.living() if scan.read_environment(who.pid)] == []
    assert neighbour.is_untouched()


def test_a_control_group_finds_who_has_neither_parent_nor_nonce(
    tmp_path: Path, groves: list[Grove], neighbour: Neighbour
) -> None:
    need_group()
    groves.append(grove := Grove(tmp_path / "grove", group=f"test-tree-dead-{os.getpid()}"))
    grove.keeper.kill()
    grove.keeper.wait()
    group = cgroup.find_group(grove.group)
    assert group is not None
    report = end_tree(roots=[], nonces=[], cgroup=group, timeout_s=LIMIT_S)
    assert report.left == ()
    assert grove.living() == []
    assert neighbour.is_untouched()


def spawn_marked(code: str, nonce: str, **options: Any) -> subprocess.Popen[str]:
    """Run Python code that carries a nonce; returns once it has written a line."""
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", code],
        env={**os.environ, "CREWKEEP_NONCE": nonce, **options.pop("extra", {})},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        **options,
    )
    assert process.stdout is not None
    process.stdout.readline()
    return process


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    made: list[subprocess.Popen[str]] = []
    yield made
    for process in made:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_a_session_started_from_inside_a_session_is_a_stranger(started: list[subprocess.Popen[str]]) -> None:
    outer, inner = new_nonce(), new_nonce()
    code = f"""
import os, subprocess, sys, time
env = {{**os.environ, "CREWKEEP_NONCE": {inner!r}}}
bare = "import subprocess; p = subprocess.Popen(['/bin/sleep', '1000'], env={{}}); print(p.pid, flush=True); p.wait()"
p = subprocess.Popen([sys.executable, "-S", "-c", bare], env=env, stdout=subprocess.PIPE, text=True)
below = p.stdout.readline().strip()
mine = subprocess.Popen(["/bin/sleep", "1000"])
print(p.pid, below, mine.pid, flush=True)
time.sleep(1000)
"""
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", code], env={**os.environ, "CREWKEEP_NONCE": outer}, stdout=subprocess.PIPE, text=True
    )
    started.append(process)
    assert process.stdout is not None
    stranger, below, mine = [processes.identify(int(pid)) for pid in process.stdout.readline().split()]
    root = processes.identify(process.pid)
    assert root is not None
    assert stranger is not None
    assert below is not None
    assert mine is not None
    try:
        report = end_tree(roots=[root], nonces=[outer], timeout_s=5)
        assert {each.identity for each in report.ended} == {root, mine}
        assert processes.observe(stranger) is Liveness.ALIVE
        assert processes.observe(below) is Liveness.ALIVE
    finally:
        processes.send_signal(below, signal.SIGKILL)
        processes.send_signal(stranger, signal.SIGKILL)


def test_who_is_to_be_spared_is_not_even_stopped(started: list[subprocess.Popen[str]]) -> None:
    nonce = new_nonce()
    code = "import time; print('up', flush=True); time.sleep(1000)"
    started += [spawn_marked(code, nonce), spawn_marked(code, nonce)]
    spared, ended = (processes.identify(process.pid) for process in started)
    assert spared is not None
    assert ended is not None
    report = end_tree(roots=[], nonces=[nonce], spare=[spared], timeout_s=5)
    assert [each.identity for each in report.ended] == [ended]
    assert processes.observe(spared) is Liveness.ALIVE


def test_a_process_never_ends_itself(started: list[subprocess.Popen[str]]) -> None:
    code = """
import os, subprocess, sys
sys.path.insert(0, os.getcwd())
print("up", flush=True)
from coordinator.system import processes, tree
child = subprocess.Popen(["/bin/sleep", "1000"])
report = tree.end_tree(roots=[processes.identify_self()], nonces=[os.environ["CREWKEEP_NONCE"]], timeout_s=5)
print([each.identity.pid for each in report.ended] == [child.pid], report.left, flush=True)
"""
    started.append(spawn_marked(code, new_nonce(), cwd=GROVE.parents[2]))
    out, _ = started[0].communicate(timeout=20)
    assert out == "True ()\n"


def test_a_root_whose_pid_was_given_away_is_nobody() -> None:
    with subprocess.Popen(["/bin/sleep", "1000"]) as process:
        who = processes.identify(process.pid)
        assert who is not None
        before = ProcessIdentity(
            pid=who.pid,
            start_ticks=who.start_ticks,
            boot_id=who.boot_id,
            pid_namespace=who.pid_namespace,
            pidfd_inode=(who.pidfd_inode or 0) + 1_000_000 if who.pidfd_inode else None,
        )
        if before.pidfd_inode is None:
            process.kill()
            pytest.skip("this kernel has no pidfs")
        assert end_tree(roots=[before], nonces=[], timeout_s=2) == EndReport(ended=(), left=())
        assert processes.observe(who) is Liveness.ALIVE
        process.kill()


def test_two_looks_find_nothing_in_no_time() -> None:
    begun = time.monotonic()
    assert end_tree(roots=[], nonces=[new_nonce()], timeout_s=5) == EndReport(ended=(), left=())
    assert time.monotonic() - begun < 2


def test_a_tree_that_ends_when_asked_is_not_waited_for(started: list[subprocess.Popen[str]]) -> None:
    code = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (print("asked", flush=True), os._exit(0)))
print("up", flush=True)
os.kill(os.getpid(), signal.SIGSTOP)
time.sleep(1000)
"""
    started.append(process := spawn_marked(code, new_nonce()))
    who = processes.identify(process.pid)
    assert who is not None
    wait_until(lambda: processes.observe(who) is Liveness.STOPPED, what="the stop")
    begun = time.monotonic()
    report = end_tree(roots=[who], nonces=[], timeout_s=5, term_first=20)
    assert [each.identity for each in report.ended] == [who]
    assert time.monotonic() - begun < 10
    assert process.stdout is not None
    assert process.stdout.readline() == "asked\n"


@pytest.mark.slow
def test_a_fork_bomb_is_ended_while_it_goes_off(tmp_path: Path, started: list[subprocess.Popen[str]]) -> None:
    nonce = new_nonce()
    code = """
import os, signal, time
from multiprocessing import Value
count = Value("i", 0)
print("up", flush=True)
while True:
    with count.get_lock():
        full = count.value >= 200
        count.value += not full
    if full or os.fork():
        time.sleep(0.002)
        full and signal.pause()
    elif int(time.monotonic() * 1e6) % 3 == 0:
        os.setsid()
"""
    started.append(process := spawn_marked(code, nonce))
    who = processes.identify(process.pid)
    assert who is not None
    wait_until(lambda: len(scan.find_marked([nonce])) > 20, what="the bomb")
    report = end_tree(roots=[who], nonces=[nonce], timeout_s=LIMIT_S)
    assert report.left == ()
    assert scan.find_marked([nonce]) == []


def test_another_users_process_is_reported_as_left(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can start a process of another user")
    with subprocess.Popen(["/bin/sleep", "1000"]) as process:
        who = processes.identify(process.pid)
        assert who is not None
        code = f"""
import json, os, sys
from coordinator.system import processes, tree
os.setresuid(65534, 65534, 65534)
who = processes.ProcessIdentity.decode(json.loads({json.dumps(json.dumps(who.encode()))}))
report = tree.end_tree(roots=[who], nonces=[], timeout_s=0.5)
print([(each.identity == who, each.why) for each in report.left], report.ended)
"""
        done = subprocess.run([sys.executable, "-c", code], cwd=GROVE.parents[2], capture_output=True, text=True, timeout=30)
        assert done.stdout == "[(True, 'it belongs to another user and may not be signalled')] ()\n", done.stderr
        assert processes.observe(who) is Liveness.ALIVE
        process.kill()
