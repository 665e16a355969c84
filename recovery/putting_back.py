"""Puts back what an agent lost: its launch, its conversation, its transcript, the state it asked to keep.

What the session still has whole is newer than any checkpoint, so it is kept. The newest whole checkpoint gives the rest; a
checkpoint that proves damaged when it is used is set aside, and the one before takes its place. With an explicit number
everything comes from that checkpoint, and what is replaced is set aside beside it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coordinator.agents.base import get_agent, name_culprit
from coordinator.errors import CrewkeepError, Damaged, NotFound, Refused, StartFailed, StorageError
from coordinator.paths import Home
from coordinator.sessions.conversation import Conversation, read_conversation, write_conversation
from coordinator.sessions.journal import Journal
from coordinator.sessions.model import LaunchSpec, SessionRecord
from coordinator.sessions.registry import Registry
from coordinator.system import failpoints, files
from recovery import manifest, quarantine
from recovery.checkpoint import (
    CheckpointInfo,
    find_newest_whole,
    find_part_path,
    get_checkpoint,
    quarantine_damaged,
    read_json,
)
from recovery.transcript import TranscriptState, look_at_transcript


@dataclass(frozen=True, kw_only=True, slots=True)
class RestoredState:
    """What a new incarnation starts from."""

    #: Number of the checkpoint, ``None`` for a cold start.
    checkpoint: int | None = None
    conversation: Conversation | None = None
    #: What the program gave to ``session.checkpoint``; ``None`` also if it never did (see ``has_state``).
    state: Any = None
    has_state: bool = False
    #: Durable revisions of the shared context's shards when the checkpoint was taken.
    revisions: dict[int, int] | None = None
    #: For people: what was set aside or could not be put back.
    notes: tuple[str, ...] = ()


def find_launch(home: Home, registry: Registry, record: SessionRecord) -> LaunchSpec:
    """Return how the session is launched: from its file, else rebuilt from the journal, else from the newest whole checkpoint.

    Raises ``Damaged`` when none of them has it.
    """
    try:
        return registry.get_launch(record.id)
    except Damaged as error:
        damage = error
    rebuilt = registry.rebuild_launch(record.id)
    if rebuilt is not None:
        return rebuilt
    found = find_newest_whole(home.session(record.id))
    try:
        saved = read_json(found, manifest.LAUNCH) if found is not None else None
        launch = LaunchSpec.decode(saved) if isinstance(saved, dict) else None
    except (Damaged, KeyError, TypeError, ValueError):
        launch = None
    if launch is None:
        raise damage
    path = home.session(record.id).launch
    if os.path.lexists(path):
        quarantine.quarantine(home, path, damage.reason, record.id)
    registry.set_launch(record.id, launch, epoch=record.epoch)
    return launch


def check_wanted(home: Home, record: SessionRecord, number: int) -> CheckpointInfo:
    """Return the checkpoint that was asked for. Raises ``NotFound``, or ``Refused`` if it is damaged."""
    chosen = get_checkpoint(home.session(record.id), number, deep=True)
    if not chosen.whole:
        hint = f"choose another: crewkeep checkpoints {record.name}"
        raise Refused(f"checkpoint {number} of {record.name} is damaged: {chosen.damage}", hint=hint)
    return chosen


def put_back(home: Home, registry: Registry, record: SessionRecord, launch: LaunchSpec, number: int | None) -> RestoredState:
    """Put back what is missing, from the newest whole checkpoint or from ``number``, as the incarnation ``record.epoch``.

    Can be done twice. Raises ``NotFound`` or ``Refused`` for a checkpoint that was asked for and is not there or damaged,
    ``StorageError``, ``Superseded``.
    """
    paths = home.session(record.id)
    notes = quarantine_damaged(home, record.id)
    if number is not None:
        return _use(home, record, launch, check_wanted(home, record, number), notes, replace=True)
    below: int | None = None
    while (found := find_newest_whole(paths, below)) is not None:
        try:
            return _use(home, record, launch, found, notes, replace=False)
        except Damaged as error:
            if not error.path.startswith(os.fspath(found.path)):
                raise
            # A large part, which is proven only when it is used.
            quarantine.quarantine(home, found.path, str(error), record.id)
            notes.append(f"checkpoint {found.number} set aside ({error})")
            below = found.number
    return _use(home, record, launch, None, notes, replace=False)


def read_restored_state(home: Home, record: SessionRecord) -> RestoredState:
    """Return what the incarnation of ``record`` was restored from, for the process that it became. Raises ``Damaged``."""
    conversation = read_conversation(home.session(record.id))
    if record.restored_from is None:
        return RestoredState(conversation=conversation)
    try:
        chosen = get_checkpoint(home.session(record.id), record.restored_from)
    except NotFound:
        return RestoredState(conversation=conversation, notes=(f"checkpoint {record.restored_from} is not kept any more",))
    return _read(chosen, conversation, [])


def _use(
    home: Home, record: SessionRecord, launch: LaunchSpec, found: CheckpointInfo | None, notes: list[str], *, replace: bool
) -> RestoredState:
    conversation = _put_back_conversation(home, record, found, notes, replace=replace)
    if found is not None and conversation is not None:
        _put_back_transcript(launch, conversation, found, notes, replace=replace)
    return _read(found, conversation, notes)


def _read(found: CheckpointInfo | None, conversation: Conversation | None, notes: list[str]) -> RestoredState:
    if found is None or found.manifest is None:
        return RestoredState(conversation=conversation, notes=tuple(notes))
    context = read_json(found, manifest.CONTEXT) or {}
    return RestoredState(
        checkpoint=found.number,
        conversation=conversation,
        state=read_json(found, manifest.STATE),
        has_state=found.manifest.find_part(manifest.STATE) is not None,
        revisions={int(shard): revision for shard, revision in context.get("revisions", {}).items()},
        notes=tuple(notes),
    )


def _put_back_conversation(
    home: Home, record: SessionRecord, found: CheckpointInfo | None, notes: list[str], *, replace: bool
) -> Conversation | None:
    paths = home.session(record.id)
    damage: Damaged | None = None
    try:
        own = read_conversation(paths)
    except Damaged as error:
        own, damage = None, error
    saved = _read_saved_conversation(found)
    chosen: Conversation | None
    if replace and saved is not None:
        chosen = saved
    elif own is not None:
        return own
    elif damage is not None:
        chosen = _find_journalled_conversation(home, record) or saved
    else:
        chosen = saved
    if damage is not None:
        quarantine.quarantine(home, paths.conversation, damage.reason, record.id)
        notes.append(f"conversation.json set aside ({damage.reason})")
    if chosen is not None and chosen != own:
        write_conversation(paths, chosen, epoch=record.epoch)
    return chosen


def _read_saved_conversation(found: CheckpointInfo | None) -> Conversation | None:
    saved = read_json(found, manifest.CONVERSATION) if found is not None else None
    try:
        return Conversation.decode(saved) if isinstance(saved, dict) else None
    except (KeyError, ValueError):
        return None


def _find_journalled_conversation(home: Home, record: SessionRecord) -> Conversation | None:
    try:
        last = Journal(home.session(record.id)).read().find_last("conversation")
        return Conversation.decode(last.body) if last is not None else None
    except (CrewkeepError, KeyError, ValueError):
        return None


def _put_back_transcript(
    launch: LaunchSpec, conversation: Conversation, found: CheckpointInfo, notes: list[str], *, replace: bool
) -> None:
    """Give the agent its transcript back if it lost it. Its adapter has the last word on whether its own is whole."""
    part = found.manifest.find_part(manifest.TRANSCRIPT) if found.manifest is not None else None
    saved = _read_saved_conversation(found)
    if part is None or saved is None or saved.id != conversation.id:
        return
    was = "lost"
    if conversation.transcript is not None:
        state = look_at_transcript(conversation.transcript).state
        was = "replaced" if replace else "damaged" if state is TranscriptState.WHOLE else state  # only its end was looked at
    path = find_part_path(found, manifest.TRANSCRIPT)
    assert path is not None, "the manifest names it"
    failpoints.hit("recover.transcript")
    beside = _set_beside(conversation.transcript) if replace and conversation.transcript is not None else None
    try:
        with name_culprit(launch.agent):
            restored = get_agent(launch.agent).restore_transcript(conversation, path)
    except StartFailed as error:  # an adapter that is not there, or broken: the agent starts with what it finds
        restored = False
        notes.append(f"the transcript could not be put back: {error}")
    if restored:
        notes.append(f"the transcript was put back from checkpoint {found.number} (it was {was})")
    elif replace:
        notes.append(f"the conversation was left as it is: {launch.agent} does not take an older copy of it")
        if beside is not None and conversation.transcript is not None:
            _rename(beside, conversation.transcript)


def _set_beside(path: str) -> str | None:
    """Move a transcript that is to be replaced out of the way and tell where its owner finds it; ``None`` if there is none."""
    if not os.path.lexists(path):
        return None
    number = 1
    while os.path.lexists(f"{path}.replaced-{number}"):
        number += 1
    _rename(path, f"{path}.replaced-{number}")
    return f"{path}.replaced-{number}"


def _rename(path: str, new: str) -> None:
    try:
        os.rename(path, new)
    except OSError as error:
        raise StorageError.from_os(error, "rename", path) from error
    files.sync_directory(Path(path).parent)
