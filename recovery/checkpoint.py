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

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from coordinator import sealed
from coordinator.agents import get_agent
from coordinator.config import CHECKPOINTS_KEPT, SWEEP_AGE_S, TRANSCRIPT_LIMIT_BYTES
from coordinator.context.values import encode_value
from coordinator.errors import Busy, CrewkeepError, Damaged, NotFound, StorageError
from coordinator.paths import Home, SessionPaths
from coordinator.sessions.conversation import Conversation
from coordinator.sessions.model import LaunchSpec, SessionRecord
from coordinator.sessions.registry import Registry
from coordinator.system import failpoints, files
from coordinator.system.clock import SYSTEM, Clock
from recovery import gitstate, manifest, quarantine
from recovery.draft import Draft, fill_aside
from recovery.manifest import Manifest
from recovery.saved import CheckpointInfo as CheckpointInfo
from recovery.saved import find_part_path as find_part_path
from recovery.saved import look_at_checkpoint
from recovery.saved import read_json as read_json
from recovery.saved import read_part as read_part
from recovery.transcript import TranscriptState, look_at_open, look_at_transcript

#: ``state=KEEP`` takes the state over from the checkpoint before.
KEEP: Final[Any] = object()
_TRIES = 20


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
    files.make_directory(paths.checkpoints, parents=False)
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
            yield look_at_checkpoint(directory, number, paths.path.name, deep=deep)


def find_newest_whole(paths: SessionPaths, below: int | None = None, *, deep: bool = False) -> CheckpointInfo | None:
    """Return the newest whole checkpoint (numbered below ``below``); older ones are not looked at. Raises ``StorageError``."""
    return next((found for found in iter_checkpoints(paths, below=below, deep=deep) if found.whole), None)


def get_checkpoint(paths: SessionPaths, number: int, *, deep: bool = False) -> CheckpointInfo:
    """Return one checkpoint, verified, whole or not. Raises ``NotFound``, ``StorageError``."""
    directory = paths.checkpoints / manifest.name_directory(number)
    if not directory.is_dir():
        raise NotFound(f"session {paths.path.name} has no checkpoint {number}", hint="see `crewkeep checkpoints`")
    return look_at_checkpoint(directory, number, paths.path.name, deep=deep)


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


def list_git_states(paths: SessionPaths) -> list[gitstate.GitState]:
    """Return the git parts of all checkpoints: they tell who removes the session in which repositories it has refs."""
    return [git for _, directory in _list_directories(paths) if (git := _read_git(directory)) is not None]


def forget_git_refs(states: Iterable[gitstate.GitState]) -> None:
    """Remove the hidden refs of checkpoints that are gone. What git cannot remove stays; nothing is raised for it."""
    for git in states:
        if git.ref is not None:
            gitstate.forget(git.top, [git.ref])


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
        _add_export(draft, conversation, before)
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


def _add_export(draft: Draft, conversation: Conversation, before: CheckpointInfo | None) -> None:
    """The same for a transcript that is no file of its own: its adapter knows how to take it out."""
    try:
        exported = get_agent(conversation.agent).export_transcript(conversation)
    except CrewkeepError as error:  # also an adapter that this crewkeep does not have
        draft.notes.append(f"the transcript could not be read: {error}")
        exported = None
    if exported is not None and len(exported) > TRANSCRIPT_LIMIT_BYTES:
        draft.notes.append(f"the transcript has {len(exported)} bytes and was not copied")
    elif exported is not None:
        draft.add(manifest.TRANSCRIPT, exported)
    elif before is not None and _is_of(before, conversation):
        _take_over(draft, before, manifest.TRANSCRIPT)


def _take_over(draft: Draft, before: CheckpointInfo, name: str) -> None:
    part = before.find_part(name)
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
            if git is not None and draft.directory.is_dir():  # else it did appear; only that is not yet proven durable
                forget_git_refs([git])
            raise
        # Another process of the same incarnation was quicker: the number is taken, the parts are still good.
        draft.drop(manifest.MANIFEST_NAME)
        if git is not None:
            forget_git_refs([git])
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
        git = _read_git(directory)
        aside = paths.checkpoints / f"{files.TEMPORARY_MARK}{os.urandom(6).hex()}"
        try:
            failpoints.hit("checkpoint.drop")
            os.rename(directory, aside)
        except OSError:
            continue
        shutil.rmtree(aside, ignore_errors=True)
        forget_git_refs([git] if git is not None else [])


def _read_git(directory: Path) -> gitstate.GitState | None:
    """Return the git part of a checkpoint that is to go; ``None`` without one, or if it is damaged (then its ref stays)."""
    try:
        return gitstate.GitState.decode(json.loads((directory / manifest.GIT).read_bytes()))
    except (OSError, ValueError, TypeError, KeyError):
        return None


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
