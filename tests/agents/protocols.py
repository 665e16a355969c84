"""How a model is asked and how it answers, in the four protocols that agent programs speak; streamed, nothing else.

A protocol reads a request's body into an ``Ask`` and writes an answer's parts as the lines of a stream.
"""

from __future__ import annotations

import itertools
import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]

_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Shell:
    """An answer: let the agent's shell tool run ``command``."""

    command: str
    #: How long the agent may wait for the command before it comes back to the model.
    patience_s: float = 300
    #: Ask the user for permission to run it outside the sandbox (Codex).
    escalate: bool = False


@dataclass(frozen=True, slots=True)
class Call:
    """An answer: let the agent call the first tool whose name matches ``tool`` (agents rename those of MCP servers)."""

    tool: str
    arguments: Json = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Ask:
    """One model request, in the script's terms."""

    #: Wall-clock seconds of its arrival.
    at: float
    #: (role, text) in order; the roles are user, assistant, developer, call, tool.
    messages: tuple[tuple[str, str], ...]
    #: Offered tools by name, with their parameter schemas.
    tools: dict[str, Json]

    def said_by(self, role: str) -> str:
        """All that ``role`` said, joined."""
        return "\n".join(text for spoke, text in self.messages if spoke == role)

    @property
    def text(self) -> str:
        """All that is in the request, whoever said it."""
        return "\n".join(text for _, text in self.messages)

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


@dataclass(frozen=True, kw_only=True, slots=True)
class NamedCall:
    """A tool call as it goes over the wire: by the name under which the agent offered the tool."""

    name: str
    arguments: Json
    #: What Responses calls the namespace of a tool.
    namespace: str | None = None
    id: str


Said = str | NamedCall


def resolve(said: str | Shell | Call, ask: Ask) -> Said:
    """Return the answer with its tool named for the agent that asked."""
    if isinstance(said, Shell):
        return _call_shell(said, ask.tools)
    if isinstance(said, Call):
        name = next((name for name in ask.tools if re.search(said.tool, name)), None)
        assert name is not None, f"no tool like {said.tool!r} among {sorted(ask.tools)}"
        return _name_call(name, said.arguments, ask.tools)
    return said


def _name_call(name: str, arguments: Json, tools: dict[str, Json]) -> NamedCall:
    namespace = tools[name].get("x-namespace")
    plain = name.removeprefix(namespace).removeprefix("__") if namespace else name
    return NamedCall(name=plain, arguments=arguments, namespace=namespace, id=f"call_{next(_numbers)}")


#: Names under which agents offer the tool that runs a command.
_SHELLS = ("exec_command", "shell_command", "shell", "run_shell_command", "bash", "Bash")


def _call_shell(shell: Shell, tools: dict[str, Json]) -> NamedCall:
    """Write the call in the form of whichever shell tool this version of the agent offers."""
    name = next(name for name in _SHELLS if name in tools)
    properties = tools[name].get("properties", {})
    key = "cmd" if "cmd" in properties else "command"
    as_list = properties.get(key, {}).get("type") == "array"
    arguments: Json = {key: ["sh", "-c", shell.command] if as_list else shell.command}
    for limit in ("yield_time_ms", "timeout_ms", "timeout"):
        if limit in properties:
            arguments[limit] = int(shell.patience_s * 1000)
    for needed in tools[name].get("required", []):
        arguments.setdefault(needed, "what the test asked for")
    if shell.escalate:
        arguments |= {"sandbox_permissions": "require_escalated", "justification": "the test wants to be asked"}
    return _name_call(name, arguments, tools)


