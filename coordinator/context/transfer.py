"""Export and import: a context as lines of JSON, with a last line that proves that none is missing.

``{"kind": "crewkeep-context", "format": 1}``, one entry a line in the order of the keys, ``{"kind": "end", "count", "digest"}``.
Values travel; versions, authors and times are told for people, but an import is a new write by whoever imports.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import IO, Any

import orjson

from coordinator.context.keys import check_key
from coordinator.context.model import Entry
from coordinator.context.values import encode_value
from coordinator.digests import sha256
from coordinator.errors import Damaged, FormatTooNew, InvalidInput

KIND, FORMAT = "crewkeep-context", 1
_HINT = "export it again; nothing was imported"


def write_export(entries: Iterable[Entry], stream: IO[str]) -> int:
    """Write the entries and return how many there were."""
    digest, count = sha256(), 0

    def write(line: dict[str, Any]) -> None:
        text = orjson.dumps(line).decode() + "\n"
        digest.update(text.encode())
        stream.write(text)

    write({"kind": KIND, "format": FORMAT})
    for entry in sorted(entries, key=lambda entry: entry.key):
        count += 1
        write(
            {
                "key": entry.key,
                "value": entry.value,
                "version": entry.version,
                "author": entry.author,
                "epoch": entry.epoch,
                "at": entry.at,
            }
        )
    write({"kind": "end", "count": count, "digest": digest.hexdigest()})
    return count


def read_export(stream: Iterable[str]) -> dict[str, Any]:
    """Return the values by key, having checked every line. Raises ``InvalidInput``, ``Damaged`` or ``FormatTooNew``."""
    digest = sha256()
    values: dict[str, Any] = {}
    ended = False
    for number, text in enumerate(stream, 1):
        line = _read_line(text, number)
        if ended:
            raise _damaged("trailing", f"line {number} stands behind the end")
        if number == 1:
            if line.get("kind") != KIND or not isinstance(line.get("format"), int):
                raise InvalidInput("this is not an export of a shared context", hint=_HINT)
            if line["format"] > FORMAT:
                raise FormatTooNew(
                    f"the export has format {line['format']}; this crewkeep reads up to {FORMAT}",
                    hint="use the newer crewkeep that wrote it",
                    path="-",
                    format=line["format"],
                    supported=FORMAT,
                )
        elif line.get("kind") == "end" and "key" not in line:
            if line.get("count") != len(values) or line.get("digest") != digest.hexdigest():
                raise _damaged("wrong-digest", "the export does not match its digest")
            ended = True
        elif "value" not in line:
            raise _damaged("wrong-shape", f"line {number} has no value")
        else:
            key = check_key(line.get("key"))
            encode_value(line["value"])
            values[key] = line["value"]
        digest.update(text.encode("utf-8", "surrogatepass"))
    if not ended:
        raise _damaged("truncated", "the export ends too early")
    return values


def _read_line(text: str, number: int) -> dict[str, Any]:
    try:
        line = orjson.loads(text)
    except ValueError as error:
        raise _damaged("unreadable", f"line {number} is not JSON: {str(error)[:80]}") from error
    if not isinstance(line, dict):
        raise _damaged("wrong-shape", f"line {number} is not an object")
    return line


def _damaged(reason: str, what: str) -> Damaged:
    return Damaged(what, hint=_HINT, path="-", reason=reason)
