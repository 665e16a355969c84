"""Damage: every truncation and every flipped bit of every file of a small store that nobody has open.

What is read afterwards is what was written, or ``Damaged`` is raised; what is missing without a word, ``check`` names; and
after a repair the store works, with everything outside of the damaged record. A flipped bit may cost one record, a
truncation the newest records of a shard that stood in the missing bytes; harm to one of ``engine.CACHES`` costs nothing.

Exceptions, with their reason: the files of ``engine.WITHOUT_DATA``; empty files, in which there is nothing to damage.
"""

from __future__ import annotations

import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coordinator.context import SharedContext
from coordinator.errors import Damaged
from proof import engine
from proof.crash_run import BOOTS, play
from proof.disk import PAGE_BYTES, Content, Tree
from proof.pool import Pool, find_memory
from proof.witness import TOMBSTONE, encode

#: Shard, revision, key, version, value: every entry that is kept, in the order of its shard.
Truth = list[tuple[int, int, str, int, str]]
#: Of zeros in a file larger than that, only some are flipped.
_SMALL_BYTES = 16 << 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Harm:
    """What is done to one file."""

    path: bytes
    #: The bit that is flipped, or ``None``: everything from ``at`` on is cut off.
    bit: int | None
    at: int
    boot: str

    def __str__(self) -> str:
        what = f"cut at {self.at}" if self.bit is None else f"bit {self.bit} of byte {self.at} flipped"
        return f"{self.path.decode()}, {what}, opened in {self.boot}"

    def do(self, content: Content) -> Content:
        if self.bit is None:
            return content.resize(self.at)
        return content.write(self.at, bytes([_read_byte(content, self.at) ^ (1 << self.bit)]))

    def hits(self, content: Content) -> bool:
        """Tell whether the byte it begins at is not zero."""
        return _read_byte(content, self.at) != 0


def _read_byte(content: Content, at: int) -> int:
    page, start = divmod(at, PAGE_BYTES)
    return content.pages[page][start] if page in content.pages else 0


@dataclass(slots=True)
class Figures:
    """What came of a run."""

    possible: int = 0
    inspected: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    bad: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        outcomes = ", ".join(f"{count} {name}" for name, count in sorted(self.outcomes.items()))
        return f"{self.inspected} of {self.possible} harms inspected ({outcomes}), {len(self.bad)} bad"


def run_damage(
    *, limit: int, seed: int, bug: str | None = None, stop_at: int | None = None, only: bytes | None = None
) -> Figures:
    """Do up to ``limit`` harms, drawn by lot where there are more, to the store of the scenario ``small``."""
    directory = Path(tempfile.mkdtemp(prefix="proof-", dir=find_memory()))
    try:
        root = directory / "root"
        root.mkdir(mode=0o700)
        play("small", root, directory / "said", "before", BOOTS[0])
        tree = Tree.read(root)
        with engine.like_the_others(BOOTS[0]), SharedContext.open(root / "context") as context:
            truth = read_truth(context)
    finally:
        shutil.rmtree(directory)
    harms = list_harms(tree, random.Random(seed))
    if only is not None:
        harms = [harm for harm in harms if harm.path.rpartition(b"/")[2] == only]
    figures = Figures(possible=len(harms))
    if len(harms) > limit:
        harms = list(draw_harms(tree, harms, limit, random.Random(seed)))
    with Pool("proof.damage.inspect_harm", bug=bug) as pool:
        for number, answer in pool.map((tree, harm, truth) for harm in harms):
            figures.inspected += 1
            if isinstance(answer, str):
                figures.outcomes[answer] += 1
            else:
                figures.bad.append(f"{harms[number]}: {'; '.join(answer)}")
                if stop_at is not None and len(figures.bad) >= stop_at:
                    break
    return figures


def list_harms(tree: Tree, chance: random.Random) -> list[Harm]:
    """Return everything that can be done to the files of a tree, in two boots."""
    harms = []
    for path, content in sorted(tree.files.items()):
        if content is None or not content.size or path.rpartition(b"/")[2] in engine.WITHOUT_DATA:
            continue
        places = list(range(min(content.size, _SMALL_BYTES)))
        if content.size > _SMALL_BYTES:
            pages = [range(number * PAGE_BYTES, min(content.size, (number + 1) * PAGE_BYTES)) for number in content.pages]
            places = sorted({*(at for page in pages for at in page), *chance.sample(range(content.size), 2000)})
        for boot in BOOTS[:2]:
            harms += [Harm(path=path, bit=bit, at=at, boot=boot) for at in places for bit in range(8)]
            harms += [Harm(path=path, bit=None, at=at, boot=boot) for at in places]
    return harms


