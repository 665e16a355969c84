"""The owner's side of the patrol: being watched by it, and watching it.

A keeper (or a Python program) keeps one connection to the patrol open. It tells who it is and hands over the secrets
that its session needs, which the patrol keeps in memory only. When the connection ends, the patrol is gone: after a
tiny pause of chance, so that many keepers do not all do it at once, a new one is started and told again. One that is there
but does not answer (stopped, hung) is roused or ended (`patrol_rousing`).

Two patrols cannot exist (a lock for life); of many who want to start one, a second lock lets one do it while the others wait.
Not promised: that a patrol is there at every moment. What happens without one is found by the next one's first look.
"""

from __future__ import annotations

import json
import os
import random
import select
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from coordinator.config import PATROL_CHECK_S, PATROL_START_TIMEOUT_S
from coordinator.errors import CrewkeepError, TimedOut
from coordinator.paths import Home
from coordinator.sessions.model import SessionRecord
from coordinator.system import files, locks, sockets
from coordinator.system.processes import Liveness, ProcessIdentity, identify_self, observe
from coordinator.system.spawn import spawn_detached
from crewkeep.patrol_rousing import rouse_patrol
from recovery.starter import build_own_command, build_own_environment

_CONNECT_TIMEOUT_S = 1.0
#: After the patrol's end: the longest pause of chance before anybody acts.
_LONGEST_FIRST_PAUSE_S = 0.03
#: While a patrol is being started, by us or by others.
_RETRY_PAUSE_S = 0.025
#: When it cannot be started at all.
_LONGEST_RETRY_PAUSE_S = 5.0
_REPLY_LIMIT_BYTES = 1 << 16


def ensure_patrol(home: Home) -> None:
    """Return when a patrol of this home answers; start one if there is none.

    Raises ``TimedOut`` if none answers in time, ``StorageError`` if the home cannot be written.
    """
    with PatrolStart(home) as patrol:
        patrol.wait()


def ask_patrol(home: Home, verb: str, timeout_s: float = 2.0) -> dict[str, Any] | None:
    """Return the patrol's answer to ``verb`` (``status``, ``look``), ``None`` if there is no patrol or no answer."""
    connection = _try_connect(home)
    if connection is None:
        return None
    try:
        connection.settimeout(timeout_s)
        connection.sendall(json.dumps({"verb": verb}).encode() + b"\n")
        received = b""
        while not received.endswith(b"\n"):
            part = connection.recv(1 << 16)
            if not part:
                return None
            received += part
        answer = json.loads(received)
        return answer if isinstance(answer, dict) else None
    except (OSError, ValueError):
        return None
    finally:
        connection.close()


