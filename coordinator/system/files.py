"""Files that are whole or absent: durable replacement, bounded reads, private directories.

``replace_durably`` is the only way a whole file comes into being: a temporary in the same directory, all bytes, fsync,
rename, fsync of the directory. When it returns, the new content survives power loss; when it raises, the old content
is untouched. A failed fsync is never tried again on the same file, since the kernel may have dropped the bytes.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from pathlib import Path

from coordinator.errors import InvalidInput, Refused, StorageError
from coordinator.system import failpoints

#: The name part of every temporary, so that sweeps recognise their own.
TEMPORARY_MARK = ".tmp-"
#: Inode, time of change in nanoseconds and size of a file.
Mark = tuple[int, int, int] | None


def make_directory(path: Path, *, parents: bool = True, durable: bool = True) -> None:
    """Create ``path`` and its missing parents, mode 0700, durably; an existing one is left as it is.

    Without ``parents`` a missing parent is a ``StorageError``: what was removed or moved away must not come back as a husk.
    With ``durable=False`` power loss may take it (for what is not to be there before it is renamed).
    """
    missing: list[Path] = []
    at = path
    while not at.is_dir():
        missing.append(at)
        if at.parent == at:
            break
        at = at.parent
    for directory in reversed(missing if parents else missing[:1]):
        try:
            failpoints.hit("files.mkdir")
            os.mkdir(directory, 0o700)
        except FileExistsError:
            if not directory.is_dir():
                raise Refused(f"{directory} is in the way: not a directory", hint="move it aside") from None
        except OSError as error:
            raise StorageError.from_os(error, "create the directory", directory) from error
        if durable:
            sync_directory(directory.parent)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            failpoints.hit("files.sync_directory")
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        raise StorageError.from_os(error, "make durable", path) from error


def sync_tree(directory: Path) -> None:
    """Make what was just written into a directory durable: each of its files, then their names. Raises ``StorageError``.

    For a directory that nobody can see yet: until it appears, nothing of it needs to be durable on its own.
    """
    try:
        for name in os.listdir(directory):
            fd = os.open(directory / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                if os.fstat(fd).st_size:  # an empty one is all name
                    sync_file(fd)
            finally:
                os.close(fd)
    except OSError as error:
        raise StorageError.from_os(error, "write", directory) from error
    sync_directory(directory)


def sync_file(fd: int) -> None:
    """Make a file's bytes durable (on macOS through the drive's cache as well). Raises ``OSError``; never retry it."""
    failpoints.hit("files.fsync")
    if sys.platform == "darwin":
        import fcntl

        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
    else:
        os.fsync(fd)


def sync_data(fd: int) -> None:
    """Like ``sync_file``, leaving out what is not needed to read the bytes again (times). Never retry it either."""
    if failpoints.armed:
        failpoints.hit("files.fsync")
    if sys.platform == "darwin":
        import fcntl

        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
    else:
        os.fdatasync(fd)


def open_for_update(path: Path, flags: int, failpoint: str) -> tuple[int, bool]:
    """Open a file for reading and writing, on a read-only file system for reading; tell whether it can be written.

    ``flags`` as for ``os.open``. Raises ``OSError``.
    """
    try:
        failpoints.hit(failpoint)
        return os.open(path, os.O_RDWR | flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600), True
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        try:
            return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), False
        except FileNotFoundError:
            raise error from None  # it could not be made


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Write every byte, however many calls it takes. Raises ``OSError`` with part of it written."""
    rest = memoryview(data)
    while rest:
        failpoints.hit("files.write")
        rest = rest[os.write(fd, rest) :]


def write_all_at(fd: int, data: bytes | memoryview, offset: int) -> None:
    """Write every byte at its place, however many calls it takes. Raises ``OSError`` with part of it written."""
    done = os.pwrite(fd, data, offset)
    while done < len(data):
        done += os.pwrite(fd, memoryview(data)[done:], offset + done)


def name_temporary(name: str) -> str:
    """Return a name for what is to become ``name`` in the same directory; sweeps know it by its mark."""
    return f".{name[:100]}{TEMPORARY_MARK}{os.urandom(6).hex()}"


def replace_durably(path: Path, data: bytes, *, mode: int = 0o600, durable: bool = True) -> None:
    """Let ``path`` hold exactly ``data``, atomically. A symlink at ``path`` is replaced, never followed.

    With ``durable=False`` it survives kill -9 but not power loss (for state that is worth nothing after a reboot).
    """
    temporary = path.with_name(name_temporary(path.name))
    try:
        failpoints.hit("files.open")
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    except OSError as error:
        raise StorageError.from_os(error, "write", path) from error
    try:
        try:
            write_all(fd, data)
            if durable:
                sync_file(fd)
        finally:
            os.close(fd)
        failpoints.hit("files.rename")
        os.replace(temporary, path)
    except OSError as error:
        remove_quietly(temporary)
        raise StorageError.from_os(error, "write", path) from error
    if durable:
        sync_directory(path.parent)


def read_bounded(path: Path, limit_bytes: int) -> bytes:
    """Return the file's bytes. Raises ``FileNotFoundError``, ``StorageError``, or ``Refused`` above the limit."""
    try:
        failpoints.hit("files.read")
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise Refused(f"{path} is not a regular file", hint="move it aside")
            if status.st_size > limit_bytes:
                raise Refused(f"{path} has {status.st_size} bytes, more than {limit_bytes}", hint="move it aside")
            parts = []
            while part := os.read(fd, 1 << 20):
                parts.append(part)
            return b"".join(parts)
        finally:
            os.close(fd)
    except FileNotFoundError:
        raise
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        if error.errno == errno.ELOOP:
            raise Refused(f"{path} is a symbolic link; it is not followed", hint="move it aside") from error
        raise StorageError.from_os(error, "read", path) from error


def mark_file(path: Path) -> Mark:
    """Return what tells one state of a replaced file from another, ``None`` if there is none. One ``stat``, never raises."""
    try:
        status = os.stat(path, follow_symlinks=False)
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def remove_quietly(path: Path) -> None:
    """Remove a file of our own making; one that cannot be removed stays for the next sweep."""
    try:
        os.unlink(path)
    except OSError:
        return


def check_private(path: Path) -> None:
    """Refuse a state directory that others may write to or that belongs to somebody else."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise StorageError.from_os(error, "look at", path) from error
    if not stat.S_ISDIR(status.st_mode):
        raise InvalidInput(f"{path} is not a directory", hint="set CREWKEEP_HOME to a directory of your own")
    if status.st_uid != os.geteuid() and os.geteuid() != 0:
        raise Refused(f"{path} belongs to another user", hint="set CREWKEEP_HOME to a directory of your own")
    if status.st_mode & 0o022:
        raise Refused(f"{path} can be written by others", hint=f"chmod go-w {path}")


def free_bytes_and_inodes(path: Path) -> tuple[int, int | None]:
    """Return what an unprivileged writer has left; ``None`` where the file system does not count inodes."""
    try:
        status = os.statvfs(path)
    except OSError as error:
        raise StorageError.from_os(error, "look at", path) from error
    return status.f_bavail * status.f_frsize, (status.f_favail if status.f_files else None)
