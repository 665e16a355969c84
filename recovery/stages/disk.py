"""The disk layer: could the session's state be written just now?

Free space is a hint (quotas, reserves); the truth is a probe file that was written, made durable, renamed and removed in the
session's own directory. Each way of failing has its own name.
"""

from __future__ import annotations

from typing import Any

from recovery.model import Evidence, Finding, Layer, Verdict

_MEANINGS = {
    "ENOSPC": "full",
    "EDQUOT": "quota: the quota is used up",
    "EROFS": "read-only: the file system is read-only",
    "EACCES": "no permission: the directory may not be written",
    "EPERM": "no permission: the directory may not be written (owner, mode or attributes)",
    "EIO": "I/O error: the disk reported an error",
    "ENOENT": "gone: the directory is not there any more",
    "ENOTDIR": "gone: something else is in the directory's place",
    "ESTALE": "gone: the directory was removed on its server",
    "ENAMETOOLONG": "name too long: the path is too long for this file system",
    "EFBIG": "file too big: a limit on file sizes is in the way",
    "EMFILE": "too many open files in this process",
    "ENFILE": "too many open files in the system",
    "TIMEOUT": "hanging: the file system does not answer",
}
#: These say something about the one who asks, not about the disk.
_OUR_OWN = frozenset({"EMFILE", "ENFILE"})


def judge(evidence: Evidence) -> Finding:
    """Judge what the probe met. Total."""
    disk = evidence.disk
    told: dict[str, Any] = {"free_bytes": disk.free_bytes, "free_inodes": disk.free_inodes, "probed": disk.probed}
    if disk.cause is not None:
        told |= {"cause": disk.cause, "operation": disk.operation, "path": disk.path}
        reason = _MEANINGS.get(disk.cause, f"error: {disk.cause}")
        if disk.cause == "ENOSPC":
            reason = (
                "no inodes: no more files can be made" if disk.free_inodes == 0 and disk.free_bytes else "full: no space is left"
            )
        if disk.operation:
            reason += f" (could not {disk.operation}: {disk.cause})"
        verdict = Verdict.UNKNOWN if disk.cause in _OUR_OWN else Verdict.DISK_FAULT
        return Finding(layer=Layer.DISK, verdict=verdict, reason=reason, evidence=told)
    if disk.probed is None and disk.free_bytes is None:
        return Finding(layer=Layer.DISK, verdict=Verdict.UNKNOWN, reason="not looked at", evidence=told)
    return Finding(layer=Layer.DISK, verdict=Verdict.HEALTHY, reason="writable" if disk.probed else "has space", evidence=told)
