"""Scenarios: the ways on which a context writes, each a short program that says what it does.

``before`` runs unrecorded and makes what is there at first; ``during`` is recorded, killed, or made to fail.
"""

from __future__ import annotations

import io
import os
import random
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coordinator.context import SharedContext
from coordinator.context.model import Durability
from coordinator.errors import StorageError, Superseded, VersionConflict
from coordinator.sessions.model import Writer
from proof import engine
from proof.witness import Witness

UPGRADE = Path(__file__).with_name("format-1.zip")


class Stage:
    """A context, and a witness of everything that is done to it."""

    def __init__(self, root: str, witness: Witness, durability: Durability = "durable", shards: int = 2) -> None:
        self.directory, self.witness = Path(root) / "context", witness
        self._options: dict[str, Any] = {"durability": durability, "shards": shards}
        self._context: SharedContext | None = None

    @property
    def context(self) -> SharedContext:
        if self._context is None:
            self._context = SharedContext.open(self.directory, **self._options)
        return self._context

    def as_another(self, who: str) -> Stage:
        """Return a stage for another thread, on the same context."""
        other = Stage.__new__(Stage)
        other.__dict__.update(self.__dict__)
        other.witness = self.witness.as_another(who)
        return other

    def reopen(self) -> None:
        if self._context is not None:
            self._context.close()
            self._context = None

    def put(self, key: str, value: Any, expected_version: int | None = None) -> int:
        name = self.witness.do("put", key=key, value=value)
        if expected_version is None:
            entry = self.context.put(key, value, unconditional=True)
        else:
            entry = self.context.put(key, value, expected_version=expected_version)
        self.witness.done(name, version=entry.version)
        return entry.version

    def look(self, key: str, seen: int) -> int:
        """Read, and say so if it is newer than ``seen``: what was shown once must not be taken back by a crash."""
        entry = self.context.get(key)
        if entry is None or entry.version == seen:
            return seen
        self.witness.say({"saw": key, "version": entry.version, "value": entry.value})
        return entry.version

    def meet(self, key: str, seen: int) -> int:
        """Look at a key that counts by a conflict with it, and say so as ``look`` does: what was met must hold as well."""
        try:
            self.context.put(key, None, expected_version=1 << 40)
        except VersionConflict as conflict:
            if conflict.actual_version != seen:
                self.witness.say({"saw": key, "version": conflict.actual_version, "value": conflict.actual_version})
            return conflict.actual_version
        raise AssertionError("a conflict was to be met")

    def delete(self, key: str) -> None:
        name = self.witness.do("delete", key=key)
        self.witness.done(name, version=self.context.delete(key, unconditional=True).version)

    def count(self, key: str) -> None:
        """Raise a number that is always its own version."""
        name = self.witness.do("count", key=key)
        self.witness.done(name, version=self.context.update(key, lambda value: (value or 0) + 1, tries=1000).version)

    def fence(self, session: str, epoch: int) -> None:
        name = self.witness.do("fence", session=session, epoch=epoch)
        self.context.fence(session, epoch)
        self.witness.done(name)

    def set_rule(self, prefix: str, rule: str) -> None:
        name = self.witness.do("rule", prefix=prefix, rule=rule)
        self.context.set_rule(prefix, rule)
        self.witness.done(name)

    def bring_in(self, values: dict[str, Any]) -> None:
        stream = io.StringIO()
        with tempfile.TemporaryDirectory() as elsewhere, SharedContext.open(elsewhere, shards=1) as other:
            for key, value in values.items():
                other.put(key, value, expected_version=0)
            other.export(stream)
        acts = [self.witness.do("put", key=key, value=value) for key, value in sorted(values.items())]
        self.context.import_(stream.getvalue().splitlines(keepends=True))
        for act in acts:
            self.witness.done(act, version=1)

    def repair(self) -> None:
        name = self.witness.do("repair")
        self.context.check(repair=True)
        self.witness.done(name)


@dataclass(frozen=True, kw_only=True, slots=True)
class Scenario:
    """One way of writing."""

    before: Callable[[Stage], None]
    during: Callable[[Stage], None]
    durability: Durability = "durable"
    shards: int = 2
    #: With the knobs turned, so that compaction comes after a few commits.
    small: bool = False
    #: Several processes or threads write at once.
    crowded: bool = False
    #: Files come into being, or are replaced or removed, beside the writing of entries.
    changes_names: bool = False