def text_of(content: object) -> str:
    """Return the plain text in any of the shapes that the protocols have for content."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(filter(None, (text_of(part) for part in content)))
    if isinstance(content, dict):
        for key in ("text", "content", "output", "parts", "response", "result", "error"):
            if content.get(key):
                return text_of(content[key])
    return ""


class Responses:
    """OpenAI Responses: Codex."""

    path = re.compile(r"/responses$")

    @staticmethod
    def read(body: Json) -> Ask:
        messages = [("developer", text_of(body.get("instructions")))]
        for item in body.get("input") or []:
            kind = item.get("type", "message")
            if kind == "message":
                messages.append((item.get("role", "user"), text_of(item.get("content"))))
            elif kind.endswith("_call_output"):
                messages.append(("tool", text_of(item.get("output"))))
            elif kind.endswith("_call"):
                messages.append(("call", str(item.get("arguments") or item.get("action") or item.get("input") or "")))
        tools: dict[str, Json] = {}
        for tool in body.get("tools") or []:
            if tool.get("type") == "namespace":
                for inner in tool.get("tools") or []:
                    full = f"{tool['name'].removesuffix('__')}__{inner['name']}"
                    tools[full] = {**(inner.get("parameters") or {}), "x-namespace": tool["name"]}
            else:
                tools[tool.get("name") or tool.get("type", "")] = tool.get("parameters") or {}
        return Ask(at=time.time(), messages=tuple(messages), tools=tools)

    @staticmethod
    def write(said: Said, model: str) -> Iterator[str]:
        number = next(_numbers)
        item: Json = {"id": f"item_{number}", "status": "completed"}
        if isinstance(said, NamedCall):
            item |= {"type": "function_call", "name": said.name, "call_id": said.id, "arguments": json.dumps(said.arguments)}
            if said.namespace:
                item["namespace"] = said.namespace
        else:
            content = [{"type": "output_text", "text": said, "annotations": []}]
            item |= {"type": "message", "role": "assistant", "content": content}
        usage = {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}
        usage |= {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}
        whole = {"id": f"resp_{number}", "object": "response", "status": "completed", "output": [item], "usage": usage}
        yield _event("response.created", {"response": whole | {"status": "in_progress", "output": [], "usage": None}})
        yield _event("response.output_item.added", {"output_index": 0, "item": item | {"status": "in_progress"}})
        yield _event("response.output_item.done", {"output_index": 0, "item": item})
        yield _event("response.completed", {"response": whole})

    @staticmethod
    def error(status: int, message: str) -> Json:
        return {"error": {"message": message, "type": "usage_limit_reached" if status == 429 else "server_error"}}


class Chat:
    """OpenAI Chat Completions: OpenCode, aider."""

    path = re.compile(r"/chat/completions$")

    @staticmethod
    def read(body: Json) -> Ask:
        messages = []
        for entry in body.get("messages") or []:
            role = {"system": "developer"}.get(entry.get("role"), entry.get("role"))
            if text := text_of(entry.get("content")):
                messages.append((role, text))
            elif role == "tool":
                messages.append(("tool", ""))
            for call in entry.get("tool_calls") or []:
                messages.append(("call", str(call.get("function", {}).get("arguments", ""))))
        tools = {
            tool["function"]["name"]: tool["function"].get("parameters") or {}
            for tool in body.get("tools") or []
            if "function" in tool
        }
        return Ask(at=time.time(), messages=tuple(messages), tools=tools)

    @staticmethod
    def write(said: Said, model: str) -> Iterator[str]:
        base = {"id": f"chat_{next(_numbers)}", "object": "chat.completion.chunk", "created": int(time.time()), "model": model}

        def chunk(delta: Json, finish: str | None = None) -> str:
            return _data(base | {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})

        yield chunk({"role": "assistant", "content": ""})
        if isinstance(said, NamedCall):
            function = {"name": said.name, "arguments": json.dumps(said.arguments)}
            yield chunk({"tool_calls": [{"index": 0, "id": said.id, "type": "function", "function": function}]})
        else:
            yield chunk({"content": said})
        yield chunk({}, "tool_calls" if isinstance(said, NamedCall) else "stop")
        usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
        yield _data(base | {"choices": [], "usage": usage})
        yield "data: [DONE]\n\n"

    @staticmethod
    def error(status: int, message: str) -> Json:
        return {"error": {"message": message, "type": "rate_limit_exceeded" if status == 429 else "server_error"}}


class Gemini:
    """Gemini's generateContent: Gemini CLI."""

    path = re.compile(r"/models/[^/:]+:(streamGenerateContent|generateContent)$")

    @staticmethod
    def read(body: Json) -> Ask:
        messages = [("developer", text_of(body.get("systemInstruction")))]
        for entry in body.get("contents") or []:
            role = "assistant" if entry.get("role") == "model" else "user"
            for part in entry.get("parts") or []:
                if "functionResponse" in part:
                    messages.append(("tool", text_of(part["functionResponse"].get("response"))))
                elif "functionCall" in part:
                    messages.append(("call", json.dumps(part["functionCall"].get("args"))))
                elif "text" in part and not part.get("thought"):
                    messages.append((role, part["text"]))
        tools = {
            tool["name"]: tool.get("parametersJsonSchema") or tool.get("parameters") or {}
            for group in body.get("tools") or []
            for tool in group.get("functionDeclarations") or []
        }
        return Ask(at=time.time(), messages=tuple(messages), tools=tools)

    @staticmethod
    def write(said: Said, model: str) -> Iterator[str]:
        part: Json
        if isinstance(said, NamedCall):
            call = {"id": said.id, "name": said.name, "args": said.arguments}
            part = {"functionCall": call, "thoughtSignature": "c2NyaXB0"}
        else:
            part = {"text": said}
        usage = {"promptTokenCount": 10, "candidatesTokenCount": 5, "totalTokenCount": 15}
        candidate = {"index": 0, "content": {"role": "model", "parts": [part]}, "finishReason": "STOP"}
        yield _data({"candidates": [candidate], "modelVersion": model, "usageMetadata": usage})

    @staticmethod
    def error(status: int, message: str) -> Json:
        return {"error": {"code": status, "message": message, "status": "RESOURCE_EXHAUSTED" if status == 429 else "INTERNAL"}}


