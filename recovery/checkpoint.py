"""Checkpoints: what it takes to bring a session back, saved whole or not at all.

A checkpoint is a directory of parts with a manifest of their sizes and digests. It is filled aside, made durable, and appears
by one rename under the session's lock, where the taker's epoch is checked: an older incarnation's is never promoted. What an
agent lost meanwhile (an empty transcript, a state nobody gave again) is taken over from the checkpoint before, so that an empty
save never replaces a good one.

Order of ``take_checkpoint``: parts written, manifest written, all of them fsynced, their directory fsynced, epoch checked under
the lock, renamed, the parent directory fsynced, older ones dropped.

Invariants:
  - a number is used once, also after its checkpoint was set aside
  - ``whole`` means that every part was compared with its digest just now (unless asked ``deep``, a part above
    ``PART_VERIFY_BYTES`` with its size only: it is proven when it is used)
  - the newest ``CHECKPOINTS_KEPT`` are kept; a damaged one is set aside with its reason, never deleted
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from coordinator import sealed
from coordinator.config import CHECKPOINTS_KEPT, PART_VERIFY_BYTES, SWEEP_AGE_S, TRANSCRIPT_LIMIT_BYTES
from coordinator.context.values import encode_value
from coordinator.errors import Busy, Damaged, FormatTooNew, NotFound, Refused, StorageError
from coordinator.paths import Home, SessionPaths
from coordinator.sessions.conversation import Conversation
from coordinator.sessions.model import LaunchSpec, SessionRecord
from coordinator.sessions.registry import Registry
from coordinator.system import failpoints, files
from coordinator.system.clock import SYSTEM, Clock
from recovery import gitstate, manifest, quarantine
from recovery.draft import CHUNK_BYTES, Draft, fill_aside
from recovery.manifest import Manifest, Part
from recovery.transcript import TranscriptState, look_at_open, look_at_transcript

#: ``state=KEEP`` takes the state over from the checkpoint before.
KEEP: Final[Any] = object()
_TRIES = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointInfo:
    """One checkpoint as it lies on disk."""

    number: int
    #: ``None`` when the manifest cannot be read.
    manifest: Manifest | None
    path: Path
    #: Why it is not whole, beginning with the part's name; empty if it is.
    damage: str = ""
    #: A newer crewkeep took it: it cannot be used here, and is left alone.
    too_new: bool = False

    @property
    def whole(self) -> bool:
        return not self.damage

    def encode(self) -> dict[str, Any]:
        """Return an element of ``checkpoints --json`` (``at`` in seconds since 1970)."""
        found = self.manifest
        return {
            "number": self.number,
            "at": found.at if found else None,
            "epoch": found.epoch if found else None,
            "bytes": found.bytes if found else None,
            "whole": self.whole,
            "parts": [{"name": part.name, "bytes": part.bytes, "digest": part.digest} for part in found.parts] if found else [],
            "why": found.why if found else None,
            "damage": self.damage or None,
            "notes": list(found.notes) if found else [],
        }


def take_checkpoint(
    home: Home,
    record: SessionRecord,
    launch: LaunchSpec,
    *,
    conversation: Conversation | None = None,
    state: Any = KEEP,
    revisions: Mapping[int, int] | None = None,
    output_bytes: int = 0,
    cwd: str | None = None,
    why: str = "asked",
    clock: Clock = SYSTEM,
) -> Manifest:
    """Save the session's state as the incarnation ``record.epoch``; returns the manifest once it is durable.

    ``state`` is JSON that the program wants back. ``revisions`` maps shards of its context to their durable revision. Raises
    ``Superseded`` if a newer incarnation exists, ``InvalidInput`` for a state that is not JSON, ``StorageError`` (then the
    checkpoints are as they were), ``Busy``, ``Damaged``.
    """
    paths = home.session(record.id)
    encoded_state = None if state is KEEP else encode_value(state)
    files.make_directory(paths.checkpoints)
    _sweep_temporaries(paths, clock.wall_s())
    before = find_newest_whole(paths)
    with fill_aside(paths.checkpoints) as draft:
        draft.add_json(manifest.LAUNCH, describe_launch(record, launch))
        if conversation is not None:
            draft.add_json(manifest.CONVERSATION, conversation.encode())
            _add_transcript(draft, conversation, before)
        if encoded_state is not None:
            draft.add(manifest.STATE, encoded_state)
        elif before is not None:
            _take_over(draft, before, manifest.STATE)
        seen = {str(shard): revision for shard, revision in (revisions or {}).items()}
        draft.add_json(manifest.CONTEXT, {"workspace": record.workspace, "revisions": seen})
        draft.add_json(manifest.OUTPUT, {"output_bytes": output_bytes, "cwd": cwd or launch.cwd})
        saved = _promote(home, record, draft, cwd or launch.cwd, why, clock)
    _drop_old(paths)
    return saved


def list_checkpoints(paths: SessionPaths, *, deep: bool = True) -> list[CheckpointInfo]:
    """Return all checkpoints, newest first, each verified. Raises ``StorageError``."""
    return list(iter_checkpoints(paths, deep=deep))


def iter_checkpoints(paths: SessionPaths, *, below: int | None = None, deep: bool = False) -> Iterator[CheckpointInfo]:
    """Verify one checkpoint after the other, newest first. Raises ``StorageError``."""
    for number, directory in _list_directories(paths):
        if below is None or number < below:
            yield _look(directory, number, paths.path.name, deep=deep)


def find_newest_whole(paths: SessionPaths, below: int | None = None, *, deep: bool = False) -> CheckpointInfo | None:
    """Return the newest whole checkpoint (numbered below ``below``); older ones are not looked at. Raises ``StorageError``."""
    return next((found for found in iter_checkpoints(paths, below=below, deep=deep) if found.whole), None)


def get_checkpoint(paths: SessionPaths, number: int, *, deep: bool = False) -> CheckpointInfo:
    """Return one checkpoint, verified, whole or not. Raises ``NotFound``, ``StorageError``."""
    directory = paths.checkpoints / manifest.name_directory(number)
    if not directory.is_dir():
        raise NotFound(f"session {paths.path.name} has no checkpoint {number}", hint="see `crewkeep checkpoints`")
    return _look(directory, number, paths.path.name, deep=deep)


def read_part(checkpoint: CheckpointInfo, name: str) -> bytes | None:
    """Return a part's bytes, proven against the manifest, ``None`` if there is no such part. Raises ``Damaged``."""
    part = _part_of(checkpoint, name)
    if part is None:
        return None
    path = checkpoint.path / name
    try:
        data = files.read_bounded(path, part.bytes)
    except (FileNotFoundError, Refused) as error:
        raise _damaged(path, f"{name}: missing", "missing") from error
    if len(data) != part.bytes or hashlib.sha256(data).hexdigest() != part.digest:
        reason = "wrong-digest" if len(data) == part.bytes else "truncated"
        raise _damaged(path, f"{name}: {reason}", reason)
    return data


