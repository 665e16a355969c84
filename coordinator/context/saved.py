"""The table as it was saved last, durable: what bounds the time to make page and table anew after a reboot.

It is a copy of the table together with the state of the log that it leads into, with a checksum over all of it. It is only
ever an abbreviation: where it is missing, damaged, of another generation, or of a log that does not look as it says, the whole
log is replayed instead.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

from coordinator.context import log
from coordinator.context.codec import Header
from coordinator.context.control import State
from coordinator.context.table import Image
from coordinator.errors import Refused, StorageError
from coordinator.system import failpoints, files

SAVED_NAME = "index.saved"
_MAGIC = b"CKEEPSV3"
#: magic, context id, shard, the fields of the state, lengths of directory and buckets, checksum of these; before it the
#: checksum of itself
_HEAD, _CHECKSUM = struct.Struct("<8s16sIQQQQQQIIQQI"), struct.Struct("<I")
#: Of a shard with as many keys as the table has room for.
_LIMIT_BYTES = 1 << 30


def save(path: Path, header: Header, state: State, image: Image) -> None:
    """Keep the table of a state that is durable in the log. Raises ``StorageError``; then the one saved before is there."""
    failpoints.hit("saved.write")
    body = image.directory + image.buckets
    head = _HEAD.pack(_MAGIC, header.context_id, header.shard, *state, len(image.directory), len(image.buckets), zlib.crc32(body))
    files.replace_durably(path, _CHECKSUM.pack(zlib.crc32(head)) + head + body)


def read_end(path: Path, header: Header, generation: int) -> int:
    """Return up to where the log of that generation is in the table that was saved, 0 if there is none of it."""
    try:
        with open(path, "rb") as file:
            found = _decode_head(file.read(_CHECKSUM.size + _HEAD.size), header, generation)
    except OSError:
        return 0
    return found[0].end if found is not None else 0


def load(path: Path, header: Header, fd: int, log_path: Path) -> tuple[State, Image] | None:
    """Return what was saved, if the open log is the one that it leads into; ``None`` if it is not, or anything is wrong."""
    try:
        data = files.read_bounded(path, _LIMIT_BYTES)
    except (FileNotFoundError, StorageError, Refused):
        return None
    found = _decode_head(data, header, header.generation)
    if found is None:
        return None
    state, directory_size, checksum = found
    body = memoryview(data)[_CHECKSUM.size + _HEAD.size :]
    if zlib.crc32(body) != checksum:
        return None
    last = log.find_record(fd, header, state.end - state.length, log_path) if state.length else None
    if last is None or (last.end, last.checksum, last.length) != (state.end, state.checksum, state.length):
        return None
    return state, Image(bytes(body[:directory_size]), bytes(body[directory_size:]))


def _decode_head(data: bytes, header: Header, generation: int) -> tuple[State, int, int] | None:
    if len(data) < _CHECKSUM.size + _HEAD.size:
        return None
    head = data[_CHECKSUM.size : _CHECKSUM.size + _HEAD.size]
    if zlib.crc32(head) != _CHECKSUM.unpack_from(data)[0]:
        return None
    magic, context_id, shard, *fields = _HEAD.unpack(head)
    *state_fields, directory_size, _, checksum = fields
    state = State(*state_fields)
    if (magic, context_id, shard, state.generation) != (_MAGIC, header.context_id, header.shard, generation):
        return None
    return state, directory_size, checksum
