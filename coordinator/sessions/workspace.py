"""Which workspace somebody works in, and the directory name that stands for it.

A workspace is a name (``shop``) or an absolute directory: the git repository's common root, so that all worktrees share
one context, else the directory itself. Git's files are read directly, since starting git costs more than everything
else a command does.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path

from coordinator.digests import sha256
from coordinator.errors import InvalidInput

_NAME_LIMIT = 128
#: Directories above the working directory that are looked at for `.git`.
_DEPTH_LIMIT = 256


def resolve_workspace(explicit: str | None, environment: Mapping[str, str], cwd: str | os.PathLike[str]) -> str:
    """Return the workspace: what was named, else ``CREWKEEP_WORKSPACE``, else the repository, else the directory.

    A name with a ``/`` in it is a directory, taken as it is. Raises ``InvalidInput`` for one that cannot be used.
    """
    for given, source in ((explicit, "the workspace"), (environment.get("CREWKEEP_WORKSPACE") or None, "CREWKEEP_WORKSPACE")):
        if given is not None:
            return _check(given, source, cwd)
    directory = os.path.realpath(cwd)
    return find_repository(directory) or directory


def find_repository(directory: str) -> str | None:
    """Return the root that all worktrees of the repository around ``directory`` share, ``None`` outside one."""
    at = directory
    for _ in range(_DEPTH_LIMIT):
        root = _read_root(at, os.path.join(at, ".git"))
        if root is not None:
            return root
        above = os.path.dirname(at)
        if above == at:
            return None
        at = above
    return None


def workspace_id(workspace: str) -> str:
    """Return the directory name of a workspace: readable, safe on every file system, different for different ones."""
    last = os.path.basename(workspace.rstrip("/")) or "root"
    slug = re.sub(r"[^a-z0-9]+", "-", last.lower()).strip("-")[:32].strip("-")
    digest = sha256(workspace.encode("utf-8", "surrogateescape")).hexdigest()[:12]
    return f"{slug or 'w'}-{digest}"


def _check(given: str, source: str, cwd: str | os.PathLike[str]) -> str:
    hint = f"use up to {_NAME_LIMIT} printable characters, or a directory"
    if "\0" in given or not given.strip():
        raise InvalidInput(f"{source} cannot be {given!r}", hint=hint)
    if "/" in given:
        return os.path.realpath(os.path.join(cwd, os.path.expanduser(given)))
    name = unicodedata.normalize("NFC", given)
    if len(name) > _NAME_LIMIT or not name.isprintable() or name in (".", ".."):
        raise InvalidInput(f"{source} cannot be {given!r:.100}", hint=hint)
    return name


def _read_root(worktree: str, dot_git: str) -> str | None:
    """Return the common root that ``.git`` at ``worktree`` belongs to, ``None`` if it is not git's."""
    if os.path.isdir(dot_git):
        return worktree if os.path.exists(os.path.join(dot_git, "HEAD")) else None
    pointer = _read_line(dot_git)
    if pointer is None or not pointer.startswith("gitdir:"):
        return None
    git_directory = os.path.realpath(os.path.join(worktree, pointer[len("gitdir:") :].strip()))
    common = _read_line(os.path.join(git_directory, "commondir"))
    if common is None:
        return worktree  # a submodule, or a git directory kept elsewhere: a repository of its own
    common_directory = os.path.realpath(os.path.join(git_directory, common))
    if os.path.basename(common_directory) == ".git":
        return os.path.dirname(common_directory)
    return common_directory


def _read_line(path: str) -> str | None:
    try:
        with Path(path).open("rb") as file:
            return os.fsdecode(file.read(8192)).strip() or None
    except OSError:
        return None
