"""Gathers what the judges judge: all of detection's looking, and nothing but looking.

One session's evidence is read in a fixed order and the clocks last, so that nothing can seem younger than now. A file that
cannot be read is evidence too: gathering raises only if there is no such session. A damaged record is stood in for by the
journal's last version of it, so that its processes are still known.

Costs some milliseconds; ``Look.THOROUGH`` verifies whole files and keeps out of the way of a hanging file system.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

from coordinator.config import START_TIMEOUT_S, Settings
from coordinator.errors import CrewkeepError, Damaged, FormatTooNew, NotFound, Refused, StorageError
from coordinator.ids import ID_PATTERN
from coordinator.paths import Home, SessionPaths
from coordinator.sessions.conversation import Conversation, read_conversation
from coordinator.sessions.heartbeat import HeartbeatFile
from coordinator.sessions.journal import Journal, JournalContent
from coordinator.sessions.model import Beat, Phase, SessionRecord
from coordinator.sessions.registry import Registry
from coordinator.system import files, probe, processes, scan
from coordinator.system.clock import SYSTEM, Clock
from coordinator.system.processes import Liveness, ProcessIdentity
from recovery.brake import HELD_AFTER_S, EndCause, Ended
from recovery.checkpoint import iter_checkpoints
from recovery.fruit import has_borne_fruit
from recovery.model import CheckpointSight, DiskSight, Evidence, FileSight, Presence, ProcessSight
from recovery.strays import gather_strays as gather_strays
from recovery.transcript import TranscriptState, look_at_transcript

#: A file system that does not answer a probe for so long is said to hang.
PROBE_TIMEOUT_S = 3.0


class Look(StrEnum):
    """How closely to look."""

    #: What a recovery needs: the journal's end, small parts of the newest checkpoint, a probe in this process.
    QUICK = "quick"
    #: For people who ask why: every byte of what is looked at, and a probe that cannot hang this process.
    THOROUGH = "thorough"


def gather(
    home: Home,
    registry: Registry,
    session_id: str,
    clock: Clock = SYSTEM,
    settings: Settings | None = None,
    *,
    expected_epoch: int | None = None,
    look: Look = Look.THOROUGH,
) -> Evidence:
    """Return what can be seen of one session. Raises ``NotFound`` and nothing else.

    ``expected_epoch`` is the epoch that the asker believes in: a newer one makes it superseded.
    """
    settings = settings or Settings()
    paths = home.session(session_id)
    if not ID_PATTERN.fullmatch(session_id) or not paths.path.is_dir():
        raise NotFound(f"there is no session {session_id!r:.80}", hint="see `crewkeep ps -a`")
    gathering = _Gathering(home, registry, paths, look)
    record = gathering.look_at_record()
    gathering.look_at("launch", lambda: registry.get_launch(session_id))
    beat = gathering.look_at_heartbeat()
    conversation = gathering.look_at("conversation", lambda: read_conversation(paths))
    checkpoints = gathering.look_at_checkpoints()
    agent = _observe(record.agent) if record else Liveness.NONE
    if isinstance(conversation, Conversation):
        gathering.look_at_transcript(conversation, is_written=not agent.is_gone)
    owner = _observe(record.owner) if record else Liveness.NONE
    # Where the pid layer decides (a dead owner), or nothing can be left, a recovery need not scan the machine: it reaps anyway.
    decided = record is None or (record.phase is not Phase.ENDED and (owner.is_gone or not record.unreaped_nonces))
    marked, unreaped = ((), ()) if record is None or (decided and look is Look.QUICK) else _find_marked(record)
    me = processes.identify_self()
    return Evidence(
        session=session_id,
        record=record,
        owner=owner,
        agent=agent,
        recoverer=_observe(record.recoverer) if record else Liveness.NONE,
        owner_is_self=record is not None and record.owner == me,
        recoverer_is_self=record is not None and record.recoverer == me,
        expected_epoch=expected_epoch,
        beat=beat,
        boot_id=processes.boot_id(),
        heartbeat_interval_s=settings.heartbeat_interval_s,
        lease_s=settings.lease_s,
        hang_after_s=settings.hang_after_s,
        start_timeout_s=START_TIMEOUT_S,
        files=tuple(gathering.files),
        checkpoints=checkpoints,
        disk=look_at_disk(paths, look),
        marked=marked,
        unreaped=unreaped,
        parent_missing=record is not None and _is_parent_missing(home, record),
        fruitful=record is not None and owner.is_gone and has_borne_fruit(home, record),
        now_wall_s=clock.wall_s(),
        now_monotonic_s=clock.monotonic_s(),
        now_boottime_s=clock.boottime_s(),
    )


def look_at_disk(paths: SessionPaths, look: Look) -> DiskSight:
    """Try the session's directory. Never raises."""
    # The probe comes first: on a file system that hangs, asking for its free space hangs as well.
    found = probe.probe_apart(paths.path, PROBE_TIMEOUT_S) if look is Look.THOROUGH else probe.probe_directory(paths.path)
    if found.cause == probe.TIMEOUT:
        return DiskSight(probed=False, cause=found.cause, operation=found.operation, path=str(paths.path))
    try:
        free_bytes, free_inodes = files.free_bytes_and_inodes(paths.path)
    except StorageError as error:
        return DiskSight(
            probed=False, cause=found.cause or error.cause, operation=found.operation or "look", path=str(paths.path)
        )
    return DiskSight(
        free_bytes=free_bytes,
        free_inodes=free_inodes,
        probed=found.cause is None,
        cause=found.cause,
        operation=found.operation,
        path=str(paths.path),
    )


