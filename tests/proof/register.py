"""Whether one compare-and-swap register could have given these answers (Herlihy & Wing 1990), key by key.

Linearizability is local, so keys are judged one by one. Versions name the order of the writes, so that nothing has to be
searched: each write is placed as early as its own begin, its predecessor and the reads of that predecessor allow; if
that is later than its own end, or than the end of a read that has seen it, no order explains the history. Exact, in
O(n log n). A read that found nothing belongs to the newest deletion that was possible by its end, which binds the
least; that is iterated until it stands.

Not exact where a version was acknowledged to nobody and read by nobody: then some write without a known outcome must have
made it, and which one is left open. It can let a wrong history pass, never refuse a right one.

``is_linearizable`` is the textbook's search (Wing & Gong 1993, with Lowe's memory), for small histories: the judge's judge.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence

from proof.history import FOREVER, GONE, WRITES, Act, Kind, Outcome


def judge_register(acts: Sequence[Act]) -> list[str]:
    """Return why no register could have answered so; nothing if one could. ``acts`` are of one key."""
    return list(_Judge(acts).run())[:20]


class _Judge:
    def __init__(self, acts: Sequence[Act]) -> None:
        self.acts = acts
        self.written: dict[int, Act] = {}
        #: Writes without a known outcome that no version has been ascribed to.
        self.open = [act for act in acts if act.outcome == Outcome.UNKNOWN]
        #: Version, 0 for before the first -> the latest begin, and the earliest end, of a read of it.
        self.latest_begin: dict[int, int] = {}
        self.earliest_end: dict[int, int] = {}
        self.absent: list[Act] = []
        #: Versions that are deletions of somebody whose end is not known. One deletion looks like another.
        self.deleted: set[int] = set()

    def run(self) -> Iterator[str]:
        for act in self.acts:
            if act.kind in WRITES and act.outcome == Outcome.DONE:
                if act.version in self.written:
                    yield f"version {act.version} was acknowledged twice: {act} and {self.written[act.version]}"
                self.written[act.version] = act
        for act in self.acts:
            yield from self._read(act)
        yield from self._ascribe_deletions()
        yield from self._fill_gaps()
        yield from self._judge_bases()
        yield from self._place()

    def _read(self, act: Act) -> Iterator[str]:
        if act.outcome == Outcome.ABSENT or (act.outcome == Outcome.CONFLICT and act.version == 0):
            self.absent.append(act)
            if act.outcome == Outcome.CONFLICT and act.expected == 0:
                yield f"a conflict over what was as expected: {act}"
            return
        if act.outcome == Outcome.CONFLICT:
            if act.version == act.expected:
                yield f"a conflict over what was as expected: {act}"
            self._see(act)
            if act.version in self.written and _is_deletion(self.written[act.version]):
                yield f"a conflict names a deletion's version: {act}"
        elif act.kind in (Kind.GET, Kind.NEWEST) and act.outcome == Outcome.DONE:
            yield from self._ascribe(act)
            self._see(act)

    def _see(self, act: Act) -> None:
        version = act.version
        self.latest_begin[version] = max(act.invoked, self.latest_begin.get(version, act.invoked))
        self.earliest_end[version] = min(act.returned, self.earliest_end.get(version, act.returned))

    def _ascribe(self, read: Act) -> Iterator[str]:
        """Learn from a read who wrote a version."""
        found = self.written.get(read.version)
        if found is None and read.token == GONE:
            self.deleted.add(read.version)
            return
        if found is None:
            found = next((act for act in self.open if _token(act) == read.token and _fits(act, read.version)), None)
            if found is None:
                yield f"nobody wrote what was read: {read}"
                return
            self.open.remove(found)
            self.written[read.version] = found
        if _token(found) != read.token:
            yield f"version {read.version} was written as {_token(found)} and read as {read.token}"

    def _ascribe_deletions(self) -> Iterator[str]:
        """Ascribe the earliest deletions to the earliest versions: if any way to do so explains the history, this one does.

        They stay open: which of them it was is not known, and another may have filled a gap.
        """
        begun = sorted((act for act in self.open if act.kind == Kind.DELETE), key=lambda act: act.invoked)
        if len(self.deleted) > len(begun):
            yield f"nobody deleted {len(self.deleted) - len(begun)} of the versions {sorted(self.deleted)[:10]}"
        self.written.update(zip(sorted(self.deleted), begun, strict=False))

    def _fill_gaps(self) -> Iterator[str]:
        newest = max([0, *self.written, *self.latest_begin])
        gaps = [version for version in range(1, newest + 1) if version not in self.written]
        if len(gaps) + len(self.deleted) > len(self.open):
            yield f"nobody wrote the versions {gaps[:10]}: {len(self.open)} writes have no known outcome"
        for version in gaps:
            candidates = [act.invoked for act in self.open if _fits(act, version)]
            if not candidates:
                yield f"nobody can have written version {version}"
            token = GONE if any(act.kind == Kind.DELETE for act in self.open) else -1
            kind = Kind.DELETE if token == GONE else Kind.PUT
            self.written[version] = Act(kind, 0, Outcome.UNKNOWN, min(candidates, default=0), FOREVER, version, token)

    def _judge_bases(self) -> Iterator[str]:
        for version, act in self.written.items():
            before = self.written.get(version - 1)
            if before is not None and before.outcome == Outcome.UNKNOWN and before.token in (GONE, -1) and before.key == 0:
                continue  # a gap: what was there is not known
            absent = before is None or _is_deletion(before)
            if act.kind == Kind.CAS and act.expected != (0 if absent else version - 1):
                yield f"a compare-and-swap at {act.expected} became version {version} on {before}"
            if act.kind == Kind.DELETE and absent and act.outcome == Outcome.DONE:
                yield f"what was not there was deleted: {act}"
            if act.kind == Kind.UPDATE and act.outcome == Outcome.DONE:
                base = GONE if absent or before is None else _token(before)
                if act.expected != base:
                    yield f"an update of {act.expected} became version {version}, on {base}"

    def _place(self) -> Iterator[str]:
        newest = max(self.written, default=0)
        gone = [0, *sorted(version for version, act in self.written.items() if _is_deletion(act))]
        bounds = dict(self.latest_begin)
        assigned: list[int] | None = None
        while True:
            earliest = self._place_writes(newest, bounds)
            times = [earliest[version] for version in gone]
            chosen = [bisect_right(times, act.returned) - 1 for act in self.absent]
            if chosen == assigned:
                break
            assigned, bounds = chosen, dict(self.latest_begin)
            for act, index in zip(self.absent, chosen, strict=True):
                version = gone[index]
                bounds[version] = max(act.invoked, bounds.get(version, act.invoked))
        for version in range(1, newest + 1):
            if earliest[version] > self.written[version].returned:
                yield f"version {version} came after its own acknowledgement: {self.written[version]}"
            if earliest[version] > self.earliest_end.get(version, FOREVER):
                yield f"version {version} was read before it can have been there, or after it was overwritten"

    def _place_writes(self, newest: int, bounds: dict[int, int]) -> list[int]:
        earliest = [-FOREVER] * (newest + 1)
        for version in range(1, newest + 1):
            earliest[version] = max(earliest[version - 1], self.written[version].invoked, bounds.get(version - 1, -FOREVER))
        return earliest


def _is_deletion(act: Act) -> bool:
    return act.kind == Kind.DELETE


def _token(act: Act) -> int:
    return GONE if act.kind == Kind.DELETE else act.token


def _fits(act: Act, version: int) -> bool:
    """Tell whether a write without a known outcome can have made that version."""
    return act.kind != Kind.CAS or act.expected in (0, version - 1)


#: Version, and the token that is there; GONE also before the first.
_Register = tuple[int, int]


def is_linearizable(acts: Sequence[Act]) -> bool:
    """Search for an order that explains the history. Exponential: a dozen acts or so."""
    acts = [act for act in acts if act.outcome != Outcome.REFUSED]
    needed = frozenset(index for index, act in enumerate(acts) if act.outcome != Outcome.UNKNOWN)
    refuted: set[tuple[frozenset[int], _Register]] = set()

    def search(left: frozenset[int], state: _Register) -> bool:
        if not left & needed:
            return True
        if (left, state) in refuted:
            return False
        first_end = min(acts[index].returned for index in left)
        for index in left:
            if acts[index].invoked <= first_end:
                after = _apply(acts[index], state)
                if after is not None and search(left - {index}, after):
                    return True
        refuted.add((left, state))
        return False

    return search(frozenset(range(len(acts))), (0, GONE))


def _apply(act: Act, state: _Register) -> _Register | None:
    """Return the register after the act, ``None`` if it would not have answered so."""
    version, token = state
    met = 0 if token == GONE else version
    if act.outcome == Outcome.ABSENT:
        return state if met == 0 else None
    if act.outcome == Outcome.CONFLICT:
        return state if act.version == met != act.expected else None
    if act.kind == Kind.GET:
        return state if (act.version, act.token) == (met, token) and met else None
    if act.kind == Kind.NEWEST:
        return state if (act.version, act.token) == state and version else None
    fits = {
        Kind.CAS: act.expected == met,
        Kind.DELETE: met != 0,
        Kind.UPDATE: act.expected == token or act.outcome == Outcome.UNKNOWN,
    }.get(Kind(act.kind), True)
    if not fits or (act.outcome == Outcome.DONE and act.version != version + 1):
        return None
    return version + 1, _token(act)
