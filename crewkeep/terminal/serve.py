"""The keeper's side of a session's terminal: keeps what the agent prints, shows it to whoever is attached, takes their keys.

It lives in the keeper's loop and never waits. An attached terminal is no queue but a position in the output log: one that
keeps up gets each piece as it comes, one that is slow or stopped costs nothing and later reads on from the log, and one
that is far behind is shown the present screen instead.

The window is the smallest of the attached terminals' (in each direction): the agent's bytes go to every terminal as they
are, and on one smaller than the window they would come out garbled; on a larger one they only leave a margin. Without
anybody attached it stays as it was.

What a program asks of its terminal (where is the cursor? who are you?) is put to one attached terminal only, the one
that was used last; with nobody there the server answers itself, so that programs that insist on an answer start
detached as well. Old questions are never replayed.

Invariants:
  - nothing here blocks, whatever visitors do; one visitor's pending bytes stay below two frames of output
  - what is shown was first given to the log
Not promised: that a visitor sees an end before the record says it; write the record first.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from coordinator.errors import CrewkeepError, InvalidInput
from coordinator.system import sockets
from crewkeep.terminal import frames
from crewkeep.terminal.answers import Later, encode_error
from crewkeep.terminal.frames import Frame, FrameReader, Kind
from crewkeep.terminal.modes import Modes, Piece, Query, Question
from crewkeep.terminal.output import OutputLog
from crewkeep.terminal.typist import Typist, make_keys

__all__ = ["Handlers", "Later", "TerminalServer", "Watcher"]

READ, WRITE = 1, 2  # as in `selectors`
VISITOR_LIMIT = 64
_PIECE_LIMIT_BYTES = 1 << 16
#: A terminal that attaches is shown at most so much of the present screen's making.
REPLAY_LIMIT_BYTES = 256 << 10
#: A terminal that lags by more is shown the present screen instead. A copy without a terminal is given everything.
SKIP_ABOVE_BYTES = 1 << 20
#: How long a window has another size so that the program notices and draws anew. Arbitrary.
_NUDGE_S = 0.06
_ACCEPT_PAUSE_S = 1.0
#: Of the output since the last clear, so much is looked at to tell where the cursor is.
_CURSOR_LOOK_BYTES = 16 << 10


class Watcher(Protocol):
    """What is needed of the loop (``crewkeep.loop.Loop``)."""

    def watch(self, fd: int, events: int, callback: Callable[[int], None]) -> None: ...
    def forget(self, fd: int) -> None: ...
    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Any: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Handlers:
    """What the keeper does with what visitors want. None of them may block."""

    #: Type these bytes into the agent's terminal.
    input: Callable[[bytes], None]
    #: Give the agent's terminal this many rows and columns.
    resize: Callable[[int, int], None]
    #: Answer any verb but ``send``; may raise a ``CrewkeepError`` (unknown verb: ``InvalidInput``) or return a ``Later``.
    request: Callable[[str, dict[str, Any]], dict[str, Any] | Later]
    #: A person pressed keys.
    touched: Callable[[], None] = lambda: None
    #: An agent is at the terminal.
    is_running: Callable[[], bool] = lambda: True
    #: A permission prompt is open: only a person may answer it.
    is_asking: Callable[[], bool] = lambda: False
    #: The agent reads whole lines (its terminal is not raw).
    is_line_mode: Callable[[], bool] = lambda: False
    #: The agent has not read all that was typed yet.
    has_unread: Callable[[], bool] = lambda: False


class _Visitor:
    """One connection."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.reader = FrameReader()
        self.pending = bytearray()
        self.events = 0
        self.attached = False
        #: Rows and columns of its terminal; ``None`` for a copy without one.
        self.size: tuple[int, int] | None = None
        #: The next byte of the log that it is to be shown.
        self.offset = 0
        #: Cuts what is read from the log at whole sequences, while it is behind.
        self.cutter: Modes | None = None
        #: Larger: used later.
        self.used = 0

    @property
    def fd(self) -> int:
        return self.connection.fileno()