class Anthropic:
    """Anthropic Messages: Claude Code."""

    path = re.compile(r"/messages$")

    @staticmethod
    def read(body: Json) -> Ask:
        messages = [("developer", text_of(body.get("system")))]
        for entry in body.get("messages") or []:
            content = entry.get("content")
            for block in [{"type": "text", "text": content}] if isinstance(content, str) else content or []:
                kind = block.get("type")
                if kind == "tool_result":
                    messages.append(("tool", text_of(block.get("content"))))
                elif kind == "tool_use":
                    messages.append(("call", json.dumps(block.get("input"))))
                elif kind == "text":
                    messages.append((entry.get("role", "user"), block["text"]))
        tools = {tool["name"]: tool.get("input_schema") or {} for tool in body.get("tools") or [] if "name" in tool}
        return Ask(at=time.time(), messages=tuple(messages), tools=tools)

    @staticmethod
    def write(said: Said, model: str) -> Iterator[str]:
        message: Json = {"id": f"msg_{next(_numbers)}", "type": "message", "role": "assistant", "model": model, "content": []}
        usage = {"input_tokens": 10, "output_tokens": 1}
        yield _event("message_start", {"message": message | {"stop_reason": None, "stop_sequence": None, "usage": usage}})
        if isinstance(said, NamedCall):
            block: Json = {"type": "tool_use", "id": said.id.replace("call", "toolu"), "name": said.name, "input": {}}
            delta = {"type": "input_json_delta", "partial_json": json.dumps(said.arguments)}
        else:
            block, delta = {"type": "text", "text": ""}, {"type": "text_delta", "text": said}
        yield _event("content_block_start", {"index": 0, "content_block": block})
        yield _event("content_block_delta", {"index": 0, "delta": delta})
        yield _event("content_block_stop", {"index": 0})
        stop = "tool_use" if isinstance(said, NamedCall) else "end_turn"
        yield _event("message_delta", {"delta": {"stop_reason": stop, "stop_sequence": None}, "usage": {"output_tokens": 5}})
        yield _event("message_stop", {})

    @staticmethod
    def error(status: int, message: str) -> Json:
        kind = "rate_limit_error" if status == 429 else "api_error"
        return {"type": "error", "error": {"type": kind, "message": message}}


PROTOCOLS = (Responses, Chat, Gemini, Anthropic)
Protocol = type[Responses] | type[Chat] | type[Gemini] | type[Anthropic]


def _event(kind: str, data: Json) -> str:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **data})}\n\n"


def _data(data: Json) -> str:
    return f"data: {json.dumps(data)}\n\n"
