"""The MCP server's entry in agents' configurations: others' entries are kept, and TOML is only touched where it is ours."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from coordinator.errors import InvalidInput
from crewkeep.setup.mcp import find_mcp_agents, plan_mcp, read_status
from crewkeep.setup.targets import Installed

CODEX = """# mine
model = "x"

[mcp_servers.other]
command = "y"  # keep me

[projects."/a"]
trust_level = "trusted"
"""


def apply(agent: str, home: Path, *, install: bool) -> Path:
    edit = plan_mcp(agent, {"HOME": str(home)}, install=install)
    edit.apply()
    return edit.path


@pytest.mark.parametrize("agent", find_mcp_agents())
def test_an_entry_is_found_and_removed_without_a_trace(agent: str, tmp_path: Path) -> None:
    environment = {"HOME": str(tmp_path)}
    assert read_status(agent, environment).installed is Installed.NO
    path = apply(agent, tmp_path, install=True)
    assert read_status(agent, environment).installed is Installed.YES
    assert not plan_mcp(agent, environment, install=True).changes
    apply(agent, tmp_path, install=False)
    assert not path.exists()


@pytest.mark.parametrize("agent", [name for name in find_mcp_agents() if name != "codex"])
def test_other_servers_are_kept_to_the_byte(agent: str, tmp_path: Path) -> None:
    name = "mcp" if agent == "opencode" else "mcpServers"
    path = read_status(agent, {"HOME": str(tmp_path)}).path
    path.parent.mkdir(parents=True, exist_ok=True)
    before = json.dumps({"theme": "dark", name: {"other": {"command": "x"}}}, indent=2)
    path.write_text(before)
    apply(agent, tmp_path, install=True)
    assert set(json.loads(path.read_text())[name]) == {"other", "crewkeep"}
    apply(agent, tmp_path, install=False)
    assert path.read_text() == before


@pytest.mark.parametrize(
    "text", [CODEX, CODEX.rstrip(), "", "[mcp_servers]\n", CODEX.replace("\n", "\r\n"), CODEX + "\n\n", "# mine only", "\n"]
)
def test_in_codex_every_other_line_stays_as_its_user_wrote_it(text: str, tmp_path: Path) -> None:
    path = tmp_path / ".codex" / "config.toml"
    path.parent.mkdir()
    path.write_bytes(text.encode())
    apply("codex", tmp_path, install=True)
    written = path.read_bytes().decode()
    assert written.startswith(text)
    assert tomllib.loads(written)["mcp_servers"]["crewkeep"]["args"] == ["mcp"]
    apply("codex", tmp_path, install=False)
    left = path.read_bytes().decode() if path.exists() else ""
    assert left == text


def test_an_entry_of_an_older_installation_is_replaced_in_the_middle_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / ".codex" / "config.toml"
    path.parent.mkdir()
    path.write_text('[mcp_servers.crewkeep]\ncommand = "/old/crewkeep"\nargs = ["mcp"]\n\n[tui]\ntheme = "x"\n')
    assert read_status("codex", {"HOME": str(tmp_path)}).installed is Installed.OUTDATED
    apply("codex", tmp_path, install=True)
    found = tomllib.loads(path.read_text())
    assert found["tui"] == {"theme": "x"}
    assert found["mcp_servers"]["crewkeep"]["command"] != "/old/crewkeep"


@pytest.mark.parametrize(
    "text",
    [
        'mcp_servers = { crewkeep = { command = "x" } }\n',
        '[mcp_servers.crewkeep]\ncommand = """\nx"""\n',
        '[mcp_servers]\ncrewkeep.command = "x"\n',
        '[mcp_servers."crewkeep"]\ncommand = "x"\n',
        "not TOML [",
        'mcp_servers = "x"\n',
    ],
)
def test_an_entry_in_another_form_is_left_to_its_user(text: str, tmp_path: Path) -> None:
    path = tmp_path / ".codex" / "config.toml"
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(InvalidInput):
        apply("codex", tmp_path, install=True)
    assert path.read_text() == text


def test_in_codex_what_its_user_allowed_our_server_stays_until_the_server_is_removed(tmp_path: Path) -> None:
    path = tmp_path / ".codex" / "config.toml"
    path.parent.mkdir()
    path.write_text(CODEX)
    apply("codex", tmp_path, install=True)
    entry = path.read_text()
    added = 'startup_timeout_sec = 30 # slow here\n[mcp_servers.crewkeep.tools.claim]\napproval_mode = "approve"\n'
    path.write_text(entry + added + "\n# what follows is no part of it\n[tui]\n")
    assert read_status("codex", {"HOME": str(tmp_path)}).installed is Installed.YES
    path.write_text(path.read_text().replace('/crewkeep"', '/old"'))
    assert read_status("codex", {"HOME": str(tmp_path)}).installed is Installed.OUTDATED
    apply("codex", tmp_path, install=True)
    assert path.read_text() == entry + added + "\n# what follows is no part of it\n[tui]\n"
    apply("codex", tmp_path, install=False)
    assert path.read_text() == CODEX + "\n# what follows is no part of it\n[tui]\n"


@pytest.mark.parametrize("agent", [name for name in find_mcp_agents() if name != "codex"])
def test_what_its_user_added_to_our_entry_stays(agent: str, tmp_path: Path) -> None:
    path = apply(agent, tmp_path, install=True)
    path.write_text(path.read_text().replace('"crewkeep": {', '"crewkeep": {"trust": true,'))
    assert read_status(agent, {"HOME": str(tmp_path)}).installed is Installed.YES
    apply(agent, tmp_path, install=True)
    assert '"trust": true' in path.read_text()
