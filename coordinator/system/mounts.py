"""On which kind of file system something lies: what is promised of locks and flushes holds on local ones only.

Fallback: where the system has no list of its mounts (macOS), the kind is not known, and nothing is refused.
"""

from __future__ import annotations

import os
from pathlib import Path

#: Locks are not seen by other machines there, or flushes do not reach a disk.
NETWORK_FILE_SYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "afs", "ceph", "glusterfs", "fuse.glusterfs", "lustre", "beegfs"}
)
_MOUNTS = "/proc/self/mounts"


def find_file_system(path: Path) -> str | None:
    """Return the type of the file system that ``path`` lies on, or will lie on; ``None`` where the system does not tell."""
    place = os.path.realpath(path)
    best, kind = "", None
    try:
        with open(_MOUNTS, encoding="utf-8", errors="surrogateescape") as mounts:
            for line in mounts:
                _, point, found, *_ = line.split(" ")
                point = _unescape(point)
                inside = point == "/" or place == point or place.startswith(point + "/")
                if inside and len(point) >= len(best):
                    best, kind = point, found
    except (OSError, ValueError):
        return None
    return kind


def _unescape(text: str) -> str:
    """Undo the octal escapes of blanks, tabs, newlines and backslashes in a mount point."""
    for escape, plain in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(escape, plain)
    return text
