"""Every state of a directory that a crash may leave, given what programs did to it (after ALICE, Pillai et al., OSDI 2014).

Three models:
  kill       everything done up to the crash is there: ``kill -9`` of all, the machine goes on. A write may be cut.
  reordered  power loss: of what no flush has covered, any subset is there. A file's bytes and size are durable only by a
             flush of that file, a name only by one of its directory - not even a flush of the file keeps its name, which
             is stricter than ext4 and xfs. A write that makes a file longer may leave the length without the bytes.
  torn       as reordered, and what is not covered is there in part: any of its 512-byte sectors, zeros or garbage in
             others; nothing outside of its own range is harmed.

Exhaustive where the choices are few (``Bounds.exhaustive``), else all single omissions, each one alone, all prefixes, prefixes
with one omission, pairs, and subsets drawn by lot. Of writes to the same place of one file, the two newest may be missing one
by one, older ones all together. A file that is mapped for writing is known only where its program looked at it
(``Seen``); between two looks of several actors the kill model is left to real kills.

Each state says between which operations it can arise, so that it can be told what was acknowledged by then at the latest.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from proof.disk import EMPTY, PAGE_BYTES, Content, Tree, walk
from proof.operations import ROOT, Clear, FailedFlush, Flush, Mapped, Name, Operation, Recording, Resize, Said, Seen, Write

Model = Literal["kill", "reordered", "torn"]
SECTOR_BYTES = 512
#: What may become of an operation: its effect on the content it concerns.
Effect = Callable[[Content], Content]


@dataclass(frozen=True, kw_only=True, slots=True)
class Bounds:
    """How far enumeration goes at one crash point."""

    #: So many combinations are all made.
    exhaustive: int = 64
    pairs: int = 60
    drawn: int = 8
    #: Torn forms of one write.
    torn: int = 12
    seed: int = 1


@dataclass(slots=True)
class State:
    """A tree that a crash may leave, and when: after ``first`` operations at the earliest, after ``last`` at the latest."""

    tree: Tree
    model: Model
    first: int
    last: int
    #: How it came about, for people.
    how: str


@dataclass(slots=True)
class Enumeration:
    """All distinct states of a recording, and how many ways there were to come to them."""

    states: list[State] = field(default_factory=list)
    ways: int = 0
    #: Crash points at which the kill model is left to real kills.
    left_to_kills: int = 0


@dataclass(slots=True)
class _Unit:
    """Something that no flush has covered yet."""

    operation: Operation
    #: Number of the inode whose content it concerns, ``None`` for a name.
    inode: int | None
    #: First what was meant, then what power loss may make of it (reordered), then the torn forms.
    effects: list[tuple[str, Effect]]
    reordered: int
    fixed: bool = False
    #: A flush of it has failed, so that none to come covers it.
    doomed: bool = False
    #: It is durable, but has to be kept in its order behind something that may not be.
    forced: bool = False


def enumerate_states(
    recording: Recording, models: Sequence[Model] = ("kill", "reordered", "torn"), bounds: Bounds | None = None,
    ignored: frozenset[bytes] = frozenset(),
) -> Enumeration:  # fmt: skip
    """Return every state that the models allow. ``ignored``: names of files of which no content matters but the written one."""
    return _Enumerator(recording, models, bounds or Bounds(), ignored).run()


class _Enumerator:
    def __init__(self, recording: Recording, models: Sequence[Model], bounds: Bounds, ignored: frozenset[bytes]) -> None:
        self.recording, self.models, self.bounds = recording, models, bounds
        self.chance = random.Random(bounds.seed)
        self.found: dict[tuple[object, bool], State] = {}
        self.result = Enumeration()
        directories = {inode for inode in recording.paths.values() if inode not in recording.contents} | {ROOT}
        #: What is durable, and what is there as long as nobody crashes.
        self.floor_names: dict[int, dict[bytes, int]] = {inode: {} for inode in directories}
        for path, inode in recording.paths.items():
            if path:
                head, _, name = path.rpartition(b"/")
                self.floor_names[recording.paths[head]][name] = inode
        self.floor = {inode: Content.of(data) for inode, data in recording.contents.items()}
        self.now_names = {inode: dict(names) for inode, names in self.floor_names.items()}
        self.now = dict(self.floor)
        self.pending: list[_Unit] = []
        self.mapped: set[int] = set()
        self.ignored = {inode for path, inode in recording.paths.items() if path.rpartition(b"/")[2] in ignored}
        self.ignored_names = ignored

    def run(self) -> Enumeration:
        operations = self.recording.operations
        self._crash(0, 0)
        point = 0
        while point < len(operations):
            self._take(operations[point])
            point += 1
            first = point
            while point < len(operations) and isinstance(operations[point], Said):
                point += 1  # a crash after all that was said asks for more than one before
            self._crash(first, point)
        self.result.states = list(self.found.values())
        return self.result

    # what is there, and what is durable

    def _take(self, operation: Operation) -> None:
        match operation:
            case Said():
                return
            case Mapped():
                self.mapped.add(operation.inode)
            case Flush():
                self._flush(operation)
            case FailedFlush():
                for unit in self.pending:
                    unit.doomed = unit.doomed or (unit.inode == operation.inode and unit.operation.ended < operation.began)
            case Name():
                if operation.new and operation.inode is not None:
                    if operation.is_directory:
                        self.floor_names.setdefault(operation.inode, {})
                        self.now_names.setdefault(operation.inode, {})
                    else:
                        self.now[operation.inode] = self.floor[operation.inode] = EMPTY
                        if operation.name in self.ignored_names:
                            self.ignored.add(operation.inode)
                _apply_name(self.now_names, operation)
                self.pending.append(_Unit(operation, None, [("", _same), ("no name", _same)], 2))
            case Write() | Resize() | Clear() | Seen():
                unit = _make_unit(operation, self.now[operation.inode], self.bounds, self.chance)
                self.now[operation.inode] = unit.effects[0][1](self.now[operation.inode])
                if operation.inode in self.ignored:
                    self.floor[operation.inode] = self.now[operation.inode]
                else:
                    self.pending.append(unit)
            case _:
                raise TypeError(f"an operation that no model knows: {operation}")

    def _flush(self, flush: Flush) -> None:
        rest = []
        doomed = {unit.inode for unit in self.pending if unit.doomed}
        for unit in self.pending:
            done = unit.operation.ended < flush.began
            if done and isinstance(unit.operation, Name) and unit.operation.directory == flush.inode:
                _apply_name(self.floor_names, unit.operation)
            elif done and unit.inode is not None and unit.inode == flush.inode and unit.inode not in doomed:
                self.floor[unit.inode] = unit.effects[0][1](self.floor[unit.inode])
            else:
                unit.forced = unit.forced or (done and unit.inode == flush.inode and not unit.doomed)
                rest.append(unit)
        self.pending = rest

    # crashes

    def _crash(self, first: int, last: int) -> None:
        self.contents: dict[tuple[int, tuple[int, ...]], Content] = {}
        if "kill" in self.models:
            self._kill(first, last)
        if "reordered" in self.models or "torn" in self.models:
            self._lose_power(first, last)

    def _kill(self, first: int, last: int) -> None:
        operations = self.recording.operations
        known = self.recording.actors == 1 and last > 0 and isinstance(operations[last - 1], (Said, Seen))
        if self.mapped - self.ignored and not known:
            self.result.left_to_kills += 1
            return
        self._add("kill", _build(self.now_names, self.now), first, last, "killed")
        following = operations[last] if last < len(operations) else None
        if isinstance(following, Write) and len(following.data) > 1 and following.inode in self.now:
            cuts = {len(following.data) // 2, PAGE_BYTES - following.offset % PAGE_BYTES}
            for cut in sorted(cut for cut in cuts if 0 < cut < len(following.data)):
                contents = {**self.now, following.inode: self.now[following.inode].write(following.offset, following.data[:cut])}
                self._add("kill", _build(self.now_names, contents), first, last, f"killed in a write, after {cut} bytes")

    def _lose_power(self, first: int, last: int) -> None:
        self._fix_overwritten(self.pending)
        units = [unit for unit in self.pending if not unit.fixed and not unit.forced]
        full = dict.fromkeys(range(len(units)), 0)
        for how, choice in self._choose(units):
            self._lose("reordered", units, {**full, **choice}, first, last, how)
        # A file that was never written back at all, whatever the others are.
        for inode in sorted({unit.inode for unit in units if unit.inode is not None}):
            mine = {number: 1 for number, unit in enumerate(self.pending) if unit.inode == inode}
            self._lose("reordered", self.pending, mine, first, last, f"nothing of file {inode}")
            others = {number: 1 for number, unit in enumerate(self.pending) if unit.inode not in (inode, None)}
            self._lose("reordered", self.pending, others, first, last, f"of files only {inode}")
        if "torn" in self.models:
            for number, unit in enumerate(units):
                for form in range(unit.reordered, len(unit.effects)):
                    how = unit.effects[form][0]
                    self._lose("torn", units, {number: form}, first, last, f"{how}, all else there")
                    alone = {other: 1 for other in full if other != number and units[other].inode is not None}
                    self._lose("torn", units, {**alone, number: form}, first, last, f"{how}, no other bytes there")

    def _fix_overwritten(self, units: list[_Unit]) -> None:
        """Of writes to one place, let only the two newest be missing by themselves."""
        seen: dict[tuple[object, ...], int] = {}
        for unit in reversed(units):
            operation = unit.operation
            if isinstance(operation, Write):
                place: tuple[object, ...] = (operation.inode, operation.offset, len(operation.data))
            elif isinstance(operation, Seen):
                place = (operation.inode,)
            else:
                continue
            seen[place] = seen.get(place, 0) + 1
            unit.fixed = seen[place] > 2

    def _choose(self, units: list[_Unit]) -> Iterator[tuple[str, dict[int, int]]]:
        bounds, count = self.bounds, len(units)
        ways = 1
        for unit in units:
            ways *= unit.reordered
        if ways <= bounds.exhaustive:
            for choice in itertools.product(*(range(unit.reordered) for unit in units)):
                yield "one of all", dict(enumerate(choice))
            return
        omitted = dict.fromkeys(range(count), 1)
        yield "everything", {}
        yield "nothing", omitted
        for number, unit in enumerate(units):
            for form in range(1, unit.reordered):
                yield f"without {number} of {count}", {number: form}
            yield f"{number} of {count} alone", {**omitted, number: 0}
            yield f"the first {number} of {count}", dict.fromkeys(range(number, count), 1)
        pairs = list(itertools.combinations(range(count), 2))
        prefixes = [(cut, number) for cut in range(2, count) for number in range(cut - 1)]
        for left, right in self._some(pairs, bounds.pairs):
            yield f"without {left} and {right} of {count}", {left: 1, right: 1}
        for cut, number in self._some(prefixes, bounds.pairs):
            yield f"the first {cut} of {count} without {number}", {**dict.fromkeys(range(cut, count), 1), number: 1}
        for _ in range(bounds.drawn):
            yield "drawn by lot", {number: self.chance.randrange(unit.reordered) for number, unit in enumerate(units)}

    def _some(self, items: list[tuple[int, int]], limit: int) -> list[tuple[int, int]]:
        return items if len(items) <= limit else self.chance.sample(items, limit)

    def _lose(self, model: Model, units: list[_Unit], choice: dict[int, int], first: int, last: int, how: str) -> None:
        chosen = {id(unit): choice.get(number, 0) for number, unit in enumerate(units)}
        names = {inode: dict(entries) for inode, entries in self.floor_names.items()}
        forms: dict[int, list[int]] = {}
        by_inode: dict[int, list[_Unit]] = {}
        for unit in self.pending:
            form = 0 if unit.forced else chosen.get(id(unit), 0)
            if isinstance(unit.operation, Name):
                if form == 0:
                    _apply_name(names, unit.operation)
            elif unit.inode is not None:
                forms.setdefault(unit.inode, []).append(form)
                by_inode.setdefault(unit.inode, []).append(unit)
        contents = dict(self.floor)
        for inode, mine in forms.items():
            key = inode, tuple(mine)
            if key not in self.contents:
                content = self.floor[inode]
                for unit, form in zip(by_inode[inode], mine, strict=True):
                    content = unit.effects[form][1](content)
                self.contents[key] = content
            contents[inode] = self.contents[key]
        self._add(model, _build(names, contents), first, last, how)

    def _add(self, model: Model, tree: Tree, first: int, last: int, how: str) -> None:
        self.result.ways += 1
        if (model == "torn" and "torn" not in self.models) or (model == "reordered" and "reordered" not in self.models):
            return
        key = tree.key, model == "kill"
        known = self.found.get(key)
        if known is None:
            self.found[key] = State(tree, model, first, last, f"{how} after operation {last} of {len(self.recording.operations)}")
        else:
            known.last = max(known.last, last)


def _apply_name(names: dict[int, dict[bytes, int]], operation: Name) -> None:
    if operation.given_up is not None:
        directory, name = operation.given_up
        if names.get(directory, {}).get(name) == operation.inode:
            del names[directory][name]
    if operation.inode is None:
        names[operation.directory].pop(operation.name, None)
    else:
        names[operation.directory][operation.name] = operation.inode


def _build(names: dict[int, dict[bytes, int]], contents: dict[int, Content]) -> Tree:
    tree, first = Tree(), dict[int, bytes]()
    for path, inode in walk(names, ROOT):
        tree.files[path] = None if inode in names else contents[inode]
        if inode not in names and first.setdefault(inode, path) != path:
            tree.links[path] = first[inode]
    return tree


def _same(content: Content) -> Content:
    return content


def _make_unit(operation: Operation, before: Content, bounds: Bounds, chance: random.Random) -> _Unit:
    match operation:
        case Write():
            return _make_write(operation, before, bounds, chance)
        case Resize():
            effects: list[tuple[str, Effect]] = [
                ("", lambda content: content.resize(operation.size, only_grow=operation.only_grow)),
                ("no resize", _same),
            ]
            return _Unit(operation, operation.inode, effects, 2)
        case Clear():
            effects = [("", lambda content: content.clear(operation.offset, operation.length)), ("no clear", _same)]
            return _Unit(operation, operation.inode, effects, 2)
        case Seen():
            return _make_seen(operation, before)
    raise TypeError(operation)


def _make_seen(operation: Seen, before: Content) -> _Unit:
    after = Content.of(operation.data)
    effects: list[tuple[str, Effect]] = [("", lambda _: after), ("not written back", _same)]
    pages = sorted(set(after.pages.items()) ^ set(before.pages.items()), key=lambda item: item[0])
    changed = sorted({number for number, _ in pages})
    if len(changed) > 1:  # pages are written back one by one
        for part in (changed[::2], changed[1::2]):

            def mix(content: Content, part: list[int] = part) -> Content:
                for number in part:
                    content = content.write(number * PAGE_BYTES, after.pages.get(number, bytes(PAGE_BYTES)))
                return content

            effects.append(("some pages written back", mix))
    return _Unit(operation, operation.inode, effects, len(effects))


def _make_write(operation: Write, before: Content, bounds: Bounds, chance: random.Random) -> _Unit:
    offset, data = operation.offset, operation.data
    end = offset + len(data)
    effects: list[tuple[str, Effect]] = [("", lambda content: content.write(offset, data)), ("no bytes", _same)]
    if operation.durable:
        return _Unit(operation, operation.inode, effects[:1], 1, forced=True)
    if end > before.size:
        effects.append(("the length without the bytes", lambda content: content.resize(end, only_grow=True)))
    reordered = len(effects)

    def keep(pieces: Sequence[tuple[int, bytes]], *, grow: bool) -> Effect:
        def effect(content: Content) -> Content:
            for start, piece in pieces:
                content = content.write(start, piece)
            return content.resize(end, only_grow=True) if grow else content

        return effect

    borders = [offset, *range(offset - offset % SECTOR_BYTES + SECTOR_BYTES, end, SECTOR_BYTES), end]
    sectors = [(start, data[start - offset : stop - offset]) for start, stop in itertools.pairwise(borders)]
    garbage = [(start, chance.randbytes(len(piece))) for start, piece in sectors]
    torn: list[tuple[str, Effect]] = [
        ("zeros", keep([(start, bytes(len(piece))) for start, piece in sectors], grow=True)),
        ("garbage", keep(garbage, grow=True)),
    ]
    cuts = range(1, len(sectors))
    for cut in cuts if len(cuts) <= bounds.torn else sorted(chance.sample(cuts, bounds.torn)):
        torn += [
            (f"the first {cut} sectors", keep(sectors[:cut], grow=False)),
            (f"the first {cut} sectors, then nothing", keep(sectors[:cut], grow=True)),
            (f"the first {cut} sectors, then garbage", keep(sectors[:cut] + garbage[cut:], grow=True)),
            (f"all but the first {cut} sectors", keep(sectors[cut:], grow=True)),
            (f"all but sector {cut}", keep(sectors[:cut] + sectors[cut + 1 :], grow=True)),
        ]
    if len(torn) > bounds.torn:
        torn = torn[:2] + chance.sample(torn[2:], bounds.torn - 2)
    return _Unit(operation, operation.inode, effects + torn, reordered)