def read_json(checkpoint: CheckpointInfo, name: str) -> Any:
    """Return a part's JSON, ``None`` if there is no such part. Raises ``Damaged``, ``StorageError``."""
    data = read_part(checkpoint, name)
    if data is None:
        return None
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:  # its digest is right: somebody wrote this, but not we
        raise _damaged(checkpoint.path / name, f"{name}: unreadable", "unreadable") from error


def find_part_path(checkpoint: CheckpointInfo, name: str) -> Path | None:
    """Return the file of a part after proving all of it, ``None`` if there is no such part. Raises ``Damaged``."""
    part = _part_of(checkpoint, name)
    if part is None:
        return None
    path = checkpoint.path / name
    if fault := _look_at_part(path, part, deep=True):
        raise _damaged(path, f"{name}: {fault}", fault)
    return path


def quarantine_damaged(home: Home, session_id: str) -> list[str]:
    """Set the damaged checkpoints above the newest whole one aside; returns a phrase for each. Raises ``StorageError``."""
    told = []
    for found in iter_checkpoints(home.session(session_id), deep=False):
        if found.whole:
            break
        if found.too_new:
            continue
        if quarantine.quarantine(home, found.path, found.damage, session_id) is not None:
            told.append(f"checkpoint {found.number} set aside ({found.damage})")
    return told


def describe_launch(record: SessionRecord, launch: LaunchSpec) -> dict[str, Any]:
    """Return the launch part: all it takes to start the session again, even if its record were lost."""
    return {
        **launch.encode(),
        "name": record.name,
        "workspace": record.workspace,
        "restart": str(record.restart),
        "hosting": str(record.hosting),
    }


# Taking


