"""Connect a person's terminal to a session, and stay connected until they leave or the session ends.

The keeper may die and another take its place: then the terminal is put back into order, the record is watched, and the
connection made anew where it broke off. Works without a terminal as well: output is copied whole, input passed on.

Invariants:
  - the person's terminal is put back in every case: detach, end, exception, SIGTERM, SIGHUP, SIGTSTP
  - closing the terminal (SIGHUP) and SIGTERM detach; the session goes on
Not promised: keys that are pressed while no keeper is there; they are dropped, but for the one that detaches.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from dataclasses import dataclass
from typing import Any, Protocol

from coordinator.config import KEEPER_ANSWER_S
from coordinator.errors import CrewkeepError, InvalidInput, Missing, NotFound, Refused, StorageError, TimedOut
from coordinator.paths import Home
from coordinator.sessions.model import Hosting, Phase, SessionRecord
from coordinator.system import sockets
from crewkeep.terminal import frames
from crewkeep.terminal.frames import Frame, FrameReader, Kind
from crewkeep.terminal.keys import DetachKey
from crewkeep.terminal.modes import Modes
from crewkeep.terminal.output import OutputLog
from crewkeep.terminal.person import PENDING_LIMIT_BYTES, PersonsTerminal
from crewkeep.terminal.signals import Signals, catch_signals

STDERR_FD = 2
#: While no keeper is there, the record is looked at so often.
_LOOK_S = 0.05
#: Say that the keeper is gone only after this: a session that just ended has nothing to be waited for.
_PATIENCE_S = 0.25
#: Without a person who could press the key, waiting for a recovery ends.
_WAIT_LIMIT_S = 60.0
_CONNECT_S = 0.5
#: A full-screen program would draw over the line that names the key at once.
_READING_S = 0.8
_READ_BYTES = 1 << 16


class Records(Protocol):
    """What is needed of the registry."""

    def get(self, session_id: str) -> SessionRecord: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Attached:
    """How it ended."""

    #: detached | ended | parked
    how: str
    exit_code: int | None = None
    #: The signal that ended the agent.
    signal: int | None = None
    reason: str | None = None


def attach(
    home: Home,
    registry: Records,
    session_id: str,
    *,
    stdin_fd: int,
    stdout_fd: int,
    detach_key: str = "ctrl-]",
    from_start: bool = False,
) -> Attached:
    """Attach to a session until the person detaches or it ends.

    ``from_start`` shows everything it ever printed, also if it has ended already (for `run`, which starts it and then
    attaches); otherwise the present screen is shown. Raises ``Refused`` for a session that has ended or has no terminal of
    ours, ``NotFound``, ``InvalidInput`` for a key that cannot be, ``TimedOut`` if without a person at the keys no keeper
    comes back.
    """
    key = DetachKey.parse(detach_key)
    record = registry.get(session_id)
    if record.hosting is Hosting.PROGRAM:
        raise Refused(f"session {record.name} is a program with a terminal of its own", hint=f"crewkeep inspect {record.name}")
    if record.phase is Phase.ENDED and not from_start:
        raise Refused(f"session {record.name} has ended", hint=f"crewkeep logs {record.name}")
    with PersonsTerminal(stdin_fd, stdout_fd) as person, catch_signals() as signals:
        visit = _Visit(home, registry, record, person, key, signals, from_start)
        try:
            return visit.run()
        finally:
            visit.hang_up()


class _Visit:
    """One attached terminal."""

    def __init__(
        self,
        home: Home,
        registry: Records,
        record: SessionRecord,
        person: PersonsTerminal,
        key: DetachKey,
        signals: Signals,
        from_start: bool,
    ) -> None:
        self._paths = home.session(record.id)
        self._registry, self._record = registry, record
        self._person, self._key, self._signals = person, key, signals
        self._from_start = from_start
        #: The log's offset behind what was shown; ``None``: begin with the present screen.
        self._offset: int | None = 0 if from_start else None
        self._connection: socket.socket | None = None
        self._reader = FrameReader()
        self._outgoing = bytearray()
        self._greeted = False
        self._epoch: int | None = None
        self._input_open = True
        self._last_typed = b""
        #: Pressed before the first keeper answered.
        self._typed_ahead = b""
        self._interrupted = False
        self._hold_until_s = 0.0
        self._lost_at_s = time.monotonic()
        self._told_loss = False
        self._result: Attached | None = None

    def run(self) -> Attached:
        """Pass bytes in both directions until there is a result."""
        self._look()
        while self._result is None:
            self._wait_and_act()
        if self._result.how != "detached":
            self._write_rest()
        return self._result

    def hang_up(self) -> None:
        """Leave the keeper."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _wait_and_act(self) -> None:
        person, connection = self._person, self._connection
        holding_s = self._hold_until_s - time.monotonic()
        reads: list[Any] = [self._signals.fd]
        writes: list[Any] = []
        if connection is not None:
            if holding_s <= 0 and person.pending_bytes < PENDING_LIMIT_BYTES:
                reads.append(connection)
            if self._outgoing:
                writes.append(connection)
        if self._input_open and (self._greeted or person.reads_keys) and len(self._outgoing) < _READ_BYTES:
            reads.append(person.stdin_fd)
        if person.pending_bytes:
            writes.append(person.out_fd)
        timeout_s = _LOOK_S if not self._greeted else holding_s if holding_s > 0 else None
        readable, writable, _ = select.select(reads, writes, (), timeout_s)
        if self._signals.fd in readable:
            self._on_signals()
        if person.out_fd in writable:
            self._write_out()
        if connection is not None and connection is self._connection:
            if connection in writable:
                self._send()
            if connection in readable and self._result is None:
                self._hear()
        if person.stdin_fd in readable and self._result is None:
            self._read_keys()
        if not self._greeted and self._result is None:
            self._look()

    # The keeper

    def _look(self) -> None:
        """While no keeper has greeted us: see what the record says, and try to reach one."""
        try:
            self._record = self._registry.get(self._record.id)
        except NotFound:
            self._result = Attached(how="ended", reason="it was removed")
            return
        except CrewkeepError as error:
            self._tell_loss(f"its record cannot be read: {error}")
            return
        if self._is_over():
            return
        if self._connection is None:
            self._connect()
        waited_s = time.monotonic() - self._lost_at_s
        if not self._greeted and waited_s > (_PATIENCE_S if self._connection is None else KEEPER_ANSWER_S):
            self._tell_loss("its keeper does not answer" if self._connection else "it has no keeper now")
        if not self._greeted and not self._person.reads_keys and waited_s > _WAIT_LIMIT_S:
            name = self._record.name
            raise TimedOut(f"no keeper of session {name} answered for {waited_s:.0f} s", hint=f"crewkeep why {name}")

    def _is_over(self) -> bool:
        record = self._record
        if record.phase is Phase.ENDED:
            self._show_rest()
            self._result = self._result or Attached(
                how="ended", exit_code=record.exit_code, signal=record.exit_signal, reason=record.reason
            )
        elif record.phase is Phase.PARKED and record.not_before_at is None:
            self._show_rest()
            self._result = self._result or Attached(how="parked", reason=record.reason)
        return self._result is not None

    def _connect(self) -> None:
        try:
            connection = sockets.connect(self._paths.socket, _CONNECT_S)
        except (Missing, TimedOut, StorageError):
            return
        connection.setblocking(False)
        self._connection, self._reader, self._outgoing = connection, FrameReader(), bytearray()
        words: dict[str, Any] = {"from_offset": self._offset}
        if size := self._person.find_size():
            words |= {"rows": size[0], "columns": size[1]}
        self._say(Kind.ATTACH, words)

    def _lose(self) -> None:
        """The keeper hung up or died."""
        self.hang_up()
        self._greeted, self._told_loss, self._lost_at_s = False, False, time.monotonic()
        self._person.reset_screen()

    def _tell_loss(self, what: str) -> None:
        if self._told_loss:
            return
        self._told_loss = True
        leave = f"; {self._key.name} detaches" if self._person.reads_keys else ""
        self._person.say(f"session {self._record.name}: {what}; waiting{leave}", STDERR_FD)

    def _say(self, kind: Kind, payload: bytes | dict[str, Any] = b"") -> None:
        if self._connection is not None:
            self._outgoing += frames.encode(kind, payload)
            self._send()

    def _send(self) -> None:
        if self._connection is None:
            return
        try:
            while self._outgoing:
                del self._outgoing[: self._connection.send(self._outgoing)]
        except BlockingIOError:
            return
        except OSError:
            self._outgoing.clear()  # hung up; reading finds it out, after what it still said

    def _hear(self) -> None:
        assert self._connection is not None
        try:
            data = self._connection.recv(_READ_BYTES)
            heard = self._reader.feed(data)
            for frame in heard:
                self._take(frame)
        except BlockingIOError:
            return
        except (OSError, InvalidInput):
            data = b""
        if not data and self._result is None:
            self._lose()

    def _take(self, frame: Frame) -> None:
        if frame.kind == Kind.OUTPUT:
            self._offset, data = frame.output()
            self._person.show(data)
        elif frame.kind == Kind.HELLO:
            self._greet(frame.words())
        elif frame.kind == Kind.NOTICE:
            words = frame.words()
            if not (words.get("skipped_bytes") and self._person.shows_screen):
                self._person.say(_clean(words.get("text")), STDERR_FD)
        elif frame.kind == Kind.END:
            words = frame.words()
            self._result = Attached(
                how="parked" if words.get("outcome") == Phase.PARKED else "ended",
                exit_code=words.get("exit_code"),
                signal=words.get("signal"),
                reason=words.get("reason"),
            )

    def _greet(self, words: dict[str, Any]) -> None:
        self._greeted = True
        if self._offset is None and isinstance(offset := words.get("offset"), int):
            self._offset = offset  # where the replay ends
        if self._typed_ahead:
            self._say(Kind.INPUT, self._typed_ahead)
            self._typed_ahead = b""
        epoch, name = words.get("epoch"), self._record.name
        if self._epoch is None:
            if self._person.reads_keys:
                self._person.say(f"attached to {name}; {self._key.name} detaches", STDERR_FD)
                if words.get("full_screen") and not self._from_start:
                    self._hold_until_s = time.monotonic() + _READING_S
        elif epoch != self._epoch:
            self._person.say(f"session {name} runs again (epoch {epoch})", STDERR_FD)
        self._epoch = epoch if isinstance(epoch, int) else self._epoch

    def _show_rest(self) -> None:
        """Show what was printed behind the last we saw, from the log: its keeper is gone."""
        self.hang_up()
        if self._offset is None:
            return
        log, cutter = OutputLog(self._paths.output, 0), Modes(self._offset)
        while (chunk := log.read_chunk(self._offset)).data and self._result is None:
            self._offset = chunk.end
            self._person.show(cutter.feed(chunk.data).without_queries())
            self._write_rest(PENDING_LIMIT_BYTES)

    def _write_rest(self, down_to_bytes: int = 0) -> None:
        """Write what waits, however long its reader takes; a signal ends that."""
        while self._person.pending_bytes > down_to_bytes:
            readable, writable, _ = select.select((self._signals.fd,), (self._person.out_fd,), ())
            if readable and not {signal.SIGWINCH, signal.SIGCONT}.issuperset(self._signals.take()):
                self._result = Attached(how="detached")
                return
            if writable and not self._write_out():
                return

    # The person

    def _write_out(self) -> bool:
        try:
            self._person.write_ready()
        except OSError:  # nobody reads any more: a pipe was closed, a terminal hung up
            self._result = self._result or Attached(how="detached")
            return False
        return True

    def _read_keys(self) -> None:
        try:
            data = os.read(self._person.stdin_fd, _READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._end_input()
            return
        at = self._key.find(data) if self._person.reads_keys else None
        if at != 0 and self._greeted:
            self._last_typed = data[:at][-1:]
            self._say(Kind.INPUT, data[:at])
        elif self._epoch is None:
            self._typed_ahead = (self._typed_ahead + data[:at])[:_READ_BYTES]
        if at is not None:
            self._say(Kind.DETACH)
            self._result = Attached(how="detached")

    def _end_input(self) -> None:
        self._input_open = False
        if self._person.reads_keys:
            self._result = Attached(how="detached")  # the terminal hung up
        elif self._last_typed or self._from_start:
            # In the middle of a line, the first ^D only gives the line to the program.
            self._say(Kind.END_INPUT, b"\x04" if self._last_typed in (b"", b"\n") else b"\x04\x04")

    def _on_signals(self) -> None:
        for number in self._signals.take():
            if number == signal.SIGWINCH:
                if size := self._person.find_size():
                    self._say(Kind.RESIZE, {"rows": size[0], "columns": size[1]})
            elif number == signal.SIGTSTP:
                self._person.give_back()
                os.kill(os.getpid(), signal.SIGSTOP)
            elif number == signal.SIGCONT:
                self._come_back()
            elif number == signal.SIGINT and not self._person.reads_keys and self._from_start and not self._interrupted:
                self._interrupted = True  # ^C at `run` with piped input is for the program; the second leaves
                self._say(Kind.INPUT, b"\x03")
            else:
                self._result = self._result or Attached(how="detached")

    def _come_back(self) -> None:
        """We were stopped, and the shell has had the terminal meanwhile: take it again and have the screen drawn anew."""
        self._person.give_back()
        self._person.take()
        if self._person.shows_screen and self._greeted:
            self._lose()
            self._offset = None
            self._look()


def _clean(text: object) -> str:
    return "".join(character if character.isprintable() else "?" for character in str(text))[:500]
