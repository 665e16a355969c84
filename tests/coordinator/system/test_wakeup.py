"""The bell: nobody sleeps through a ring, and waiting costs nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import wait_until

from coordinator.errors import StorageError
from coordinator.system import wakeup
from coordinator.system.wakeup import Bell

ROOT = Path(__file__).parents[3]


@pytest.fixture(params=["futex", "poll"])
def make_bell(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Bell]]:
    """Make handles on one bell, with futexes and without."""
    if request.param == "poll":
        monkeypatch.setattr(wakeup, "_CALL", None)
    made: list[Bell] = []

    def make() -> Bell:
        made.append(Bell(tmp_path / "bell"))
        if made[-1].mode != request.param:
            pytest.skip("no futex here")
        return made[-1]

    yield make
    for bell in made:
        bell.close()


class Waiter(threading.Thread):
    """Waits once, in a thread, and notes when and with what it came back."""

    def __init__(self, bell: Bell, seen: int, timeout_s: float = 30) -> None:
        super().__init__(daemon=True)
        self.bell, self.seen, self.timeout_s = bell, seen, timeout_s
        self.value: int | None = None
        self.start()

    def run(self) -> None:
        self.value = self.bell.wait(self.seen, self.timeout_s)

    def is_back(self) -> bool:
        self.join(0.001)
        return not self.is_alive()


def test_every_ring_shows_in_every_handle(make_bell: Callable[[], Bell]) -> None:
    one, two = make_bell(), make_bell()
    seen = two.value()
    one.ring()
    assert two.value() == seen + 1
    two.ring()
    assert one.value() == seen + 2


def test_a_wait_returns_at_once_if_the_number_is_another(make_bell: Callable[[], Bell]) -> None:
    bell = make_bell()
    seen = bell.value()
    bell.ring()
    begun = time.monotonic()
    assert bell.wait(seen, 30) == seen + 1
    assert time.monotonic() - begun < 5


def test_a_wait_ends_in_time(make_bell: Callable[[], Bell]) -> None:
    bell = make_bell()
    begun = time.monotonic()
    assert bell.wait(bell.value(), 0.05) == bell.value()
    assert 0.045 <= time.monotonic() - begun < 5
    assert bell.wait(bell.value(), 0) == bell.value()
    assert bell.wait(bell.value(), -1) == bell.value()


def test_one_ring_wakes_all_waiters_also_those_of_the_ringing_process(make_bell: Callable[[], Bell]) -> None:
    one, two = make_bell(), make_bell()
    waiters = [Waiter(bell, one.value()) for bell in (one, one, two, two)]
    one.ring()
    for waiter in waiters:
        wait_until(waiter.is_back, what="a waiter")
        assert waiter.value == one.value()


def test_no_ring_of_two_processes_is_lost(make_bell: Callable[[], Bell]) -> None:
    bell = make_bell()
    before, count = bell.value(), 2000
    child = os.fork()
    if child == 0:
        for _ in range(count):
            bell.ring()
        os._exit(0)
    for _ in range(count):
        bell.ring()
    assert os.waitpid(child, 0)[1] == 0
    assert bell.value() == before + 2 * count


def test_another_process_is_woken(tmp_path: Path) -> None:
    bell = Bell(tmp_path / "bell")
    code = f"""
from pathlib import Path
from coordinator.system.wakeup import Bell
bell = Bell(Path({str(tmp_path / "bell")!r}))
seen = bell.value()
for _ in range(20):
    print(seen, flush=True)
    seen = bell.wait(seen, 30)
"""
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            assert int(line) == bell.value()
            bell.ring()
        assert process.wait() == 0
    bell.close()


def test_closing_ends_the_waits_and_may_be_done_twice(make_bell: Callable[[], Bell]) -> None:
    bell = make_bell()
    waiter = Waiter(bell, bell.value())
    bell.close()
    wait_until(waiter.is_back, what="the waiter")
    bell.close()
    bell.ring()
    assert bell.wait(0, 30) == 0


def test_handles_leave_no_descriptor(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        bell = Bell(tmp_path / "bell")
        bell.ring()
        bell.wait(bell.value(), 0)
        bell.close()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("damage", ["truncate", "replace", "remove"])
def test_a_damaged_bell_rings_again(make_bell: Callable[[], Bell], tmp_path: Path, damage: str) -> None:
    bell, path = make_bell(), tmp_path / "bell"
    for _ in range(3):
        bell.ring()
    if damage == "truncate":
        os.truncate(path, 0)
    else:
        path.unlink()
        if damage == "replace":
            make_bell()
    other = make_bell()
    waiter = Waiter(bell, bell.value())
    # The waiter may have looked before the file was mended: who rings again, as every commit does, is heard.
    wait_until(lambda: other.ring() or waiter.is_back(), what="the waiter")


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that other users can reach, as those of pytest cannot be."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


def test_a_bell_that_may_only_be_read_is_polled(open_directory: Path) -> None:
    rung = Bell(open_directory / "bell")
    (open_directory / "bell").chmod(0o444)
    code = f"""
import os
from pathlib import Path
from coordinator.system.wakeup import Bell
if os.geteuid() == 0:
    os.setresuid(65534, 65534, 65534)
bell = Bell(Path({str(open_directory / "bell")!r}))
seen = bell.value()
bell.ring()
print(bell.mode, bell.value() == seen, flush=True)
print(bell.wait(seen, 30) != seen)
"""
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "poll True\n"
        rung.ring()
        assert process.stdout.readline() == "True\n"
    rung.close()


def test_a_bell_without_a_place_is_an_error_with_the_path(tmp_path: Path) -> None:
    with pytest.raises(StorageError) as caught:
        Bell(tmp_path / "nowhere" / "bell")
    assert caught.value.cause == "ENOENT"
    (tmp_path / "link").symlink_to(tmp_path / "bell")
    with pytest.raises(StorageError):
        Bell(tmp_path / "link")


def test_an_idle_wait_takes_no_time_of_the_processor(tmp_path: Path) -> None:
    bell = Bell(tmp_path / "bell")
    if bell.mode != "futex":
        pytest.skip("no futex here")
    before = time.process_time()
    bell.wait(bell.value(), 0.5)
    assert time.process_time() - before < 0.05
    bell.close()


def test_a_signal_does_not_end_a_wait(tmp_path: Path) -> None:
    import signal

    bell = Bell(tmp_path / "bell")
    rung: list[float] = []
    before = signal.signal(signal.SIGALRM, lambda *_: rung.append(time.monotonic()))
    signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
    try:
        begun = time.monotonic()
        bell.wait(bell.value(), 0.1)
        assert time.monotonic() - begun >= 0.095
        assert rung
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        bell.close()
