"""What the proof knows of today's engine by name: the boot id's seam, knobs that make things small, files without data.

A name that is gone is an error here, never a tool that silently finds nothing.
"""

from __future__ import annotations

import importlib

from coordinator.system import processes

#: Files whose contents carry no data: the bell only says that there is something to look up.
WITHOUT_DATA = frozenset({b"bell"})
#: Module, name and value: compaction after a few commits instead of a megabyte.
SMALL: list[tuple[str, str, int]] = [
    ("coordinator.context.compaction", "COMPACT_ABOVE_BYTES", 4000),
    ("coordinator.context.compaction", "RECENT_LIMIT_BYTES", 1000),
    ("coordinator.context.compaction", "RECENT_COUNT", 5),
]


def set_boot(name: str) -> None:
    """Let this process believe that the machine was started anew, as the boot called ``name``."""
    assert hasattr(processes, "_boot_id"), "the boot id is kept elsewhere now; follow it here"
    processes._boot_id = name
    assert processes.boot_id() == name, "the boot id does not come from there any more"


def make_small() -> None:
    """Turn the knobs in this process."""
    for module, name, value in SMALL:
        found = importlib.import_module(module)
        assert hasattr(found, name), f"{module} has no {name} any more; follow it here"
        setattr(found, name, value)