def _add_transcript(draft: Draft, conversation: Conversation, before: CheckpointInfo | None) -> None:
    """Copy the agent's transcript up to its last whole line; if it lost it, take over the copy of the checkpoint before."""
    if conversation.transcript is None:
        return
    try:
        fd = os.open(conversation.transcript, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError):
        sight = look_at_transcript(conversation.transcript)
        draft.notes.append(f"the transcript is {sight.state}")
    else:
        try:
            sight = look_at_open(fd, by_lines=conversation.transcript.endswith((".jsonl", ".ndjson")))
            if sight.whole_bytes > TRANSCRIPT_LIMIT_BYTES:
                draft.notes.append(f"the transcript has {sight.size_bytes} bytes and was not copied")
                return
            if sight.state is not TranscriptState.WHOLE:
                draft.notes.append(
                    f"the transcript has a {sight.state}" if sight.whole_bytes else f"the transcript is {sight.state}"
                )
            if not sight.is_lost:
                draft.copy(manifest.TRANSCRIPT, fd, sight.whole_bytes)
        finally:
            os.close(fd)
    if sight.is_lost and before is not None and _is_of(before, conversation):
        _take_over(draft, before, manifest.TRANSCRIPT)


def _take_over(draft: Draft, before: CheckpointInfo, name: str) -> None:
    part = _part_of(before, name)
    if part is not None:
        draft.take_over(part, before.path)


def _is_of(checkpoint: CheckpointInfo, conversation: Conversation) -> bool:
    try:
        saved = read_json(checkpoint, manifest.CONVERSATION)
    except (Damaged, StorageError):
        return False
    return isinstance(saved, dict) and saved.get("id") == conversation.id


def _promote(home: Home, record: SessionRecord, draft: Draft, cwd: str, why: str, clock: Clock) -> Manifest:
    """Give the filled directory its number and let it appear."""
    paths, registry = home.session(record.id), Registry(home, clock)
    for _ in range(_TRIES):
        number = _find_next_number(home, record)
        # Git may take its time, so it is asked before the lock is held.
        git = gitstate.capture(cwd, record.id, number)
        try:
            if git is not None:
                draft.add_json(manifest.GIT, git.encode())
            saved = Manifest(
                session=record.id,
                number=number,
                epoch=record.epoch,
                at=clock.wall_s(),
                why=why,
                parts=tuple(draft.parts),
                notes=tuple(draft.notes),
            )
            encoded = sealed.encode_sealed(manifest.MANIFEST_KIND, manifest.MANIFEST_FORMAT, saved.encode())
            draft.write(manifest.MANIFEST_NAME, encoded)
            failpoints.hit("checkpoint.filled")
            draft.make_durable()
            with registry.hold(record.id, epoch=record.epoch):
                if _find_next_number(home, record) == number:
                    failpoints.hit("checkpoint.rename")
                    os.rename(draft.directory, paths.checkpoints / manifest.name_directory(number))
                    failpoints.hit("checkpoint.promoted")
                    files.sync_directory(paths.checkpoints)
                    return saved
        except BaseException:
            if draft.directory.is_dir():  # else it did appear; only that is not yet proven durable
                _forget_ref(git)
            raise
        # Another process of the same incarnation was quicker: the number is taken, the parts are still good.
        _forget_ref(git)
        draft.drop(manifest.MANIFEST_NAME)
        if git is not None:
            draft.drop(manifest.GIT)
    raise Busy(f"other processes take checkpoints of {record.name} all the time", hint="try again")


def _find_next_number(home: Home, record: SessionRecord) -> int:
    """Return a number that was never used: not by a checkpoint that is there, set aside, or restored from."""
    paths = home.session(record.id)
    used = [number for number, _ in _list_directories(paths)]
    for thing in quarantine.list_quarantined(home, record.id):
        if manifest.DIRECTORY_PATTERN.fullmatch(thing.name):
            used.append(int(thing.name))
    return max([record.restored_from or 0, *used]) + 1


def _drop_old(paths: SessionPaths) -> None:
    """Drop all but the newest; one that cannot be dropped stays for the next time."""
    for _, directory in _list_directories(paths)[CHECKPOINTS_KEPT:]:
        refs, cwd = [], None
        try:
            git = gitstate.GitState.decode(json.loads((directory / manifest.GIT).read_bytes()))
            refs, cwd = ([git.ref] if git.ref else []), git.top
        except (OSError, ValueError, TypeError, KeyError):
            pass  # without git, or damaged: then its ref, if any, stays
        aside = paths.checkpoints / f"{files.TEMPORARY_MARK}{secrets.token_hex(6)}"
        try:
            failpoints.hit("checkpoint.drop")
            os.rename(directory, aside)
        except OSError:
            continue
        shutil.rmtree(aside, ignore_errors=True)
        if cwd is not None:
            gitstate.forget(cwd, refs)


