"""The git state of a directory: commit, branch, and a hidden ref that holds what is not committed.

Uncommitted changes and untracked, not ignored files are written as objects through a *temporary* index and a commit made by
``commit-tree``; ``refs/crewkeep/<session>/<number>`` keeps it from being collected. Where nothing is uncommitted there is no
ref. The user's index, work tree, branches, stash, reflog and hooks are never touched.

Not promised: files larger than ``GIT_FILE_LIMIT_BYTES``, more than ``GIT_TOTAL_LIMIT_BYTES`` in all (left out and named),
the inside of submodules, and anything at all when git is slower than ``GIT_TIMEOUT_S``: then there is a note instead.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import stat
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coordinator.config import GIT_FILE_LIMIT_BYTES, GIT_TIMEOUT_S, GIT_TOTAL_LIMIT_BYTES

_REF_ROOT = "refs/crewkeep"
#: Nothing of the user's configuration may run or ask: no hooks, no file-system monitor, no collection, no prompt.
_QUIET = ("-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false", "-c", "gc.auto=0", "-c", "core.safecrlf=false")
_WHO = {"NAME": "crewkeep", "EMAIL": "crewkeep@localhost"}


@dataclass(frozen=True, kw_only=True, slots=True)
class GitState:
    """Where a directory stood in git."""

    #: Absolute; the top of the work tree.
    top: str
    #: ``None`` in a repository without any commit.
    commit: str | None
    #: ``None`` when HEAD is detached.
    branch: str | None
    #: The hidden ref; ``None`` if there was nothing uncommitted to hold, or it could not be made (see ``note``).
    ref: str | None
    #: What the ref points to.
    saved: str | None = None
    #: Files that were too big to be saved; at most the first twenty.
    left_out: tuple[str, ...] = ()
    note: str | None = None

    def encode(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def decode(cls, body: Mapping[str, Any]) -> GitState:
        """Raises ``KeyError`` or ``TypeError`` on a wrong shape."""
        names = {item.name for item in dataclasses.fields(cls)}
        known = {name: value for name, value in body.items() if name in names}
        return cls(**{**known, "left_out": tuple(known.get("left_out", ()))})


class _GitFailed(Exception):
    """Git said no, or took too long; the text is for people."""


def capture(cwd: str | os.PathLike[str], session_id: str, number: int) -> GitState | None:
    """Save the git state of ``cwd`` under the hidden ref of that checkpoint; ``None`` outside a work tree or without git.

    Never raises for what git does: a failure becomes the state's ``note``.
    """
    git = _Git(cwd)
    try:
        top = git.read("rev-parse", "--show-toplevel")
    except _GitFailed:
        return None
    if not top:
        return None
    state = GitState(top=top, commit=None, branch=None, ref=None)
    try:
        state = dataclasses.replace(
            state,
            commit=git.find("rev-parse", "--verify", "--quiet", "HEAD^{commit}"),
            branch=git.find("symbolic-ref", "--quiet", "--short", "HEAD"),
        )
        saved, left_out = _save_work(git, top, state.commit)
        state = dataclasses.replace(state, left_out=tuple(left_out[:20]))
        if saved is None:
            return state
        ref = f"{_REF_ROOT}/{session_id}/{number}"
        git.read("update-ref", "--no-deref", ref, saved)
        return dataclasses.replace(state, ref=ref, saved=saved)
    except (_GitFailed, OSError) as error:
        return dataclasses.replace(state, note=f"not saved: {error}")


def forget(cwd: str | os.PathLike[str], refs: Sequence[str]) -> None:
    """Remove hidden refs of checkpoints that are no longer kept; what cannot be removed stays."""
    git = _Git(cwd)
    for ref in refs:
        if ref.startswith(f"{_REF_ROOT}/"):
            with contextlib.suppress(_GitFailed):
                git.read("update-ref", "--no-deref", "-d", ref)


def forget_session(top: str, session_id: str) -> None:
    """Remove every hidden ref of a session that is removed, also those of checkpoints that were set aside."""
    with contextlib.suppress(_GitFailed):
        forget(top, _Git(top).read("for-each-ref", "--format=%(refname)", f"{_REF_ROOT}/{session_id}/").split())


def _save_work(git: _Git, top: str, commit: str | None) -> tuple[str | None, list[str]]:
    """Return a commit that holds the work tree as it is (``None`` if HEAD does), and what was left out."""
    import tempfile  # as for subprocess: only for who takes a checkpoint

    index = Path(git.read("rev-parse", "--path-format=absolute", "--git-path", "index"))
    with tempfile.TemporaryDirectory(prefix="crewkeep-git-", ignore_cleanup_errors=True) as directory:
        temporary = os.path.join(directory, "index")
        if index.is_file():
            shutil.copyfile(index, temporary)  # a copy keeps what git knows of unchanged files: nothing is hashed again
        git.use_index(temporary, top)
        if not os.path.exists(temporary) and commit is not None:
            git.read("read-tree", commit)
        changed = git.list("diff-files", "-z", "--name-only", "--ignore-submodules=dirty")
        untracked = git.list("ls-files", "-z", "--others", "--exclude-standard")
        chosen, left_out = _choose(top, [*dict.fromkeys([*changed, *untracked])])
        if chosen:
            git.read(
                "update-index", "--add", "--remove", "-z", "--stdin", data=b"".join(os.fsencode(name) + b"\0" for name in chosen)
            )
        tree = git.read("write-tree")
        if commit is not None and tree == git.read("rev-parse", f"{commit}^{{tree}}"):
            return None, left_out
        parents = ["-p", commit] if commit is not None else []
        return git.read("commit-tree", tree, *parents, "-m", "crewkeep checkpoint"), left_out


def _choose(top: str, names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split the changed files into those that are saved and those that are too big, are gone or are no files."""
    chosen, left_out, total = [], [], 0
    for name in names:
        if name.endswith("/"):
            left_out.append(name)  # a repository inside the repository
            continue
        try:
            status = os.lstat(os.path.join(top, name))
        except OSError:
            chosen.append(name)  # removed: that is a change too
            continue
        size = status.st_size if stat.S_ISREG(status.st_mode) else 0
        if size > GIT_FILE_LIMIT_BYTES or total + size > GIT_TOTAL_LIMIT_BYTES:
            left_out.append(name)
            continue
        total += size
        chosen.append(name)
    return chosen, left_out


