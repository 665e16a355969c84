"""A keeper's terminal server without a keeper: in a loop of its own thread, with what reached its handlers written down."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support import wait_until

from coordinator.errors import Busy, InvalidInput
from coordinator.paths import SessionPaths
from coordinator.system import sockets
from crewkeep.loop import Loop
from crewkeep.terminal import frames
from crewkeep.terminal.frames import Frame, FrameReader, Kind
from crewkeep.terminal.output import OutputLog
from crewkeep.terminal.serve import Handlers, Later, TerminalServer


@dataclass
class Keeper:
    """A server in a loop of its own thread, and what reached its handlers."""

    paths: SessionPaths
    loop: Loop
    server: TerminalServer
    output: OutputLog
    typed: list[bytes] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    is_running: bool = True
    asking: bool = False
    line_mode: bool = False
    #: Whether what was typed has not been read yet.
    unread: bool = False
    later: Later = field(default_factory=Later)

    def call(self, act: Callable[[], Any]) -> Any:
        """Run ``act`` on the loop's thread and return what it returns."""
        done, box = threading.Event(), []

        def run() -> None:
            try:
                box.append(act())
            finally:
                done.set()

        self.loop.call_from_thread(run)
        assert done.wait(10), "the loop is held up"
        return box[0]

    def show(self, data: bytes) -> None:
        self.call(lambda: self.server.broadcast(data))

    def request(self, verb: str, arguments: dict[str, Any]) -> dict[str, Any] | Later:
        if verb == "echo":
            return arguments
        if verb == "later":
            return self.later
        if verb == "busy":
            raise Busy("not now", hint="try again")
        raise InvalidInput(f"unknown verb {verb!r}", hint="")


def start(path: Path, limit_bytes: int, epoch: int) -> Keeper:
    path.mkdir(exist_ok=True, parents=True)
    paths, loop = SessionPaths(path), Loop()
    output = OutputLog(paths.output, limit_bytes)
    keeper = Keeper(paths=paths, loop=loop, server=None, output=output)  # type: ignore[arg-type]
    handlers = Handlers(
        input=keeper.typed.append,
        resize=lambda rows, columns: keeper.sizes.append((rows, columns)),
        request=keeper.request,
        is_running=lambda: keeper.is_running,
        is_asking=lambda: keeper.asking,
        is_line_mode=lambda: keeper.line_mode,
        has_unread=lambda: keeper.unread,
    )
    keeper.server = TerminalServer(loop, paths.socket, output, handlers, hello={"session": "s", "name": "auth", "epoch": epoch})
    return keeper


@contextmanager
def running(path: Path, limit_bytes: int = 1 << 20, epoch: int = 1) -> Iterator[Keeper]:
    """Serve the session at ``path`` for the length of the block."""
    keeper = start(path, limit_bytes, epoch)
    thread = threading.Thread(target=keeper.loop.run)
    thread.start()
    try:
        yield keeper
    finally:
        keeper.loop.call_from_thread(keeper.loop.stop)
        thread.join(10)
        keeper.server.close()
        keeper.loop.close()
        keeper.output.close()


class Visitor:
    """An attached terminal, by hand."""

    def __init__(self, keeper: Keeper, **words: Any) -> None:
        self.connection = sockets.connect(keeper.paths.socket, 5)
        self.reader = FrameReader()
        self.frames: list[Frame] = []
        self.say(Kind.ATTACH, words)
        wait_until(lambda: self.get(Kind.HELLO), what="hello")

    def say(self, kind: Kind, payload: bytes | dict[str, Any] = b"") -> None:
        self.connection.sendall(frames.encode(kind, payload))

    def read(self) -> None:
        self.connection.settimeout(0.02)
        try:
            data = self.connection.recv(1 << 20)
        except TimeoutError:
            return
        self.frames += self.reader.feed(data)

    def get(self, kind: Kind) -> list[Frame]:
        self.read()
        return [frame for frame in self.frames if frame.kind == kind]

    @property
    def shown(self) -> bytes:
        return b"".join(frame.output()[1] for frame in self.get(Kind.OUTPUT))

    @property
    def offset(self) -> int:
        return max((frame.output()[0] for frame in self.get(Kind.OUTPUT)), default=0)

    def wait_shown(self, text: bytes) -> bytes:
        wait_until(lambda: text in self.shown, what=repr(text))
        return self.shown

    def close(self) -> None:
        self.connection.close()
