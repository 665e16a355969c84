"""A large context: what many keys cost those who open it, write to it, watch a part of it, and the disk.

The keys are laid out in prefixes of 1,000, each a value of about 1 KB, written once: no history.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import orjson
import psutil  # type: ignore[import-untyped]

from benchmarks.context.crew import call
from benchmarks.context.machine import scratch_directory
from benchmarks.context.peers.ours import without_flushes
from benchmarks.context.stats import cut
from benchmarks.context.writers import make_value
from coordinator.context import SharedContext
from coordinator.services.view import View
from coordinator.system import processes

PREFIX_COUNT = 1000
SMALL_COUNT = 100
#: Filling and reading a million keys in one process takes minutes on a slow machine.
_TIMEOUT_S = 1800.0
_boots = itertools.count(1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Large:
    """Contexts that were filled: the large one, one with a single prefix of it, and a small one."""

    keys: int
    large: Path
    one_prefix: Path
    small: Path
    #: Bytes of the large one's keys and encoded values, and what its directory takes on the disk.
    payload_bytes: int
    disk_bytes: int


@contextlib.contextmanager
def filled(keys: int, parent: Path) -> Iterator[Large]:
    """Give the filled contexts, and remove them afterwards."""
    with scratch_directory(parent) as directory:
        places = {count: directory / str(count) for count in sorted({keys, PREFIX_COUNT, SMALL_COUNT})}
        payload_bytes = {count: call(_fill, place, count, timeout_s=_TIMEOUT_S) for count, place in places.items()}
        yield Large(
            keys=keys,
            large=places[keys],
            one_prefix=places[PREFIX_COUNT],
            small=places[SMALL_COUNT],
            payload_bytes=payload_bytes[keys],
            disk_bytes=_measure_disk(places[keys]),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Swaps:
    """Median of one read and compare-and-swap, in the large context and in the small one, in turns."""

    large_ms: float
    small_ms: float


def measure_swaps(large: Large, count: int) -> Swaps:
    """Swap random keys of both contexts in turns."""
    found: Swaps = call(_swap_in_turns, large, count, timeout_s=_TIMEOUT_S)
    return found


def measure_open(large: Large) -> float:
    """Return the milliseconds of a process that opens the large context and reads one key."""
    return float(call(_open_and_get, large.large, large.keys, timeout_s=_TIMEOUT_S))


def measure_power_loss(large: Large) -> float:
    """Return the milliseconds of a process that is the first to open the large context after power loss, and reads one key."""
    found: float = call(_open_after_power_loss, large.large, large.keys, next(_boots), timeout_s=_TIMEOUT_S)
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Growth:
    """What opening a context, watching one prefix and holding its view adds to a process."""

    #: Memory of its own (USS); and what of it is not backed by a file, which the kernel cannot drop.
    uss_bytes: int
    anonymous_bytes: int


def measure_growth(directory: Path) -> Growth:
    """Let a process watch the first prefix of a context."""
    found: Growth = call(_watch_prefix, directory, timeout_s=_TIMEOUT_S)
    return found


def name_key(number: int) -> str:
    return f"keys/{number // PREFIX_COUNT:04d}/{number % PREFIX_COUNT:03d}"


def forget_boot(directory: Path, boot: int) -> None:
    """Let this process find ``directory`` as the first one would after power loss.

    The machine says that it is in another boot, which voids whatever is bound to one; what stands on the disk stays; and
    the kernel has none of it in memory. This is the one place to change when the engine keeps something else.
    """
    processes._boot_id = f"boot {boot} after a simulated power loss"
    for path in directory.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
                if hasattr(os, "posix_fadvise"):
                    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)


def _fill(directory: Path, count: int) -> int:
    payload_bytes = 0
    context = SharedContext.open(directory)
    with without_flushes():
        for number in range(count):
            key, value = name_key(number), make_value(number)
            context.put(key, value, expected_version=0)
            payload_bytes += len(key) + len(orjson.dumps(value))
    context.close()
    return payload_bytes


def _measure_disk(directory: Path) -> int:
    """Return the bytes that are allocated for a directory and all in it."""
    return sum(path.lstat().st_blocks * 512 for path in [directory, *directory.rglob("*")])


def _swap_in_turns(large: Large, count: int) -> Swaps:
    stores = [(SharedContext.open(large.large), large.keys), (SharedContext.open(large.small), SMALL_COUNT)]
    took_s: list[list[float]] = [[], []]
    for number in range(-len(stores), count):  # the first of each opens what is opened when it is first used
        for which, (context, keys) in enumerate(stores):
            key = name_key(random.randrange(keys))
            begun_s = time.perf_counter()
            entry = context.get(key)
            if entry is None:
                raise AssertionError(f"{key!r} was stored and is not there")
            context.put(key, make_value(number), expected_version=entry.version)
            if number >= 0:
                took_s[which].append(time.perf_counter() - begun_s)
    for context, _ in stores:
        context.close()
    return Swaps(large_ms=cut(took_s[0], 50) * 1000, small_ms=cut(took_s[1], 50) * 1000)


def _open_and_get(directory: Path, keys: int) -> float:
    number = random.randrange(keys)
    key = name_key(number)
    begun_s = time.perf_counter()
    context = SharedContext.open(directory)
    entry = context.get(key)
    took_s = time.perf_counter() - begun_s
    if entry is None:
        raise AssertionError(f"{key!r} was stored and is not there")
    context.close()
    return took_s * 1000


def _open_after_power_loss(directory: Path, keys: int, boot: int) -> float:
    forget_boot(directory, boot)
    took_ms = _open_and_get(directory, keys)
    context = SharedContext.open(directory)
    if (commits := sum(context.revisions().values())) < keys:
        raise AssertionError(f"{keys} commits were acknowledged before the power loss, {commits} are there after it")
    context.close()
    return took_ms


def _watch_prefix(directory: Path) -> Growth:
    process = psutil.Process()
    before = process.memory_full_info()
    anonymous_bytes = _anonymous_bytes()
    context = SharedContext.open(directory)
    prefix = name_key(0).rpartition("/")[0] + "/"
    view = View(prefix, context.snapshot(prefix))
    changes = context.watch(prefix)
    context.put(name_key(0), make_value(-1), unconditional=True)
    view.apply(next(changes))
    if len(view) != PREFIX_COUNT or view[name_key(0)].value != make_value(-1):
        raise AssertionError(f"{PREFIX_COUNT} keys are below {prefix!r}, the view has {len(view)}")
    after = process.memory_full_info()
    growth = Growth(uss_bytes=after.uss - before.uss, anonymous_bytes=_anonymous_bytes() - anonymous_bytes)
    context.close()
    return growth


def _anonymous_bytes() -> int:
    try:
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Anonymous:")), 0)
