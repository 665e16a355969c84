"""What is written into agents' configurations: others' entries are kept, ours are found again, nothing is guessed."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from support import CREWKEEP, cli

from coordinator.errors import Conflict, InvalidInput
from crewkeep.setup.edits import Edit, read_object, write_object
from crewkeep.setup.hooks import find_hook_agents, make_command, plan_hooks, read_status
from crewkeep.setup.targets import Installed

THEIRS = {"matcher": "Bash", "hooks": [{"type": "command", "command": "echo theirs"}]}
SETTINGS = [name for name in find_hook_agents() if name != "opencode"]


def environment(home: Path) -> dict[str, str]:
    return {"HOME": str(home)}


def install(agent: str, home: Path) -> Path:
    edit = plan_hooks(agent, environment(home), install=True)
    edit.apply()
    return edit.path


def remove(agent: str, home: Path) -> None:
    plan_hooks(agent, environment(home), install=False).apply()


@pytest.mark.parametrize("agent", find_hook_agents())
def test_installed_hooks_are_found_and_removed_without_a_trace(agent: str, tmp_path: Path) -> None:
    assert read_status(agent, environment(tmp_path)).installed is Installed.NO
    path = install(agent, tmp_path)
    assert read_status(agent, environment(tmp_path)).installed is Installed.YES
    assert not plan_hooks(agent, environment(tmp_path), install=True).changes, "a second time changes nothing"
    assert path.stat().st_mode & 0o077 == 0
    remove(agent, tmp_path)
    assert not path.exists()
    assert not plan_hooks(agent, environment(tmp_path), install=False).changes


@pytest.mark.parametrize("agent", SETTINGS)
@pytest.mark.parametrize("form", [None, 2, 4, "\t"])
def test_what_others_wrote_is_kept_to_the_byte(agent: str, form: int | str | None, tmp_path: Path) -> None:
    event = "BeforeTool" if agent == "gemini" else "PreToolUse"
    path = read_status(agent, environment(tmp_path)).path
    path.parent.mkdir(parents=True)
    before = json.dumps({"ü": 1, "hooks": {event: [THEIRS], "Mine": []}, "last": [1]}, indent=form, ensure_ascii=False)
    path.write_text(before)
    path.chmod(0o640)
    install(agent, tmp_path)
    hooks = json.loads(path.read_text())["hooks"]
    assert hooks[event][0] == THEIRS
    assert "crewkeep-hook" in str(hooks[event][1:])
    assert path.stat().st_mode & 0o777 == 0o640
    remove(agent, tmp_path)
    assert path.read_text() == before


ODD = """{\r
  // the look, which "Gemini" lets one say
  "theme": "dark",   "n": 1E400, "n": 12345678901234567890.10, // mine\r
  "caf\\u00e9 \\ud800" : [1,2,  3],\r
  "hooks": { "Notification": [ {"hooks": [{"type":"command", "command": "say"}]} ], },\r
}\r
"""


@pytest.mark.parametrize("agent", SETTINGS)
def test_comments_numbers_and_an_odd_form_are_kept_to_the_byte(agent: str, tmp_path: Path) -> None:
    path = read_status(agent, environment(tmp_path)).path
    path.parent.mkdir(parents=True)
    path.write_bytes(ODD.encode())
    install(agent, tmp_path)
    assert read_status(agent, environment(tmp_path)).installed is Installed.YES
    for line in ODD.splitlines()[:4]:
        assert line.rstrip() in path.read_bytes().decode()
    remove(agent, tmp_path)
    assert path.read_bytes().decode() == ODD


@pytest.mark.parametrize("command", ["/opt/my-crewkeep-hook-log.sh x", "echo crewkeep-hook codex", "x # /a/crewkeep-hook codex."])
def test_a_hook_of_others_that_speaks_of_ours_is_theirs(command: str, tmp_path: Path) -> None:
    path = read_status("claude", environment(tmp_path)).path
    path.parent.mkdir(parents=True)
    path.write_text(before := json.dumps({"hooks": {"Stop": [{"hooks": [{"type": "command", "command": command}]}]}}))
    assert read_status("claude", environment(tmp_path)).installed is Installed.NO
    install("claude", tmp_path)
    remove("claude", tmp_path)
    assert path.read_text() == before


@pytest.mark.parametrize(
    "command",
    ["/gone/crewkeep-hook claude", "'/go ne/crewkeep-hook' claude", '[ -z "$CREWKEEP_SESSION" ] || crewkeep-hook claude'],
)
def test_an_older_entry_of_ours_is_replaced_and_the_users_stay_in_place(command: str, tmp_path: Path) -> None:
    path = read_status("claude", environment(tmp_path)).path
    path.parent.mkdir(parents=True)
    old = {"type": "command", "command": command}
    path.write_text(json.dumps({"hooks": {"Stop": [{"hooks": [old, THEIRS["hooks"][0]]}], "Old": [{"hooks": [old]}]}}))
    assert read_status("claude", environment(tmp_path)).installed is Installed.OUTDATED
    install("claude", tmp_path)
    hooks = json.loads(path.read_text())["hooks"]
    assert hooks["Stop"][0] == {"hooks": THEIRS["hooks"]}
    assert "Old" not in hooks
    assert command not in str(hooks)


@pytest.mark.parametrize("content", ["{ 'a': 1 }", "{", "[]", '{"hooks": []}', '{"hooks": {"Stop": {}}}', "\0"])
def test_a_configuration_that_is_not_understood_is_left_as_it_is(content: str, tmp_path: Path) -> None:
    path = read_status("claude", environment(tmp_path)).path
    path.parent.mkdir(parents=True)
    path.write_text(content)
    assert read_status("claude", environment(tmp_path)).installed is Installed.UNREADABLE
    with pytest.raises(InvalidInput):
        install("claude", tmp_path)
    assert path.read_text() == content


@pytest.mark.parametrize("what", ["hooks", "mcp"])
def test_a_configuration_that_is_not_understood_is_named_and_the_others_are_seen_to(what: str, tmp_path: Path) -> None:
    variables = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / "config"), "PATH": str(tmp_path)}

    def run(verb: str) -> tuple[int, dict[str, bool]]:
        done = cli(what, verb, "--yes", "--json", home=tmp_path / "home", env=variables)
        return done.returncode, {row["agent"]: row["done"] for row in json.loads(done.stdout)}

    named = cli(what, "install", "--agent", "opencode", "--yes", home=tmp_path / "home", env=variables)
    assert named.returncode == 0
    gemini = tmp_path / ".gemini" / "settings.json"
    gemini.parent.mkdir()
    gemini.write_text("{")
    assert run("install") == (1, {"gemini": False, "opencode": True})
    assert run("remove") == (1, {"gemini": False, "opencode": True})
    assert gemini.read_text() == "{"
    gemini.unlink()
    gemini.mkdir()
    assert run("install") == (1, {"gemini": False}), "and OpenCode, which is neither there nor has ours"
    said = cli(what, "remove", "--yes", home=tmp_path / "home", env=variables)
    assert (said.returncode, str(gemini) in said.stderr) == (1, True)


@pytest.mark.parametrize(
    ("agent", "file", "off", "on"),
    [
        ("claude", ".claude/settings.json", '{"disableAllHooks": true}', '{"disableAllHooks": false}'),
        ("gemini", ".gemini/settings.json", '{"hooksConfig": {"enabled": false}}', '{"hooksConfig": {"enabled": true}}'),
        (
            "gemini",
            ".gemini/settings.json",
            '{"hooksConfig": {"disabled": ["crewkeep"]}}',
            '{"hooksConfig": {"disabled": ["x"]}}',
        ),
        ("codex", ".codex/config.toml", "[features]\nhooks = false\n", "[features]\nhooks = true\n"),
        ("codex", ".codex/config.toml", "features.hooks = false\n", "not TOML ["),
    ],
)
def test_hooks_that_their_user_has_turned_off_are_told(agent: str, file: str, off: str, on: str, tmp_path: Path) -> None:
    for content, is_off in ((off, True), (on, False)):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(content)
        install(agent, tmp_path)
        found = read_status(agent, environment(tmp_path))
        assert found.installed is Installed.YES
        assert (found.problem is not None) is is_off
        assert not is_off or file in str(found.problem)
        remove(agent, tmp_path)


def test_a_plugin_of_others_is_not_overwritten(tmp_path: Path) -> None:
    path = read_status("opencode", environment(tmp_path)).path
    path.parent.mkdir(parents=True)
    path.write_text(theirs := "export const Mine = 'not crewkeep-hook'")
    with pytest.raises(InvalidInput):
        install("opencode", tmp_path)
    assert path.read_text() == theirs


def test_that_opencode_must_fetch_its_library_first_is_told_when_its_hooks_are_installed(tmp_path: Path) -> None:
    words = ("hooks", "install", "--agent", "opencode", "--yes")
    home = environment(tmp_path) | {"XDG_CONFIG_HOME": str(tmp_path / "config")}
    assert "fetches its own library" in cli(*words, home=tmp_path / "home", env=home).stderr
    (tmp_path / "config" / "opencode" / "plugin" / "crewkeep.js").unlink()
    (tmp_path / "config" / "opencode" / "node_modules").mkdir()
    done = cli(*words, home=tmp_path / "home", env=home)
    assert done.returncode == 0
    assert "fetches" not in done.stderr


def test_a_file_that_changed_meanwhile_is_left_alone(tmp_path: Path) -> None:
    edit = plan_hooks("claude", environment(tmp_path), install=True)
    edit.path.parent.mkdir(parents=True)
    edit.path.write_text("{}")
    with pytest.raises(Conflict):
        edit.apply()
    assert edit.path.read_text() == "{}"


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    real = tmp_path / "dotfiles.json"
    real.write_text("{}\n")
    link = tmp_path / ".claude" / "settings.json"
    link.parent.mkdir()
    link.symlink_to(real)
    install("claude", tmp_path)
    assert link.is_symlink()
    assert "crewkeep-hook" in real.read_text()


@pytest.mark.parametrize("variables", [{}, {"CREWKEEP_SESSION": "x"}])
def test_the_command_is_silent_outside_of_a_session_and_when_crewkeep_is_gone(variables: dict[str, str]) -> None:
    command = make_command("claude")
    if variables:
        command = command.replace(str(CREWKEEP.parent), "/nowhere")
    done = subprocess.run(
        ["sh", "-c", command], input=b"{}", env={"PATH": os.environ["PATH"], **variables}, capture_output=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_an_object_is_written_in_the_manner_of_what_stood_there() -> None:
    for text in ('{"a":1}', '{"a": 1}\n', '{\n  "a": 1\n}\n', '{\n\t"a": 1\n}'):
        assert write_object(read_object(Path("x"), text.encode()), text.encode()) == text.encode()
    assert write_object({}, b"{}") is None


def test_the_difference_is_shown() -> None:
    shown = Edit(path=Path("/x/settings.json"), before=None, after=b'{"a": 1}\n').show()
    assert '+{"a": 1}' in shown
    assert "/dev/null" in shown
