"""What the shared context hands out and asks for. Pure records and the protocol that every implementation fulfils."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any, Literal, NamedTuple, Protocol

#: ``durable`` survives power loss; ``process`` survives kill -9 of any process, not power loss.
Durability = Literal["durable", "process"]
#: Any JSON value.
Value = Any
#: What ``merge`` gets: base, mine, theirs. Absent is ``None``.
MergeFunction = Callable[[Value, Value, Value], Value]


class WriterLike(Protocol):
    """By what right somebody writes (see ``coordinator.sessions.model.Writer``)."""

    @property
    def session(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def epoch(self) -> int: ...


class Entry(NamedTuple):
    """One version of one key."""

    key: str
    #: JSON; a fresh copy each time. ``None`` also when ``deleted``.
    value: Value
    #: 1 at creation, +1 with each write; a deletion counts as a write.
    version: int
    #: Name of the session that wrote it, ``None`` for a program that is no session.
    author: str | None = None
    #: Epoch of that session's incarnation; 0 without one.
    epoch: int = 0
    #: Wall-clock seconds since 1970, by the writer's clock.
    at: float = 0.0
    deleted: bool = False
    #: Id of the session that wrote it.
    session: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """One committed difference: the entry it led to, and where it stands in its shard's order."""

    key: str
    value: Value
    version: int
    author: str | None = None
    epoch: int = 0
    at: float = 0.0
    deleted: bool = False
    session: str | None = None
    shard: int
    #: Rises by exactly one with each change of the shard.
    revision: int

    @property
    def entry(self) -> Entry:
        """The entry that the change led to."""
        return Entry(
            key=self.key,
            value=self.value,
            version=self.version,
            author=self.author,
            epoch=self.epoch,
            at=self.at,
            deleted=self.deleted,
            session=self.session,
        )


class Changes(list[Change]):
    """Some changes, in revision order within each shard, and how far was looked."""

    #: Shard to the last revision looked at; ask on from here. At or above the revision of the last change handed out.
    position: dict[int, int]

    def __init__(self, changes: Iterable[Change], position: Mapping[int, int]) -> None:
        super().__init__(changes)
        self.position = dict(position)


class Snapshot(dict[str, Entry]):
    """All entries at one moment, by key, and the revisions that moment is: watch on from them to miss nothing."""

    #: Shard to revision.
    revisions: dict[int, int]

    def __init__(self, entries: Iterable[Entry], revisions: Mapping[int, int]) -> None:
        super().__init__((entry.key, entry) for entry in entries)
        self.revisions = dict(revisions)


@dataclass(frozen=True, kw_only=True, slots=True)
class ContextFinding:
    """Something that ``check`` found not to be as it must."""

    #: ``None`` for what belongs to no shard.
    shard: int | None
    #: A word: missing | empty | truncated | wrong-digest | wrong-order | wrong-shape | rolled-back | ...
    reason: str
    #: A sentence for people.
    message: str
    path: str
    #: Whether this call has mended it.
    repaired: bool = False


class Context(Protocol):
    """The shared context, whatever it is made of. ``SharedContext`` says what each method promises."""

    def put(self, key: str, value: Value, *, expected_version: int | None = None, unconditional: bool = False) -> Entry: ...
    def get(self, key: str) -> Entry | None: ...
    def delete(self, key: str, *, expected_version: int | None = None, unconditional: bool = False) -> Entry: ...
    def history(self, key: str) -> list[Entry]: ...
    def get_version(self, key: str, version: int) -> Entry | None: ...
    def keys(self, prefix: str = "") -> Iterator[str]: ...
    def snapshot(self, prefix: str = "") -> Snapshot: ...
    def update(self, key: str, fn: Callable[[Value], Value] | None = None, *, delta: Value = ..., tries: int = ...) -> Entry: ...
    def merge(self, key: str, value: Value, *, base_version: int) -> Entry: ...
    def reinstate(self, entries: Iterable[Entry]) -> int: ...
    def set_rule(self, prefix: str, rule: str | MergeFunction) -> None: ...
    def rules(self) -> dict[str, str]: ...
    def watch(
        self, prefix: str = "", from_revision: int | Mapping[int, int] | None = None, *, timeout_s: float | None = None
    ) -> Iterator[Change]: ...
    def revisions(self) -> dict[int, int]: ...
    def floors(self) -> dict[int, int]: ...
    def read_changes(self, prefix: str, after: Mapping[int, int], limit: int = ...) -> Changes: ...
    def bell(self, prefix: str = "") -> int: ...
    def wait_bell(self, seen: int, timeout_s: float, prefix: str = "") -> int: ...
    def ring(self, prefix: str | None = None) -> None: ...
    def fence(self, session: str, epoch: int) -> None: ...
    def has_written(self, session: str, epoch: int) -> bool: ...
    def adopt(self, writer: WriterLike | None) -> None: ...
    def export(self, stream: IO[str]) -> int: ...
    def import_(self, stream: Iterable[str], *, unconditional: bool = False) -> int: ...
    def check(self, repair: bool = False) -> list[ContextFinding]: ...
    def close(self) -> None: ...
