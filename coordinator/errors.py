"""One tree of errors: each tells what happened, to which thing, with the value, and what to do next.

Every error has a stable ``code`` (a word for scripts), an ``exit_code`` (the command line's), a ``hint`` (the next
step) and its facts as attributes. All of them can be pickled.
"""

from __future__ import annotations

import errno
from typing import Any, ClassVar


class CrewkeepError(Exception):
    """The root of the tree."""

    #: A word that scripts may rely on.
    code: ClassVar[str] = "failed"
    #: The exit code that the command line ends with.
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "", **fields: Any) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.fields = fields
        for name, value in fields.items():
            setattr(self, name, value)

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.hint, self.fields)


def _rebuild(kind: type[CrewkeepError], message: str, hint: str, fields: dict[str, Any]) -> CrewkeepError:
    error = kind.__new__(kind)
    CrewkeepError.__init__(error, message, hint=hint, **fields)
    return error


class InvalidInput(CrewkeepError, ValueError):
    """What was given cannot be accepted; nothing was touched."""

    code, exit_code = "invalid-input", 2


class StartFailed(InvalidInput):
    """A program could not be started; no process is left of it. ``program`` and ``reason``: one word of the closed set below."""

    code = "start-failed"
    program: str
    #: not-found | not-executable | no-interpreter | bad-format | bad-directory | too-long | no-room | failed
    reason: str


class NotFound(CrewkeepError, LookupError):
    """There is no such session, key or checkpoint."""

    code, exit_code = "not-found", 3


class RevisionCompacted(NotFound):
    """The changes after that revision are not kept any more: take a snapshot and watch on from its revisions."""

    code = "revision-compacted"
    shard: int
    revision: int
    #: The smallest revision one may still ask to go on from.
    oldest: int


class Conflict(CrewkeepError):
    """Another write came first."""

    code, exit_code = "conflict", 4


class VersionConflict(Conflict):
    """The key is not at the expected version: read it again and decide anew."""

    key: str
    expected_version: int
    actual_version: int

    def __init__(self, key: str, expected_version: int, actual_version: int) -> None:
        super().__init__(
            f"{key!r} is at version {actual_version}, not at {expected_version}",
            hint=f"read it again: crewkeep context get {key}",
            key=key,
            expected_version=expected_version,
            actual_version=actual_version,
        )


class Superseded(Conflict):
    """A newer incarnation of the session exists: the caller must stop acting for it."""

    code = "superseded"
    session: str
    epoch: int
    current_epoch: int

    def __init__(self, session: str, epoch: int, current_epoch: int) -> None:
        super().__init__(
            f"session {session} is at epoch {current_epoch}; epoch {epoch} may not write any more",
            hint="stop; the newer incarnation goes on with the work",
            session=session,
            epoch=epoch,
            current_epoch=current_epoch,
        )


class Claimed(Conflict):
    """Another session holds what was to be claimed."""

    code = "claimed"
    what: str
    #: Name and id of the session that holds it, what it claimed, and until when (wall-clock seconds since 1970).
    holder: str
    holder_id: str
    claimed: str
    until: float


class Refused(CrewkeepError):
    """It could be done, but not safely."""

    code, exit_code = "refused", 5


class Missing(CrewkeepError):
    """A needed part is not installed or not running."""

    code, exit_code = "missing", 69


class Unsupported(Missing):
    """This system or file system cannot give what the promise needs."""

    code = "unsupported"


class Busy(CrewkeepError):
    """Not now: a lock is held or the breaker is open. Trying again is safe."""

    code, exit_code = "busy", 75


class TimedOut(CrewkeepError, TimeoutError):
    """What was waited for did not come in time."""

    code, exit_code = "timed-out", 124


class Damaged(CrewkeepError):
    """A file does not hold what was written to it. ``path``, and ``reason``: one word of the closed set below."""

    code = "damaged"
    path: str
    #: missing | empty | zero-filled | truncated | trailing | unreadable | wrong-shape | wrong-digest | rolled-back
    reason: str


class FormatTooNew(CrewkeepError):
    """A newer crewkeep wrote this file; this one leaves it as it is."""

    code = "format-too-new"
    path: str
    format: int
    supported: int


class StorageError(CrewkeepError, OSError):
    """The file system refused. ``operation``, ``path`` and ``cause`` (an errno name) say what and where."""

    code = "storage"
    operation: str
    path: str
    cause: str

    @classmethod
    def from_os(cls, error: OSError, operation: str, path: object) -> StorageError:
        """Name an ``OSError`` met while doing ``operation`` on ``path``."""
        name = errno.errorcode.get(error.errno or 0, "EIO")
        built = cls(
            f"cannot {operation} {path}: {error.strerror or error} ({name})",
            hint=_STORAGE_HINTS.get(name, "see `crewkeep doctor`"),
            operation=operation,
            path=str(path),
            cause=name,
        )
        built.errno = error.errno
        return built


_STORAGE_HINTS = {
    "ENOSPC": "free some space; writing resumes by itself",
    "EDQUOT": "the quota is used up; free some space, writing resumes by itself",
    "EROFS": "the file system is read-only; remount it or move CREWKEEP_HOME",
    "EACCES": "check the owner and mode of the directory",
    "EPERM": "check the owner, mode and attributes of the directory",
    "EMFILE": "too many open files; raise `ulimit -n`",
    "ENFILE": "the system has too many open files",
    "EISDIR": "a file is expected there; name another one, or move it aside",
    "ELOOP": "a file is expected there and no link; move it aside",
    "ENOTDIR": "a directory is expected there; name another one, or move what is there aside",
    "ESPIPE": "a file is expected there; move what is there aside",
    "EIO": "the disk reported an error; check it before going on",
}
