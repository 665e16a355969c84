"""What every context does the same way, whatever keeps its entries: reading-and-writing, merging, watching, transfer.

An implementation brings the primitives (``_write``, ``get``, ``snapshot``, ...); everything here is made of them, so that
the fake and the real one cannot drift apart in it.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import IO, Any, Self

from coordinator.config import CHANGES_LIMIT, UPDATE_TRIES
from coordinator.context import merge, transfer
from coordinator.context.keys import check_key, check_prefix
from coordinator.context.model import Change, Changes, ContextFinding, Entry, MergeFunction, Snapshot, Value, WriterLike
from coordinator.context.values import decode_value, encode_value
from coordinator.context.watch import find_position, iter_changes
from coordinator.errors import Conflict, InvalidInput, VersionConflict

#: What stands for "not given" where ``None`` is a value.
_NOTHING: Any = object()
#: Gets the encoded value that is there (``None``: absent) and returns the new one (``None``: delete).
Make = Callable[[bytes | None], bytes | None]


#: The longest pause before another try. Arbitrary, of the order of a flush.
_RETRY_PAUSE_S = 0.001


#: After a conflict, who updates the key queues up at once for so long, and so many keys are remembered. Arbitrary.
_CONTENDED_S, _CONTENDED_LIMIT = 1.0, 1000
#: Far above what a session's id or name may have. Arbitrary.
_WRITER_LIMIT = 512


class _NotMergeable(Exception):
    """Trying again cannot help."""

    def __init__(self, conflict: VersionConflict) -> None:
        super().__init__(conflict)
        self.conflict = conflict


class ContextBase(ABC):
    """The common half of a context. A closed one refuses everything."""

    def __init__(self, writer: WriterLike | None) -> None:
        self.writer: WriterLike | None = None
        self.adopt(writer)
        self.closed = False
        self._functions: dict[str, MergeFunction] = {}
        #: Keys that others updated at the same time, and until when that is remembered.
        self._contended: dict[str, float] = {}

    # writing

    def put(self, key: str, value: Value, *, expected_version: int | None = None, unconditional: bool = False) -> Entry:
        """Commit ``value`` and return its entry; when this returns, it is durable and visible to everybody.

        Either ``expected_version`` (0: only if absent) or ``unconditional=True`` must be given. Raises
        ``VersionConflict`` naming the version it met: read again and decide anew. ``Superseded``: stop, a newer
        incarnation of this session goes on. ``Busy`` and ``StorageError``: nothing was written, unless the error says
        otherwise. ``InvalidInput`` before any file is touched.
        """
        if type(expected_version) is not int or expected_version < 0 or unconditional:
            _check_expected(expected_version, unconditional)
        return self._put(key, encode_value(value), expected_version)

    def delete(self, key: str, *, expected_version: int | None = None, unconditional: bool = False) -> Entry:
        """Commit a tombstone and return it. Raises as ``put``, and ``NotFound`` where there is nothing to delete."""
        return self._write(check_key(key), lambda _: None, _check_expected(expected_version, unconditional))

    def update(
        self, key: str, fn: Callable[[Value], Value] | None = None, *, delta: Value = _NOTHING, tries: int = UPDATE_TRIES
    ) -> Entry:
        """Commit what ``fn`` makes of the value that is there (``None`` if absent), or bring ``delta`` in by the merge rule.

        After a conflict with another write, the result is merged by the rule of the key where one is set; where none is,
        ``fn`` is called again with what is there now. After ``tries`` conflicts the last ``VersionConflict`` is raised.
        A ``delta`` (added for ``sum``, appended for ``append``, and so on) meets no conflicts.
        """
        key = check_key(key)
        if (fn is None) is (delta is _NOTHING):
            raise InvalidInput("update takes either a function or a delta", hint="update(key, fn) or update(key, delta=value)")
        rule = self._find_rule(key)
        if fn is None:
            if rule is None:
                raise InvalidInput(f"no merge rule covers {key!r}", hint="set one with set_rule, or give a function")
            return self._bring_in(key, rule, delta, tries)
        if rule is None and (self._contended.get(key, 0.0) > time.monotonic() or self._is_awaited(key)):
            return self._try_in_turn(key, lambda met: fn(_value(met)), tries)
        base = self.get(key)
        mine = fn(_value(base))
        version = base.version if base else 0
        try:
            return self.put(key, mine, expected_version=version)
        except VersionConflict:
            if len(self._contended) >= _CONTENDED_LIMIT:
                self._contended = {}
            self._contended[key] = time.monotonic() + _CONTENDED_S
            if tries <= 1:
                raise

        def make(met: Entry | None) -> Value:
            return fn(_value(met)) if rule is None else self._merge(key, rule, version, mine, met)

        return self._try_in_turn(key, make, tries - 1)

    def merge(self, key: str, value: Value, *, base_version: int) -> Entry:
        """Commit ``value``, which was made from version ``base_version``, merged by the key's rule with what came since.

        Raises ``VersionConflict`` where there is no rule, the base is not kept any more, or the rule cannot reconcile.
        """
        key = check_key(key)
        rule = self._find_rule(key)
        try:
            return self.put(key, value, expected_version=base_version)
        except VersionConflict:
            if rule is None:
                raise
        return self._try_in_turn(key, lambda met: self._merge(key, rule, base_version, value, met), UPDATE_TRIES - 1)

    def reinstate(self, entries: Iterable[Entry]) -> int:
        """Bring back entries that a repair has lost, as they were and at their versions; return how many were missing.

        Where a key has the same version or a newer one, which may be its deletion, it is left alone. So anybody who still
        holds entries may offer them. Raises as ``put``.
        """
        count = 0
        for entry in entries:
            key, data = check_key(entry.key), encode_value(entry.value)
            if _check_expected(entry.version, unconditional=False) == 0 or entry.deleted:
                raise InvalidInput(f"version {entry.version} of {key!r} is no entry", hint="what was deleted is not brought back")
            count += self._reinstate(entry, data)
        return count

    def _bring_in(self, key: str, rule: MergeFunction, delta: Value, tries: int) -> Entry:
        def apply(current: Value) -> Value:
            try:
                return merge.apply_delta(rule, current, delta)
            except merge.Irreconcilable as error:
                raise InvalidInput(f"cannot bring that into {key!r}: {error}", hint="the rule does not fit the value") from error

        encode_value(delta)
        if rule in merge.RULES.values():
            # Our own rules are quick and pure, so they run under the lock and never conflict.
            return self._write(key, lambda data: encode_value(apply(_decode(data))), None)
        return self._try_in_turn(key, lambda met: apply(_value(met)), tries)

    def _merge(self, key: str, rule: MergeFunction, base_version: int, mine: Value, met: Entry | None) -> Value:
        # Read afresh: the function that made ``mine`` may have changed in place what it was given.
        base = self.get_version(key, base_version) if base_version else None
        conflict = VersionConflict(key, base_version, met.version if met else 0)
        if base_version and base is None:
            raise _NotMergeable(conflict)
        try:
            return rule(_value(base), mine, _value(met))
        except merge.Irreconcilable as error:
            raise _NotMergeable(conflict) from error

    def _try_in_turn(self, key: str, make: Callable[[Entry | None], Value], tries: int) -> Entry:
        """Read, make, compare-and-swap up to ``tries`` times, in turn with others who try again, so that few meet twice."""
        try:
            return self._swap_in_turn(key, make)
        except _NotMergeable as error:
            raise error.conflict from error.__cause__
        except VersionConflict:
            if tries <= 1:
                raise
        from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random  # 30 ms, for conflicts only

        policy = Retrying(
            stop=stop_after_attempt(tries - 1),
            wait=wait_random(0, _RETRY_PAUSE_S),
            retry=retry_if_exception_type(VersionConflict),
            reraise=True,
        )
        try:
            return policy(lambda: self._swap_in_turn(key, make))
        except _NotMergeable as error:
            raise error.conflict from error.__cause__

    # rules

    def set_rule(self, prefix: str, rule: str | MergeFunction) -> None:
        """Let ``rule`` merge the keys below ``prefix``; the longest prefix wins.

        A rule's name (see ``merge.RULES``) is kept with the context, for every program; a function only with this handle,
        where it goes before a name.
        """
        prefix = check_prefix(prefix)
        if callable(rule):
            self._functions[prefix] = rule
            return
        merge.get_rule(rule)
        self._functions.pop(prefix, None)
        self._store_rule(prefix, rule)

    def _find_rule(self, key: str) -> MergeFunction | None:
        rules = self.rules()
        if not rules and not self._functions:
            return None
        named = {prefix: merge.RULES[name] for prefix, name in rules.items() if name in merge.RULES}
        return merge.find_rule({**named, **self._functions}, key)

    # watching

    def watch(
        self, prefix: str = "", from_revision: int | Mapping[int, int] | None = None, *, timeout_s: float | None = None
    ) -> Iterator[Change]:
        """Return an iterator of the changes below ``prefix``: each shard's in order, none left out, each only once durable.

        It begins now, or behind ``from_revision``: the last revision already seen, as one number for all shards or by
        shard; 0 is the beginning. It waits for changes until the context is closed, or none came for ``timeout_s``.
        Raises ``RevisionCompacted`` where changes are not kept any more: take a snapshot and go on from its ``revisions``.
        """
        prefix = check_prefix(prefix)
        position = find_position(self.revisions(), from_revision)
        self.read_changes(prefix, position, 1)  # a revision that cannot be gone on from is refused now, not later
        return iter_changes(self, prefix, position, timeout_s)

    # transfer

    def export(self, stream: IO[str]) -> int:
        """Write all entries of one moment as lines of JSON; return how many."""
        return transfer.write_export(self.snapshot().values(), stream)

    def import_(self, stream: Iterable[str], *, unconditional: bool = False) -> int:
        """Commit every entry of an export that is not here already; return how many.

        Everything is read and checked first. A key that is here with another value is refused with ``Conflict``, again
        before anything is written, unless ``unconditional=True`` lets the import win. The entries are committed one by
        one: a write that comes in between ends the import with ``VersionConflict``; importing again then does the rest.
        """
        values = transfer.read_export(stream)
        present = self.snapshot()
        missing = {
            key: value for key, value in values.items() if key not in present or not merge.is_same(present[key].value, value)
        }
        differing = sorted(key for key in missing if key in present)
        if differing and not unconditional:
            raise Conflict(
                f"{len(differing)} keys are here with other values, the first is {differing[0]!r}; nothing was imported",
                hint="delete or rename them first, or import unconditionally",
                key=differing[0],
            )
        for key, value in missing.items():
            met = present.get(key)
            if unconditional:
                self.put(key, value, unconditional=True)
            else:
                self.put(key, value, expected_version=met.version if met else 0)
        return len(missing)

    def keys(self, prefix: str = "") -> Iterator[str]:
        """Return an iterator of the keys below ``prefix`` that are present at this moment, sorted."""
        return iter(self._list_keys(check_prefix(prefix)))

    def adopt(self, writer: WriterLike | None) -> None:
        """Write as ``writer`` from now on; ``None`` is nobody, who is never fenced."""
        if writer is not None:
            check_writer(writer.session, writer.epoch, writer.name)
        self.writer = writer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check_open(self) -> None:
        if self.closed:
            raise InvalidInput("the context is closed", hint="open it again")

    # what an implementation brings

    @abstractmethod
    def _write(self, key: str, make: Make, expected_version: int | None) -> Entry:
        """Commit the next version of ``key``, atomically with comparing its version and the writer's epoch."""

    def _put(self, key: str, data: bytes, expected_version: int | None) -> Entry:
        """Commit these bytes as the next version of ``key``, which is not checked yet, likewise."""
        return self._write(check_key(key), lambda _: data, expected_version)

    @abstractmethod
    def _reinstate(self, entry: Entry, data: bytes) -> bool:
        """Write an entry again if its key has only older versions or none; tell whether it had."""

    @abstractmethod
    def _list_keys(self, prefix: str) -> list[str]: ...

    @abstractmethod
    def _store_rule(self, prefix: str, name: str) -> None: ...

    def _is_awaited(self, key: str) -> bool:
        """Tell whether others wait for their turn to update ``key``, who must not be overtaken."""
        return False

    def _swap_in_turn(self, key: str, make: Callable[[Entry | None], Value]) -> Entry:
        """Commit what ``make`` makes of the newest version of ``key``, in turn with others who do so.

        The version that ``make`` gets need not be durable yet: what is made of it becomes so only together with it.
        """
        met = self.get(key)
        return self.put(key, make(met), expected_version=met.version if met else 0)

    @abstractmethod
    def get(self, key: str) -> Entry | None:
        """Return the entry, ``None`` if there is none."""

    @abstractmethod
    def get_version(self, key: str, version: int) -> Entry | None:
        """Return that version of the key, a tombstone included; ``None`` if it is not kept."""

    @abstractmethod
    def history(self, key: str) -> list[Entry]:
        """Return the kept versions, newest first, deletions included; at most ``HISTORY_LIMIT``."""

    @abstractmethod
    def snapshot(self, prefix: str = "") -> Snapshot:
        """Return all entries below ``prefix`` as they are together at one moment, with the revisions of that moment."""

    @abstractmethod
    def rules(self) -> dict[str, str]:
        """Return the named merge rules by prefix."""

    @abstractmethod
    def revisions(self) -> dict[int, int]:
        """Return each shard's newest durable revision."""

    @abstractmethod
    def floors(self) -> dict[int, int]:
        """Return for each shard the revision above which all changes are kept; a repair lifts it to the newest one."""

    @abstractmethod
    def read_changes(self, prefix: str, after: Mapping[int, int], limit: int = CHANGES_LIMIT) -> Changes:
        """Return up to ``limit`` changes behind the revisions ``after``, without waiting. Raises ``RevisionCompacted``.

        A shard that ``after`` does not name is read from its beginning.
        """

    @abstractmethod
    def bell(self, prefix: str = "") -> int:
        """Return a number that is another one after each commit of any process to a key that begins with ``prefix``."""

    @abstractmethod
    def wait_bell(self, seen: int, timeout_s: float, prefix: str = "") -> int:
        """Wait until the bell's number for ``prefix`` is not ``seen``, at most ``timeout_s``; return it."""

    @abstractmethod
    def ring(self, prefix: str | None = None) -> None:
        """Wake everybody who waits for the bell, or only who waits for ``prefix``, for no reason."""

    @abstractmethod
    def fence(self, session: str, epoch: int) -> None:
        """Refuse every write of ``session`` below ``epoch`` from now on, with ``Superseded``.

        Durable, and allowed twice. Raises ``Busy``, ``StorageError`` or ``Damaged`` where a shard could not be fenced,
        having fenced all others; a damaged one takes no writes until a repair, which brings the fence.
        """

    @abstractmethod
    def has_written(self, session: str, epoch: int) -> bool:
        """Tell whether ``epoch`` is the newest of the session's incarnations that have committed an entry that is kept."""

    @abstractmethod
    def check(self, repair: bool = False) -> list[ContextFinding]:
        """Verify every invariant; mend what can be mended if asked to. Returns what was found; nothing means all is well."""

    @abstractmethod
    def close(self) -> None:
        """Let go of everything; watchers end."""


