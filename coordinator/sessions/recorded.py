"""What a session's recording holds: its messages and commands in order, and where something is missing.

Invariants:
  - what one writer recorded comes in the order in which it did; several writers are merged by their times
  - a damaged record spoils only itself, and is told
  - of an older incarnation nothing counts that was written after its successor began
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from coordinator.config import RECORDED_LIMIT_BYTES
from coordinator.errors import CrewkeepError
from coordinator.paths import SessionPaths
from coordinator.sessions.history import Item, Role, decode_item
from coordinator.sessions.segments import Gap, Segment, SegmentHead, iter_records, list_segments, read_bytes, read_head

_READ_LIMIT_BYTES = 4 * RECORDED_LIMIT_BYTES


class Note(StrEnum):
    """What a mark says."""

    #: Recording was paused here; what follows up to ``resumed`` was not recorded.
    PAUSED = "paused"
    RESUMED = "resumed"
    #: The oldest part was dropped for room.
    DROPPED = "dropped"
    #: Something here cannot be read.
    DAMAGED = "damaged"


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """Something about the recording itself, at its place in it."""

    what: Note
    #: Wall-clock seconds since 1970.
    at: float | None = None
    #: How much is missing, as far as that is known.
    size_bytes: int | None = None
    #: Where and why, a sentence for people.
    detail: str | None = None

    def encode(self) -> dict[str, Any]:
        body: dict[str, Any] = {"kind": "mark", "what": str(self.what), "at": self.at}
        return {**body, **{name: value for name in ("size_bytes", "detail") if (value := getattr(self, name)) is not None}}


Entry = Item | Mark


def iter_recording(paths: SessionPaths) -> Iterator[Entry]:
    """Yield what was recorded, oldest first; nothing for a session without a recording.

    Never raises for the content. Raises ``StorageError`` if the directory cannot be read.
    """
    segments = list_segments(paths.recording)
    heads: dict[str, SegmentHead] = {}
    for one in segments:
        if (head := read_head(one)) is not None:
            heads[one.name] = head
    dropped = max((head.dropped_bytes for head in heads.values()), default=0)
    if dropped:
        yield Mark(what=Note.DROPPED, size_bytes=dropped, detail="the oldest part was dropped to stay within the limit")
    chains: dict[tuple[int, str], list[Segment]] = {}
    for one in segments:
        chains.setdefault((one.epoch, one.chain), []).append(one)
    streams = [_iter_chain(chain, list(heads.values())) for chain in chains.values()]
    for _, _, _, entry in heapq.merge(*streams, key=lambda found: found[:3]):
        yield entry


def find_title(paths: SessionPaths) -> str | None:
    """Return what the user said first, as far as the beginning of the recording tells; ``None`` if nothing was."""
    for one in list_segments(paths.recording)[:4]:
        try:
            with open(one.path, "rb") as file:
                data = file.read(1 << 16)
        except OSError:
            continue
        for body in iter_records(data):
            if isinstance(body, dict) and body.get("kind") == "message" and body.get("role") == Role.USER:
                text = body.get("text")
                if isinstance(text, str) and text.strip():
                    return text
    return None


def _iter_chain(chain: list[Segment], heads: list[SegmentHead]) -> Iterator[tuple[int, float, str, Entry]]:
    """Yield (epoch, time, chain, entry) of one writer's files; times never go back."""
    latest = 0.0
    for one in chain:
        newer = [head.seals.get(one.name, 0) for head in heads if head.epoch > one.epoch]
        for entry in _iter_segment(one, min(newer, default=None)):
            if entry.at is not None:
                latest = max(latest, entry.at)
            yield one.epoch, latest, one.chain, entry


def _iter_segment(segment: Segment, sealed_bytes: int | None) -> Iterator[Entry]:
    try:
        data = read_bytes(segment, limit_bytes=_READ_LIMIT_BYTES, sealed_bytes=sealed_bytes)
    except FileNotFoundError:
        return  # dropped for room while we read
    except CrewkeepError as error:
        yield Mark(what=Note.DAMAGED, detail=str(error))
        return
    if not data and sealed_bytes != 0:  # every segment has a head
        yield Mark(what=Note.DAMAGED, size_bytes=sealed_bytes, detail=f"{segment.name}: empty")
    for record in iter_records(data):
        if isinstance(record, Gap):
            detail = f"{segment.name}: {record.reason} at byte {record.offset_bytes}"
            yield Mark(what=Note.DAMAGED, size_bytes=record.size_bytes, detail=detail)
        elif (entry := _decode(record, segment)) is not None:
            yield entry


def _decode(body: dict[str, Any], segment: Segment) -> Entry | None:
    """Return the entry; ``None`` for a head, and for what only a newer program knows."""
    kind, at = body.get("kind"), body.get("at")
    if kind in ("pause", "resume"):
        return Mark(what=Note.PAUSED if kind == "pause" else Note.RESUMED, at=at if isinstance(at, (int, float)) else None)
    if kind not in ("message", "command"):
        return None
    try:
        return decode_item(body)
    except (KeyError, TypeError, ValueError) as error:
        return Mark(what=Note.DAMAGED, detail=f"{segment.name}: a {kind} of the wrong shape ({error})")
