"""Check: walk every invariant of a context on disk and say what does not hold; mend it on request.

Checking takes no lock and changes nothing that an opening would not. A shard is whole if its log can be replayed up to
everything that was published, every value is JSON, every key belongs there, and log, control page and index agree in both
directions.

Repair works shard by shard under the shard lock: the damaged log is set aside whole, and the records in it that still prove
themselves become the next generation. Fences and rules are taken from the other shards as well, since each has them all.
What only logs that were set aside before still have is added. Its floor is above every revision that was ever published, so a
watcher that missed something is told so, and a session that sees it so high brings back what it holds of what was lost
(``Context.reinstate``).
Not promised: that version numbers of a lost record are never given again; a finding says how many revisions are gone.
"""

from __future__ import annotations

import dataclasses
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

import orjson

from coordinator.context import aside, codec, compaction, format1, log, meta, rewrite
from coordinator.context.codec import ENTRY, FENCE, HEADER_BYTES, REINSTATED, RULE, WROTE, Header, Record
from coordinator.context.control import ControlPage, State
from coordinator.context.generation import Generation, Standing
from coordinator.context.keys import find_shard
from coordinator.context.log import LOG_NAME, Scan
from coordinator.context.meta import Meta
from coordinator.context.model import ContextFinding
from coordinator.context.open_shard import CONTROL_NAME
from coordinator.context.replay import Replay
from coordinator.context.shard import LOCK_NAMES, Shard
from coordinator.context.table import INDEX_NAME, Slot, TableVoid, make_word
from coordinator.errors import Damaged, StorageError
from coordinator.system import files
from coordinator.system.wakeup import Bell

#: Above the highest revision found, where it is not known how many were lost. Arbitrary, and more than a log can lose.
_UNKNOWN_LOSS = 1_000_000_000


def check_context(
    directory: Path, found: Meta, bell: Bell, *, repair: bool, timeout_s: float, now_s: float
) -> list[ContextFinding]:
    """Return what is wrong, shard by shard. Raises ``FormatTooNew``, ``Busy`` or ``StorageError``."""
    findings = list(_check_kinds(directory, found.shard_count, repair=repair, now_s=now_s))
    blocked = {finding.shard for finding in findings if not finding.repaired}
    if None not in blocked:
        findings += _check_meta(directory, found, repair=repair, timeout_s=timeout_s)
    opened = [
        Shard(meta.name_shard(directory, number), number, found.header(number), bell, lock_timeout_s=timeout_s)
        for number in range(found.shard_count)
        if number not in blocked
    ]
    damaged = []
    for shard in opened:
        if (finding := check_shard(shard)) is not None:
            damaged.append((shard, finding))
    if not repair:
        return findings + [finding for _, finding in damaged]
    standing = _find_standing([shard for shard in opened if shard not in [bad for bad, _ in damaged]])
    return findings + [repair_shard(shard, finding, standing, now_s=now_s) for shard, finding in damaged]


def check_shard(shard: Shard) -> ContextFinding | None:
    """Return what is wrong with a shard, if anything."""
    try:
        generation, state = shard.look()
        replay = Replay(generation.header.floor)
        if finding := _check_log(shard, generation, state, replay):
            return finding
        if _check_table(generation, state, replay):
            return _check_table_alone(shard)
    except Damaged as error:
        return _finding(shard, error.reason, error.message, Path(error.path))
    except TableVoid as error:
        return _finding(shard, "wrong-index", str(error), shard.directory / INDEX_NAME)
    return None


def _check_table_alone(shard: Shard) -> ContextFinding | None:
    """Look at the table again with nobody writing: a split under way, or one that a killed writer left, is no fault."""
    with shard.alone() as page:
        generation, state = shard.prepare(page)
        replay = Replay(generation.header.floor)
        if finding := _check_log(shard, generation, state, replay):
            return finding
        reason = _check_table(generation, state, replay)
    return _finding(shard, "wrong-index", reason, shard.directory / INDEX_NAME) if reason else None


def _check_log(shard: Shard, generation: Generation, state: State, replay: Replay) -> ContextFinding | None:
    """Replay the log up to ``state``; return what is wrong with it."""
    path, scan = shard.path, Scan()
    for placed in log.iter_records(generation.fd, generation.header, scan, state.end, path):
        if reason := _judge_record(placed.record, generation.header):
            return _finding(shard, "wrong-shape", f"the record at {placed.offset} {reason}", path)
        if reason := replay.apply(placed):
            return _finding(shard, "wrong-order", f"the log is damaged at {placed.offset}: {reason}", path)
    if scan.reason or (scan.end, scan.checksum, scan.length) != (state.end, state.checksum, state.length):
        reason = scan.reason or "wrong-order"
        return _finding(shard, reason, f"{path} is damaged at {scan.end}: {state.end} were published", path)
    if (replay.revision, replay.standing) != (state.revision, state.standing):
        message = f"revision {state.revision} was published where the log is at {replay.revision}"
        return _finding(shard, "wrong-order", message, shard.directory / CONTROL_NAME)
    return None


