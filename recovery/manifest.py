"""The manifest of a checkpoint: its parts with their sizes and digests. A checkpoint is what its manifest proves.

Invariants:
  - part names are plain words, so that no manifest can point outside its own directory
  - number and session are in the manifest and in the directory's name; they must agree, or two were swapped
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Any

#: Directories of checkpoints are called ``00000007``: they sort as their numbers do.
NUMBER_WIDTH = 8
DIRECTORY_PATTERN = re.compile(r"[0-9]{8}")
_PART_PATTERN = re.compile(r"[a-z][a-z0-9-]{0,31}")
_DIGEST_PATTERN = re.compile(r"[0-9a-f]{64}")

MANIFEST_KIND, MANIFEST_FORMAT, MANIFEST_NAME = "checkpoint", 1, "manifest.json"

#: The parts that a checkpoint may have; readers leave other ones alone.
LAUNCH, CONVERSATION, TRANSCRIPT, STATE = "launch", "conversation", "transcript", "state"
CONTEXT, OUTPUT, GIT = "context", "output", "git"


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One file of a checkpoint."""

    name: str
    bytes: int
    #: SHA-256 of its bytes, in hex.
    digest: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """What one checkpoint holds."""

    session: str
    #: Rises by at least one with each checkpoint of the session.
    number: int
    #: The incarnation that took it.
    epoch: int
    #: Wall-clock seconds since 1970.
    at: float
    #: ``timer``, ``stop``, ``asked`` or ``program``.
    why: str
    parts: tuple[Part, ...]
    #: For people: what was left out or taken over from the checkpoint before, and why.
    notes: tuple[str, ...] = ()

    @property
    def bytes(self) -> int:
        """The size of all parts together."""
        return sum(part.bytes for part in self.parts)

    def find_part(self, name: str) -> Part | None:
        """Return the part of that name."""
        return next((part for part in self.parts if part.name == name), None)

    def encode(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def decode(cls, body: dict[str, Any]) -> Manifest:
        """Raises ``KeyError``, ``TypeError`` or ``ValueError`` on a wrong shape."""
        parts = tuple(_decode_part(part) for part in body["parts"])
        if len({part.name for part in parts}) != len(parts):
            raise ValueError("two parts of one name")
        number, epoch, at = body["number"], body["epoch"], body["at"]
        if not (_is_count(number) and number >= 1 and _is_count(epoch) and epoch >= 1):
            raise ValueError("number or epoch")
        if isinstance(at, bool) or not isinstance(at, (int, float)):
            raise ValueError("at")
        return cls(
            session=str(body["session"]),
            number=number,
            epoch=epoch,
            at=float(at),
            why=str(body["why"]),
            parts=parts,
            notes=tuple(str(note) for note in body.get("notes", ())),
        )


def name_directory(number: int) -> str:
    """Return the name of a checkpoint's directory."""
    return f"{number:0{NUMBER_WIDTH}d}"


def _decode_part(body: dict[str, Any]) -> Part:
    name, size, digest = body["name"], body["bytes"], body["digest"]
    if not (isinstance(name, str) and _PART_PATTERN.fullmatch(name)):
        raise ValueError("part name")
    if not (_is_count(size) and isinstance(digest, str) and _DIGEST_PATTERN.fullmatch(digest)):
        raise ValueError(f"part {name}")
    return Part(name=name, bytes=size, digest=digest)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
