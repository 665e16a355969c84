"""Planted bugs: what somebody could break in the engine, each found by the tool that is named with it.

A bug is a replacement in the source of some modules, made as they are loaded, in a process of its own. A commit has a usual
path (``commit``) and a careful one (``append``, ``shard``), so many a bug has two places. Where the source is not there any more,
planting fails loudly: follow the engine, the bug has only moved.

``NOT_FOUND`` has what no tool finds, with the reason.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType


@dataclass(frozen=True, kw_only=True, slots=True)
class Edit:
    """A replacement in the source of one module."""

    module: str
    old: str
    new: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Bug:
    """One thing that is wrong."""

    edits: tuple[Edit, ...]
    #: The tool that finds it, and on what: see ``tools.run_tool``.
    found_by: str


def _edit(module: str, old: str, new: str = "") -> Edit:
    return Edit(module=f"coordinator.{module}", old=old, new=new)


def _bug(found_by: str, *edits: Edit) -> Bug:
    return Bug(edits=edits, found_by=found_by)


#: How the usual path announces and settles a record.
_BEGIN = "            is_whole = os.pwrite(page_fd, state, BEGUN_AT) == STATE_BYTES  # 5. announced\n"
_SETTLE = "            is_whole &= os.pwrite(page_fd, state, WRITTEN_AT) == STATE_BYTES\n"

BUGS: dict[str, Bug] = {
    # durable
    "a commit is not flushed": _bug(
        "crash commit",
        _edit("context.flush", "                files.sync_data(generation.fd)\n", "                pass\n"),
    ),
    "a commit is published before it is flushed": _bug(
        "crash commit",
        _edit(
            "context.flush",
            "                files.sync_data(generation.fd)\n",
            "                self._publish(page, number, written, end)\n                files.sync_data(generation.fd)\n",
        ),
    ),
    "a flush publishes what was written after it began": _bug(
        "crash crowd",
        _edit(
            "context.flush",
            "self._publish(page, number, written, end)\n",
            "self._publish(page, number, page.read()[WRITTEN], end)\n",
        ),
    ),
    "a record says that more was durable than was": _bug(
        "crash crowd",
        _edit(
            "context.commit",
            "            links, sizes = (start,",
            "            flushed = start\n            links, sizes = (start,",
        ),
        _edit("context.open_shard", "self.appender.note(size, published.end if", "self.appender.note(size, state.end if"),
    ),
    "a compacted log is not flushed before it is swapped in": _bug(
        "crash compaction", _edit("context.rewrite", "            files.sync_file(self._fd)\n")
    ),
    "the name of a compacted log is not flushed": _bug(
        "crash compaction", _edit("context.rewrite", "            files.sync_directory(self.path.parent)\n")
    ),
    "a replaced file is not flushed before its rename": _bug(
        "crash create", _edit("system.files", "            if durable:\n                sync_file(fd)\n")
    ),
    "a directory is not flushed after a rename": _bug(
        "crash create", _edit("system.files", "    if durable:\n        sync_directory(path.parent)\n")
    ),
    "the control page of another boot is believed": _bug(
        "crash commit", _edit("context.control", "_BINDING.pack(_MAGIC, self._boot)", '_BINDING.pack(_MAGIC, b"any boot")')
    ),
    "an index that was saved is believed of another log": _bug(
        "crash compaction",
        _edit(
            "context.saved",
            "(magic, context_id, shard, state.generation) != (_MAGIC, header.context_id, header.shard, generation)",
            "magic != _MAGIC",
        ),
        _edit(
            "context.saved",
            "    if last is None or (last.end, last.checksum, last.length) != (state.end, state.checksum, state.length):\n"
            "        return None\n",
        ),
    ),
    # a flush that fails
    "a failed flush is tried again": _bug(
        "flush",
        _edit(
            "system.files",
            "        os.fdatasync(fd)\n",
            "        try:\n            os.fdatasync(fd)\n        except OSError:\n            os.fdatasync(fd)\n",
        ),
    ),
    "a failed flush is not told": _bug(
        "flush",
        _edit(
            "system.files",
            "        os.fdatasync(fd)\n",
            "        try:\n            os.fdatasync(fd)\n        except OSError:\n            pass\n",
        ),
    ),
    "a failed flush leaves no mark": _bug("flush", _edit("context.flush", "                self.give_up(page)\n")),
    "what could not be flushed is taken up again": _bug(
        "flush",
        _edit("context.remake", "if known.is_suspect:  # it says so", "if False:  # it says so"),
    ),
    "cuts are not counted": _bug("flush doubt", _edit("context.remake", "for state in states) + 1", "for state in states)")),
    # who may write, and on what
    "an older epoch may write": _bug(
        "crash fence",
        _edit("context.shard", "if writer is not None and (newest :=", "if False and (newest :="),
        _edit("context.commit", " or standing is not route.standing:", ":"),
        _edit("context.commit", "if standing_at != standing.at or not", "if not"),
    ),
    "the expected version is not compared": _bug(
        "crew",
        _edit("context.shard", "is not None and expected_version != version:", "is not None and expected_version > version:"),
        _edit("context.commit", "expected_version != (0 if", "expected_version > (0 if"),
    ),
    "the shard lock is not taken": _bug(
        "crew",
        _edit(
            "context.open_shard",
            "            if not self.lock.try_acquire():\n                self.wait_for_lock()\n",
        ),
        _edit("context.open_shard", '        """Give the shard lock back."""\n        self.lock.release()\n', "        return\n"),
        _edit("context.commit", "    if not lock.try_acquire():\n        shard.wait_for_lock()  # 1. nobody else writes here\n"),
        _edit("context.commit", "        lock.release()\n", "        pass\n"),
    ),
    "a lock outlives its holder": _bug(
        "kill commit",
        _edit(
            "context.open_shard",
            "                status = self._look_at_directory()\n                if",
            "                os.close(os.open(self.directory / 'held', os.O_CREAT | os.O_EXCL))\n"
            "                status = self._look_at_directory()\n                if",
        ),
        _edit("context.open_shard", '        """Give the shard lock back."""\n', "        os.unlink(self.directory / 'held')\n"),
        _edit(
            "context.commit",
            "    try:\n        try:\n            # 2.",
            "    held = str(shard.directory / 'held')\n    os.close(os.open(held, os.O_CREAT | os.O_EXCL))\n"
            "    try:\n        try:\n            # 2.",
        ),
        _edit("context.commit", "        lock.release()\n", "        os.unlink(held)\n        lock.release()\n"),
    ),
    "a conflict is answered before what it met is durable": _bug(
        "crash crowd",
        _edit(
            "context.shard",
            "        is_rung = False\n",
            "        is_rung = False\n        if refusal is not None:\n            raise refusal\n",
        ),
    ),
    # the steps of a commit
    "a record is announced after the index leads to it": _bug(
        "kill commit",
        _edit(
            "context.append",
            "            page.begin(after)\n            if record.kind == ENTRY:",
            "            if record.kind == ENTRY:",
        ),
        _edit(
            "context.append",
            "            page.settle(after)\n",
            "            page.begin(after)\n            page.settle(after)\n",
        ),
        _edit("context.commit", _BEGIN, "            is_whole = True\n"),
        _edit("context.commit", _SETTLE, _BEGIN.replace("= os", "&= os") + _SETTLE),
    ),
    "a record is not announced": _bug(
        "crew",
        _edit("context.append", "            page.begin(after)\n"),
        _edit("context.commit", _BEGIN, "            is_whole = True\n"),
    ),
    "a record is settled before the index leads to it": _bug(
        "kill commit",
        _edit(
            "context.append", "            page.begin(after)\n", "            page.begin(after)\n            page.settle(after)\n"
        ),
        _edit("context.commit", _BEGIN, _BEGIN + _SETTLE),
    ),
    "the index does not lead to a record": _bug(
        "crash commit",
        _edit(
            "context.commit", "            is_whole &= os.pwrite(table.fd, slot[:8], place) == 8  # 6. the table leads to it\n"
        ),
    ),
    "a key that is written again stays deleted in the index": _bug(
        "crash delete", _edit("context.commit", "word & ~ADDRESS & ~TOMBSTONE | start", "word & ~ADDRESS | start")
    ),
    "what a killed writer announced is not finished": _bug(
        "kill commit",
        _edit(
            "context.open_shard",
            "if begun.end > state.end and not self.appender.finish(page, generation, state, begun):",
            "if begun.end > state.end and page.settle(begun):",
        ),
    ),
    "a record leads to the wrong version before it": _bug(
        "crash commit",
        _edit(
            "context.shard", "newest.offset if newest is not None else 0,", "newest.record.before if newest is not None else 0,"
        ),
        _edit(
            "context.commit",
            "            record, before, length_before, _, _, _, _ = newest\n",
            "            record, _, length_before, _, _, _, _ = newest\n            before = record.before\n",
        ),
    ),
    "a short write is taken for a whole one": _bug(
        "short",
        _edit("context.append", "            while done < len(data):", "            if done < len(data):"),
        _edit(
            "context.commit",
            "+ body[CHECKED_FROM:], start) != length:\n",
            "+ body[CHECKED_FROM:], start) < 0:\n",
        ),
    ),
    "an error of the system comes out as it is": _bug(
        "fail pwrite64",
        _edit(
            "context.append",
            '            raise StorageError.from_os(error, "write", self.path) from error\n        return state',
            "            raise\n        return state",
        ),
        _edit(
            "context.commit",
            '            raise StorageError.from_os(error, "write", shard.path) from error\n',
            "            raise\n",
        ),
    ),
    # reading
    "readers see what is not published yet": _bug(
        "crash crowd",
        _edit(
            "context.open_shard",
            "            state = page.read_published()\n            if state is not None and state[:2] == generation",
            "            state = page.read_written()\n            if state is not None and state[:2] == generation",
        ),
    ),
    "what a key had once is taken for what it has": _bug(
        "crew",
        _edit("context.shared_context", "if published == shown:", "if shown[0]:"),
    ),
    "what a key's slot led to once is taken for what it leads to": _bug(
        "crew", _edit("context.route", "os.pread(table.fd, SLOT.size, place) != slot", "not slot")
    ),
    "a writer builds on what it wrote last, whoever wrote since": _bug(
        "crew", _edit("context.commit", "if os.pread(table.fd, SLOT.size, place) != slot:", "if False:")
    ),
    "readers are shown a record that is newer than what is published": _bug(
        "crash crowd", _edit("context.generation", "return slot, self._step_back(placed, state.end)", "return slot, placed")
    ),
    "history is shorter than promised": _bug(
        "crash history", _edit("context.generation", "range(HISTORY_LIMIT)", "range(HISTORY_LIMIT - 1)")
    ),
    # growing
    "death in the middle of a split is not noticed": _bug(
        "kill growth", _edit("context.append", "            page.set_changing(True)\n")
    ),
    "a split leaves what it moves where it was": _bug(
        "crash growth", _edit("context.table", "        self._write(bytes(stays), position)\n")
    ),
    # compaction
    "compaction forgets deletions": _bug(
        "crash compaction",
        _edit(
            "context.compaction",
            "    if record.revision > rewrite.header.floor or rewrite.has(record.key):",
            "    if record.deleted:\n        return False\n"
            "    if record.revision > rewrite.header.floor or rewrite.has(record.key):",
        ),
    ),
    "compaction swaps without what came in meanwhile": _bug(
        "crew small",
        _edit("context.compaction", "            rewrite.add_to(table, placed.record)\n", "            pass\n"),
    ),
    "the open log is taken for the newest one": _bug(
        "crew small",
        _edit(
            "context.open_shard",
            "            if state is not None and state[:2] == generation.identity:",
            "            if state is not None:",
        ),
    ),
    # damage
    "a checksum is not compared": _bug(
        "damage",
        _edit(
            "context.codec",
            "    if zlib.crc32(memoryview(data)[CHECKED_FROM:length], _seed(seed, offset)) != checksum:",
            "    if False:",
        ),
    ),
    "a log shorter than published is taken as it is": _bug(
        "damage", _edit("context.remake", "if scan.end < bound:", "if False:")
    ),
    "an index that was saved is believed though it is damaged": _bug(
        "damage", _edit("context.saved", "    if zlib.crc32(body) != checksum:\n", "    if False:\n")
    ),
    "check finds nothing": _bug(
        "damage",
        _edit(
            "context.check",
            "        return _finding(shard, error.reason, error.message, Path(error.path))\n",
            "        return None\n",
        ),
    ),
    "check does not look at the index": _bug(
        "damage index", _edit("context.check", "        if _check_table(generation, state, replay):", "        if False:")
    ),
}
_TWO_FLUSHES = (
    "takes two flushes at once, which there are only where a leader was stopped for a quarter of a second;"
    " a test of its own finds it"
)
#: Bugs that no tool finds, with the reason.
NOT_FOUND: dict[str, tuple[Bug, str]] = {
    "a failed flush is published by another leader": (
        _bug("", _edit("context.flush", "page.is_suspect(data) or ")),
        _TWO_FLUSHES,
    ),
    "what is published goes back": (
        _bug(
            "",
            _edit("context.flush", " or published_end >= end:\n                page.write", ":\n                page.write"),
        ),
        _TWO_FLUSHES,
    ),
    "a split takes slots away before the bucket's claim is narrowed": (
        _bug(
            "",
            _edit(
                "context.table",
                "        self._write(bytes(stays[:8]), position)  # the claim first: see above\n"
                "        self._write(bytes(stays), position)\n",
                "        self._write(bytes(stays[8:]), position + 8)\n        self._write(bytes(stays[:8]), position)\n",
            ),
        ),
        "only a reader that has the old directory, and looks between two writes of a split, meets it; whoever opens the index"
        " afterwards reads the new directory",
    ),
    "those who wait for a flush are woken before it is published": (
        _bug(
            "",
            _edit(
                "context.flush",
                "            start = self._publish(page, number, written, end)\n",
                "            self._bell.wake(self._word + number % FLUSH_WORDS, EVERYBODY)\n"
                "            start = self._publish(page, number, written, end)\n",
            ),
        ),
        "they look, find nothing, and look again after a moment: slower, not wrong",
    ),
}


def plant(name: str) -> None:
    """Let this process load the engine with that bug. Raises ``LookupError`` where there is no place for it."""
    bug = BUGS[name]
    for edit in bug.edits:
        assert edit.module not in sys.modules, f"{edit.module} is loaded already"
    sys.meta_path.insert(0, _Planter(bug))


class _Planter(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def __init__(self, bug: Bug) -> None:
        self._bug = bug
        self._origins: dict[str, str] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in {edit.module for edit in self._bug.edits}:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        assert spec is not None and spec.origin is not None
        self._origins[fullname] = spec.origin
        return importlib.util.spec_from_file_location(fullname, spec.origin, loader=self)

    def exec_module(self, module: ModuleType) -> None:
        origin = self._origins[module.__name__]
        with open(origin, encoding="utf-8") as file:
            source = file.read()
        exec(compile(apply(self._bug, module.__name__, source), origin, "exec"), module.__dict__)


def apply(bug: Bug, module: str, source: str) -> str:
    """Return the module's source with the bug in it. Raises ``LookupError`` if a place of it is not there exactly once."""
    for edit in bug.edits:
        if edit.module == module:
            if source.count(edit.old) != 1:
                raise LookupError(f"{module} has {source.count(edit.old)} places for: {edit.old.strip()}")
            source = source.replace(edit.old, edit.new)
    return source
