"""A language model on loopback that says what a test tells it to, in whichever protocol it is asked.

The script is a function from what was asked to what is answered::

    def script(ask: Ask) -> Answer:
        return f"the tool said {ask.tool_outputs[-1]}" if ask.after_tool else Shell("date")

    with ModelServer(script) as server:
        ...                                     # an agent with base URL server.url
        assert "the earlier question" in server.asks[-1].said_by("user")
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from protocols import PROTOCOLS, Ask, Call, Json, Protocol, Shell, resolve

__all__ = ["Answer", "Ask", "Call", "Cut", "Fault", "Hang", "ModelServer", "Shell"]


@dataclass(frozen=True, slots=True)
class Fault:
    """An answer: this HTTP status, with an error in the words of the protocol."""

    status: int
    message: str = "the script says so"
    headers: dict[str, str] = field(default_factory=dict)
    #: Fields of the error's object beside its message.
    more: Json = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Cut:
    """An answer whose stream breaks off in the middle."""

    text: str = "this is only the first half"


@dataclass(frozen=True, slots=True)
class Hang:
    """No answer until the server ends."""


Answer = str | Shell | Call | Fault | Cut | Hang
Script = Callable[[Ask], Answer]


class ModelServer:
    """Serves one script; every request is kept in ``asks``."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.asks: list[Ask] = []
        self.problems: list[BaseException] = []
        self.stopping = threading.Event()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _make_handler(self))
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    @property
    def url(self) -> str:
        return f"{self.root}/v1"

    def working_asks(self) -> list[Ask]:
        """The requests of the conversation itself: an agent also asks, offering no tools, for titles."""
        return [ask for ask in list(self.asks) if ask.tools]

    def answer(self, ask: Ask) -> Answer:
        """Return what the script says to a request, which is kept."""
        self.asks.append(ask)
        return self.script(ask) if ask.tools else "a title"

    def __enter__(self) -> ModelServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self._http.shutdown()
        self._http.server_close()
        assert not self.problems, f"the script failed: {self.problems}"


def _write(protocol: Protocol, said: str | Shell | Call | Cut, ask: Ask) -> str:
    return "".join(protocol.write(said.text if isinstance(said, Cut) else resolve(said, ask), "scripted"))


def _make_handler(server: ModelServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
            path = self.path.partition("?")[0]
            protocol = next((protocol for protocol in PROTOCOLS if protocol.path.search(path)), None)
            if protocol is None:
                return self._send(404, "application/json", b"{}")
            try:
                ask = protocol.read(body)
                said = server.answer(ask)
                parts = "" if isinstance(said, (Fault, Hang)) else _write(protocol, said, ask)
            except Exception as error:  # shown by __exit__, where a test can see it
                server.problems.append(error)
                return self._send(500, "application/json", b"{}")
            if isinstance(said, Hang):
                server.stopping.wait()
                return self._hang_up()
            if isinstance(said, Fault):
                told = protocol.error(said.status, said.message)
                told["error"] |= said.more
                return self._send(said.status, "application/json", json.dumps(told).encode(), said.headers)
            if isinstance(said, Cut):
                return self._send_half(parts.encode())
            return self._send(200, "text/event-stream", parts.encode())

        def do_GET(self) -> None:
            if self.path.partition("?")[0].endswith("/models"):
                return self._send(200, "application/json", b'{"object": "list", "data": [], "models": []}')
            return self._send(404, "application/json", b"{}")

        def do_HEAD(self) -> None:
            self._send(200, "application/json", b"")

        def _send(self, status: int, kind: str, data: bytes, headers: dict[str, str] | None = None) -> None:
            try:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(data)))
                for name, value in (headers or {}).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)
            except ConnectionError:
                self.close_connection = True  # the agent was killed while it waited

        def _send_half(self, data: bytes) -> None:
            try:
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data[: len(data) // 2])
            except ConnectionError:
                pass  # the agent was quicker
            self._hang_up()

        def _hang_up(self) -> None:
            self.close_connection = True
            try:
                self.connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it has gone already

        def log_message(self, *_: object) -> None:
            """Say nothing: ``asks`` tells it all."""

    return Handler
