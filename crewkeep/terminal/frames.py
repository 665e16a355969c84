"""What a keeper and its visitors say to each other over a local socket: frames of a kind, a length and a payload.

One byte of kind, four of length (big-endian), the payload. Words are JSON objects; keys typed and output shown are bytes.
A visitor either asks (``REQUEST``, answered by one ``ANSWER``) or attaches (``ATTACH``, then both sides talk freely).

Invariants:
  - a frame longer than ``FRAME_LIMIT_BYTES`` is refused before it is read
  - an unknown kind is for the reader to skip: newer visitors may talk to older keepers
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from coordinator.errors import InvalidInput

#: A text to be typed may be long; nothing else is. Arbitrary.
FRAME_LIMIT_BYTES = 4 << 20
_HEADER = struct.Struct(">BI")
_OFFSET = struct.Struct(">Q")


class Kind(IntEnum):
    """Kinds of frame, by who says them."""

    # a visitor
    REQUEST = ord("Q")  # {"verb", ...arguments}
    ATTACH = ord("T")  # {"rows", "columns", "from_offset"}
    INPUT = ord("I")  # bytes typed
    RESIZE = ord("W")  # {"rows", "columns"}
    END_INPUT = ord("Z")  # the end of piped input, as a program that reads lines is told it: ^D once or twice
    DETACH = ord("D")  # nothing
    # the keeper
    ANSWER = ord("A")  # {...} or {"error": {"code", "message", "hint"}}
    HELLO = ord("H")  # {"session", "name", "epoch", "offset", "full_screen"}
    OUTPUT = ord("O")  # eight bytes: the log's offset behind it; then the bytes
    NOTICE = ord("N")  # {"text", ...}
    END = ord("E")  # {"outcome", "exit_code", "signal", "reason"}


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame. ``kind`` may be a number that this version does not know."""

    kind: int
    payload: bytes

    def words(self) -> dict[str, Any]:
        """Return the JSON object. Raises ``InvalidInput`` if it is none."""
        try:
            words = json.loads(self.payload or b"{}")
        except (ValueError, RecursionError) as error:
            raise InvalidInput("a frame does not hold JSON", hint="keeper and command must be of one version") from error
        if not isinstance(words, dict):
            raise InvalidInput("a frame does not hold an object", hint="keeper and command must be of one version")
        return words

    def output(self) -> tuple[int, bytes]:
        """Return the log's offset behind an ``OUTPUT`` and its bytes. Raises ``InvalidInput``."""
        if len(self.payload) < _OFFSET.size:
            raise InvalidInput("an output frame is too short", hint="keeper and command must be of one version")
        return _OFFSET.unpack_from(self.payload)[0], self.payload[_OFFSET.size :]


def encode(kind: Kind, payload: bytes | dict[str, Any] = b"") -> bytes:
    """Return the frame's bytes. Raises ``InvalidInput`` if there are too many."""
    if isinstance(payload, dict):
        payload = json.dumps(payload).encode("ascii")
    if len(payload) > FRAME_LIMIT_BYTES:
        raise InvalidInput(f"{len(payload)} bytes at once are more than {FRAME_LIMIT_BYTES}", hint="send less at once")
    return _HEADER.pack(kind, len(payload)) + payload


def encode_output(offset_after: int, data: bytes) -> bytes:
    """Return an ``OUTPUT`` frame whose last byte is followed by ``offset_after`` in the log."""
    return _HEADER.pack(Kind.OUTPUT, _OFFSET.size + len(data)) + _OFFSET.pack(offset_after) + data


class FrameReader:
    """Cuts a stream of bytes, in whatever pieces it comes, into frames. Holds at most one unfinished frame."""

    def __init__(self, limit_bytes: int = FRAME_LIMIT_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._pending = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """Return the frames that are whole now. Raises ``InvalidInput`` on one that is too long: hang up then."""
        self._pending += data
        frames, at = [], 0
        while len(self._pending) - at >= _HEADER.size:
            kind, length = _HEADER.unpack_from(self._pending, at)
            if length > self._limit_bytes:
                raise InvalidInput(
                    f"a frame of {length} bytes is more than {self._limit_bytes}", hint="send less at once", length=length
                )
            end = at + _HEADER.size + length
            if len(self._pending) < end:
                break
            frames.append(Frame(kind, bytes(self._pending[at + _HEADER.size : end])))
            at = end
        del self._pending[:at]
        return frames