def _check_table(generation: Generation, state: State, replay: Replay) -> str | None:
    """Return what is wrong between the log and the table that leads into it, in either direction."""
    for key, newest in replay.newest.items():
        found = generation.find_newest(key, state)
        if found is None or found.offset != newest.offset:
            return f"{key!r} is at {newest.offset}, and the index leads to {found.offset if found else 'nothing'}"
    led_to = set()
    for word in generation.table.iter_words():
        address = Slot(-1, word).address
        if address >= state.end:
            continue  # written since
        key = generation.read(address).record.key
        at = replay.newest.get(key)
        if word != make_word(key, address, deleted=generation.read(address).record.deleted):
            return f"the index says of {key!r} what its record does not"
        if at is None or at.offset != address:
            return f"the index leads to {address}, which is not the newest version of {key!r}"
        if key in led_to:
            return f"the index leads twice to {key!r}"
        led_to.add(key)
    return None


def _judge_record(record: Record, header: Header) -> str | None:
    if record.kind != ENTRY:
        return None
    if find_shard(record.key, header.shard_count) != header.shard:
        return f"has the key {record.key!r} of another shard"
    if record.deleted:
        return None if not record.value else "is a tombstone with a value"
    try:
        orjson.loads(record.value)
    except ValueError:
        return "has a value that is not JSON"
    return None


def repair_shard(shard: Shard, finding: ContextFinding, standing: Standing, *, now_s: float) -> ContextFinding:
    """Set the damaged file aside and go on from what is whole. Returns the finding with what was done."""
    path = shard.path
    files.make_directory(shard.directory)
    with shard.alone() as page:
        if finding.reason == "wrong-index" or finding.path == str(shard.directory / CONTROL_NAME):
            kept = aside.link_aside(
                shard.directory.parent, f"{shard.number:02d}-index", finding.reason, shard.directory / INDEX_NAME, now_s=now_s
            )
            page.void()
            shard.prepare(page)
            message = f"{finding.message}: it was made anew from the log; the old one is {kept}"
            return dataclasses.replace(finding, message=message, repaired=True)
        header, records, lost = _salvage(shard, page, path)
        header, records, found = _add_older(shard.directory.parent, header, records)
        kept = aside.link_aside(shard.directory.parent, _name_log(shard.number), finding.reason, path, now_s=now_s)
        page.void()
        rewrite.write_generation(path, header, _iter_repaired(records, standing))
        shard.prepare(page)
    told = "it cannot be told how many revisions are gone" if lost is None else f"{lost} revisions are gone"
    where = f"; the damaged log is {kept}" if kept is not None else ""
    older = f", {found} {'entry' if found == 1 else 'entries'} came from logs set aside before" if found else ""
    message = f"{finding.message}: {len(records) - found} whole records were kept{older}, {told}{where}"
    return dataclasses.replace(finding, message=message, repaired=True)


def _salvage(shard: Shard, page: ControlPage, path: Path) -> tuple[Header, list[Record], int | None]:
    """Return the header of the next generation, the records of this one that prove themselves, and how many are gone."""
    published = page.read_published()
    generation = published.generation if published is not None else 0
    header, records, lost = dataclasses.replace(shard.header, generation=max(generation, 1)), list[Record](), None
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        fd = -1
    except OSError as error:
        raise StorageError.from_os(error, "open", path) from error
    if fd >= 0:
        try:
            found = codec.decode_header(log.read_at(fd, 0, HEADER_BYTES, path))
            if isinstance(found, Header) and found.context_id == header.context_id and found.shard == header.shard:
                header = found
            records = list(
                _iter_whole((placed.record for placed in log.find_whole_records(fd, header, HEADER_BYTES, path)), header)
            )
            if not records:  # none, or all of the first format
                older = [record for *_, record in format1.find_records(fd, header, path)]
                records = list(_iter_whole(format1.iter_upgraded(older), header))
            known = page.read_all()
            if known.is_suspect and published is not None and published.generation == header.generation:
                records = [record for record in records if record.kind != ENTRY or record.revision <= published.revision]
            if published is not None and isinstance(found, Header):
                kept = sum(record.kind == ENTRY and record.revision > header.floor for record in records)
                lost = published.revision - header.floor - kept
        finally:
            os.close(fd)
    highest = max((record.revision for record in records), default=0)
    floor = max(header.floor, highest, published.revision) if published is not None else highest + _UNKNOWN_LOSS
    generation = max(header.generation, generation) + 1
    return dataclasses.replace(header, format=codec.LOG_FORMAT, generation=generation, floor=floor), records, lost


