"""Who is being watched: every owner that keeps a connection open, with a descriptor that tells its death at once.

An owner says who it is by its process identity. The patrol opens a pidfd and proves it, so that the death it notices is
that process's and no other's. Where there are no pidfds the end of the connection says the same, a little less surely.
Secrets stay in this object: never in a file, a log line or an answer.
"""

from __future__ import annotations

import functools
import json
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from coordinator.errors import CrewkeepError
from coordinator.system import processes, sockets
from coordinator.system.processes import ProcessIdentity
from crewkeep.loop import READ, Loop
from crewkeep.process_log import say

_MESSAGE_LIMIT_BYTES = 4 << 20
_VISITOR_LIMIT = 4096
_ACCEPT_PAUSE_S = 1.0


@dataclass(slots=True)
class Watched:
    """One owner under watch."""

    session: str
    epoch: int
    identity: ProcessIdentity
    secrets: dict[str, str]
    pidfd: int | None = None


@dataclass(slots=True)
class _Visitor:
    connection: socket.socket
    received: bytearray = field(default_factory=bytearray)
    session: str | None = None


class Roster:
    """The connections of one patrol. Everything runs on its loop."""

    def __init__(
        self,
        loop: Loop,
        listener: socket.socket,
        *,
        on_death: Callable[[Watched], None],
        answer: Callable[[str], dict[str, Any]],
    ) -> None:
        self._loop, self._listener = loop, listener
        self._on_death, self._answer = on_death, answer
        self._visitors: dict[int, _Visitor] = {}
        #: By session id.
        self.watched: dict[str, Watched] = {}
        #: Of every session that was ever registered and has not left, by session id.
        self.secrets: dict[str, dict[str, str]] = {}
        #: How many owners ever came.
        self.arrival_count = 0
        self._listen()

    def close(self) -> None:
        """Let everybody go."""
        for visitor in list(self._visitors.values()):
            self._dismiss(visitor)
        for watched in list(self.watched.values()):
            self._unwatch(watched)
        self._loop.forget(self._listener.fileno())
        self._listener.close()

    def _on_visit(self, ready: int) -> None:
        try:
            while (connection := sockets.accept(self._listener)) is not None:
                if len(self._visitors) >= _VISITOR_LIMIT:
                    connection.close()
                    continue
                visitor = _Visitor(connection)
                self._visitors[connection.fileno()] = visitor
                self._loop.watch(connection.fileno(), READ, functools.partial(self._on_words, visitor))
        except OSError as error:  # out of descriptors: the next second may be better
            say(f"cannot accept: {error}")
            self._loop.forget(self._listener.fileno())
            self._loop.call_later(_ACCEPT_PAUSE_S, self._listen)

    def _listen(self) -> None:
        if not self._loop.stopped:
            self._loop.watch(self._listener.fileno(), READ, self._on_visit)

    def _on_words(self, visitor: _Visitor, ready: int = READ) -> None:
        try:
            part = visitor.connection.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            part = b""
        visitor.received += part
        while (end := visitor.received.find(b"\n")) >= 0:
            line = bytes(visitor.received[:end])
            del visitor.received[: end + 1]
            self._on_line(visitor, line)
        if not part or len(visitor.received) > _MESSAGE_LIMIT_BYTES:
            self._dismiss(visitor)
            watched = self.watched.get(visitor.session or "")
            if watched is not None and processes.observe(watched.identity).is_gone:
                self._report(watched)

    def _on_line(self, visitor: _Visitor, line: bytes) -> None:
        try:
            message = json.loads(line)
            verb = message["verb"]
            if verb == "register":
                self._register(visitor, message)
            elif verb == "leave":
                self._leave(str(message["session"]))
            else:
                visitor.connection.send(json.dumps(self._answer(str(verb))).encode() + b"\n")
        except (KeyError, TypeError, ValueError, AttributeError, OSError) as error:
            say(f"a visitor spoke without sense: {type(error).__name__}")

    def _register(self, visitor: _Visitor, message: dict[str, Any]) -> None:
        session, epoch = str(message["session"]), int(message["epoch"])
        identity = ProcessIdentity.decode(message["identity"])
        secrets = {str(name): str(value) for name, value in message["secrets"].items()}
        known = self.watched.get(session)
        if known is not None and known.epoch > epoch:
            return  # a superseded owner that does not know it yet; it will
        self.arrival_count += 1
        visitor.session = session
        if known is not None and known.identity == identity:
            known.epoch, known.secrets = epoch, secrets
            self.secrets[session] = secrets
            return
        if known is not None:
            self._unwatch(known)
        watched = Watched(session=session, epoch=epoch, identity=identity, secrets=secrets)
        self.watched[session], self.secrets[session] = watched, secrets
        try:
            watched.pidfd = processes.open_proven(identity)
        except (CrewkeepError, OSError):
            return  # no pidfds here: the end of the connection must do
        if watched.pidfd is None:
            self._report(watched)
            return
        self._loop.watch(watched.pidfd, READ, lambda ready: self._report(watched))

    def _leave(self, session: str) -> None:
        self.secrets.pop(session, None)
        if watched := self.watched.get(session):
            self._unwatch(watched)

    def _report(self, watched: Watched) -> None:
        self._unwatch(watched)
        self._on_death(watched)

    def _unwatch(self, watched: Watched) -> None:
        if self.watched.get(watched.session) is watched:
            del self.watched[watched.session]
        if watched.pidfd is not None:
            self._loop.forget(watched.pidfd)
            os.close(watched.pidfd)
            watched.pidfd = None

    def _dismiss(self, visitor: _Visitor) -> None:
        self._visitors.pop(visitor.connection.fileno(), None)
        self._loop.forget(visitor.connection.fileno())
        visitor.connection.close()
