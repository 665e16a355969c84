"""The MCP server: the desk's calls as tools and resources, with the words that a model reads.

Not promised: that a client shows resources; everything that they hold is there as a tool too.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Annotated, Any, ParamSpec, TypeVar

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ResourceError, ToolError
from mcp_types import ToolAnnotations
from pydantic import Field

from coordinator.errors import CrewkeepError, VersionConflict
from crewkeep.mcp_server.desk import Desk

P = ParamSpec("P")
R = TypeVar("R")
Json = dict[str, object]

INSTRUCTIONS = """You work beside other agent sessions on this machine. This server is how you share state with them and keep
off each other's files. Before you edit files that others may edit too, claim them; release them when you are done. Put what
others must know into the shared context: it is durable and versioned, so read first, then write with the version that you read.
Tell a session something with `tell`; read what others told you with `inbox`."""

READS = ToolAnnotations(read_only_hint=True, open_world_hint=False)
WRITES = ToolAnnotations(read_only_hint=False, destructive_hint=False, open_world_hint=False)
REPLACES = ToolAnnotations(read_only_hint=False, destructive_hint=True, open_world_hint=False)

Key = Annotated[str, Field(description="A path such as `plan/auth`, at most 512 bytes.")]
Prefix = Annotated[str, Field(description="Only keys that begin with it; empty: all.")]
Version = Annotated[
    int | None,
    Field(description="The version you read; 0: only if the key is absent. Left out, whatever is there is overwritten."),
]
Since = Annotated[
    dict[str, int] | None, Field(description="What an earlier call returned as `since`; left out, the answer says where now is.")
]


def make_server(desk: Desk) -> MCPServer[Any]:
    """Return the server, not yet running."""
    server: MCPServer[Any] = MCPServer("crewkeep", instructions=INSTRUCTIONS)
    for function, hints in _make_tools(desk):
        server.add_tool(function, annotations=hints)
    _add_resources(server, desk)
    return server


def _make_tools(desk: Desk) -> list[tuple[Callable[..., Any], ToolAnnotations]]:
    def context_get(key: Key) -> Json:
        """Read an entry of the shared context: its value, version and author, or that it is absent (version 0)."""
        return desk.get(key)

    def context_put(key: Key, value: Annotated[Any, Field(description="Any JSON.")], expected_version: Version = None) -> Json:
        """Write an entry of the shared context. With expected_version it is refused if another session wrote meanwhile."""
        return desk.put(key, value, expected_version)

    def context_update(
        key: Key,
        rule: Annotated[
            str, Field(description="sum (add a number), append (to a list), union (of lists), max, min, deep-merge (objects).")
        ],
        value: Annotated[Any, Field(description="What is brought in, e.g. 1 for sum, [item] for append.")],
    ) -> Json:
        """Bring a value into an entry of the shared context so that no other session's update is lost."""
        return desk.update(key, rule, value)

    def context_delete(key: Key, expected_version: Version = None) -> Json:
        """Delete an entry of the shared context."""
        return desk.delete(key, expected_version)

    def context_list(prefix: Prefix = "") -> Json:
        """List the keys of the shared context with their versions."""
        return desk.list_keys(prefix)

    def context_history(key: Key) -> Json:
        """Show the last versions of an entry, newest first: who wrote what."""
        return desk.history(key)

    def context_changes(
        prefix: Prefix = "",
        since: Since = None,
        wait_s: Annotated[float, Field(description="Wait so long for a change, at most 30 seconds.", ge=0, le=30)] = 0,
    ) -> Json:
        """Watch the shared context: everything committed since an earlier call, in order, none left out."""
        return desk.changes(prefix, since, wait_s)

    def sessions() -> Json:
        """List the sessions of this machine that have not ended: name, agent, state, directory."""
        return desk.sessions()

    def claim(
        what: Annotated[str, Field(description="A file, a directory, a pattern such as src/**/*.py, or a plain name.")],
        minutes: Annotated[float, Field(description="How long; claiming again renews.", gt=0)] = 30,
        shared: Annotated[bool, Field(description="Let others claim it as well, if they share too.")] = False,
    ) -> Json:
        """Claim files or a name for this session before working on them. Refused with who has it and until when."""
        return desk.claim(what, minutes, shared)

    def release(what: Annotated[str, Field(description="As it was claimed.")]) -> Json:
        """Give a claim back as soon as you do not need it any more."""
        return desk.release(what)

    def claims() -> Json:
        """List what the sessions have claimed."""
        return desk.claims()

    def tell(
        session: Annotated[str, Field(description="Name or id of a session.")], text: Annotated[str, Field(description="What.")]
    ) -> Json:
        """Leave a message for another session; its agent gets it at its next turn."""
        return desk.tell(session, text)

    def inbox() -> Json:
        """Read the messages that other sessions left for you. Each comes once."""
        return desk.inbox()

    def checkpoint() -> Json:
        """Save this session's state now, to come back to after a crash."""
        return desk.checkpoint()

    reading = (context_get, context_list, context_history, context_changes, sessions, claims)
    adding = (context_update, claim, release, tell, inbox, checkpoint)
    replacing = (context_put, context_delete)
    kinds = ((reading, READS), (adding, WRITES), (replacing, REPLACES))
    return [(_told(function), hints) for functions, hints in kinds for function in functions]


def _add_resources(server: MCPServer[Any], desk: Desk) -> None:
    @server.resource("crew://sessions", mime_type="application/json", description="The sessions that have not ended.")
    def read_sessions() -> str:
        return _as_text(desk.sessions)

    @server.resource("crew://claims", mime_type="application/json", description="What the sessions have claimed.")
    def read_claims() -> str:
        return _as_text(desk.claims)

    @server.resource("context://keys", mime_type="application/json", description="The keys of the shared context.")
    def read_keys() -> str:
        return _as_text(lambda: desk.list_keys(""))

    @server.resource("context://entry/{+key}", mime_type="application/json", description="One entry of the shared context.")
    def read_entry(key: str) -> str:
        return _as_text(lambda: desk.get(key))


def _told(function: Callable[P, R]) -> Callable[P, R]:
    """Let our errors reach the model as what they say; anything else is a bug, and the server's log has it."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except CrewkeepError as error:
            raise ToolError(_say(error)) from error

    return call


def _as_text(read: Callable[[], Any]) -> str:
    try:
        return json.dumps(read(), ensure_ascii=False)
    except CrewkeepError as error:
        raise ResourceError(_say(error)) from error


def _say(error: CrewkeepError) -> str:
    if isinstance(error, VersionConflict):
        return f"conflict: {error.message}. Read it again with context_get, then decide anew."
    return f"{error.code}: {error.message}" + (f" ({error.hint})" if error.hint else "")
