"""What crewkeep asks of an agent program, and the table of those it knows.

An adapter only reads and computes: it starts nothing, signals nobody and writes nothing but a transcript that is put
back. Each is named by ``module:Class`` and made without arguments, so one that ships elsewhere can enter by the same
door. An adapter must not fail because its program changed: what it cannot read, it reports as not known.

Invariants:
  - ``prepare`` may be applied twice; the second time changes nothing
  - a resumed start never asks for more permission than the first one
  - ``Activity.progress`` never falls, and a resume by itself does not raise it
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from coordinator.errors import InvalidInput

if TYPE_CHECKING:
    from coordinator.sessions.conversation import Conversation
    from coordinator.sessions.model import LaunchSpec

GENERIC = "generic"

#: Name of the agent, where its adapter is. Those that know their program come first; ``generic`` takes the rest.
_ADAPTERS = {
    "codex": "coordinator.agents.codex:Codex",
    GENERIC: "coordinator.agents.generic:Generic",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Activity:
    """What a transcript shows of the agent's work so far."""

    #: Finished pieces of the agent's own work. Compare two readings of one adapter, never with zero: the first reading
    #: of a resumed conversation is where it stands already. What a mere resume writes does not count.
    progress: int = 0
    #: Whether the agent waits for the user's next message; ``None`` if the transcript does not tell.
    at_prompt: bool | None = None
    #: Whether the agent waits for a decision of the user's (a permission, a question).
    needs_user: bool = False


class Agent(Protocol):
    """One agent program. An instance serves one session and may remember where it stopped reading."""

    @property
    def name(self) -> str:
        """The word for it in records and on the command line."""
        ...

    def recognises(self, argv: Sequence[str]) -> bool:
        """Tell from the command alone whether it starts this program. Touches no file."""
        ...

    def prepare(self, launch: LaunchSpec) -> LaunchSpec:
        """Return the launch that crewkeep can keep: the program itself rather than a wrapper that dies alone, nothing
        that outlives it. Same work, same permission. Call it before every start, also before ``build_resume``.
        """
        ...

    def read_permission_mode(self, argv: Sequence[str]) -> str | None:
        """Return the permission mode that the flags ask for; ``None`` if they leave it to the configuration."""
        ...

    def find_conversation(self, launch: LaunchSpec, pids: Sequence[int], started_at: float) -> Conversation | None:
        """Return the agent's own conversation once it can be *proven* to be this session's, else ``None``.

        ``pids`` are the living processes of the session's tree, ``started_at`` the wall-clock second of this start.
        Cheap enough to be asked every heartbeat.
        """
        ...

    def build_resume(self, launch: LaunchSpec, conversation: Conversation | None) -> tuple[str, ...]:
        """Return the argv that goes on with the conversation: every flag kept, no more permission, the old prompt left
        out. Without a conversation (the agent died before it had one) it is the first start's argv.
        """
        ...

    def note_output(self, output: bytes) -> None:
        """Take in what the agent just wrote to its terminal, for signs that show only there; ``read_activity`` tells them.

        Called with every piece of output, cut anywhere, so it must cost next to nothing.
        """
        ...

    def read_activity(self, conversation: Conversation) -> Activity:
        """Return what the transcript, and the output, show by now. Cheap: reads only what was appended since the last call.

        A transcript that is missing or partly unreadable gives what could be read; never raises for its content.
        """
        ...

    def restore_transcript(self, conversation: Conversation, saved: Path) -> None:
        """Put the copy ``saved`` back where the agent looks, but only if its own is missing or damaged; a damaged one
        is set aside beside it. Call it while no process of the session lives. Raises ``StorageError``.
        """
        ...


def get_agent(name: str) -> Agent:
    """Return a new adapter of that name. Raises ``InvalidInput`` naming those there are."""
    target = _ADAPTERS.get(name)
    if target is None:
        known = ", ".join(sorted(_ADAPTERS))
        raise InvalidInput(f"there is no agent {name!r}", hint=f"one of: {known}", agent=name)
    module, _, kind = target.partition(":")
    return cast(Agent, getattr(importlib.import_module(module), kind)())


def recognise(argv: Sequence[str]) -> Agent:
    """Return the adapter for a command: the first that recognises it, else the generic one."""
    for name in _ADAPTERS:
        if name != GENERIC and (agent := get_agent(name)).recognises(argv):
            return agent
    return get_agent(GENERIC)


def list_agents() -> list[str]:
    """Return the names of all agents, the generic one last."""
    return list(_ADAPTERS)