def check_writer(session: object, epoch: object, name: object = "") -> None:
    """Raise ``InvalidInput`` for what cannot be a writer."""
    for text in (session, name):
        if not isinstance(text, str) or len(text) > _WRITER_LIMIT or any("\ud800" <= character <= "\udfff" for character in text):
            raise InvalidInput(f"{text!a:.60} cannot name a writer", hint=f"use at most {_WRITER_LIMIT} characters of text")
    if not session or not isinstance(epoch, int) or isinstance(epoch, bool) or not 1 <= epoch < 1 << 63:
        raise InvalidInput(f"session {session!r:.60} at epoch {epoch!r:.40} cannot write", hint="epochs are 1, 2, ...")


def _check_expected(expected_version: int | None, unconditional: bool) -> int | None:
    if (expected_version is None) is (not unconditional):
        raise InvalidInput(
            "a write is either conditional or says that it is not",
            hint="give expected_version=N (0: only if absent), or unconditional=True",
        )
    if expected_version is not None and (
        not isinstance(expected_version, int) or isinstance(expected_version, bool) or expected_version < 0
    ):
        raise InvalidInput(f"{expected_version!r:.40} is not a version", hint="versions are 0 (absent), 1, 2, ...")
    return expected_version


def _value(entry: Entry | None) -> Value:
    return None if entry is None else entry.value


def _decode(data: bytes | None) -> Value:
    return None if data is None else decode_value(data)
