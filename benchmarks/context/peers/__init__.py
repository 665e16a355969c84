"""The stores that are measured: one small file each, every one of them in its best durable configuration.

Belongs here: opening, reading, compare-and-swap and following a key, for one store. A peer whose package or program is
missing is left out with the reason, never silently.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from benchmarks.context.peers.base import Peer, Place

__all__ = ["OURS", "Peer", "Place", "find_peers", "list_names"]

OURS = "crewkeep"
#: Name in the tables -> where it is.
_WHERE = {
    OURS: ("ours", "Ours"),
    "sqlite": ("sqlite", "Sqlite"),
    "lmdb": ("lmdb", "Lmdb"),
    "diskcache": ("diskcache", "DiskCache"),
    "redis": ("redis", "Redis"),
    "naive": ("naive", "Naive"),
}


def list_names() -> list[str]:
    """Return the names of all peers, ours first."""
    return list(_WHERE)


def find_peers(names: Sequence[str] | None = None) -> tuple[dict[str, type[Peer]], dict[str, str]]:
    """Return the peers that can run here, by name, and why each of the others cannot."""
    found: dict[str, type[Peer]] = {}
    left_out: dict[str, str] = {}
    for name, (module, kind) in _WHERE.items():
        if names is not None and name not in names:
            left_out[name] = "not asked for"
            continue
        try:
            peer: type[Peer] = getattr(importlib.import_module(f"{__name__}.{module}"), kind)
        except ImportError as error:
            left_out[name] = f"the package {error.name} is not installed"
            continue
        if missing := peer.find_missing():
            left_out[name] = missing
        else:
            found[name] = peer
    return found, left_out
