"""What a coordinator thread holds of the shared context: the prefixes that somebody watches, and nothing else.

A view begins as a snapshot and follows the stream of changes from the snapshot's own revisions on, so it neither misses a
change nor applies one twice. Several watchers of one prefix share a view; with the last of them it goes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar, overload

from coordinator.context.keys import find_shard
from coordinator.context.model import Change, Context, Entry, Snapshot

_T = TypeVar("_T")
#: Called on the coordinator thread with each change, in the order of its shard.
Watcher = Callable[[Change], object]


class View(Mapping[str, Entry]):
    """The living entries below a prefix, as far as the coordinator thread has come. Any thread may read it."""

    def __init__(self, prefix: str, snapshot: Snapshot) -> None:
        self.prefix = prefix
        self._lock = threading.Lock()
        self._entries: dict[str, Entry] = dict(snapshot)
        self._revisions = dict(snapshot.revisions)
        #: How many watchers and callers hold it.
        self.holders = 0

    # One look into a dictionary is whole by itself; only what changes or walks it takes the lock.

    def __getitem__(self, key: str) -> Entry:
        return self._entries[key]

    @overload
    def get(self, key: str, /) -> Entry | None: ...
    @overload
    def get(self, key: str, /, default: Entry | _T) -> Entry | _T: ...
    def get(self, key: str, /, default: object = None) -> object:
        """Return the entry, ``default`` if there is none. As quick as a dictionary."""
        return self._entries.get(key, default)

    def __iter__(self) -> Iterator[str]:
        with self._lock:
            return iter(list(self._entries))

    def __len__(self) -> int:
        return len(self._entries)

    def is_ahead_of(self, change: Change) -> bool:
        """Tell whether the change is within the view already."""
        return change.revision <= self._revisions.get(change.shard, 0)

    def apply(self, change: Change) -> None:
        """Let one change of the prefix take effect."""
        with self._lock:
            self._revisions[change.shard] = change.revision
            if change.deleted:
                self._entries.pop(change.key, None)
            else:
                self._entries[change.key] = change.entry

    def follow(self, position: Mapping[int, int]) -> None:
        """Note how far the stream was looked at, changes of other prefixes included."""
        with self._lock:
            for shard, revision in position.items():
                self._revisions[shard] = max(revision, self._revisions.get(shard, 0))

    def find_lost(self, snapshot: Snapshot) -> list[Entry]:
        """Return the entries of which ``snapshot``, taken since, has only older versions or none: deleted, or lost.

        Nothing of a shard that has gone back itself: somebody has put an older copy of the context in its place.
        """
        lost = []
        with self._lock:
            for key, entry in self._entries.items():
                now, shard = snapshot.get(key), find_shard(key, len(snapshot.revisions))
                if snapshot.revisions[shard] >= self._revisions.get(shard, 0) and (now is None or now.version < entry.version):
                    lost.append(entry)
        return lost

    def reset(self, snapshot: Snapshot) -> None:
        """Become the snapshot."""
        with self._lock:
            self._entries, self._revisions = dict(snapshot), dict(snapshot.revisions)

    def entries(self) -> dict[str, Entry]:
        """Return a copy of everything in it."""
        with self._lock:
            return dict(self._entries)


@dataclass(slots=True)
class Watch:
    """One watcher of one prefix. ``close`` ends it; a change being handed out at that moment still arrives."""

    view: View
    call: Watcher
    #: Changes up to these revisions came before the watch: shard to revision.
    after: dict[int, int]
    closed: bool = False
    failures: int = 0

    @property
    def prefix(self) -> str:
        return self.view.prefix

    def wants(self, change: Change) -> bool:
        """Tell whether the change is this watcher's."""
        return not self.closed and change.key.startswith(self.prefix) and change.revision > self.after.get(change.shard, 0)

    def close(self) -> None:
        """Call the watcher no more."""
        self.closed = True


def find_missed(context: Context, view: View) -> tuple[list[Change], Snapshot]:
    """Return what led from ``view`` to now, from the history of its keys, and the snapshot of now.

    For a thread that was away so long that the stream of changes is not kept any more. In order within each key; the
    revisions are those of now. A key that came and went meanwhile leaves no trace.
    """
    snapshot = context.snapshot(view.prefix)
    before = view.entries()
    missed = []
    for key in sorted({*before, *snapshot}):
        seen = before[key].version if key in before else 0
        now = snapshot.get(key)
        if now is not None and now.version == seen:
            continue
        shard = find_shard(key, len(snapshot.revisions))
        for entry in sorted(context.history(key), key=lambda entry: entry.version):
            if entry.version > seen and (now is None or entry.version <= now.version):
                missed.append(_as_change(entry, shard, snapshot.revisions[shard]))
    return missed, snapshot


def _as_change(entry: Entry, shard: int, revision: int) -> Change:
    return Change(
        key=entry.key,
        value=entry.value,
        version=entry.version,
        author=entry.author,
        epoch=entry.epoch,
        at=entry.at,
        deleted=entry.deleted,
        session=entry.session,
        shard=shard,
        revision=revision,
    )
