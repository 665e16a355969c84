"""A sealed record: one line of JSON that says what it is, in which format, and proves that it is whole.

``{"kind": "session", "format": 1, "digest": "<sha256>", "body": {...}}`` and a newline. A reader is told
apart: missing, empty, zero-filled, truncated, trailing bytes, unreadable, wrong shape, wrong digest, and a newer format
(which an older program leaves alone). The digest is over the canonical form of kind, format and body, so a change that
parses to the same record is harmless.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from coordinator.config import RECORD_LIMIT_BYTES
from coordinator.digests import sha256
from coordinator.errors import Damaged, FormatTooNew
from coordinator.system import files

Body = dict[str, Any]


def encode_sealed(kind: str, format: int, body: Body) -> bytes:
    """Return the line (ASCII, ends with a newline). ``body`` is JSON; text may hold undecodable bytes as surrogates."""
    text = _canonical(body)
    digest = _digest(kind, format, text)
    return f'{{"body":{text},"digest":"{digest}","format":{format},"kind":{_canonical(kind)}}}\n'.encode("ascii")


def decode_sealed(data: bytes, kind: str, format: int, *, path: object) -> Body:
    """Return the body. Raises ``Damaged`` with its reason or ``FormatTooNew``; never anything else."""
    if not data:
        raise _damaged(path, "empty", "is empty")
    if not data.strip(b"\0"):
        raise _damaged(path, "zero-filled", "holds only zero bytes")
    line, newline, rest = data.partition(b"\n")
    if not newline:
        raise _damaged(path, "truncated", "ends too early")
    if rest:
        raise _damaged(path, "trailing", f"has {len(rest)} bytes after its end")
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, "unreadable", f"is not JSON ({str(error)[:80]})") from error
    if not isinstance(record, dict) or record.get("kind") != kind or not isinstance(record.get("body"), dict):
        raise _damaged(path, "wrong-shape", f"is not a record of kind {kind!r}")
    found = record.get("format")
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise _damaged(path, "wrong-shape", "has no format number")
    body: Body = record["body"]
    try:
        whole = record.get("digest") == _digest(kind, found, _canonical(body))
    except (ValueError, RecursionError):
        whole = False
    if not whole:
        raise _damaged(path, "wrong-digest", "does not match its digest")
    if found > format:
        raise FormatTooNew(
            f"{path} has format {found}; this crewkeep reads up to {format}",
            hint="use the newer crewkeep that wrote it",
            path=str(path),
            format=found,
            supported=format,
        )
    return body


def read_sealed(path: Path, kind: str, format: int) -> Body:
    """Read and decode a sealed file. Raises ``Damaged`` (also when it is missing), ``FormatTooNew``, ``StorageError``."""
    try:
        data = files.read_bounded(path, RECORD_LIMIT_BYTES)
    except FileNotFoundError as error:
        raise _damaged(path, "missing", "is missing") from error
    return decode_sealed(data, kind, format, path=path)


def write_sealed(path: Path, kind: str, format: int, body: Body, *, durable: bool = True) -> None:
    """Replace ``path`` by the sealed body (see ``files.replace_durably``)."""
    files.replace_durably(path, encode_sealed(kind, format, body), durable=durable)


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _digest(kind: str, format: int, body: str) -> str:
    """``body`` in its canonical form."""
    return sha256(f"[{_canonical(kind)},{format},{body}]".encode("ascii")).hexdigest()


def _damaged(path: object, reason: str, what: str) -> Damaged:
    return Damaged(
        f"{path} {what}", hint="run `crewkeep doctor`; whole older copies are used meanwhile", path=str(path), reason=reason
    )
