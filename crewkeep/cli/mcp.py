"""``crewkeep mcp``: the MCP server, which agents start themselves, and its entry in their configuration."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from coordinator.errors import Missing
from crewkeep.cli import agent_setup
from crewkeep.cli.agent_setup import Part, Yes
from crewkeep.cli.app import make_group
from crewkeep.cli.options import Json


def complete_agents(incomplete: str) -> list[str]:
    """Return the names of agents that take MCP servers and begin like this."""
    from crewkeep.setup.mcp import find_mcp_agents

    return [name for name in find_mcp_agents() if name.startswith(incomplete)]


Agents = Annotated[
    list[str] | None,
    typer.Option("--agent", metavar="AGENT", help="Only for this one; may be given again.", autocompletion=complete_agents),
]


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = make_group("Serve the shared context, sessions, claims and messages to an agent, over standard input and output.")
    group.info.no_args_is_help = False
    group.callback(invoke_without_command=True)(serve)
    group.command("install")(install)
    group.command("remove")(remove)
    group.command("status")(status)
    app.add_typer(group, name="mcp")


def serve(context: typer.Context) -> None:
    """Serve the shared context, sessions, claims and messages to an agent, over standard input and output.

    Agents start it themselves once it is in their configuration: crewkeep mcp install.
    """
    if context.invoked_subcommand is not None:
        return
    try:
        from crewkeep.mcp_server.server import make_server
    except ModuleNotFoundError as error:
        raise Missing(
            f"the MCP server needs a package that is not installed ({error.name})", hint="pipx install 'crewkeep[mcp]'"
        ) from error
    from crewkeep.mcp_server.desk import Desk
    from crewkeep.mcp_server.identity import find_variables

    variables = find_variables(os.environ)
    desk = Desk({**os.environ, **variables}, os.getcwd())
    try:
        make_server(desk).run("stdio")
    finally:
        desk.close()


def install(agents: Agents = None, yes: Yes = False, as_json: Json = False) -> None:
    """Enter the server into the agents' own configuration; what others have there is kept."""
    _check_installed()
    agent_setup.tell(agent_setup.change(_make_part(), agents, yes=yes, install=True, as_json=as_json), as_json=as_json)


def remove(agents: Agents = None, yes: Yes = False, as_json: Json = False) -> None:
    """Take the server out of the agents' configuration again, and nothing else."""
    agent_setup.tell(agent_setup.change(_make_part(), agents, yes=yes, install=False, as_json=as_json), as_json=as_json)


def status(agents: Agents = None, as_json: Json = False) -> None:
    """Show for which agents the server is entered."""
    agent_setup.print_status(agent_setup.list_status(_make_part(), agents), as_json=as_json)


def _check_installed() -> None:
    from importlib.util import find_spec

    if find_spec("mcp") is None:
        raise Missing("the MCP server needs a package that is not installed (mcp)", hint="pipx install 'crewkeep[mcp]'")


def _make_part() -> Part:
    from crewkeep.setup import mcp

    return Part(
        what="MCP server",
        agents=mcp.find_mcp_agents(),
        plan=lambda agent, install: mcp.plan_mcp(agent, os.environ, install=install),
        read_status=lambda agent: mcp.read_status(agent, os.environ),
    )
