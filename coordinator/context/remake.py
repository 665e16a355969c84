"""Making a shard's control page and table anew from its log: after a reboot, after damage to them, after a failed flush.

The log is the truth; page and table are caches. ``remake`` reads as the order of its steps. It runs under the shard lock,
and it may be interrupted anywhere: the page is bound to this boot last, and whoever comes next begins again.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from coordinator.context import format1, log, saved
from coordinator.context.aside import set_aside
from coordinator.context.codec import Header, Placed
from coordinator.context.control import ControlPage, Page, State
from coordinator.context.flush import GroupFlush
from coordinator.context.generation import Generation
from coordinator.context.log import LOG_NAME, Scan, damaged
from coordinator.context.replay import ContinuedReplay, Replay
from coordinator.context.table import INDEX_NAME, Table
from coordinator.errors import StorageError
from coordinator.system import failpoints, files


def open_generation(path: Path, wanted: Header) -> Generation:
    """Open the log, which must be of that shard and context. Raises ``Damaged``, ``FormatTooNew`` or ``StorageError``."""
    generation = Generation(path)
    found = generation.header
    if (found.shard, found.shard_count, found.context_id) != (wanted.shard, wanted.shard_count, wanted.context_id):
        raise damaged(path, "wrong-shape", "belongs to another shard or context")
    return generation


def open_table(generation: Generation, cuts: int) -> None:
    """Give a generation its table. Raises ``TableVoid`` or ``StorageError``."""
    path = generation.path.with_name(INDEX_NAME)
    generation.use(Table(path, generation.header, cuts, to_write=generation.is_writable), cuts)


def remake(path: Path, wanted: Header, page: ControlPage, flush: GroupFlush, *, now_s: float) -> Generation:
    """Return the generation, with page and table made anew. Raises ``Damaged`` where more is missing than may be."""
    failpoints.hit("shard.recover")
    remove_leftovers(path)
    generation = open_generation(path, wanted)
    if not generation.is_writable:
        raise read_only(path)
    if generation.header.format == format1.FORMAT:
        format1.upgrade(path, page.path)
        generation = open_generation(path, wanted)
    known = page.read_all()
    cuts = _next_cuts(known)
    start, table = _begin_from_saved(generation, cuts)
    replay, last, reason = replay_log(generation, page, known, start, table)  # 1. what proves itself
    state = replay.state(generation.header.generation, cuts, last, start)
    _cut_tail(generation, state.end, known, reason, now_s=now_s)  # 2. nothing behind it
    if generation.header.durable:
        files.sync_directory(path.parent)
        _flush(generation)  # 3. durable, before anybody is shown it
    if table is None:
        replay.table.write(path.with_name(INDEX_NAME), generation.header, state.cuts)  # 4. the table
    open_table(generation, state.cuts)
    page.begin(state)
    flush.replace(page, state)  # 5. visible
    page.set_changing(False)
    page.bind()  # 6. relied upon
    return generation


def read_frozen(path: Path, wanted: Header, page: ControlPage) -> tuple[Generation, State]:
    """Read a log on a file system that is read-only: nobody writes, so nothing needs the lock or can be published."""
    generation = open_generation(path, wanted)
    if generation.header.format == format1.FORMAT:
        raise read_only(path)  # it has to be brought to today's format first
    known = page.read_all()
    replay, last, _ = replay_log(generation, page, known, None, None)
    generation.use(replay.table, -2)
    return generation, replay.state(generation.header.generation, -2, last, None)


def _begin_from_saved(generation: Generation, cuts: int) -> tuple[State | None, Table | None]:
    """Put the table back that was saved last, if there is one, and return it with the state that it leads into."""
    path, header = generation.path, generation.header
    found = saved.load(path.with_name(saved.SAVED_NAME), header, generation.fd, path)
    if found is None:
        return None, None
    state, image = found
    image.write(path.with_name(INDEX_NAME), header, cuts)
    return state, Table(path.with_name(INDEX_NAME), header, cuts)


def replay_log(
    generation: Generation, page: ControlPage, known: Page, start: State | None, table: Table | None
) -> tuple[Replay, Placed | None, str | None]:
    """Replay the log as far as it counts, from ``start`` with its ``table`` or from the beginning.

    Returns also its last record, and what is wrong with what stands behind it.

    Raises ``Damaged`` where that was acknowledged, so that it cannot be what a killed writer or power loss left.
    """
    header, path, published = generation.header, generation.path, known.published
    stop = log.measure(generation.fd, path)
    is_of_this_boot = page.is_of_this_boot()
    if published is not None and published.generation > header.generation:
        raise damaged(path, "rolled-back", f"is generation {header.generation}, but {published.generation} was published")
    bound = 0
    if published is not None and published.generation == header.generation and (is_of_this_boot or header.durable):
        bound = published.end
        if known.is_suspect:  # it says so of this boot, whatever became of the rest of the page
            stop = min(stop, published.end)
        elif is_of_this_boot and known.begun is not None and known.begun.generation == header.generation:
            stop = min(stop, max(known.begun.end, published.end))
    replay, scan, last = Replay(header.floor), Scan(), None
    if start is not None and table is not None:
        replay = ContinuedReplay(header.floor, start, table, generation.read)
        scan = Scan(end=start.end, checksum=start.checksum, length=start.length)
    for placed in log.iter_records(generation.fd, header, scan, stop, path):
        if broken := replay.apply(placed):
            scan.end, scan.reason = placed.offset, "wrong-order"
            raise damaged(path, "wrong-order", f"is damaged at {placed.offset}: {broken}")
        last = placed
    if scan.end < bound:
        raise damaged(path, scan.reason or "truncated", f"is whole up to {scan.end} only; {bound} were published")
    for placed in log.find_whole_records(generation.fd, header, scan.end, path) if header.durable else ():
        if placed.flushed > scan.end:
            raise damaged(path, scan.reason or "truncated", f"is damaged at {scan.end}; {placed.flushed} were durable")
    return replay, last, scan.reason


def remove_leftovers(path: Path) -> None:
    """Remove what a killed compaction or remaking left beside the log. Call it under the shard lock."""
    beginnings = tuple(f".{name}{files.TEMPORARY_MARK}" for name in (LOG_NAME, INDEX_NAME, saved.SAVED_NAME))
    for name in os.listdir(path.parent):
        if name.startswith(beginnings):
            files.remove_quietly(path.parent / name)


def read_only(path: Path) -> StorageError:
    """Return the error of a write to a file system that is read-only."""
    return StorageError.from_os(OSError(errno.EROFS, os.strerror(errno.EROFS)), "write", path)


def _next_cuts(known: Page) -> int:
    states = [state for state in (known.published, known.written, known.begun) if state is not None]
    if not states:
        return int.from_bytes(os.urandom(5), "little")  # another one than whoever still waits has seen
    return max(state.cuts for state in states) + 1


def _cut_tail(generation: Generation, end: int, known: Page, reason: str | None, *, now_s: float) -> None:
    """Leave nothing behind the last record but zeros. What power loss left there is set aside, if there is space for it."""
    path, directory = generation.path, generation.path.parent
    size = log.measure(generation.fd, path)
    tail = log.read_at(generation.fd, end, size - end, path).rstrip(b"\0")
    if not tail:
        return
    if known.written is None:
        name = f"{directory.name}-tail-at-{end}"
        try:
            set_aside(directory.parent, name, reason or "truncated", tail, now_s=now_s)
        except StorageError:
            return  # it stands behind the end, where the next writes go
    try:
        failpoints.hit("shard.cut")
        os.ftruncate(generation.fd, end)
    except OSError as error:
        raise StorageError.from_os(error, "shorten", path) from error


def _flush(generation: Generation) -> None:
    try:
        files.sync_data(generation.fd)
    except OSError as error:
        raise StorageError.from_os(error, "make durable", generation.path) from error