def _begin(stage: Stage) -> None:
    stage.put("a", "first", 0)
    stage.put("b", {"n": [1, 2, 3]}, 0)
    stage.put("c", "x" * 700, 0)


def _create(stage: Stage) -> None:
    stage.put("a", "first", 0)


def _commit(stage: Stage) -> None:
    version = stage.put("a", "second", 1)
    try:
        stage.context.put("a", "refused", expected_version=version + 5)
    except VersionConflict:
        pass
    stage.put("b", "y" * 3000)
    stage.put("d", None, 0)
    stage.put("a", "third", version)


def _crowd(stage: Stage) -> None:
    stage.context.get("a")

    def write(mine: Stage, who: int) -> None:
        for number in range(3):
            mine.put(f"own/{who}", f"{who}.{number}" * 30)
            mine.count("n")

    def read(mine: Stage, who: int) -> None:
        seen, until_s = 0, time.monotonic() + 20
        while seen < 9 and time.monotonic() < until_s:  # all of them together count to 9
            seen = mine.look("n", seen)

    def meet(mine: Stage, who: int) -> None:
        seen, until_s = 0, time.monotonic() + 20
        while seen < 9 and time.monotonic() < until_s:
            seen = mine.meet("n", seen)
            time.sleep(0.001)  # no condition: the others are to get the lock as well

    threads = [threading.Thread(target=write, args=(stage.as_another(f"t{who}"), who)) for who in range(2)]
    children = _fork(stage, [write, read, meet])
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    _wait(children)


def _doubt(stage: Stage) -> None:
    """Some write, each with a context of its own, while flushes take their time and some fail: what was told must hold."""
    sync, chance = os.fdatasync, random.Random(1)

    def sync_slowly(fd: int) -> None:
        time.sleep(chance.uniform(0, 0.004))
        sync(fd)

    os.fdatasync = sync_slowly  # type: ignore[assignment]

    def write(mine: Stage, who: int) -> None:
        mine._context = None
        for number in range(5):
            try:
                mine.put(f"own/{who}", f"{who}.{number}" * 30)
            except StorageError:
                mine.reopen()
        mine.reopen()

    stage.reopen()
    _wait(_fork(stage, [write] * 4))


def _fork(stage: Stage, acts: list[Callable[[Stage, int], None]]) -> list[int]:
    """Let each act be done by a child."""
    children = []
    for who, act in enumerate(acts, 2):
        if (pid := os.fork()) == 0:
            code = 1
            try:
                act(stage.as_another(f"p{who}"), who)
                code = 0
            finally:
                os._exit(code)
        children.append(pid)
    return children


def _wait(children: list[int]) -> None:
    assert {os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children} == {0}


def _delete(stage: Stage) -> None:
    stage.delete("a")
    stage.put("a", "again", 0)
    stage.delete("a")
    stage.delete("c")


def _fence(stage: Stage) -> None:
    stage.context.adopt(Writer(session="s", name="ann", epoch=2))
    stage.put("a", "by the second")
    stage.fence("s", 3)
    try:
        stage.context.put("a", "too late", unconditional=True)
    except Superseded:
        pass
    stage.context.adopt(Writer(session="s", name="ann", epoch=3))
    stage.put("b", "by the third")
    stage.fence("t", 7)


def _rule(stage: Stage) -> None:
    stage.set_rule("sum/", "sum")
    stage.put("sum/x", 4, 0)
    name = stage.witness.do("put", key="sum/x", value=9)
    stage.witness.done(name, version=stage.context.update("sum/x", delta=5).version)
    stage.set_rule("sum/", "max")


def _begin_history(stage: Stage) -> None:
    for _ in range(48):
        stage.count("n")
    stage.put("a", "first", 0)


def _history(stage: Stage) -> None:
    for _ in range(5):
        stage.count("n")
    stage.put("a", "second")


