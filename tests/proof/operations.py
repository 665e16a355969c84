"""What programs can do to the files below one directory, and say outside of it. Pure records.

An inode is a number of ours, given at its creation and never again; 0 is the directory itself. Every operation knows
between which lines of the trace it took place: what ``began`` after another's ``ended`` came after it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

ROOT = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Operation:
    began: int
    ended: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Write(Operation):
    """Bytes into a file; ``durable`` when the call itself promised that (O_DSYNC and its like)."""

    inode: int
    offset: int
    data: bytes
    durable: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Resize(Operation):
    """A file's size set, or grown to at least ``size``; new bytes are zero."""

    inode: int
    size: int
    only_grow: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Clear(Operation):
    """A stretch of a file turned into zeros, its size kept."""

    inode: int
    offset: int
    length: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Name(Operation):
    """A name that is now an inode's (``None``: nobody's), and one that is given up in the same act.

    ``new``: the inode came into being with it.
    """

    directory: int
    name: bytes
    inode: int | None
    #: Directory and name that ceased to be, for a rename.
    given_up: tuple[int, bytes] | None = None
    new: bool = False
    is_directory: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Flush(Operation):
    """Everything of this inode, a directory's names included, that was done before ``began`` is durable at ``ended``."""

    inode: int


@dataclass(frozen=True, kw_only=True, slots=True)
class FailedFlush(Operation):
    """A flush that failed: what it was to cover is marked clean and may be gone, and no later flush brings it back.

    (Rebello et al., ATC 2020: on ext4 and xfs a second fsync succeeds and has written nothing.)
    """

    inode: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Mapped(Operation):
    """The file can from now on be written through memory, which no trace shows."""

    inode: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Said(Operation):
    """A statement of the program about itself (see ``witness``)."""

    statement: dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen(Operation):
    """What a mapped file held when its program looked."""

    inode: int
    data: bytes


@dataclass(kw_only=True, slots=True)
class Recording:
    """What was there at first, and what was done, each cause before its consequences: see ``reader``."""

    #: Inode of every path that was there at first, relative to the directory; directories included.
    paths: dict[bytes, int]
    #: Contents of the files among them.
    contents: dict[int, bytes]
    operations: list[Operation]
    #: Statements made before the recording began.
    said_before: list[dict[str, Any]] = field(default_factory=list)
    #: How many processes or threads did it.
    actors: int = 1