class TerminalServer:
    """Serves one session's terminal at ``path`` through ``loop``. Raises ``StorageError`` if it cannot listen there."""

    def __init__(self, loop: Watcher, path: Path, output: OutputLog, handlers: Handlers, *, hello: dict[str, Any]) -> None:
        """``hello`` is said to each terminal that attaches: at least ``session``, ``name`` and ``epoch``."""
        self._loop, self._output, self._handlers = loop, output, handlers
        self._hello = dict(hello)
        self._modes = Modes(output.end_offset)
        self._shown = self._modes.offset
        #: Where this incarnation's output begins.
        self._begin = self._shown
        self._visitors: dict[int, _Visitor] = {}
        self._uses = 0
        self._size = output.find_size()
        self._typist = Typist(
            loop,
            handlers.input,
            handlers.is_running,
            handlers.is_asking,
            handlers.is_line_mode,
            handlers.has_unread,
            name=str(hello.get("name")),
        )
        self._input_paused = False
        self._closed = False
        self._listener = sockets.listen(path)
        loop.watch(self._listener.fileno(), READ, self._on_connection)

    @property
    def attached_count(self) -> int:
        return sum(visitor.attached for visitor in self._visitors.values())

    @property
    def size(self) -> tuple[int, int] | None:
        """Rows and columns that the attached terminals agree on, or the last known."""
        return self._size

    def begin_incarnation(self, epoch: int, notice: str | None = None) -> None:
        """Say that an agent is started at ``epoch``: what an earlier one switched on is undone, and its questions forgotten."""
        self._typist.begin_anew()
        restore = self._modes.restore()
        self._modes.forget()
        self._shown = self._begin = self._modes.offset
        self._hello["epoch"] = epoch
        for visitor in self._list_attached():
            if visitor.cutter is None:
                self._queue(visitor, frames.encode_output(self._shown, restore if visitor.size else b""))
                visitor.offset = self._shown
        if notice:
            self.notify(notice)

    def broadcast(self, data: bytes) -> None:
        """Take what the agent printed: append it to the log, then show it. The only way in, so that offsets agree."""
        self._output.append(data)
        piece = self._modes.feed(data)
        before, self._shown = self._shown, piece.end
        leader = self._find_leader(before) if piece.queries else None
        for visitor in self._list_attached():
            if visitor.offset == before and visitor.cutter is None and not visitor.pending and len(data) <= _PIECE_LIMIT_BYTES:
                shown = piece.data if visitor is leader else piece.without_queries()
                visitor.offset = piece.end
                self._queue(visitor, frames.encode_output(piece.end, shown))
            else:
                self._watch(visitor)
        if leader is None:
            self._answer_queries(piece)

    def notify(self, text: str, **facts: Any) -> None:
        """Tell all attached terminals something in a line of its own."""
        for visitor in self._list_attached():
            self._queue(visitor, frames.encode(Kind.NOTICE, {"text": text, **facts}))

    def notify_end(self, outcome: dict[str, Any]) -> None:
        """Tell all that keep up how the session ended (``outcome exit_code signal reason``); the others find it in the record."""
        for visitor in self._list_attached():
            if visitor.offset == self._shown and visitor.cutter is None:
                self._queue(visitor, frames.encode(Kind.END, outcome))

    def type_text(self, text: object) -> Later:
        """Type a text and Enter into the agent's terminal, in turn with others. Raises as ``Typist.take`` and ``make_keys``."""
        later = Later()
        keys = make_keys(text, bracketed=self._modes.wants_paste_marks, line_mode=self._handlers.is_line_mode())
        self._typist.take(keys, later)
        return later

    def pause_input(self, paused: bool) -> None:
        """Read nothing more from visitors while the agent does not take its input; they wait."""
        self._input_paused = paused
        for visitor in list(self._visitors.values()):
            self._watch(visitor)

    def close(self) -> None:
        """Hang up on everybody. The socket's name stays: a newer keeper may have taken it over."""
        if self._closed:
            return
        self._closed = True
        self._typist.begin_anew()
        self._loop.forget(self._listener.fileno())
        self._listener.close()
        for visitor in list(self._visitors.values()):
            self._drop(visitor)

    # Visitors

    def _on_connection(self, ready: int) -> None:
        try:
            while (connection := sockets.accept(self._listener)) is not None:
                if len(self._visitors) >= VISITOR_LIMIT:
                    connection.close()
                    continue
                visitor = _Visitor(connection)
                self._visitors[visitor.fd] = visitor
                self._watch(visitor)
        except OSError:  # out of descriptors: the next second may be better; spinning on it helps nobody
            self._loop.forget(self._listener.fileno())
            self._loop.call_later(_ACCEPT_PAUSE_S, self._listen_again)

    def _listen_again(self) -> None:
        if not self._closed:
            self._loop.watch(self._listener.fileno(), READ, self._on_connection)

    def _on_ready(self, visitor: _Visitor, ready: int) -> None:
        if ready & WRITE:
            self._flush(visitor)
        if ready & READ and visitor.fd in self._visitors:
            self._read(visitor)

    def _read(self, visitor: _Visitor) -> None:
        try:
            data = visitor.connection.recv(_PIECE_LIMIT_BYTES)
            words = visitor.reader.feed(data)
        except BlockingIOError:
            return
        except (OSError, InvalidInput):
            data, words = b"", []
        if not data:
            self._drop(visitor)
            return
        for frame in words:
            if visitor.fd not in self._visitors:
                return
            try:
                self._hear(visitor, frame)
            except InvalidInput:
                self._drop(visitor)
                return

    def _hear(self, visitor: _Visitor, frame: Frame) -> None:
        if frame.kind == Kind.REQUEST:
            self._answer(visitor, frame.words())
        elif frame.kind == Kind.ATTACH:
            self._attach(visitor, frame.words())
        elif frame.kind == Kind.DETACH:
            self._drop(visitor)
        elif visitor.attached and frame.kind == Kind.INPUT:
            self._use(visitor)
            self._handlers.touched()
            self._handlers.input(frame.payload)
        elif visitor.attached and frame.kind == Kind.END_INPUT:
            if self._handlers.is_line_mode():  # to any other program ^D is a key like others
                self._handlers.input(frame.payload)
        elif visitor.attached and frame.kind == Kind.RESIZE:
            visitor.size = _read_size(frame.words())
            self._use(visitor)
            self._fit(nudge=False)

    def _attach(self, visitor: _Visitor, words: dict[str, Any]) -> None:
        visitor.attached = True
        visitor.size = _read_size(words)
        self._use(visitor)
        hello = {**self._hello, "offset": self._shown, "full_screen": self._modes.is_full_screen}
        self._queue(visitor, frames.encode(Kind.HELLO, hello))
        from_offset = words.get("from_offset")
        if isinstance(from_offset, int) and 0 <= from_offset <= self._shown:
            visitor.offset = from_offset
        else:
            self._replay(visitor)
        self._watch(visitor)
        self._fit(nudge=True)

    def _use(self, visitor: _Visitor) -> None:
        self._uses += 1
        visitor.used = self._uses

    def _drop(self, visitor: _Visitor) -> None:
        self._loop.forget(visitor.fd)
        self._visitors.pop(visitor.fd, None)
        visitor.connection.close()
        if visitor.attached and not self._closed:
            visitor.attached = False
            self._fit(nudge=False)

    def _list_attached(self) -> list[_Visitor]:
        return [visitor for visitor in self._visitors.values() if visitor.attached]

    # The window

    def _fit(self, *, nudge: bool) -> None:
        """Give the window the smallest size; if that changes nothing, ``nudge`` a full-screen program to draw anew."""
        sizes = [visitor.size for visitor in self._list_attached() if visitor.size is not None]
        if not sizes:
            return
        size = min(rows for rows, _ in sizes), min(columns for _, columns in sizes)
        if size != self._size:
            self._size = size
            self._output.note_size(*size)
            self._handlers.resize(*size)
        elif nudge and not self._handlers.is_line_mode():
            # A program compares: the same size again is no reason to draw. It has to see another one for a moment.
            rows, columns = size
            self._handlers.resize(rows - 1 if rows > 1 else rows + 1, columns)
            self._loop.call_later(_NUDGE_S, self._end_nudge)

    def _end_nudge(self) -> None:
        if self._size is not None and not self._closed:
            self._handlers.resize(*self._size)

    # Output

    def _replay(self, visitor: _Visitor) -> None:
        """Show the present screen from where it began, within a bound, with the modes that are on."""
        oldest = max(self._modes.screen_offset, self._shown - REPLAY_LIMIT_BYTES)
        parts, at = [self._modes.enter()], oldest
        cutter = Modes(at)
        while at < self._shown and (chunk := self._output.read_chunk(at, self._shown - at)).data:
            parts.append(cutter.feed(chunk.data).without_queries())
            at = chunk.end
        if oldest > self._modes.screen_offset:
            parts[1:2] = [_begin_at_line(parts[1])] if len(parts) > 1 else []
        data = b"".join([*parts, self._modes.settle()])
        for start in range(0, len(data), _PIECE_LIMIT_BYTES):
            self._queue(visitor, frames.encode_output(self._shown, data[start : start + _PIECE_LIMIT_BYTES]))
        visitor.offset, visitor.cutter = self._shown, None

    def _catch_up(self, visitor: _Visitor) -> None:
        """Give one that is behind the next piece of the log."""
        if visitor.size is not None and self._shown - visitor.offset > SKIP_ABOVE_BYTES:
            skipped = self._shown - visitor.offset
            self._queue(visitor, frames.encode(Kind.NOTICE, {"text": f"{skipped} bytes skipped", "skipped_bytes": skipped}))
            self._replay(visitor)
            return
        if visitor.cutter is None:
            visitor.cutter = Modes(visitor.offset)
        cutter = visitor.cutter
        limit = self._begin if cutter.offset < self._begin else self._shown
        chunk = self._output.read_chunk(cutter.offset, min(_PIECE_LIMIT_BYTES, limit - cutter.offset))
        if chunk.start != cutter.offset or not chunk.data:  # rotated away, or the disk was full
            at = min(chunk.start, self._shown) if chunk.data else limit
            text = f"{at - cutter.offset} bytes are not kept any more"
            self._queue(visitor, frames.encode(Kind.NOTICE, {"text": text, "skipped_bytes": at - cutter.offset}))
            cutter.offset = visitor.offset = at
            cutter.forget()
            if at == self._shown:
                visitor.cutter = None
            return
        piece = cutter.feed(chunk.data)
        shown, visitor.offset = piece.without_queries(), piece.end
        if cutter.offset == self._begin:  # what an earlier incarnation switched on ends with it
            shown += cutter.restore() if visitor.size else b""
            cutter.forget()
            visitor.offset = cutter.offset
        if cutter.offset >= self._shown:
            visitor.offset, visitor.cutter = self._shown, None
        self._queue(visitor, frames.encode_output(visitor.offset, shown))

    def _queue(self, visitor: _Visitor, data: bytes) -> None:
        was_empty = not visitor.pending
        visitor.pending += data
        if was_empty:
            self._send_pending(visitor)
        self._watch(visitor)

    def _flush(self, visitor: _Visitor) -> None:
        self._send_pending(visitor)
        if not visitor.pending and visitor.fd in self._visitors and self._is_behind(visitor):
            self._catch_up(visitor)
        self._watch(visitor)

    def _send_pending(self, visitor: _Visitor) -> None:
        try:
            while visitor.pending:
                sent = visitor.connection.send(visitor.pending)
                del visitor.pending[:sent]
        except BlockingIOError:
            return
        except OSError:  # hung up; reading finds it out
            visitor.pending.clear()

    def _is_behind(self, visitor: _Visitor) -> bool:
        return visitor.attached and (visitor.offset < self._shown or visitor.cutter is not None)

    def _watch(self, visitor: _Visitor) -> None:
        if visitor.fd not in self._visitors:
            return
        events = 0 if self._input_paused and visitor.attached else READ
        if visitor.pending or self._is_behind(visitor):
            events |= WRITE
        if events == visitor.events:
            return
        visitor.events = events
        if events:
            self._loop.watch(visitor.fd, events, lambda ready: self._on_ready(visitor, ready))
        else:
            self._loop.forget(visitor.fd)

    # What programs ask their terminal

    def _find_leader(self, offset: int) -> _Visitor | None:
        """The attached terminal that was used last, if it keeps up and so can answer."""
        ready = [
            one for one in self._list_attached() if one.size and one.offset == offset and one.cutter is None and not one.pending
        ]
        return max(ready, key=lambda visitor: visitor.used, default=None)

    def _answer_queries(self, piece: Piece) -> None:
        for query in piece.queries:
            if answer := self._make_answer(query):
                self._handlers.input(answer)

    def _make_answer(self, query: Query) -> bytes:
        if query.kind is Question.STATUS:
            return b"\x1b[0n"
        if query.kind is Question.ATTRIBUTES:
            return b"\x1b[?62;22c"
        if query.kind is Question.CURSOR:
            from crewkeep.terminal.render import find_cursor  # only for programs that ask while nobody is there

            start = max(self._modes.screen_offset, query.offset - _CURSOR_LOOK_BYTES)
            raw = self._output.read_chunk(start, max(query.offset - start, 0)).data
            return b"\x1b[%d;%dR" % find_cursor(raw, *(self._size or (24, 80)))
        return b""

    # Requests

    def _answer(self, visitor: _Visitor, words: dict[str, Any]) -> None:
        verb = words.pop("verb", None)
        try:
            answer = self.type_text(words.get("text")) if verb == "send" else self._handlers.request(str(verb), words)
        except CrewkeepError as error:
            answer = encode_error(error)
        except (KeyError, TypeError, ValueError) as error:
            answer = encode_error(InvalidInput(f"the keeper cannot answer {verb!r}: {error!r}", hint="see `crewkeep --help`"))
        if isinstance(answer, Later):
            answer.when_given(lambda given: self._deliver(visitor, given))
        else:
            self._deliver(visitor, answer)

    def _deliver(self, visitor: _Visitor, answer: dict[str, Any]) -> None:
        if visitor.fd in self._visitors and self._visitors[visitor.fd] is visitor:
            self._queue(visitor, frames.encode(Kind.ANSWER, answer))


def _read_size(words: dict[str, Any]) -> tuple[int, int] | None:
    rows, columns = words.get("rows"), words.get("columns")
    if not isinstance(rows, int) or not isinstance(columns, int) or rows < 1 or columns < 1:
        return None
    return min(rows, 10_000), min(columns, 10_000)


def _begin_at_line(data: bytes) -> bytes:
    """Drop the rest of a line, or sequence, that was cut through."""
    found = [at for at in (data.find(b"\n"), data.find(b"\x1b")) if at >= 0]
    return data[min(found) :] if found else data