def _add_older(context: Path, header: Header, records: list[Record]) -> tuple[Header, list[Record], int]:
    """Add what only logs that were set aside before still have: of each key the newest version, where that is lost."""
    newest = {record.key: record.version for record in records if record.kind == ENTRY}
    found: dict[str, Record] = {}
    for path in sorted((context / aside.ASIDE_NAME).glob(f"{_name_log(header.shard)}.*")):
        for record in _read_older(path, header):
            if record.version > newest.get(record.key, 0):
                newest[record.key], found[record.key] = record.version, record
    revision = header.floor
    added = []
    for record in sorted(found.values(), key=lambda record: record.revision):
        revision += 1
        added.append(record._replace(revision=revision, flags=record.flags | REINSTATED))
    return dataclasses.replace(header, floor=revision), records + added, len(added)


def _read_older(path: Path, wanted: Header) -> list[Record]:
    """Return the whole entries of a log that was set aside; none if it cannot be read, or is another's."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return []
    try:
        header = codec.decode_header(log.read_at(fd, 0, HEADER_BYTES, path))
        if not isinstance(header, Header) or (header.context_id, header.shard) != (wanted.context_id, wanted.shard):
            return []
        found = [placed.record for placed in log.find_whole_records(fd, header, HEADER_BYTES, path)]
    except StorageError:
        return []
    finally:
        os.close(fd)
    return [record for record in found if record.kind == ENTRY and _judge_record(record, wanted) is None]


def _name_log(shard: int) -> str:
    return f"{shard:02d}-log"


def _iter_whole(records: Iterable[Record], header: Header) -> Iterator[Record]:
    """Yield the records that stand in order, whatever stood between them."""
    revision, versions = 0, dict[str, int]()
    for record in records:
        if _judge_record(record, header) is not None:
            continue
        if record.kind == ENTRY:
            if record.revision <= revision or record.version <= versions.get(record.key, 0):
                continue
            revision, versions[record.key] = record.revision, record.version
        yield record


def _iter_repaired(records: list[Record], standing: Standing) -> Iterator[Record]:
    epochs, writers, rules = dict(standing.epochs), dict(standing.writers), dict(standing.rules)
    for record in records:
        if record.session:
            epochs[record.session] = max(record.epoch, epochs.get(record.session, 0))
            if record.kind == ENTRY or record.flags & WROTE:
                writers[record.session] = max(record.epoch, writers.get(record.session, 0))
        if record.kind == RULE:
            rules[record.key] = record.value.decode("utf-8", "replace")
    yield from compaction.iter_standing(Standing(0, epochs, writers, rules))
    yield from (record for record in records if record.kind not in (FENCE, RULE))


def _find_standing(whole: list[Shard]) -> Standing:
    epochs, rules = dict[str, int](), dict[str, str]()
    for shard in whole:
        found = shard.standing()
        for session, epoch in found.epochs.items():
            epochs[session] = max(epoch, epochs.get(session, 0))
        rules.update(found.rules)
    return Standing(0, epochs, {}, rules)


def _check_kinds(directory: Path, shard_count: int, *, repair: bool, now_s: float) -> Iterator[ContextFinding]:
    """Look for what is no file where a file must be, and no directory where a directory must be: a link, a pipe, anything."""
    names: list[tuple[int | None, str]] = [
        (None, aside.ASIDE_NAME),
        (None, meta.META_LOCK_NAME),
        (None, meta.META_NAME),
        (None, meta.BELL_NAME),
    ]
    for number in range(shard_count):
        shard = meta.name_shard(directory, number).name
        names.append((number, shard))
        names += [(number, f"{shard}/{name}") for name in (LOG_NAME, CONTROL_NAME, INDEX_NAME, *LOCK_NAMES)]
    for owner, name in names:
        path = directory / name
        is_directory = name == aside.ASIDE_NAME or (path.parent == directory and owner is not None)
        try:
            mode = os.stat(path, follow_symlinks=is_directory).st_mode
        except (FileNotFoundError, NotADirectoryError):
            continue  # missing is another finding, where it is one; below no directory there is nothing
        except OSError as error:
            raise StorageError.from_os(error, "look at", path) from error
        if stat.S_ISDIR(mode) if is_directory else stat.S_ISREG(mode):
            continue
        message = f"{path} is not a {'directory' if is_directory else 'regular file'}"
        if repair:
            message += f"; it is now {aside.move_aside(directory, name.replace('/', '-'), 'wrong-shape', path, now_s=now_s)}"
        yield ContextFinding(shard=owner, reason="wrong-shape", message=message, path=str(path), repaired=repair)


def _check_meta(directory: Path, found: Meta, *, repair: bool, timeout_s: float) -> Iterator[ContextFinding]:
    try:
        meta.read_meta(directory)
    except Damaged as error:
        if repair:
            durable, count = found.durable, found.shard_count
            meta.open_meta(directory, durable=durable, shards=count, must_exist=True, timeout_s=timeout_s)
        yield ContextFinding(shard=None, reason=error.reason, message=error.message, path=error.path, repaired=repair)


def _finding(shard: Shard, reason: str, message: str, path: Path) -> ContextFinding:
    return ContextFinding(shard=shard.number, reason=reason, message=message, path=str(path))