def _sweep_temporaries(paths: SessionPaths, now_s: float) -> None:
    """Remove what takers that died left behind."""
    for name in _list_names(paths.checkpoints):
        if name.startswith(files.TEMPORARY_MARK):
            try:
                old = now_s - os.lstat(paths.checkpoints / name).st_mtime > SWEEP_AGE_S
            except OSError:
                continue
            if old:
                shutil.rmtree(paths.checkpoints / name, ignore_errors=True)


def _forget_ref(git: gitstate.GitState | None) -> None:
    if git is not None and git.ref is not None:
        gitstate.forget(git.top, [git.ref])


# Verifying


def _list_directories(paths: SessionPaths) -> list[tuple[int, Path]]:
    """Return the numbers and directories of all checkpoints, newest first."""
    names = [name for name in _list_names(paths.checkpoints) if manifest.DIRECTORY_PATTERN.fullmatch(name)]
    return [(int(name), paths.checkpoints / name) for name in sorted(names, reverse=True)]


def _list_names(directory: Path) -> list[str]:
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StorageError.from_os(error, "list", directory) from error


def _look(directory: Path, number: int, session_id: str, *, deep: bool) -> CheckpointInfo:
    path = directory / manifest.MANIFEST_NAME
    try:
        found = Manifest.decode(sealed.read_sealed(path, manifest.MANIFEST_KIND, manifest.MANIFEST_FORMAT))
    except Damaged as error:
        return CheckpointInfo(number=number, manifest=None, path=directory, damage=f"manifest: {error.reason}")
    except FormatTooNew as error:
        damage = f"manifest: format {error.format} of a newer crewkeep"
        return CheckpointInfo(number=number, manifest=None, path=directory, damage=damage, too_new=True)
    except Refused:  # a symbolic link, a directory, or larger than any manifest
        return CheckpointInfo(number=number, manifest=None, path=directory, damage="manifest: wrong-shape")
    except (KeyError, TypeError, ValueError):
        return CheckpointInfo(number=number, manifest=None, path=directory, damage="manifest: wrong-shape")
    if found.number != number or found.session != session_id:
        damage = f"manifest: is that of checkpoint {found.number} of session {found.session}"
        return CheckpointInfo(number=number, manifest=found, path=directory, damage=damage)
    for part in found.parts:
        if fault := _look_at_part(directory / part.name, part, deep=deep):
            return CheckpointInfo(number=number, manifest=found, path=directory, damage=f"{part.name}: {fault}")
    return CheckpointInfo(number=number, manifest=found, path=directory)


def _look_at_part(path: Path, part: Part, *, deep: bool) -> str:
    """Return what is wrong with a part's file, in a word of ``errors.Damaged.reason``; empty if nothing is."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return "missing"
    except OSError as error:
        if error.errno == errno.ELOOP:
            return "wrong-shape"  # a symbolic link
        raise StorageError.from_os(error, "read", path) from error
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            return "wrong-shape"
        if status.st_size != part.bytes:
            return "empty" if status.st_size == 0 else "truncated" if status.st_size < part.bytes else "trailing"
        if not deep and part.bytes > PART_VERIFY_BYTES:
            return ""
        digest, zeros, at = hashlib.sha256(), True, 0
        while chunk := os.pread(fd, CHUNK_BYTES, at):
            digest.update(chunk)
            zeros = zeros and not chunk.strip(b"\0")
            at += len(chunk)
    except OSError as error:
        raise StorageError.from_os(error, "read", path) from error
    finally:
        os.close(fd)
    if digest.hexdigest() == part.digest:
        return ""
    return "zero-filled" if zeros else "wrong-digest"


def _part_of(checkpoint: CheckpointInfo, name: str) -> Part | None:
    return checkpoint.manifest.find_part(name) if checkpoint.manifest is not None else None


def _damaged(path: Path, what: str, reason: str) -> Damaged:
    return Damaged(f"{path} is damaged ({what})", hint="the checkpoint before it is used", path=str(path), reason=reason)