def _begin_compaction(stage: Stage) -> None:
    stage.set_rule("sum/", "sum")
    stage.fence("s", 4)
    stage.put("gone", "soon", 0)
    stage.delete("gone")
    # Up to shortly before the log is replaced for the third time, with what is due by then.
    changes: list[int] = []
    files = _list_logs(stage.directory)
    number = 0
    while len(changes) < 2 or number < 2 * changes[1] - changes[0] - 3:
        assert number < 5000, "there is no compaction; turn the knobs of the engine further"
        _write_over(stage, number)
        number += 1
        if (now := _list_logs(stage.directory)) != files:
            changes.append(number)
            files = now


def _list_logs(directory: Path) -> set[int]:
    return {path.stat().st_ino for path in directory.rglob(engine.LOG)}


def _write_over(stage: Stage, number: int) -> None:
    stage.put("a", f"{number} " + "z" * 30)
    stage.count("n")


def _compaction(stage: Stage) -> None:
    for number in range(6):
        _write_over(stage, 10_000 + number)


def _growth(stage: Stage) -> None:
    for number in range(12):
        stage.put(f"many/{number}", number, 0)


def _import(stage: Stage) -> None:
    stage.bring_in({f"in/{number}": "w" * number * 40 for number in range(5)})


def _begin_damage(stage: Stage) -> None:
    _begin(stage)
    stage.set_rule("sum/", "sum")
    # Not witnessed as done: it is what gets lost.
    stage.witness.do("put", key="victim", value="SACRIFICE")
    stage.context.put("victim", "SACRIFICE", expected_version=0)
    stage.put("b", "after the victim")
    stage.put("e", "after the victim", 0)
    stage.reopen()
    hit = 0
    for path in stage.directory.rglob("*"):
        data = path.read_bytes() if path.is_file() else b""
        if (at := data.find(b"SACRIFICE")) >= 0:
            path.write_bytes(data[:at] + b"sacrifice" + data[at + 9 :])
            hit += 1
    assert hit, "the value stands in no file as it is; follow it here"
    stage.witness.say({"hurt": ["victim"]})


def _repair(stage: Stage) -> None:
    stage.repair()
    stage.put("a", "after the repair")


def _begin_upgrade(stage: Stage) -> None:
    with zipfile.ZipFile(UPGRADE) as archive:
        archive.extractall(stage.directory.parent)
        for line in archive.read("said.jsonl").splitlines():
            stage.witness.say(_as_json(line))
    (stage.directory.parent / "said.jsonl").unlink()


def _as_json(line: bytes) -> dict[str, Any]:
    import json

    statement = json.loads(line)
    assert isinstance(statement, dict)
    for word in ("do", "done"):
        if word in statement:
            statement[word] = f"format-1-{statement[word]}"
    return statement


def _upgrade(stage: Stage) -> None:
    stage.put("a", "after the upgrade")
    stage.count("n")


def _begin_small(stage: Stage) -> None:
    for number in range(3):
        stage.put("a", f"value {number}")
    stage.put("b", {"list": [1, 2.5, None, True], "text": "é"})
    stage.put("c/deep/er", "soon gone")
    stage.delete("c/deep/er")
    stage.set_rule("sum/", "sum")
    stage.fence("s", 4)
    stage.put("d", 7)


def _nothing(stage: Stage) -> None:
    """What is there at first: nothing."""


SCENARIOS: dict[str, Scenario] = {
    "create": Scenario(before=_nothing, during=_create, changes_names=True),
    "commit": Scenario(before=_begin, during=_commit),
    "crowd": Scenario(before=_begin, during=_crowd, crowded=True),
    "doubt": Scenario(before=_begin, during=_doubt, shards=1, crowded=True),
    "delete": Scenario(before=_begin, during=_delete),
    "fence": Scenario(before=_begin, during=_fence),
    "rule": Scenario(before=_begin, during=_rule),
    "history": Scenario(before=_begin_history, during=_history),
    "compaction": Scenario(before=_begin_compaction, during=_compaction, small=True, shards=1, changes_names=True),
    "growth": Scenario(before=_begin, during=_growth, shards=1, small=True, changes_names=True),
    "import": Scenario(before=_begin, during=_import),
    "repair": Scenario(before=_begin_damage, during=_repair, changes_names=True),
    "upgrade": Scenario(before=_begin_upgrade, during=_upgrade),
    "small": Scenario(before=_begin_small, during=_nothing, small=True),
    "process": Scenario(before=_begin, during=_commit, durability="process"),
}
