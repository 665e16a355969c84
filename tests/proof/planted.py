"""Planted bugs: what somebody could break in the engine, each found by the tool that is named with it.

A bug is a replacement in the source of one module, made as the module is loaded, in a process of its own. Where the source is
not there any more, planting fails loudly: follow the engine, the bug has only moved.
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
class Bug:
    """One thing that is wrong."""

    module: str
    old: str
    new: str
    #: The tool that finds it, and on what: see ``tools.run_tool``.
    found_by: str


BUGS: dict[str, Bug] = {
    "a commit is not flushed": Bug(
        module="coordinator.context.shard",
        old="            self._flush(view)  # 5. durable\n",
        new="",
        found_by="crash commit",
    ),
    "a commit is published before it is flushed": Bug(
        module="coordinator.context.shard",
        old="            self._flush(view)  # 5. durable\n",
        new="            page.publish(view.header.generation, end, view.index.revision + 1); self._flush(view)\n",
        found_by="crash commit",
    ),
    "a compacted log is not flushed before it is swapped in": Bug(
        module="coordinator.context.compaction",
        old="            files.sync_file(fd)\n",
        new="",
        found_by="crash compaction",
    ),
    "a replaced file is not flushed before its rename": Bug(
        module="coordinator.system.files",
        old="            if durable:\n                sync_file(fd)\n",
        new="",
        found_by="crash create",
    ),
    "a directory is not flushed after a rename": Bug(
        module="coordinator.system.files",
        old="    if durable:\n        sync_directory(path.parent)\n",
        new="",
        found_by="crash create",
    ),
    "the control page of another boot is believed": Bug(
        module="coordinator.context.control",
        old="return self._read(0, _BINDING.size) == _BINDING.pack(_MAGIC, self._boot)",
        new="return self._read(0, 8) == _MAGIC",
        found_by="crash commit",
    ),
    "an older epoch may write": Bug(
        module="coordinator.context.shard",
        old="if writer is not None and (newest :=",
        new="if False and (newest :=",
        found_by="crash fence",
    ),
    "history is shorter than promised": Bug(
        module="coordinator.context.index",
        old="if len(slots) > HISTORY_LIMIT:",
        new="if len(slots) > HISTORY_LIMIT - 1:",
        found_by="crash history",
    ),
    "compaction forgets deletions": Bug(
        module="coordinator.context.compaction",
        old="if placed.offset in kept or record.revision > recent_above:",
        new="if (placed.offset in kept and not record.deleted) or record.revision > recent_above:",
        found_by="crash compaction",
    ),
    "a lock outlives its holder": Bug(
        module="coordinator.context.shard",
        old="                page.set_holder(os.getpid())\n",
        new="                assert not page.read_holder()\n                page.set_holder(os.getpid())\n",
        found_by="kill commit",
    ),
    "a failed flush is tried again": Bug(
        module="coordinator.system.files",
        old="        os.fdatasync(fd)\n",
        new="        try:\n            os.fdatasync(fd)\n        except OSError:\n            os.fdatasync(fd)\n",
        found_by="flush",
    ),
    "a failed flush is not told": Bug(
        module="coordinator.system.files",
        old="        os.fdatasync(fd)\n",
        new="        try:\n            os.fdatasync(fd)\n        except OSError:\n            pass\n",
        found_by="flush",
    ),
    "the expected version is not compared": Bug(
        module="coordinator.context.shard",
        old="if expected_version is not None and expected_version != version:",
        new="if expected_version is not None and expected_version > version:",
        found_by="crew",
    ),
    "the shard lock is not taken": Bug(
        module="coordinator.context.shard",
        old="                self._acquire(fd, page, deadline_s)\n",
        new="",
        found_by="crew",
    ),
    "readers see what is not published yet": Bug(
        module="coordinator.context.shard",
        old="page.read() == view.word:\n            return view\n        with",
        new="page.read() == view.word:\n            view.replay(1 << 40)\n            return view\n        with",
        found_by="crash crowd",
    ),
    "a checksum is not compared": Bug(
        module="coordinator.context.codec",
        old="    if zlib.crc32(data[_CHECKED_FROM:], _seed(salt, offset)) != checksum:",
        new="    if False:",
        found_by="damage",
    ),
    "a log shorter than published is taken as it is": Bug(
        module="coordinator.context.shard",
        old="if trusted and view.scan.end < bound:",
        new="if False:",
        found_by="damage",
    ),
    "check finds nothing": Bug(
        module="coordinator.context.check",
        old="        return _finding(shard, error.reason, error.message, Path(error.path))\n",
        new="        return None\n",
        found_by="damage",
    ),
    "a short write is taken for a whole one": Bug(
        module="coordinator.context.shard",
        old="            while done < len(data):",
        new="            if done < len(data):",
        found_by="short",
    ),
    "an error of the system comes out as it is": Bug(
        module="coordinator.context.shard",
        old='            raise StorageError.from_os(error, "write", view.path) from error\n        return view.scan.end',
        new="            raise\n        return view.scan.end",
        found_by="fail pwrite64",
    ),
}


def plant(name: str) -> None:
    """Let this process load the engine with that bug. Raises ``LookupError`` where there is no place for it."""
    bug = BUGS[name]
    assert bug.module not in sys.modules, f"{bug.module} is loaded already"
    sys.meta_path.insert(0, _Planter(bug))


class _Planter(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def __init__(self, bug: Bug) -> None:
        self._bug = bug
        self._origin = ""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._bug.module:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        assert spec is not None and spec.origin is not None
        self._origin = spec.origin
        return importlib.util.spec_from_file_location(fullname, spec.origin, loader=self)

    def exec_module(self, module: ModuleType) -> None:
        with open(self._origin, encoding="utf-8") as file:
            source = file.read()
        exec(compile(apply(self._bug, source), self._origin, "exec"), module.__dict__)


def apply(bug: Bug, source: str) -> str:
    """Return the source with the bug in it. Raises ``LookupError`` if its place is not there exactly once."""
    if source.count(bug.old) != 1:
        raise LookupError(f"{bug.module} has {source.count(bug.old)} places for: {bug.old.strip()}")
    return source.replace(bug.old, bug.new)