def infer_end(evidence: Evidence) -> Ended:
    """Return how the incarnation ended, as far as the evidence tells: what its last heartbeat said of it, and who is gone."""
    record, beat = evidence.record, evidence.beat
    own = beat if record is not None and beat is not None and beat.epoch == record.epoch else None
    held = own is not None and record is not None and record.started_at is not None
    return Ended(
        cause=EndCause.OWNER_DIED if evidence.owner.is_gone else EndCause.SIGNALLED if evidence.owner_is_self else EndCause.HUNG,
        fruitful=evidence.fruitful or (own is not None and own.fruitful),
        held=held and own is not None and own.wall_s - ((record.started_at if record else None) or 0.0) >= HELD_AFTER_S,
    )


class _Gathering:
    """The looks at one session's files; each leaves a ``FileSight``."""

    def __init__(self, home: Home, registry: Registry, paths: SessionPaths, look: Look) -> None:
        self.home, self.registry, self.paths, self.look = home, registry, paths, look
        self.files: list[FileSight] = []

    def look_at(self, name: str, read: Callable[[], object]) -> object:
        """Read a file and note what became of it; returns what was read, ``None`` if nothing could be."""
        path = str(self.paths.path / name)
        try:
            found = read()
        except Damaged as error:
            self._note(name, Presence.DAMAGED, _describe(error), error.path)
        except FormatTooNew as error:
            self._note(name, Presence.TOO_NEW, str(error), error.path)
        except Refused as error:
            self._note(name, Presence.DAMAGED, f"wrong-shape: {error}", path)
        except (NotFound, CrewkeepError, OSError) as error:
            self._note(name, Presence.UNREADABLE, str(error), path)
        else:
            self._note(name, Presence.ABSENT if found is None else Presence.WHOLE)
            return found
        return None

    def look_at_record(self) -> SessionRecord | None:
        """Read the record and the journal; where the record is damaged or went back in time, the journal's last one counts."""
        session_id = self.paths.path.name
        found = self.look_at("record", lambda: self.registry.get(session_id))
        journal = self.look_at_journal()
        last = journal.find_last("record") if journal is not None else None
        record = found if isinstance(found, SessionRecord) else None
        if last is None:
            return record
        try:
            newest = SessionRecord.decode(last.body)
        except (AttributeError, KeyError, TypeError, ValueError):
            return record
        # The journal is written first, so it may be ahead by one change that was cut short.
        if record is not None and record.version >= newest.version - 1:
            return record
        if record is not None:
            detail = f"rolled-back: it is at version {record.version}, its journal at {newest.version}"
            self.files = [one for one in self.files if one.name != "record"]
            self._note("record", Presence.DAMAGED, detail, str(self.paths.record))
        return newest if newest.id == session_id else None

    def look_at_journal(self) -> JournalContent | None:
        """Read the journal. A torn last line is what a kill leaves and spoils nothing."""
        journal = Journal(self.paths)
        found = self.look_at("journal", lambda: journal.read() if self.look is Look.THOROUGH else journal.read_tail())
        if not isinstance(found, JournalContent):
            return None
        if found.damage:
            self.files.pop()
            reasons = ", ".join(sorted({one.reason for one in found.damage}))
            torn = all(one.reason == "truncated" for one in found.damage)
            detail = f"{reasons}: {len(found.damage)} of its lines"
            self._note("journal", Presence.DAMAGED, detail, str(self.paths.journal), harmless=torn)
        elif not found.entries and not self.paths.journal.exists():
            self.files.pop()
            self._note("journal", Presence.ABSENT)
        return found

    def look_at_heartbeat(self) -> Beat | None:
        """Read the heartbeat; one of another session is damage."""
        found = self.look_at("heartbeat", lambda: HeartbeatFile(self.paths.heartbeat).read())
        if not isinstance(found, Beat):
            return None
        if found.session != self.paths.path.name:
            self.files.pop()
            detail = f"wrong-shape: it is that of session {found.session}"
            self._note("heartbeat", Presence.DAMAGED, detail, str(self.paths.heartbeat))
            return None
        return found

    def look_at_checkpoints(self) -> tuple[CheckpointSight, ...]:
        """Look at the newest checkpoint, and at older ones until one is whole."""
        sights = []
        try:
            for found in iter_checkpoints(self.paths, deep=self.look is Look.THOROUGH):
                if found.too_new:
                    self._note(f"checkpoint {found.number}", Presence.TOO_NEW, found.damage, str(found.path))
                    continue
                sights.append(CheckpointSight(number=found.number, whole=found.whole, damage=found.damage))
                if found.whole:
                    break
        except CrewkeepError as error:
            self._note("checkpoints", Presence.UNREADABLE, str(error), str(self.paths.checkpoints))
        return tuple(sights)

    def look_at_transcript(self, conversation: Conversation, *, is_written: bool) -> None:
        """Look at the agent's own file. A torn last line is normal while the agent writes."""
        if conversation.transcript is None:
            return
        sight = look_at_transcript(conversation.transcript)
        if sight.state is TranscriptState.WHOLE:
            self._note("transcript", Presence.WHOLE)
            return
        harmless = is_written and sight.state is TranscriptState.TORN
        self._note("transcript", Presence.DAMAGED, str(sight.state), conversation.transcript, harmless=harmless)

    def _note(self, name: str, presence: Presence, detail: str = "", path: str = "", *, harmless: bool = False) -> None:
        self.files.append(FileSight(name=name, presence=presence, detail=detail, path=path, harmless=harmless))


