"""``crewkeep run``: start a session, in the background or with this terminal attached to it."""

from __future__ import annotations

import os
import shutil
import sys
from typing import Annotated

import typer

from coordinator.errors import InvalidInput
from coordinator.sessions.model import Restart
from crewkeep.cli import output
from crewkeep.cli.house import House, open_house
from crewkeep.cli.options import Json, Workspace

EXIT_FAILED, SIGNAL_BASE = 1, 128


def register(app: typer.Typer) -> None:
    """Add the command; nothing after the first word of CMD is an option of ours."""
    app.command("run", context_settings={"allow_interspersed_args": False}, options_metavar="[OPTIONS] --", no_args_is_help=True)(
        run
    )


def complete_agents(incomplete: str) -> list[str]:
    """Return the agents' names that begin like this."""
    from coordinator.agents.base import list_agents

    return [name for name in list_agents() if name.startswith(incomplete)]


def run(
    command: Annotated[list[str], typer.Argument(metavar="CMD", help="The command, with its own options.")],
    detach: Annotated[bool, typer.Option("-d", "--detach", help="Start it in the background.")] = False,
    name: Annotated[str | None, typer.Option("--name", metavar="NAME", help="Name; default: made from the command.")] = None,
    agent: Annotated[
        str | None,
        typer.Option(
            "--agent", metavar="AGENT", help="What program it is; default: seen from CMD.", autocompletion=complete_agents
        ),
    ] = None,
    cwd: Annotated[str | None, typer.Option("--cwd", metavar="DIR", help="Directory to work in; default: this one.")] = None,
    restart: Annotated[
        Restart, typer.Option("--restart", help="Start again by itself after a crash, also after a non-zero exit, or always.")
    ] = Restart.ON_CRASH,
    workspace: Workspace = None,
    hang_after: Annotated[
        str | None, typer.Option("--hang-after", metavar="TIME", help="Without progress for so long it counts as hung.")
    ] = None,
    hang_policy: Annotated[
        str | None, typer.Option("--hang-policy", metavar="leave|restart", help="What is done with it when it hangs.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Start CMD as a session that survives crashes and closed terminals.

    In the foreground the exit code is CMD's own, 128+N when signal N ended it. Everything after -- belongs to CMD.
    """
    if as_json and not detach:
        raise InvalidInput("--json tells of a session in the background", hint="crewkeep run -d --json -- CMD...")
    overrides = {}
    if hang_after is not None:
        overrides["CREWKEEP_HANG_AFTER_S"] = f"{output.parse_duration(hang_after, '--hang-after'):g}"
    if hang_policy is not None:
        overrides["CREWKEEP_HANG_POLICY"] = hang_policy
    house = open_house(overrides)

    from crewkeep.cli.view import describe
    from crewkeep.starting import start_session

    size = find_size()
    record = start_session(
        house.home,
        command,
        name=name,
        agent=agent,
        cwd=find_directory(cwd),
        restart=restart,
        workspace=workspace,
        environment=dict(os.environ),
        settings=house.settings,
        rows=size.lines,
        columns=size.columns,
    )
    if not detach:
        raise typer.Exit(follow(house, record.id, from_start=True))
    row = describe(house, record)
    if as_json:
        output.print_json({key: row[key] for key in ("id", "name", "epoch", "state")})
        return
    output.print_line(record.name)
    output.note(f"session {record.name} ({record.id}) runs; watch it: crewkeep attach {record.name}")


def find_directory(given: str | None) -> str:
    """Return the absolute directory that was asked for. Raises ``InvalidInput`` if it is none."""
    try:
        directory = os.path.realpath(given) if given else os.getcwd()
    except OSError as error:
        raise InvalidInput(
            "the current directory does not exist any more", hint="cd to one that does, or give --cwd DIR"
        ) from error
    if not os.path.isdir(directory):
        raise InvalidInput(f"{given} is not a directory", hint="give --cwd a directory that exists")
    return directory


def find_size() -> os.terminal_size:
    """Return the size of the terminal that one sits at; without one, what the environment says or 80 by 24."""
    for stream in (sys.stdout, sys.stdin, sys.stderr):
        try:
            size = os.get_terminal_size(stream.fileno())
        except (OSError, ValueError):
            continue
        if size.lines and size.columns:
            return size
    return shutil.get_terminal_size()


def follow(house: House, session_id: str, *, from_start: bool = False) -> int:
    """Attach this terminal to the session; return the exit code that ``run`` in the foreground has."""
    from crewkeep.terminal.attach import attach

    attached = attach(
        house.home,
        house.registry,
        session_id,
        stdin_fd=sys.stdin.fileno(),
        stdout_fd=sys.stdout.fileno(),
        detach_key=house.settings.detach_key,
        from_start=from_start,
    )
    record = house.registry.get(session_id)
    if attached.how == "detached":
        line_start = "\n" if sys.stdin.isatty() and sys.stderr.isatty() else ""  # the agent's cursor is somewhere in a line
        output.note(f"{line_start}detached; session {record.name} goes on: crewkeep attach {record.name}")
        return 0
    if attached.signal:
        output.note(f"session {record.name} was ended by signal {attached.signal}")
        return SIGNAL_BASE + attached.signal
    if attached.exit_code is not None:
        return attached.exit_code
    output.note(f"session {record.name}: {record.reason or record.phase}; see: crewkeep why {record.name}")
    return EXIT_FAILED
