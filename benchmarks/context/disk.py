"""The disk: how often it can be made to keep 1 KB, with nothing around it. No store without batching can be faster."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks.context.crew import open_crew
from benchmarks.context.machine import scratch_directory

#: What a commit of a value of 1 KB writes, about.
_RECORD_BYTES = 1100
#: Written before it is measured, so that no flush must allocate anything.
_FILE_BYTES = 4 << 20
_HEAD_START_S = 0.05
#: macOS has none; its fsync does not flush the disk's own cache either.
_flush = getattr(os, "fdatasync", os.fsync)


@dataclass(frozen=True, kw_only=True, slots=True)
class Flushes:
    """Bare ``pwrite`` and ``fdatasync`` of one round."""

    round: int
    count: int
    per_s: float


def measure_flushes(number: int, count: int, seconds: float, parent: Path) -> Flushes:
    """Overwrite a file that stands already, record after record, in so many processes with a file each."""
    with scratch_directory(parent) as directory, open_crew() as crew:
        writers = [crew.start(_overwrite, directory / str(which)) for which in range(count)]
        for writer in writers:
            writer.hear()
        start_s = time.monotonic() + _HEAD_START_S
        for writer in writers:
            writer.tell((start_s, start_s + seconds))
        done: list[int] = [writer.hear() for writer in writers]
    return Flushes(round=number, count=count, per_s=sum(done) / seconds)


def _overwrite(link: Connection, path: Path) -> None:
    record = os.urandom(_RECORD_BYTES)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    os.pwrite(descriptor, bytes(_FILE_BYTES), 0)
    os.fsync(descriptor)
    link.send("ready")
    start_s, end_s = link.recv()
    time.sleep(max(0.0, start_s - time.monotonic()))
    done = offset = 0
    while True:
        os.pwrite(descriptor, record, offset)
        _flush(descriptor)
        if time.monotonic() > end_s:
            break
        done += 1
        offset = (offset + _RECORD_BYTES) % (_FILE_BYTES - _RECORD_BYTES)
    os.close(descriptor)
    link.send(done)