def draw_harms(tree: Tree, harms: list[Harm], limit: int, chance: random.Random) -> Iterator[Harm]:
    """Draw as many for every file, however long it is, and half of them from bytes that hold something."""
    files: dict[tuple[bytes, bool], list[Harm]] = {}
    for harm in harms:
        content = tree.files[harm.path]
        assert content is not None
        files.setdefault((harm.path, harm.hits(content)), []).append(harm)
    for mine in files.values():
        yield from chance.sample(mine, min(len(mine), limit // len(files) + 1))


def read_truth(context: SharedContext) -> Truth:
    """Return every entry of a context of which nothing was compacted."""
    found = []
    for change in context.read_changes("", dict.fromkeys(context.revisions(), 0), 100_000):
        value = encode(TOMBSTONE if change.deleted else change.value)
        found.append((change.shard, change.revision, change.key, change.version, value))
    return found


def inspect_harm(scratch: Path, tree: Tree, harm: Harm, truth: Truth) -> str | list[str]:
    """Return what became of it in a word, or what is wrong (in a worker of the pool)."""
    content = tree.files[harm.path]
    assert content is not None
    root = scratch / "harmed"
    Tree({**tree.files, harm.path: harm.do(content)}).put(root)
    engine.set_boot(harm.boot)
    try:
        return _judge(root / "context", harm, content.size, truth)
    finally:
        shutil.rmtree(root)


def _judge(directory: Path, harm: Harm, size: int, truth: Truth) -> str | list[str]:
    wrong: list[str] = []
    told = False
    try:
        with SharedContext.open(directory, must_exist=True) as context:
            known = {(key, version): value for _, _, key, version, value in truth}
            missing, damaged = _read(context, known, wrong)
            findings = context.check()
            told = bool(findings)
            if missing and not damaged and not findings:
                wrong.append(f"missing without a word: {sorted(missing)[:5]}")
            repaired = context.check(repair=True)
            if findings and not repaired:
                wrong.append("found, but not repaired")
    except Damaged as error:
        if harm.path.count(b"/") > 1:  # a shard's file: the others must be there
            return [f"it cannot be opened: {error}"]
        return "refused"
    except Exception as error:  # nothing else may come
        return [f"{type(error).__name__}: {error}"]
    try:
        with SharedContext.open(directory, must_exist=True) as context:
            missing, damaged = _read(context, known, wrong)
            if damaged:
                wrong.append("damaged still, after a repair")
            wrong += _judge_loss(missing, harm, size, truth)
            for number in range(3):
                context.put(f"after/{number}", number, unconditional=True)
            wrong += [f"check after the repair: {finding.message}" for finding in context.check()]
    except Exception as error:  # nothing may come
        wrong.append(f"after the repair: {type(error).__name__}: {error}")
    if wrong:
        return [fault[:300] for fault in wrong]
    return ("repaired, a record is lost" if missing else "repaired") if told else "harmless"


def _read(context: SharedContext, known: dict[tuple[str, int], str], wrong: list[str]) -> tuple[set[tuple[str, int]], bool]:
    """Read everything in every way; returns what is missing without a word, and whether anything was said to be damaged."""
    missing, damaged = set(known), False
    for key in sorted({key for key, _ in known}):
        try:
            history = context.history(key)
            newest = context.get(key)
            if newest != (None if not history or history[0].deleted else history[0]):
                wrong.append(f"get and history of {key} differ")
        except Damaged:
            damaged = True
            missing -= {(known_key, version) for known_key, version in known if known_key == key}
            continue
        for entry in history:
            value = encode(TOMBSTONE if entry.deleted else entry.value)
            if known.get((key, entry.version)) != value:
                wrong.append(f"a wrong value: version {entry.version} of {key} is {value[:60]}")
            missing.discard((key, entry.version))
    try:
        for entry in context.snapshot().values():
            if known.get((entry.key, entry.version)) != encode(entry.value):
                wrong.append(f"a wrong value in the snapshot: {entry.key} {entry.version} {entry.value!r:.60}")
    except Damaged:
        damaged = True
    return missing, damaged


def _judge_loss(missing: set[tuple[str, int]], harm: Harm, size: int, truth: Truth) -> Iterator[str]:
    lost = [item for item in truth if (item[2], item[3]) in missing]
    if lost and harm.path.rpartition(b"/")[2] in engine.CACHES:
        yield f"harm to a cache cost {len(lost)} records: {[item[1:4] for item in lost][:5]}"
    if harm.bit is not None:
        if len(lost) > 1:
            yield f"one bit cost {len(lost)} records: {[item[1:4] for item in lost][:5]}"
        return
    shards: dict[int, list[Any]] = {}
    for item in lost:
        shards.setdefault(item[0], []).append(item)
    for shard, gone in shards.items():
        newest = [item for item in truth if item[0] == shard][-len(gone) :]
        if gone != newest:
            yield f"of shard {shard} not the newest are gone: {[item[1:4] for item in gone][:5]}"
        if sum(len(item[4]) for item in gone[1:]) > size - harm.at:
            yield f"{size - harm.at} bytes cost {len(gone)} records"
