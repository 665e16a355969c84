"""The command line: what people, scripts and agents type.

``main`` looks at the first word and loads that command's module and nothing else, so that ``ps`` answers before one
notices; ``--help`` and completion load them all. What a command prints, and its exit codes, are promises to scripts
(docs/cli.md). This room parses, asks the rooms below, and prints; it decides nothing about sessions itself.
"""

from __future__ import annotations

import os
import sys

#: Command -> (module in this room, line in the overview). The order is that of the overview.
COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("run", "Start an agent or any command as a session"),
    "ps": ("ps", "List sessions"),
    "inspect": ("inspect", "Show everything known of a session"),
    "why": ("inspect", "Show the evidence behind a session's state"),
    "logs": ("logs", "Print a session's output"),
    "attach": ("attach", "Connect this terminal to a session"),
    "send": ("attach", "Type a line into a session's terminal"),
    "wait": ("wait", "Wait until sessions end or reach a state"),
    "stop": ("ending", "End sessions gracefully"),
    "kill": ("ending", "End sessions at once, with every process they started"),
    "rm": ("ending", "Remove ended sessions and their files"),
    "checkpoint": ("checkpoints", "Save a session's state now"),
    "checkpoints": ("checkpoints", "List a session's checkpoints"),
    "restore": ("checkpoints", "Bring a session back from a checkpoint"),
    "history": ("history", "Past conversations of all agents: list, search, show, export"),
    "resume": ("resume", "Go on with a past conversation: pick one, or name it"),
    "recover": ("recover", "Bring back what crashed: prints the plan, --yes acts"),
    "context": ("context", "Read and write the context that sessions share"),
    "claim": ("claims", "Claim a path or a name, so that other sessions keep off it"),
    "release": ("claims", "Give a claim back"),
    "claims": ("claims", "List the claims of all sessions"),
    "tell": ("letters", "Leave a message for another session's agent"),
    "inbox": ("letters", "Read the messages for this session"),
    "hooks": ("hooks", "Let agent programs tell crewkeep what they do"),
    "mcp": ("mcp", "Serve the shared context and the crew to agents that speak MCP"),
    "notify": ("notify", "Send a message where you want to be told of sessions"),
    "breaker": ("breaker", "Quiet all coordinator threads, and let them go on"),
    "features": ("breaker", "Turn sync and recovery down, or up again"),
    "doctor": ("doctor", "Check this machine and the home"),
    "service": ("service", "Recover all sessions at login or boot"),
    "demo": ("demo", "Watch four sessions survive two kill -9"),
}


def main() -> None:
    """Run the command line and exit. The outermost edge: whatever happens, the user reads one short message."""
    from crewkeep.cli import edge

    edge.open_missing_streams()
    edge.leave(edge.guard(_run, sys.argv[1:]))


def _run(arguments: list[str]) -> int:
    from coordinator.system import check_platform

    check_platform()
    first = next(iter(arguments), "")
    if first in ("ps", "history") and _list_quickly(first, arguments[1:]):
        return 0
    from crewkeep.cli.app import build_app

    only = first if first in COMMANDS and "_CREWKEEP_COMPLETE" not in os.environ else None
    stdout = sys.stdout
    try:
        build_app(only)(args=arguments, prog_name="crewkeep")
    except SystemExit as leaving:
        if sys.stdout is not stdout:  # Typer met a closed pipe
            raise BrokenPipeError from leaving
        return leaving.code if isinstance(leaving.code, int) else 0 if leaving.code is None else 1
    return 0


def _list_quickly(command: str, arguments: list[str]) -> bool:
    """Do the plain forms of ``ps`` and ``history`` without Typer, which alone would take most of the time; tell whether it
    was one of them."""
    if "_CREWKEEP_COMPLETE" in os.environ:
        return False
    if command == "history":
        from crewkeep.cli import conversations

        if (flags := conversations.read_flags(arguments)) is None:
            return False
        conversations.list_pasts(*flags)
        return True
    if not set(arguments) <= {"-a", "--all", "-q", "--quiet", "--watch", "--json"}:
        return False
    from crewkeep.cli import listing

    listing.show_sessions(**{listing.FLAGS[argument]: True for argument in arguments})
    return True
