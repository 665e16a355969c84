"""A language model on loopback that says what a test tells it to: the OpenAI Responses protocol, streamed, nothing else.

The script is a function from what was asked to what is answered::

    def script(ask: Ask) -> str | Shell:
        return f"the tool said {ask.tool_outputs[-1]}" if ask.after_tool else Shell("date")

    with ModelServer(script) as server:
        ...                                     # an agent with base URL server.url
        assert "the earlier question" in server.asks[-1].said_by("user")
"""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Shell:
    """An answer: let the agent's shell tool run ``command``."""

    command: str
    #: How long the agent may wait for the command before it comes back to the model.
    patience_s: float = 300
    #: Ask the user for permission to run it outside the sandbox.
    escalate: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Ask:
    """One model request, in the script's terms."""

    #: Wall-clock seconds of its arrival.
    at: float
    #: (role, text) in order; the roles are user, assistant, developer, tool.
    messages: tuple[tuple[str, str], ...]
    #: Offered tools by name, with their parameter schemas.
    tools: dict[str, Json]

    def said_by(self, role: str) -> str:
        """All that ``role`` said, joined."""
        return "\n".join(text for spoke, text in self.messages if spoke == role)

    @property
    def last_user(self) -> str:
        return next((text for role, text in reversed(self.messages) if role == "user"), "")

    @property
    def tool_outputs(self) -> list[str]:
        return [text for role, text in self.messages if role == "tool"]

    @property
    def after_tool(self) -> bool:
        """Whether the agent reports a tool's result (rather than a new message of the user's)."""
        return next((role for role, _ in reversed(self.messages) if role in ("user", "tool")), "") == "tool"


Script = Callable[[Ask], "str | Shell"]


class ModelServer:
    """Serves one script; every request is kept in ``asks``."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.asks: list[Ask] = []
        self.problems: list[BaseException] = []
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _make_handler(self))
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    def working_asks(self) -> list[Ask]:
        """The requests of the conversation itself: an agent also asks, offering no tools, for titles."""
        return [ask for ask in list(self.asks) if ask.tools]

    def answer(self, body: Json) -> Json:
        """Return the output item for a request's body."""
        ask = _read_ask(body)
        self.asks.append(ask)
        said = self.script(ask) if ask.tools else "a title"
        if isinstance(said, Shell):
            return _call_shell(said, ask.tools)
        return {"type": "message", "role": "assistant", "status": "completed",
                "content": [{"type": "output_text", "text": said, "annotations": []}]}  # fmt: skip

    def __enter__(self) -> ModelServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        assert not self.problems, f"the script failed: {self.problems}"


_numbers = itertools.count(1)


def _read_ask(body: Json) -> Ask:
    messages = []
    for item in body.get("input") or []:
        kind = item.get("type", "message")
        if kind == "message":
            messages.append((item.get("role", "user"), _text(item.get("content"))))
        elif kind.endswith("_call_output"):
            messages.append(("tool", _text(item.get("output"))))
        elif kind.endswith("_call"):
            messages.append(("call", str(item.get("arguments") or item.get("action") or item.get("input") or "")))
    tools = {tool.get("name") or tool.get("type", ""): tool.get("parameters") or {} for tool in body.get("tools") or []}
    return Ask(at=time.time(), messages=tuple(messages), tools=tools)


def _text(content: object) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(_text(part) for part in content)
    if isinstance(content, dict):
        return _text(content.get("text") or content.get("content") or content.get("output") or "")
    return ""


def _call_shell(shell: Shell, tools: dict[str, Json]) -> Json:
    """Write the call in the form of whichever shell tool this version of the agent offers."""
    name = next(name for name in ("exec_command", "shell_command", "shell") if name in tools)
    properties = tools[name].get("properties", {})
    key = "cmd" if "cmd" in properties else "command"
    as_list = properties.get(key, {}).get("type") == "array"
    arguments: Json = {key: ["sh", "-c", shell.command] if as_list else shell.command}
    for limit in ("yield_time_ms", "timeout_ms"):
        if limit in properties:
            arguments[limit] = int(shell.patience_s * 1000)
    if shell.escalate:
        arguments |= {"sandbox_permissions": "require_escalated", "justification": "the test wants to be asked"}
    return {"type": "function_call", "name": name, "call_id": f"call_{next(_numbers)}", "status": "completed",
            "arguments": json.dumps(arguments)}  # fmt: skip


def _stream(item: Json) -> Iterator[Json]:
    number = next(_numbers)
    item = item | {"id": f"item_{number}"}
    usage = {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}
    usage |= {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}
    whole = {"id": f"resp_{number}", "object": "response", "status": "completed", "output": [item], "usage": usage}
    yield {"type": "response.created", "response": whole | {"status": "in_progress", "output": [], "usage": None}}
    yield {"type": "response.output_item.added", "output_index": 0, "item": item | {"status": "in_progress"}}
    yield {"type": "response.output_item.done", "output_index": 0, "item": item}
    yield {"type": "response.completed", "response": whole}


def _make_handler(server: ModelServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
            if not self.path.endswith("/responses"):
                return self._send(404, "application/json", b"{}")
            try:
                item = server.answer(body)
            except Exception as error:  # shown by __exit__, where a test can see it
                server.problems.append(error)
                return self._send(500, "application/json", b"{}")
            parts = [f"event: {part['type']}\ndata: {json.dumps(part)}\n\n" for part in _stream(item)]
            return self._send(200, "text/event-stream", "".join(parts).encode())

        def do_GET(self) -> None:
            if self.path.partition("?")[0].endswith("/models"):
                return self._send(200, "application/json", b'{"object": "list", "data": [], "models": []}')
            return self._send(404, "application/json", b"{}")

        def _send(self, status: int, kind: str, data: bytes) -> None:
            try:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)
            except ConnectionError:
                self.close_connection = True  # the agent was killed while it waited

        def log_message(self, *_: object) -> None:
            """Say nothing: ``asks`` tells it all."""

    return Handler
