"""An agent program that meets usage limits when a test says so, and a wall clock that a test can set for everybody.

The program does one act of ``acts.json`` at each start, the last one again and again: ``{"limit_s": 5}`` ends a turn with a
limit that ends so many seconds later (or at ``until``), in the words ``text``; ``{"work": true}`` takes a turn that goes on;
``quiet`` takes none. Then it leaves with the code ``exit``, or stays. Its adapter reads what it wrote; with ``"timeless": true``
it cannot tell when a turn failed. Real programs are in ``tests/agents``.

The clock is a ``sitecustomize`` for every Python process of the home: ``time.time`` is off by the number in ``offset``, and each
process leaves a byte per look at it in ``looks-PID``, so that a test can see that one went on looking without waiting for a time.
"""

from __future__ import annotations

import dataclasses
import json
import os
import stat
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coordinator.agents.base import Activity
from coordinator.agents.generic import Generic
from coordinator.sessions.conversation import Conversation
from coordinator.sessions.model import LaunchSpec

_PROGRAM = """#!{python}
import json, os, sys, time
home = os.environ["LIMITED_HOME"]
acts = json.load(open(home + "/acts.json"))
with open(home + "/starts.jsonl", "a+") as starts:
    starts.seek(0)
    number = len(starts.readlines())
    starts.write(json.dumps({{"at": time.time(), "epoch": int(os.environ["CREWKEEP_EPOCH"]), "pid": os.getpid()}}) + "\\n")
act = acts[min(number, len(acts) - 1)]
def tell(**line):
    with open(home + "/talk.jsonl", "a") as talk:
        talk.write(json.dumps({{"at": time.time(), **line}}) + "\\n")
print("at work", flush=True)
if act.get("quiet") is None:
    tell(kind="turn")
if act.get("work"):
    tell(kind="work")
if "limit_s" in act or "until" in act:
    until = act["until"] if "until" in act else time.time() + act["limit_s"]
    tell(kind="failure", text=act.get("text", "usage limit reached"), until=until, timeless=act.get("timeless", False))
if "exit" in act:
    sys.exit(act["exit"])
while True:
    time.sleep(1000)
"""

_CLOCK = """
import os, time
_real, _place = time.time, {place!r}
def _look():
    with open(_place + "/offset") as file:
        offset_s = float(file.read() or 0)
    with open(f"{{_place}}/looks-{{os.getpid()}}", "ab") as looks:
        looks.write(b".")
    return _real() + offset_s
time.time = _look
"""


class Limited(Generic):
    """The adapter."""

    name = "limited"

    def recognises(self, argv: Sequence[str]) -> bool:
        return bool(argv) and os.path.basename(argv[0]) == "limited"

    def find_conversation(self, launch: LaunchSpec, pids: Sequence[int], started_at: float) -> Conversation | None:
        path = os.path.join(launch.environment["LIMITED_HOME"], "talk.jsonl")
        return Conversation(agent=self.name, id="talk", transcript=path) if os.path.exists(path) else None

    def read_activity(self, conversation: Conversation) -> Activity:
        assert conversation.transcript is not None
        seen, progress = Activity(), 0
        for line in Path(conversation.transcript).read_text().splitlines():
            entry = json.loads(line)
            progress += entry["kind"] == "work"
            if entry["kind"] == "failure":
                failed_at = None if entry["timeless"] else entry["at"]
                seen = Activity(at_prompt=True, failure=entry["text"], limited_until=entry["until"], failed_at=failed_at)
            else:
                seen = Activity(at_prompt=False)
        return dataclasses.replace(seen, progress=progress)


@dataclass(frozen=True, slots=True)
class Place:
    """Where the program and the clock of one test are."""

    path: Path
    #: What every process of the home must have.
    environment: dict[str, str]

    def plan(self, *acts: dict[str, Any]) -> None:
        """Say what the program does at each of its starts."""
        (self.path / "acts.json").write_text(json.dumps(acts))

    def list_starts(self) -> list[dict[str, Any]]:
        """Return the program's starts: ``at`` by its clock, ``epoch``, ``pid``."""
        path = self.path / "starts.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def now_s(self) -> float:
        """Return what everybody's clock shows."""
        return time.time() + float((self.path / "offset").read_text())

    def turn_clock(self, seconds: float) -> None:
        """Let the wall clock, and no other, jump: the machine slept, or somebody set it."""
        aside = self.path / "offset.aside"
        aside.write_text(str(float((self.path / "offset").read_text()) + seconds))
        aside.rename(self.path / "offset")

    def count_looks(self, pid: int) -> int:
        """Return how often the process looked at the wall clock."""
        try:
            return (self.path / f"looks-{pid}").stat().st_size
        except FileNotFoundError:
            return 0


def install(path: Path) -> Place:
    """Write adapter, program and clock, as an installer would."""
    info = path / "site" / "limited-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: limited\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[crewkeep.agents]\nlimited = limited_agent:Limited\n")
    program = path / "limited"
    program.write_text(_PROGRAM.format(python=sys.executable))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    (path / "offset").write_text("0")
    (path / "site" / "sitecustomize.py").write_text(_CLOCK.format(place=str(path)))
    paths = [str(path / "site"), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    environment = {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "LIMITED_HOME": str(path)}
    return Place(path, environment)