def _describe(error: Damaged) -> str:
    return error.reason if str(error).endswith(error.reason) else f"{error.reason}: {error}"


def _observe(identity: ProcessIdentity | None) -> Liveness:
    try:
        return processes.observe(identity)
    except OSError:
        return Liveness.UNKNOWN  # nothing could be seen, so nothing is claimed


def _find_marked(record: SessionRecord) -> tuple[tuple[ProcessSight, ...], tuple[ProcessSight, ...]]:
    """Return the living processes with a mark of the session, and those of them with one of an earlier incarnation."""
    marked, unreaped = [], []
    try:
        found = scan.find_marked((record.nonce, *record.unreaped_nonces))
    except OSError:
        return (), ()
    for identity in found:
        raw = scan.read_raw_environment(identity.pid)
        environment = scan.read_environment(identity.pid) or {}
        if scan.is_own_process(raw) or identity == record.owner:
            continue
        epoch = environment.get("CREWKEEP_EPOCH", "")
        sight = ProcessSight(
            pid=identity.pid,
            name=processes.name_of(identity.pid),
            epoch=int(epoch) if epoch.isascii() and epoch.isdigit() else None,
        )
        marked.append(sight)
        if not scan.nonces_in(raw).isdisjoint(record.unreaped_nonces):
            unreaped.append(sight)
    return tuple(marked), tuple(unreaped)


def _is_parent_missing(home: Home, record: SessionRecord) -> bool:
    parent = record.parent
    return parent is not None and ID_PATTERN.fullmatch(parent) is not None and not home.session(parent).path.is_dir()
