"""What a context is: its id, its number of shards, its durability. Made once; every shard's log repeats it.

``meta.json`` is written after all shards, under a lock. If it is damaged it is set aside and made again from what the
logs say; if it is missing, either the making was interrupted (then nothing was ever written) or it is made again.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from coordinator import sealed
from coordinator.context import aside, log
from coordinator.context.codec import HEADER_BYTES, Header, encode_header
from coordinator.context.control import ControlPage
from coordinator.context.log import LOG_NAME
from coordinator.context.open_shard import CONTROL_NAME
from coordinator.context.replay import Replay
from coordinator.context.shard import LOCK_NAMES
from coordinator.context.table import INDEX_NAME, DictTable
from coordinator.errors import Damaged, NotFound
from coordinator.system import files, locks
from coordinator.system.clock import SYSTEM

META_NAME, META_LOCK_NAME, BELL_NAME = "meta.json", "meta.lock", "bell"
META_KIND, META_FORMAT = "context", 1
#: Arbitrary.
SHARD_LIMIT = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Meta:
    """The facts that hold for a context from its making on."""

    context_id: bytes
    shard_count: int
    durable: bool

    def header(self, number: int) -> Header:
        """Return what the log of that shard begins with."""
        return Header(
            shard=number,
            shard_count=self.shard_count,
            durable=self.durable,
            generation=1,
            floor=0,
            context_id=self.context_id,
        )


def name_shard(directory: Path, number: int) -> Path:
    """Return the directory of that shard."""
    return directory / f"{number:02d}"


def open_meta(directory: Path, *, durable: bool, shards: int, must_exist: bool, timeout_s: float) -> Meta:
    """Read a context's meta, making the context where there is none. Raises as ``SharedContext.open``."""
    try:
        return read_meta(directory)
    except Damaged as error:
        if error.reason == "missing" and must_exist and not name_shard(directory, 0).exists():
            raise NotFound(
                f"there is no context in {directory}", hint="it is made by the first write", path=str(directory)
            ) from error
    files.make_directory(directory)
    with locks.locked(directory / META_LOCK_NAME, timeout_s=timeout_s):
        try:
            return read_meta(directory)
        except Damaged as error:
            return _make(directory, durable=durable, shards=shards, why=error)


def read_meta(directory: Path) -> Meta:
    path = directory / META_NAME
    body = sealed.read_sealed(path, META_KIND, META_FORMAT)
    try:
        found = Meta(context_id=bytes.fromhex(body["id"]), shard_count=body["shards"], durable=body["durability"] == "durable")
        if len(found.context_id) != 16 or not 1 <= found.shard_count <= SHARD_LIMIT:
            raise ValueError("meta")
    except (KeyError, TypeError, ValueError) as error:
        raise log.damaged(path, "wrong-shape", "does not describe a context") from error
    return found


def _make(directory: Path, *, durable: bool, shards: int, why: Damaged) -> Meta:
    headers = _list_headers(directory)
    if headers:
        first = headers[0]
        found = Meta(context_id=first.context_id, shard_count=first.shard_count, durable=first.durable)
    else:
        found = Meta(context_id=os.urandom(16), shard_count=shards, durable=durable)
    missing = [number for number in range(found.shard_count) if not (name_shard(directory, number) / LOG_NAME).exists()]
    if headers and missing and (why.reason != "missing" or not _is_untouched(directory, found)):
        raise why  # a shard is lost as well: what was in it cannot be told, and empty it must not seem
    if not headers and why.reason != "missing":
        raise why
    for number in missing:
        _create_shard(name_shard(directory, number), found.header(number))
    path = directory / META_NAME
    if why.reason != "missing":
        aside.set_aside(directory, META_NAME, why.reason, files.read_bounded(path, 1 << 24), now_s=SYSTEM.wall_s())
    body = {"id": found.context_id.hex(), "shards": found.shard_count, "durability": "durable" if found.durable else "process"}
    sealed.write_sealed(path, META_KIND, META_FORMAT, body)
    return found


def _create_shard(directory: Path, header: Header) -> None:
    """Make a shard whole, the log last: where it stands, reading needs no new file, however full the disk is by then."""
    files.make_directory(directory)
    page = ControlPage(directory / CONTROL_NAME)
    for name in LOCK_NAMES:
        os.close(locks.open_lock(directory / name))
    DictTable().write(directory / INDEX_NAME, header, 0)
    page.begin_anew(Replay(header.floor).state(header.generation, 0, None))
    files.replace_durably(directory / LOG_NAME, encode_header(header))


def _list_headers(directory: Path) -> list[Header]:
    """Return the headers of the logs that are there; any that is damaged raises ``Damaged``."""
    found = []
    for number in range(SHARD_LIMIT):
        path = name_shard(directory, number) / LOG_NAME
        if path.exists():
            fd, header, _ = log.open_log(path)
            os.close(fd)
            found.append(header)
    return found


def _is_untouched(directory: Path, found: Meta) -> bool:
    """Tell whether nothing was ever written to the logs that are there."""
    paths = [name_shard(directory, number) / LOG_NAME for number in range(found.shard_count)]
    return all(path.stat().st_size == HEADER_BYTES for path in paths if path.exists())
