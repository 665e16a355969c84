"""An owner's link to the patrol may be closed from another thread, wherever its own thread is just then."""

from __future__ import annotations

import linecache
import os
import socket
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

import pytest
from session_support import make_session
from support import wait_until

from coordinator.paths import Home
from coordinator.system import files, sockets
from crewkeep import patrol_client
from crewkeep.patrol_client import PatrolLink

#: More than the steps that the thread ever takes before it waits.
_MOST_STEPS = 400


class FakePatrol:
    """Takes every connection at the patrol's socket and answers nothing; ``hang_up`` ends them."""

    def __init__(self, home: Home) -> None:
        files.make_directory(home.patrol)
        self._listener = sockets.listen(home.patrol_socket)
        self.taken: list[socket.socket] = []

    def take(self) -> None:
        while (connection := sockets.accept(self._listener)) is not None:
            self.taken.append(connection)

    def hang_up(self) -> None:
        self.take()
        for connection in self.taken:
            connection.close()
        self.taken = []

    def close(self) -> None:
        self.hang_up()
        self._listener.close()


class Stop:
    """Holds a thread before one of its lines in the link's code, the ``step``-th that it comes to."""

    def __init__(self, step: int) -> None:
        self._step, self._count = step, 0
        self.reached, self.go_on = threading.Event(), threading.Event()
        self.where = ""

    def trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        if frame.f_code.co_filename != patrol_client.__file__:
            return None
        if event == "line":
            self._count += 1
            if self._count == self._step:
                self.where = f"{frame.f_code.co_name}:{frame.f_lineno}"
                self.reached.set()
                assert self.go_on.wait(20)
        return self.trace


@pytest.fixture
def patrol(home: Home) -> Iterator[FakePatrol]:
    patrol = FakePatrol(home)
    yield patrol
    patrol.close()


