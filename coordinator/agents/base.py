"""What crewkeep asks of an agent program, and the door by which adapters come in.

An adapter only reads and computes: it starts nothing, signals nobody and writes nothing but a transcript that is put
back. Each is named by ``module:Class`` and made without arguments: those that ship here stand in a table, those that ship
elsewhere in the entry points ``crewkeep.agents`` of their distributions. An adapter inherits from ``Generic``, which answers
every question for a program of which nothing is known. It must not fail because its program changed: what it cannot read, it
reports as not known.

Invariants:
  - ``prepare`` may be applied twice; the second time changes nothing
  - a resumed start never asks for more permission than the first one
  - ``Activity.progress`` never falls, and a resume by itself does not raise it
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from coordinator.errors import CrewkeepError, InvalidInput, StartFailed

if TYPE_CHECKING:
    from coordinator.sessions.conversation import Conversation
    from coordinator.sessions.history import Item
    from coordinator.sessions.model import LaunchSpec

GENERIC = "generic"
#: Where distributions name their adapters: the agent's name = ``module:Class``.
ENTRY_POINTS = "crewkeep.agents"
_MEND = "mend or uninstall its distribution, or choose another with --agent"

#: What the code of others may raise, also while it is imported (a script that leaves when it misses something).
_FAULTS = (Exception, SystemExit)

#: Name of the agent, where its adapter is. Those that know their program come first; ``generic`` takes the rest.
_ADAPTERS = {
    "codex": "coordinator.agents.codex:Codex",
    "gemini": "coordinator.agents.gemini:Gemini",
    "opencode": "coordinator.agents.opencode:OpenCode",
    "claude": "coordinator.agents.claude:Claude",
    "aider": "coordinator.agents.aider:Aider",
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
    #: What ended the last turn instead of an answer, in the program's own words; ``None`` if it is going on or ended well.
    failure: str | None = None
    #: The failure is a usage limit of the user's account that ends at this time (wall-clock seconds since 1970).
    limited_until: float | None = None
    #: When the failure was told, wall-clock seconds since 1970; ``None`` if the program does not say.
    failed_at: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class PastConversation:
    """A conversation that a program keeps on this machine, whoever started it."""

    conversation: Conversation
    #: The directory it was held in, ``None`` if the program does not tell.
    cwd: str | None
    #: What it is about: its title, else the beginning of what the user said first.
    title: str
    #: Wall-clock seconds since 1970 of the last thing in it.
    changed_at: float


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
        that outlives it. Same work, same permission. Call it before every start, also before ``begin`` and ``build_resume``.
        """
        ...

    def begin(self, launch: LaunchSpec, session_id: str) -> tuple[tuple[str, ...], Conversation | None]:
        """Return the argv of the session's first start, and the conversation if the program lets us choose its id.

        The same session gives the same answer each time. The conversation may not have a transcript yet.
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
        out. Without a conversation, or with one that the program never wrote down, it is the first start's argv.
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

    def read_history(self, conversation: Conversation) -> Iterator[Item]:
        """Yield what was said and done in the conversation, oldest first, as its transcript has it now.

        A transcript that is missing or partly unreadable gives what could be read; never raises for its content.
        """
        ...

    def find_outcome(self, conversation: Conversation, call_id: str) -> bool | None:
        """Tell whether a tool call that has ended just now succeeded; ``None`` if the transcript does not tell (yet).

        Asked of programs whose hooks leave that out. Cheap: reads the transcript's end.
        """
        ...

    def holds_text(self, conversation: Conversation, text: str) -> bool | None:
        """Tell whether the transcript holds ``text`` (letters, digits, dashes) anywhere; ``None`` if it cannot be read."""
        ...

    def list_conversations(self, environment: Mapping[str, str]) -> Iterator[PastConversation]:
        """Yield the conversations that the program keeps for the user of ``environment``, in no order. Reads little of each."""
        ...

    def export_transcript(self, conversation: Conversation) -> bytes | None:
        """Return what ``restore_transcript`` takes, for a program whose transcript is no file of its own (a database of all of
        them); ``None`` if it is one, or there is none. The program may be writing meanwhile. Raises ``StorageError``.
        """
        ...

    def restore_transcript(self, conversation: Conversation, saved: Path) -> bool:
        """Put the copy ``saved`` back where the agent looks, but only if its own is missing or damaged; a damaged one
        is set aside beside it. Tells whether it was put back. Call it while no process of the session lives. Raises
        ``StorageError``.
        """
        ...


def get_agent(name: str) -> Agent:
    """Return a new adapter of that name. Raises ``InvalidInput`` naming those there are, or what is wrong with this one."""
    target = _ADAPTERS.get(name) or _find_others().get(name)
    if target is None:
        known = ", ".join(sorted(list_agents()))
        raise InvalidInput(f"there is no agent {name!r}", hint=f"one of: {known}", agent=name)
    return _make(name, target)


def recognise(argv: Sequence[str]) -> Agent:
    """Return the adapter for a command: the first that recognises it, else the generic one.

    An adapter of another distribution that cannot be loaded recognises nothing; ``get_agent`` tells why.
    """
    for name, target in _ADAPTERS.items():
        if name != GENERIC and (agent := _make(name, target)).recognises(argv):
            return agent
    for name, target in _find_others().items():
        try:
            if (agent := _make(name, target)).recognises(argv):
                return agent
        except _FAULTS:  # one broken adapter must not keep all commands from starting
            continue
    return get_agent(GENERIC)


def list_agents() -> list[str]:
    """Return the names of all agents, the generic one last."""
    names = [name for name in _ADAPTERS if name != GENERIC]
    return [*names, *_find_others(), GENERIC]


@contextmanager
def name_culprit(agent: str) -> Iterator[None]:
    """Turn whatever an adapter raises that it should not, and that it is not there, into ``StartFailed`` that names its agent.

    For where a session cannot go on without the adapter's answer.
    """
    try:
        yield
    except CrewkeepError as error:
        if not isinstance(error, InvalidInput) or isinstance(error, StartFailed):
            raise
        raise StartFailed(error.message, hint=error.hint, program=agent, reason="failed") from error
    except _FAULTS as error:
        raise StartFailed(
            f"the adapter of agent {agent!r} failed: {type(error).__name__}: {error}", hint=_MEND, program=agent, reason="failed"
        ) from error


def _find_others() -> dict[str, str]:
    """Return the adapters of other distributions. The names that are taken here stay ours."""
    from importlib.metadata import entry_points  # a few milliseconds that a session of a known agent need not pay

    found = sorted(entry_points(group=ENTRY_POINTS), key=lambda point: point.name)
    return {point.name: point.value for point in found if point.name not in _ADAPTERS}


def _make(name: str, target: str) -> Agent:
    module, _, kind = target.partition(":")
    try:
        return cast(Agent, getattr(importlib.import_module(module), kind)())
    except _FAULTS as error:
        raise InvalidInput(
            f"the adapter {target} of agent {name!r} cannot be loaded: {type(error).__name__}: {error}", hint=_MEND, agent=name
        ) from error
