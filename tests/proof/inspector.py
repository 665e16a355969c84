"""The inspector: opens what a crash has left, as the next boot would, and says which promise it breaks.

By the public API alone: it opens without ``Damaged``; every acknowledged write is there with its version and value, or a
newer one of its key; every version that is there was written by somebody, whole, and none is missing in between; the
changes of a shard have no gap and lead to what is there; fences and rules hold; ``check`` finds nothing; a further write
gets the next version; and whoever opens it next, after another boot too, sees the same - but for a write that was begun and
never acknowledged: linearizability lets it take effect at any later time, so a next writer, or recovery, may adopt it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from coordinator.config import HISTORY_LIMIT
from coordinator.context import SharedContext
from coordinator.context.model import Durability, Entry
from coordinator.errors import CrewkeepError, RevisionCompacted, Superseded
from coordinator.sessions.model import Writer
from proof import engine
from proof.witness import TOMBSTONE, Expectation, encode

#: Version and value of everything that is kept, by key.
Found = dict[str, list[tuple[int, str]]]


def inspect(
    directory: Path, expected: Expectation, *, boots: tuple[str, ...], durability: Durability = "durable", shards: int = 2
) -> list[str]:
    """Return what is wrong with the context in ``directory``, opened once in each of ``boots``; nothing means all is well."""
    faults: list[str] = []
    options: dict[str, Any] = {"durability": durability, "shards": shards, "lock_timeout_s": 2.0}
    before: Found | None = None
    for number, boot in enumerate(boots):
        engine.set_boot(boot)
        try:
            with SharedContext.open(directory, **options) as context:
                if expected.is_damaged and not number:
                    context.check(repair=True)
                found = read_all(context)
                if before is None:
                    faults += judge(context, found, expected)
                elif not _goes_on(before, found, expected):
                    faults.append(f"opened again in boot {boot}, it is not what it was: {_differences(before, found)}")
                findings = context.check()
                faults += [f"check finds: {finding.message}" for finding in findings]
                if not number:
                    faults += _go_on(context, found, expected)
                before = read_all(context)
        except Exception as error:  # whatever it is, it is what is wrong with this state
            faults.append(f"in boot {boot}: {type(error).__name__}: {error}")
        if faults:
            break
    return [fault[:400] for fault in faults]


def read_all(context: SharedContext) -> Found:
    """Return every kept version, oldest first, and see to it that all ways of reading agree."""
    snapshot = context.snapshot()
    assert list(context.keys()) == sorted(snapshot), "keys and snapshot differ"
    found: Found = {}
    newest: dict[str, Entry] = {}
    try:
        for change in _read_changes(context):
            newest[change.key] = change.entry
    except RevisionCompacted:
        newest = {}  # it begins later than revision 0
    for key in sorted({*snapshot, *newest}):
        history = context.history(key)
        assert history, f"{key} is there but has no history"
        entry = context.get(key)
        assert entry == (None if history[0].deleted else history[0]), f"get and history of {key} differ"
        assert entry == snapshot.get(key), f"get and snapshot of {key} differ"
        assert key not in newest or newest[key] == history[0], f"the changes of {key} lead elsewhere"
        found[key] = [(item.version, encode(TOMBSTONE if item.deleted else item.value)) for item in reversed(history)]
    return found


def _read_changes(context: SharedContext) -> Iterator[Any]:
    position: dict[int, int] = dict.fromkeys(context.revisions(), 0)
    while position != context.revisions():
        changes = context.read_changes("", position, 100)
        for change in changes:
            assert change.revision == position[change.shard] + 1, f"a gap before revision {change.revision}"
            position[change.shard] = change.revision
            yield change
        assert changes, "changes stop before the newest revision"


def judge(context: SharedContext, found: Found, expected: Expectation) -> Iterator[str]:
    """Yield what is not as it must be."""
    for key in sorted({*found, *expected.acknowledged}):
        versions = dict(found.get(key) or _read_deleted(context, key))
        yield from _judge_key(key, versions, expected)
    rules = context.rules()
    for prefix in {*rules, *expected.rules_tried}:
        allowed = expected.rules_tried.get(prefix, set())
        if rules.get(prefix) not in allowed and (prefix in rules or prefix in expected.rules):
            yield f"the rule of {prefix!r} is {rules.get(prefix)}, tried were {sorted(allowed)}"
    for session, epoch in expected.fences.items():
        if epoch > 1:
            yield from _judge_fence(context, session, epoch)


def _read_deleted(context: SharedContext, key: str) -> list[tuple[int, str]]:
    return [(item.version, encode(TOMBSTONE if item.deleted else item.value)) for item in context.history(key)]


def _judge_key(key: str, versions: dict[int, str], expected: Expectation) -> Iterator[str]:
    newest = max(versions, default=0)
    oldest_kept = max(1, newest - HISTORY_LIMIT + 1)
    if key not in expected.hurt and sorted(versions) != list(range(oldest_kept, newest + 1)):
        yield f"{key!r} has the versions {sorted(versions)}"
    for version, value in versions.items():
        if key in expected.counts:
            if value != encode(version):
                yield f"version {version} of {key!r} is {value}: an update was lost or done twice"
        elif value not in expected.tried.get(key, ()):
            yield f"version {version} of {key!r} is {value[:60]}, which nobody wrote"
    for version, value in expected.acknowledged.get(key, {}).items():
        if version > newest:
            yield f"version {version} of {key!r} was acknowledged and is lost; the newest is {newest}"
        elif version >= oldest_kept and versions.get(version) != value:
            yield f"version {version} of {key!r} was acknowledged as {value[:60]} and is {versions.get(version)!s:.60}"
    if newest > expected.begun.get(key, 0):
        yield f"{key!r} is at version {newest} after {expected.begun.get(key, 0)} writes"


def _judge_fence(context: SharedContext, session: str, epoch: int) -> Iterator[str]:
    context.adopt(Writer(session=session, name="", epoch=epoch - 1))
    try:
        for number in range(8):  # some key in every shard
            try:
                context.put(f"fenced/{number}", None, expected_version=1 << 40)
            except Superseded:
                continue
            except CrewkeepError as error:
                yield f"{session} at epoch {epoch - 1} is fenced, but met {type(error).__name__}"
                return
    finally:
        context.adopt(None)


def _go_on(context: SharedContext, found: Found, expected: Expectation) -> Iterator[str]:
    for key in [*sorted(found)[:2], "after/1", "after/2"]:
        before = found.get(key, [(0, "")])[-1][0]
        version = context.put(key, "went on", unconditional=True).version
        if key in expected.hurt:
            continue
        between = [(item, value) for item, value in _read_deleted(context, key) if before < item < version]
        if len(between) != version - before - 1 or not all(_was_tried(key, *item, expected) for item in between):
            yield f"the write after version {before} of {key!r} became version {version}, behind {between}"


def _was_tried(key: str, version: int, value: str, expected: Expectation) -> bool:
    return value == encode(version) if key in expected.counts else value in expected.tried.get(key, ())


def _goes_on(before: Found, after: Found, expected: Expectation) -> bool:
    """Tell whether nothing has changed but what a killed writer had begun."""
    for key in {*before, *after}:
        old, new = before.get(key, []), after.get(key, [])
        more = new[-1][0] - (old[-1][0] if old else 0) if new else 0
        if more < 0 or new[: len(new) - more] != old[len(old) - (len(new) - more) :]:
            return False
        if not all(_was_tried(key, *item, expected) for item in new[len(new) - more :]):
            return False
    return True


def _differences(before: Found, after: Found) -> str:
    return ", ".join(
        f"{key}: {before.get(key)} -> {after.get(key)}" for key in {*before, *after} if before.get(key) != after.get(key)
    )