@pytest.fixture
def failures(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What threads of the test failed with."""
    failed: list[str] = []
    monkeypatch.setattr(
        threading, "excepthook", lambda told: failed.append(f"{told.thread.name if told.thread else '?'}: {told.exc_value!r}")
    )
    return failed


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Descriptors that ``os.close`` was given and that were not open: each a chance to close somebody else's."""
    wrong: list[int] = []
    close = os.close

    def watch(fd: int) -> None:
        try:
            close(fd)
        except OSError:
            wrong.append(fd)
            raise

    monkeypatch.setattr(os, "close", watch)
    return wrong


def list_open() -> dict[str, str]:
    found = {}
    for fd in os.listdir("/proc/self/fd"):
        try:
            found[fd] = os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:
            continue  # the listing's own
    return found


def find_thread() -> threading.Thread | None:
    return next((thread for thread in threading.enumerate() if thread.name == "crewkeep-patrol-link"), None)


@pytest.mark.parametrize("is_hung_up", [False, True], ids=["patrol there", "patrol hangs up"])
def test_a_link_can_be_closed_at_every_line_that_its_thread_may_be_at(
    home: Home, patrol: FakePatrol, failures: list[str], closed: list[int], is_hung_up: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patrol_client.PatrolStart, "_spawn", lambda self: None)
    record = make_session(home)
    before = list_open()
    places: set[str] = set()
    for step in range(1, _MOST_STEPS):
        stop, link = Stop(step), PatrolLink(home, record, {})
        threading.settrace(stop.trace)
        try:
            link.start_thread()
        finally:
            threading.settrace(None)  # type: ignore[arg-type]
        thread = find_thread()
        assert thread is not None
        if is_hung_up:
            wait_until(lambda link=link, stop=stop: link.fileno() is not None or stop.reached.is_set(), what="a connection")  # type: ignore[misc]
            if link.fileno() is not None:
                patrol.hang_up()
        # It stops there, or it has come to wait for words before it has taken so many steps.
        came = wait_until(
            lambda stop=stop, thread=thread: "there" if stop.reached.is_set() else "waits" if is_waiting(thread) else "",  # type: ignore[misc]
            what="the thread there",
        )
        closer = threading.Thread(target=link.close, name="closer")
        closer.start()
        wait_until(lambda link=link, closer=closer: not closer.is_alive() or link._lock.locked() or link._closed, what="a close")  # type: ignore[misc]
        stop.go_on.set()
        closer.join(20)
        thread.join(20)
        assert not closer.is_alive() and not thread.is_alive(), f"closed at {stop.where}"
        patrol.hang_up()
        assert (failures, closed) == ([], []), f"closed at {stop.where}"
        places.add(stop.where)
        if came == "waits":
            break
    assert came == "waits", "every line up to there was tried"
    assert {"_run", "maintain", "fileno"} <= {place.partition(":")[0] for place in places}, places
    assert list_open() == before


def test_a_link_whose_closer_is_held_at_any_line_ends_as_well(
    home: Home, patrol: FakePatrol, failures: list[str], closed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patrol_client.PatrolStart, "_spawn", lambda self: None)
    monkeypatch.setattr(patrol_client, "PATROL_CHECK_S", 0.001)  # so that the thread goes round without being told to
    monkeypatch.setattr(patrol_client, "rouse_patrol", lambda home, silent_s: None)
    record = make_session(home)
    before = list_open()
    for step in range(1, _MOST_STEPS):
        stop, link = Stop(step), PatrolLink(home, record, {})
        link.start_thread()
        thread = find_thread()
        assert thread is not None
        wait_until(lambda thread=thread: is_waiting(thread), what="the thread to wait for words")  # type: ignore[misc]
        threading.settrace(stop.trace)
        try:
            closer = threading.Thread(target=link.leave, name="closer")
            closer.start()
        finally:
            threading.settrace(None)  # type: ignore[arg-type]
        wait_until(lambda stop=stop, closer=closer: stop.reached.is_set() or not closer.is_alive(), what="the closer there")  # type: ignore[misc]
        # Whatever the thread can do meanwhile it does: it ends, goes on, or waits for the lock that the closer holds.
        wait_until(
            lambda link=link, thread=thread: not thread.is_alive() or not link._lock.locked() or wants_lock(thread),  # type: ignore[misc]
            what="the thread at its end, at work or held up",
        )
        if link._closed and not link._lock.locked():
            thread.join(20)
        stop.go_on.set()
        closer.join(20)
        thread.join(20)
        assert not closer.is_alive() and not thread.is_alive(), f"held at {stop.where}"
        patrol.hang_up()
        assert (failures, closed) == ([], []), f"held at {stop.where}"
        if not stop.where:
            break
    assert not stop.where, "every line of the closer was tried"
    assert list_open() == before


def wants_lock(thread: threading.Thread) -> bool:
    """Tell whether the thread is at a line that takes the link's lock."""
    frame = sys._current_frames().get(thread.ident or 0)
    return frame is not None and "with self._lock:" in linecache.getline(frame.f_code.co_filename, frame.f_lineno)


def is_waiting(thread: threading.Thread) -> bool:
    """Tell whether the thread sits in the kernel, in the link's ``poll``."""
    frame = sys._current_frames().get(thread.ident or 0)
    if frame is None or frame.f_code.co_name != "_run" or thread.native_id is None:
        return False
    try:
        with (
            open(f"/proc/self/task/{thread.native_id}/wchan") as file,
            open(f"/proc/self/task/{thread.native_id}/syscall") as call,
        ):
            return "poll" in file.read() or call.read().split()[0] in ("7", "271")
    except OSError:
        return False


def test_many_links_that_are_closed_at_once_leave_no_descriptor_and_no_failure(
    home: Home, patrol: FakePatrol, failures: list[str], closed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patrol_client.PatrolStart, "_spawn", lambda self: None)
    record = make_session(home)
    before, interval_s = list_open(), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for number in range(300):
            link = PatrolLink(home, record, {})
            link.start_thread()
            thread = find_thread()
            for _ in range(number % 50):
                link.fileno()
            if number % 3 == 0:
                patrol.hang_up()
            closers = [threading.Thread(target=close) for close in (link.close, link.leave)]
            for closer in closers:
                closer.start()
            for closer in [*closers, *([thread] if thread else [])]:
                closer.join(20)
                assert not closer.is_alive()
            patrol.hang_up()
    finally:
        sys.setswitchinterval(interval_s)
    assert (failures, closed) == ([], [])
    assert list_open() == before
