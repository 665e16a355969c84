"""Changes of files that belong to others: planned first, shown, and made only if the file is still what was planned for."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coordinator.errors import Conflict, InvalidInput, StorageError
from coordinator.system import files
from crewkeep.setup import json_text

#: A configuration is far smaller.
_LIMIT_BYTES = 8 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Edit:
    """One file that is to be changed."""

    path: Path
    #: Its bytes before and after; ``None``: it is not there.
    before: bytes | None
    after: bytes | None

    @property
    def changes(self) -> bool:
        return self.before != self.after

    def show(self) -> str:
        """Return the difference as people read it."""
        import difflib  # wanted when a person looks; keepers only look whether there is one

        before, after = _lines(self.before), _lines(self.after)
        old = "/dev/null" if self.before is None else str(self.path)
        new = "/dev/null" if self.after is None else str(self.path)
        return "".join(difflib.unified_diff(before, after, old, new))

    def apply(self) -> None:
        """Make the change, atomically. Raises ``Conflict`` if the file is another by now, ``StorageError``."""
        path = Path(os.path.realpath(self.path))  # a link (as of people who keep their settings in a repository) stays one
        if read_optional(path) != self.before:
            raise Conflict(
                f"{path} was changed meanwhile; nothing was written to it", hint="run the command again", path=str(path)
            )
        if not self.changes:
            return
        if self.after is None:
            try:
                os.unlink(path)
            except OSError as error:
                raise StorageError.from_os(error, "remove", path) from error
            return
        try:
            os.makedirs(path.parent, mode=0o700, exist_ok=True)
            mode = os.stat(path).st_mode & 0o777 if self.before is not None else 0o600
            files.replace_durably(path, self.after)
            os.chmod(path, mode)
        except OSError as error:
            if isinstance(error, StorageError):
                raise
            raise StorageError.from_os(error, "write", path) from error


def read_optional(path: Path) -> bytes | None:
    """Return a file's bytes, ``None`` if it is not there. Raises ``StorageError``."""
    try:
        return files.read_bounded(Path(os.path.realpath(path)), _LIMIT_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError.from_os(error, "read", path) from error


def read_object(path: Path, data: bytes | None) -> dict[str, Any]:
    """Return the JSON object in ``data``, an empty one if there is none. Raises ``InvalidInput`` for anything else."""
    if data is None or not data.strip():
        return {}
    try:
        value = json_text.parse(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{path} is not JSON ({error}); it was left as it is", hint="mend the file", path=str(path)) from error
    if not isinstance(value, dict):
        raise InvalidInput(f"{path} does not hold an object; it was left as it is", hint="mend the file", path=str(path))
    return value


def write_object(value: dict[str, Any], before: bytes | None) -> bytes | None:
    """Return what ``read_object`` read, changed so that it means ``value``; ``None``, no file, if nothing is left of it."""
    text = (before or b"").decode("utf-8")
    after = json_text.change(text if text.strip() else "{}\n", value)
    return None if after.split() == ["{}"] else after.encode()


def _lines(data: bytes | None) -> list[str]:
    lines = (data or b"").decode("utf-8", "replace").splitlines(keepends=True)
    return [line if line.endswith("\n") else line + "\n" for line in lines]
