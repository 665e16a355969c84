"""Four sessions at work, and round after round somebody is killed: every one comes back, and nothing was lost.

The number of rounds is 20, or what ``ROUNDS`` says (``make prove``: 200); ``SEED`` repeats a run.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from support import cli, cli_json, find_home_processes, wait_until

from coordinator.context import SharedContext
from coordinator.paths import Home
from coordinator.sessions.model import Phase, SessionRecord
from coordinator.sessions.registry import Registry
from coordinator.sessions.workspace import workspace_id
from coordinator.system import processes, scan
from coordinator.system.processes import Liveness, ProcessIdentity
from crewkeep.patrol_client import ask_patrol

ROUNDS = int(os.environ.get("ROUNDS", "20"))
SEED = int(os.environ.get("SEED", str(random.SystemRandom().randrange(1 << 32))))
WORKER = Path(__file__).with_name("round_worker.py")
NAMES = ("ann", "bob", "cem", "dee")
KINDS = ("agent", "keeper", "keeper and agent", "patrol")
RECOVERY_LIMIT_S = 20.0


@dataclass
class Crew:
    """The four sessions, and what is known to have happened to them."""

    home: Home
    evidence: Path
    registry: Registry = field(init=False)
    context: SharedContext = field(init=False)

    def __post_init__(self) -> None:
        self.registry = Registry(self.home)

    def start(self) -> None:
        for name in NAMES:
            words = ["run", "-d", "--name", name, "-w", "rounds", "--cwd", str(self.evidence), "--", sys.executable, str(WORKER)]
            started = cli(*words, str(self.evidence), home=self.home)
            assert started.returncode == 0, started.stderr
        self.context = SharedContext.open(self.home.context(workspace_id("rounds")))

    def find(self, name: str) -> SessionRecord:
        return self.registry.find(name)

    def has_worked(self, record: SessionRecord) -> bool:
        """Whether this incarnation has written to the shared context."""
        return self.context.get(f"work/{record.name}/{record.epoch}/1") is not None

    def wait_working(self, name: str, above: int) -> SessionRecord:
        """Return the record of the first incarnation after epoch ``above`` that runs and has written."""

        def look() -> SessionRecord | None:
            record = self.find(name)
            if record.phase in (Phase.PARKED, Phase.ENDED):
                pytest.fail(f"{name} is {record.phase}: {record.reason}")
            running = record.epoch > above and record.phase is Phase.RUNNING and is_alive(record.agent) and is_alive(record.owner)
            return record if running and self.has_worked(record) else None

        return wait_until(look, timeout_s=RECOVERY_LIMIT_S, what=f"{name} at work after epoch {above}", every_s=0.02)

    def patrol(self) -> int:
        return int(wait_until(lambda: ask_patrol(self.home, "status"), timeout_s=RECOVERY_LIMIT_S, what="a patrol")["pid"])

    def read_ledger(self, name: str) -> list[dict[str, Any]]:
        lines = (self.evidence / f"{name}.ledger").read_bytes().split(b"\n")
        return [json.loads(line) for line in lines[:-1]]  # the last may be cut short by a kill


def is_alive(identity: ProcessIdentity | None) -> bool:
    return processes.observe(identity) is Liveness.ALIVE


def kill(identities: Iterable[ProcessIdentity | None]) -> None:
    for identity in identities:
        if identity is not None:
            processes.send_signal(identity, signal.SIGKILL)


def play_round(crew: Crew, chance: random.Random) -> None:
    kind, name = chance.choice(KINDS), chance.choice(NAMES)
    if kind == "patrol":
        old = crew.patrol()
        os.kill(old, signal.SIGKILL)
        wait_until(lambda: crew.patrol() != old, timeout_s=RECOVERY_LIMIT_S, what="another patrol", every_s=0.02)
        return
    before = crew.find(name)
    kill([before.owner] * ("keeper" in kind) + [before.agent] * ("agent" in kind))
    after = crew.wait_working(name, before.epoch)
    assert after.epoch == before.epoch + 1, "one death, one recovery"
    left = [identity.pid for identity in scan.find_marked([before.nonce])]
    assert left == [], f"of epoch {before.epoch} of {name} there is still {left}"


@pytest.mark.slow
@pytest.mark.timeout(120 + 6 * ROUNDS)
def test_whoever_is_killed_comes_back_and_nothing_acknowledged_is_lost(home: Home, tmp_path: Path) -> None:
    print(f"SEED={SEED} ROUNDS={ROUNDS}")  # shown when it fails
    evidence = tmp_path / "evidence"
    evidence.mkdir()
    crew, chance = Crew(home, evidence), random.Random(SEED)
    crew.start()
    for name in NAMES:
        crew.wait_working(name, 0)
    for _ in range(ROUNDS):
        play_round(crew, chance)

    ended = cli_json("kill", "--all", "--json", home=home)
    assert [session["left"] for session in ended] == [[]] * len(NAMES)
    wait_until(lambda: not find_home_processes(home), what="the end of every process")
    assert not list(evidence.glob("*.overlap-*")), "two incarnations of one session lived at once"
    for name in NAMES:
        acknowledged = crew.read_ledger(name)
        assert acknowledged
        lost = [line for line in acknowledged if line["key"].startswith("work/") and not holds(crew.context, line)]
        assert lost == []
        count = crew.context.get(f"counts/{name}")
        assert count is not None
        assert count.value == count.version, "each of its own updates was counted once"
        counted = [line for line in acknowledged if line["key"].startswith("counts/")]
        assert all(line["value"] == line["version"] <= count.version for line in counted)
        assert [line["epoch"] for line in counted] == sorted(line["epoch"] for line in counted)
    assert crew.context.check() == []
    crew.context.close()


def holds(context: SharedContext, line: dict[str, Any]) -> bool:
    entry = context.get(line["key"])
    return entry is not None and (entry.value, entry.version, entry.epoch) == (line["value"], line["version"], line["epoch"])