class PatrolLink:
    """One owner's connection to the patrol.

    In a selector loop: watch ``fileno()`` for reading and call ``on_readable``; call ``maintain`` whenever its last answer
    says. In a program: ``start_thread``. One or the other, never both.
    """

    def __init__(
        self, home: Home, record: SessionRecord, secrets: Mapping[str, str], tell: Callable[[str], None] | None = None
    ) -> None:
        """``tell`` gets a sentence for the log whenever something was done about a silent patrol."""
        self._home, self._record, self._secrets = home, record, dict(secrets)
        self._tell = tell
        self._connection: socket.socket | None = None
        self._starting = PatrolStart(home)
        self._due_s = 0.0
        self._failures = 0
        #: Whether the patrol was asked if it is awake and has not answered, and at how many checks since. Counted, not timed:
        #: we may have been stopped ourselves, or the machine with both of us.
        self._asked, self._silent_count = False, 0
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._wake: tuple[int, int] | None = None
        self._closed = False

    def fileno(self) -> int | None:
        """Return the descriptor to watch for reading, ``None`` while there is no connection."""
        connection = self._connection  # once: another thread may be closing it
        fd = -1 if connection is None else connection.fileno()
        return fd if fd >= 0 else None

    def maintain(self) -> float | None:
        """Do what is due; return the seconds until the next call is wanted, ``None`` if there is nothing to do any more.

        Never raises and never waits longer than a connection on this machine takes.
        """
        with self._lock:
            if self._closed:
                return None
            if (rest_s := self._due_s - time.monotonic()) > 0:
                return rest_s
            if self._connection is not None:
                return self._check(self._connection)
            connection = _try_connect(self._home)
            if connection is not None and self._introduce(connection):
                self._connection, self._failures, self._asked = connection, 0, False
                self._starting.end()
                return self._check(connection)
            try:
                self._starting.go_on()
            except (CrewkeepError, OSError):
                self._starting.end()
            self._failures += 1
            pause_s = _RETRY_PAUSE_S if self._failures < 200 else _LONGEST_RETRY_PAUSE_S
            self._due_s = time.monotonic() + pause_s
            return pause_s

    def on_readable(self) -> None:
        """Take in what the patrol said; at its end, let ``maintain`` find another."""
        with self._lock:
            if self._connection is not None:
                self._take_in(self._connection)

    def follow(self, record: SessionRecord) -> None:
        """Tell the patrol that the same owner goes on at a new epoch."""
        with self._lock:
            self._record = record
            if self._connection is not None and not self._introduce(self._connection):
                self._drop()

    def leave(self) -> None:
        """Say that the session ended in order, and close."""
        with self._lock:
            if self._connection is not None:
                _send(self._connection, {"verb": "leave", "session": self._record.id})
        self.close()

    def close(self) -> None:
        """Let go of everything; the patrol takes it for the owner's end and looks."""
        with self._lock:
            if self._closed:
                return
            if self._wake is not None:
                os.write(self._wake[1], b"\0")  # first: the thread closes the pipe as soon as it sees that this is closed
            self._closed = True
            if self._connection is not None:
                self._connection.close()
                self._connection = None
            self._starting.end()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(1.0)

    def start_thread(self) -> None:
        """Keep the link from a thread of its own (a daemon thread: it never holds up the program's end)."""
        self._wake = os.pipe()
        self._thread = threading.Thread(target=self._run, name="crewkeep-patrol-link", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        assert self._wake is not None
        wake = self._wake[0]
        while not self._closed:
            pause_s = self.maintain()
            fd = self.fileno()
            poller = select.poll()  # a program may have more descriptors than select can take
            for one in (wake, fd):
                if one is not None:
                    poller.register(one, select.POLLIN)
            ready = poller.poll(None if pause_s is None else pause_s * 1000)
            if any(one == fd for one, _ in ready):
                self.on_readable()
        os.close(wake)
        os.close(self._wake[1])

    def _take_in(self, connection: socket.socket) -> None:
        try:
            if connection.recv(_REPLY_LIMIT_BYTES):
                self._asked = False
                return
        except BlockingIOError:
            return
        except OSError:
            pass  # as good as its end
        self._drop()

    def _check(self, connection: socket.socket) -> float:
        """See whether the patrol answered what it was last asked, and ask it again; one that did not is roused."""
        if self._asked:
            self._take_in(connection)  # nobody may have told us yet that it answered
        if self._connection is not None and not self._asked:
            self._silent_count = 0
            self._asked = _send(connection, {"verb": "awake"})
            if not self._asked:
                self._drop()
        elif self._asked:
            self._silent_count += 1
            did = rouse_patrol(self._home, self._silent_count * PATROL_CHECK_S)
            if did is not None and self._tell is not None:
                self._tell(did)
        if self._connection is None:
            return max(0.0, self._due_s - time.monotonic())
        self._due_s = time.monotonic() + PATROL_CHECK_S
        return PATROL_CHECK_S

    def _introduce(self, connection: socket.socket) -> bool:
        return _send(
            connection,
            {
                "verb": "register",
                "session": self._record.id,
                "epoch": self._record.epoch,
                "identity": identify_self().encode(),
                "secrets": self._secrets,
            },
        )

    def _drop(self) -> None:
        assert self._connection is not None
        self._connection.close()
        self._connection, self._asked = None, False
        self._due_s = time.monotonic() + random.uniform(0, _LONGEST_FIRST_PAUSE_S)


class PatrolStart:
    """One caller's part in starting a patrol: whoever gets the start lock does it and holds it until one answers.

    Who was started stands in the lock's file, so that whoever gets the lock before that one answers waits for it as well.
    """

    def __init__(self, home: Home) -> None:
        self._home = home
        self._fd: int | None = None
        self._patrol: ProcessIdentity | None = None
        self._failures = 0
        self._due_s = 0.0

    def __enter__(self) -> PatrolStart:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def wait(self, timeout_s: float = PATROL_START_TIMEOUT_S) -> None:
        """Go on until a patrol answers. Raises ``TimedOut``, ``StorageError``."""
        deadline_s = time.monotonic() + timeout_s
        while ask_patrol(self._home, "awake", timeout_s=_CONNECT_TIMEOUT_S) is None:
            rouse_patrol(self._home, 0.0)
            self.go_on()
            if time.monotonic() >= deadline_s:
                raise TimedOut(
                    f"no patrol answers within {timeout_s:g} s", hint=f"see {self._home.patrol_log}; sessions run without it"
                )
            time.sleep(_RETRY_PAUSE_S)
        self.end()

    def go_on(self) -> None:
        """Take the next step without waiting: get the lock and start one, or leave it to whoever has it."""
        if self._fd is not None:
            if self._patrol is not None and observe(self._patrol).is_gone:  # killed before it answered, or it cannot run
                self._patrol = None
                self._due_s = time.monotonic() + min(_RETRY_PAUSE_S * 2.0**self._failures, _LONGEST_RETRY_PAUSE_S)
                self._failures = min(self._failures + 1, 32)
            if self._patrol is None and time.monotonic() >= self._due_s:
                self._spawn()
            return
        files.make_directory(self._home.patrol)
        fd = locks.open_lock(self._home.patrol_start_lock)
        if not locks.try_acquire(fd, self._home.patrol_start_lock):
            os.close(fd)
            return
        self._fd = fd
        if (connection := _try_connect(self._home)) is not None:  # somebody did it since we looked
            connection.close()
            return
        self._patrol = _find_begun(fd)
        if self._patrol is None:
            self._spawn()

    def end(self) -> None:
        """Give the start lock back."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = self._patrol = None
            self._failures = 0

    def _spawn(self) -> None:
        assert self._fd is not None
        self._patrol = spawn_detached(
            build_own_command("crewkeep.patrol", str(self._home.path)),
            environment=build_own_environment(self._home, "patrol", {}),
            log=self._home.patrol_log,
        )
        try:
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, json.dumps(self._patrol.encode()).encode(), 0)
        except OSError:
            return  # a full disk: then the next who comes before it answers may start one too, and one of the two leaves


def _find_begun(fd: int) -> ProcessIdentity | None:
    """Return the patrol that somebody who left again has started, while it may still be about to answer."""
    try:
        identity = ProcessIdentity.decode(json.loads(os.pread(fd, _REPLY_LIMIT_BYTES, 0)))
        is_young = time.time() - os.fstat(fd).st_mtime < PATROL_START_TIMEOUT_S
        return identity if is_young and observe(identity) is Liveness.ALIVE else None
    except (OSError, KeyError, TypeError, ValueError, AttributeError):
        return None


def _try_connect(home: Home) -> socket.socket | None:
    try:
        connection = sockets.connect(home.patrol_socket, _CONNECT_TIMEOUT_S)
    except (OSError, CrewkeepError):
        return None
    connection.setblocking(False)
    return connection


def _send(connection: socket.socket, message: dict[str, Any]) -> bool:
    """Send one line; tell whether it went out. Registrations are far smaller than a socket's buffer, or they wait a moment."""
    try:
        connection.settimeout(_CONNECT_TIMEOUT_S)
        connection.sendall(json.dumps(message).encode() + b"\n")
        connection.setblocking(False)
    except OSError:
        return False
    return True
