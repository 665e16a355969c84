"""What the proof knows of today's engine by name: the boot id's seam, knobs that make things small, files without data.

A name that is gone is an error here, never a tool that silently finds nothing.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager

from coordinator.system import processes

#: Files whose contents carry no data: the bell only says that there is something to look up.
WITHOUT_DATA = frozenset({b"bell"})
#: Files that are made anew from the log: whatever becomes of one of them, no record is lost.
CACHES = frozenset({b"control", b"index", b"index.saved"})
#: The file that holds the records of a shard, replaced by compaction only.
LOG = "log"
_Knob = tuple[str, str, int]
#: Module, name and value: compaction after a few commits instead of a megabyte, and the index saved after a few.
SMALL: list[_Knob] = [
    ("coordinator.context.compaction", "COMPACT_ABOVE_BYTES", 4000),
    ("coordinator.context.compaction", "RECENT_LIMIT_BYTES", 333),
    ("coordinator.context.compaction", "RECENT_COUNT", 5),
    ("coordinator.context.upkeep", "SAVE_EVERY_BYTES", 600),
]
#: Seven slots in a bucket of the index instead of 255, so that a few keys split one. Whoever opens a context must agree on it.
NARROW: list[_Knob] = [
    ("coordinator.context.table", "_PAGE_BYTES", 128),
    ("coordinator.context.table", "_FILL", 4),
]


def set_boot(name: str) -> None:
    """Let this process believe that the machine was started anew, as the boot called ``name``."""
    assert hasattr(processes, "_boot_id"), "the boot id is kept elsewhere now; follow it here"
    processes._boot_id = name
    assert processes.boot_id() == name, "the boot id does not come from there any more"


def make_small() -> None:
    """Turn the knobs in this process."""
    _turn(SMALL)


def make_narrow() -> None:
    """Let the index have small buckets in this process, as in every process of the proof."""
    _turn(NARROW)


@contextmanager
def like_the_others(boot: str | None = None) -> Iterator[None]:
    """Let this process open for a while what processes of the proof have made, in their boot."""
    before, boot_before = _turn(NARROW), processes._boot_id
    try:
        if boot is not None:
            set_boot(boot)
        else:
            processes._boot_id = None
        yield
    finally:
        _turn(before)
        processes._boot_id = boot_before


def _turn(knobs: list[_Knob]) -> list[_Knob]:
    """Turn knobs and return how they were."""
    before = []
    for module, name, value in knobs:
        found = importlib.import_module(module)
        assert hasattr(found, name), f"{module} has no {name} any more; follow it here"
        before.append((module, name, getattr(found, name)))
        setattr(found, name, value)
    return before
