"""A context in memory: the whole protocol, one shard, plain lists. For tests, and for programs that need no other process.

It is deliberately dumb: the real one is checked against it.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from coordinator.config import CHANGES_LIMIT, HISTORY_LIMIT
from coordinator.context.base import ContextBase, Make, check_writer
from coordinator.context.keys import check_key, check_prefix
from coordinator.context.model import Change, Changes, ContextFinding, Entry, Snapshot, WriterLike
from coordinator.context.values import decode_value
from coordinator.errors import NotFound, RevisionCompacted, Superseded, VersionConflict
from coordinator.system.clock import SYSTEM, Clock


class MemoryContext(ContextBase):
    """A context that lives as long as this object."""

    def __init__(self, *, writer: WriterLike | None = None, clock: Clock = SYSTEM) -> None:
        super().__init__(writer)
        self._clock = clock
        self._changed = threading.Condition()
        self._bell = 0
        #: Every version with its encoded value, in the order of the commits: revision - 1 is the index.
        self._log: list[tuple[Change, bytes | None]] = []
        self._epochs: dict[str, int] = {}
        self._rules: dict[str, str] = {}

    def _write(self, key: str, make: Make, expected_version: int | None) -> Entry:
        with self._changed:
            self._check_open()
            self._check_epoch()
            writer = self.writer
            versions = self._versions(key)
            met, data = versions[-1] if versions else (None, None)
            version = met.version if met is not None and not met.deleted else 0
            if expected_version is not None and expected_version != version:
                raise VersionConflict(key, expected_version, version)
            made = make(data)
            if made is None and version == 0:
                raise NotFound(f"there is no key {key!r}", hint="`crewkeep context ls` lists the keys", key=key)
            if writer is not None:
                self._epochs[writer.session] = writer.epoch
            change = Change(
                key=key,
                value=None if made is None else decode_value(made),
                version=(met.version if met else 0) + 1,
                author=writer.name if writer else None,
                epoch=writer.epoch if writer else 0,
                at=self._clock.wall_s(),
                deleted=made is None,
                session=writer.session if writer else None,
                shard=0,
                revision=len(self._log) + 1,
            )
            self._log.append((change, made))
            self._ring()
            return change.entry

    def _reinstate(self, entry: Entry, data: bytes) -> bool:
        with self._changed:
            self._check_open()
            self._check_epoch()
            versions = self._versions(entry.key)
            if versions and versions[-1][0].version >= entry.version:
                return False
            body = entry._asdict() | {"value": decode_value(data), "shard": 0, "revision": len(self._log) + 1}
            self._log.append((Change(**body), data))
            self._ring()
            return True

    def _check_epoch(self) -> None:
        writer = self.writer
        if writer is not None and (newest := self._epochs.get(writer.session, 0)) > writer.epoch:
            raise Superseded(writer.session, writer.epoch, newest)

    def get(self, key: str) -> Entry | None:
        history = self.history(key)
        return history[0] if history and not history[0].deleted else None

    def get_version(self, key: str, version: int) -> Entry | None:
        return next((entry for entry in self.history(key) if entry.version == version), None)

    def history(self, key: str) -> list[Entry]:
        key = check_key(key)
        with self._changed:
            self._check_open()
            return [_fresh(change, data).entry for change, data in reversed(self._versions(key)[-HISTORY_LIMIT:])]

    def snapshot(self, prefix: str = "") -> Snapshot:
        prefix = check_prefix(prefix)
        with self._changed:
            entries = [entry for key in self._list_keys(prefix) if (entry := self.get(key)) is not None]
            return Snapshot(entries, self.revisions())

    def _list_keys(self, prefix: str) -> list[str]:
        with self._changed:
            self._check_open()
            newest = {change.key: change.deleted for change, _ in self._log}
            return sorted(key for key, deleted in newest.items() if not deleted and key.startswith(prefix))

    def _store_rule(self, prefix: str, name: str) -> None:
        self._check_open()
        self._rules[prefix] = name

    def rules(self) -> dict[str, str]:
        self._check_open()
        return dict(self._rules)

    def revisions(self) -> dict[int, int]:
        self._check_open()
        return {0: len(self._log)}

    def floors(self) -> dict[int, int]:
        self._check_open()
        return {0: 0}

    def read_changes(self, prefix: str, after: Mapping[int, int], limit: int = CHANGES_LIMIT) -> Changes:
        prefix, begin = check_prefix(prefix), after.get(0, 0)
        with self._changed:
            self._check_open()
            if begin > len(self._log):
                raise RevisionCompacted(
                    f"cannot go on from revision {begin} of shard 0: it is at {len(self._log)}",
                    hint="take a snapshot and watch on from its revisions",
                    shard=0,
                    revision=begin,
                    oldest=0,
                )
            looked = self._log[begin : begin + limit]
            found = [_fresh(change, data) for change, data in looked if change.key.startswith(prefix)]
            return Changes(found, {0: begin + len(looked)})

    def bell(self, prefix: str = "") -> int:
        return self._bell

    def wait_bell(self, seen: int, timeout_s: float, prefix: str = "") -> int:
        with self._changed:
            self._changed.wait_for(lambda: self._bell != seen or self.closed, timeout_s)
            return self._bell

    def ring(self, prefix: str | None = None) -> None:
        with self._changed:
            self._ring()

    def fence(self, session: str, epoch: int) -> None:
        check_writer(session, epoch)
        with self._changed:
            self._check_open()
            self._epochs[session] = max(epoch, self._epochs.get(session, 0))

    def has_written(self, session: str, epoch: int) -> bool:
        with self._changed:
            self._check_open()
            return epoch == max((change.epoch or 0 for change, _ in self._log if change.session == session), default=0)

    def check(self, repair: bool = False) -> list[ContextFinding]:
        self._check_open()
        assert [change.revision for change, _ in self._log] == list(range(1, len(self._log) + 1))
        return []

    def close(self) -> None:
        with self._changed:
            self.closed = True
            self._ring()

    def _ring(self) -> None:
        self._bell += 1
        self._changed.notify_all()

    def _versions(self, key: str) -> list[tuple[Change, bytes | None]]:
        return [(change, data) for change, data in self._log if change.key == key]


def _fresh(change: Change, data: bytes | None) -> Change:
    if data is None:
        return change
    body: dict[str, Any] = {name: getattr(change, name) for name in Change.__slots__}
    return Change(**{**body, "value": decode_value(data)})