class _Git:
    """Git in one directory, within one time limit for all calls together."""

    def __init__(self, cwd: str | os.PathLike[str]) -> None:
        self._cwd = os.fspath(cwd)
        self._deadline_s = time.monotonic() + GIT_TIMEOUT_S
        self._environment = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "CREWKEEP_"))}
        self._environment |= {"LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "GIT_LITERAL_PATHSPECS": "1"}
        self._environment |= {f"GIT_{role}_{what}": value for role in ("AUTHOR", "COMMITTER") for what, value in _WHO.items()}

    def use_index(self, path: str, top: str) -> None:
        """From now on use the index file at ``path``, in the work tree's top directory."""
        self._environment["GIT_INDEX_FILE"] = path
        self._cwd = top

    def find(self, *arguments: str) -> str | None:
        """Return what git prints, ``None`` if it fails."""
        try:
            return self.read(*arguments) or None
        except _GitFailed:
            if time.monotonic() >= self._deadline_s:
                raise
            return None

    def list(self, *arguments: str) -> list[str]:
        """Return the names that git prints, each ended by a NUL."""
        return [os.fsdecode(name) for name in self._run(arguments).split(b"\0") if name]

    def read(self, *arguments: str, data: bytes = b"") -> str:
        """Return what git prints, without the last newline. Raises ``_GitFailed``."""
        return os.fsdecode(self._run(arguments, data)).removesuffix("\n")

    def _run(self, arguments: Sequence[str], data: bytes = b"") -> bytes:
        import subprocess  # 10 ms that a process which never takes a checkpoint need not pay

        try:
            done = subprocess.run(
                ["git", *_QUIET, *arguments],
                cwd=self._cwd,
                env=self._environment,
                input=data,
                capture_output=True,
                timeout=max(0.05, self._deadline_s - time.monotonic()),
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise _GitFailed(f"git {arguments[0]} took longer than {GIT_TIMEOUT_S:g} s") from error
        except (OSError, ValueError) as error:
            raise _GitFailed(f"git cannot be run: {error}") from error
        if done.returncode != 0:
            said = done.stderr.decode("utf-8", "replace").strip().splitlines()
            raise _GitFailed(f"git {arguments[0]}: {said[-1][:200] if said else f'exit code {done.returncode}'}")
        return done.stdout
