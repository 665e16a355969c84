"""The plug-in for OpenCode, run by Node with a hook that writes down what it is given and answers what a test says.

That OpenCode calls it so, and what comes of it, is shown with the program itself in tests/agents.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import require_program

import crewkeep.setup
from coordinator.agents.opencode_store import find_database

HOOK = """#!{python}
import json, os, sys
event = json.load(sys.stdin)
with open({heard!r}, "a") as file:
    file.write(json.dumps(event) + "\\n")
print({printed!r})
"""

RUN = """
import {{ Crewkeep }} from "{plugin}"
const find = async ({{ path }}) => ({{ data: {{ parentID: path.id === "helper" ? "ses" : undefined }} }})
const client = {{ session: {{ get: find }} }}
const hooks = await Crewkeep({{ directory: "/work", client }})
const emit = (type, properties) => hooks.event({{ event: {{ type, properties }} }})
{script}
"""


class Plugin:
    """The plug-in with a hook that prints ``printed``."""

    def __init__(self, directory: Path, printed: str) -> None:
        self.directory, self.heard = directory, directory / "heard"
        hook = directory / "hook"
        hook.write_text(HOOK.format(python=sys.executable, heard=str(self.heard), printed=printed))
        hook.chmod(0o700)
        source = (Path(crewkeep.setup.__file__).parent / "opencode_plugin.js").read_text()
        (directory / "plugin.mjs").write_text(source.replace('"CREWKEEP_HOOK"', json.dumps(str(hook))))

    def run(self, script: str, **environment: str) -> Any:
        """Run lines of JavaScript behind the plug-in's start; returns what they print, as JSON."""
        (self.directory / "run.mjs").write_text(RUN.format(plugin=self.directory / "plugin.mjs", script=script))
        done = subprocess.run(
            [require_program("node"), str(self.directory / "run.mjs")],
            env={"HOME": str(self.directory), "CREWKEEP_SESSION": "one", **environment},
            capture_output=True,
            text=True,
            timeout=40,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout or "null")

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.heard.read_text().splitlines()] if self.heard.exists() else []


def answer(**told: str) -> str:
    return json.dumps({"hookSpecificOutput": told})


PROMPT = """const said = { parts: [{ type: "text", text: "go", synthetic: false }] }
await hooks["chat.message"]({ sessionID: "ses" }, said)
console.log(JSON.stringify(said.parts))"""


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OPENCODE_DB": "mine.db"},
        {"OPENCODE_DB": "/elsewhere/mine.db"},
        {"OPENCODE_DB": ":memory:"},
        {"OPENCODE_DB": "", "XDG_DATA_HOME": ""},
        {"XDG_DATA_HOME": "/data"},
    ],
)
def test_it_names_the_database_that_the_adapter_finds(environment: dict[str, str], tmp_path: Path) -> None:
    plugin = Plugin(tmp_path, "")
    plugin.run(PROMPT, **environment)
    found = find_database({"HOME": str(tmp_path), **environment})
    assert [event.get("store_path") for event in plugin.events()] == [found, found]


def test_events_are_told_in_their_order_and_a_resumed_conversation_has_a_start_too(tmp_path: Path) -> None:
    plugin = Plugin(tmp_path, answer(additionalContext="hear"))
    parts = plugin.run(
        PROMPT
        + """
await hooks["tool.execute.before"]({ tool: "bash", sessionID: "helper", callID: "1" }, { args: { command: "x" } })
const failed = { type: "tool", tool: "bash", callID: "1", sessionID: "helper", state: { status: "error", error: "no" } }
emit("message.part.updated", { part: failed })
emit("message.part.updated", { part: failed })
await hooks["experimental.text.complete"]({ sessionID: "ses" }, { text: "done" })
emit("permission.asked", { sessionID: "ses", permission: "bash" })
emit("session.idle", { sessionID: "ses" })
await hooks.dispose()"""
    )
    assert parts[0]["text"] == "go\n\nhear"
    events = plugin.events()
    assert [event["hook_event_name"] for event in events] == [
        "SessionStart", "UserPromptSubmit", "PreToolUse", "PostToolUseFailure", "PermissionRequest", "Stop", "SessionEnd"
    ]  # fmt: skip
    assert [event.get("agent_id") for event in events] == [None, None, "helper", "helper", None, None, None]
    assert [event["session_id"] for event in events[-3:]] == ["ses", "ses", "ses"]
    assert events[5]["last_assistant_message"] == "done"
    assert [event.get("takes_context") for event in events[:4]] == [False, True, None, False]


def test_what_the_model_is_to_know_is_added_to_whatever_shape_a_tools_result_has(tmp_path: Path) -> None:
    plugin = Plugin(tmp_path, answer(additionalContext="hear"))
    results = plugin.run(
        """const results = [{ output: "x", metadata: { exit: 3 } }, { content: [{ type: "text", text: "x" }], isError: true }, {}]
for (const result of results) await hooks["tool.execute.after"]({ tool: "bash", sessionID: "ses", callID: "1", args: {} }, result)
console.log(JSON.stringify(results))"""
    )
    assert results[0]["output"] == "x\n\nhear"
    assert [piece["text"] for piece in results[1]["content"]] == ["x", "hear"]
    assert results[2] == {}
    assert [event["takes_context"] for event in plugin.events()] == [True, True, False]
    assert [event["tool_response"] for event in plugin.events()] == [{"exit_code": 3}, {"is_error": True}, {}]


@pytest.mark.parametrize("printed", ["no JSON", "null", '{"hookSpecificOutput": null}', ""])
def test_whatever_the_hook_prints_the_agent_goes_on(printed: str, tmp_path: Path) -> None:
    parts = Plugin(tmp_path, printed).run(PROMPT)
    assert [part["text"] for part in parts] == ["go"]


def test_a_hook_that_cannot_run_or_is_gone_is_in_nobodys_way(tmp_path: Path) -> None:
    plugin = Plugin(tmp_path, "")
    (tmp_path / "hook").write_text("#!/nowhere\n")
    assert plugin.run(PROMPT)[0]["text"] == "go"
    (tmp_path / "hook").unlink()
    assert plugin.run("console.log(JSON.stringify(Object.keys(hooks)))") == []


def test_outside_of_a_session_it_does_nothing(tmp_path: Path) -> None:
    plugin = Plugin(tmp_path, "")
    assert plugin.run("console.log(JSON.stringify(Object.keys(hooks)))", CREWKEEP_SESSION="") == []
    assert plugin.events() == []


def test_a_refused_tool_call_does_not_happen(tmp_path: Path) -> None:
    plugin = Plugin(tmp_path, answer(permissionDecision="deny", permissionDecisionReason="claimed by session ann"))
    told = plugin.run(
        """const call = hooks["tool.execute.before"]({ tool: "write", sessionID: "ses", callID: "1" }, { args: {} })
console.log(JSON.stringify(await call.then(() => "it happens", (error) => error.message)))"""
    )
    assert told == "claimed by session ann"
