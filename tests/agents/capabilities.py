"""What each agent can do under crewkeep, by the test that shows it; the table of docs/agents.md is written from here.

``python tests/agents/capabilities.py`` writes it. A cell is filled only by a test that is there and is run; a test of the house
holds the table of the documentation against this one.
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "agents.md"
AGENTS = ("codex", "gemini", "opencode", "claude", "aider")
_BEGIN, _END = "<!-- capabilities: written by `python tests/agents/capabilities.py` -->", "<!-- end of capabilities -->"
#: What is not shown, said in a word.
_NO = "–"

_END_TO_END = "test_a_killed_session_comes_back_in_its_own_conversation"
_PROMPT = "test_a_permission_prompt_shows_as_waiting_and_refuses_what_is_sent"
_HOOKS = "tests/agents/test_hooks.py"
_INTERACTIVE = "tests/agents/test_interactive.py"
_CODEX, _GEMINI, _OPENCODE, _CLAUDE = (
    f"tests/agents/test_{name}_program.py" for name in ("codex", "gemini", "opencode", "claude")
)
_GOES_ON = "test_the_interactive_program_goes_on_if_it_was_at_work_and_waits_if_it_waited"
_THREE = ("codex", "gemini", "opencode")


def _each(path: str, test: str, agents: tuple[str, ...] = _THREE) -> dict[str, str]:
    return dict.fromkeys(agents, f"{path}::{test}")


def _own(test: str, *agents: str, kind: str = "") -> dict[str, str]:
    return {agent: f"tests/agents/test_{agent}{kind}.py::{test}" for agent in agents}


#: What, and for each agent the test that shows it.
CAPABILITIES: tuple[tuple[str, dict[str, str]], ...] = (
    ("killed in the middle of a tool (`kill -9`), it comes back in its own conversation; the tool writes no more",
     _own(_END_TO_END, "codex", "gemini", "opencode", "claude")),
    ("comes back with its flags and never more permission",
     {"codex": f"{_CODEX}::test_a_permission_lowered_by_configuration_since_is_not_raised_by_a_resume",
      "gemini": f"{_GEMINI}::test_headless_it_comes_back_in_its_own_conversation_with_its_flags",
      "opencode": f"{_OPENCODE}::test_run_comes_back_in_its_own_conversation_with_its_flags",
      "claude": f"{_CLAUDE}::test_a_headless_run_comes_back_in_its_own_conversation_with_its_flags"}),
    ("full screen: an attached terminal stays through `kill -9` of agent and keeper",
     _each(_INTERACTIVE, "test_an_attached_terminal_stays_through_kill_9_of_agent_and_keeper")),
    ("full screen: attach, type, resize, detach",
     _each(_INTERACTIVE, "test_what_is_typed_reaches_the_model_and_another_window_the_program")),
    ("full screen: one that was at work is told to go on, one that waited waits",
     {"codex": f"{_CODEX}::{_GOES_ON}",
      "gemini": f"{_GEMINI}::{_GOES_ON}",
      "claude": f"{_CLAUDE}::{_GOES_ON}"}),
    ("a lost transcript is put back from the checkpoint, and the agent finds it",
     {"codex": "tests/agents/test_codex.py::test_a_lost_transcript_is_put_back_from_the_checkpoint",
      "gemini": "tests/agents/test_gemini.py::test_a_lost_transcript_is_put_back_from_the_checkpoint_when_everything_was_killed",
      "opencode": "tests/agents/test_opencode.py::test_a_lost_database_is_made_anew_from_the_checkpoint",
      "claude": "tests/agents/test_claude.py::test_a_lost_transcript_is_put_back_from_the_checkpoint"}),
    ("what was said and done is in the history of its session",
     _each("tests/agents/test_history.py", "test_what_was_said_and_done_is_in_the_sessions_history", (*_THREE, "claude"))),
    ("an open permission prompt shows as `waiting`; nothing is typed into it",
     {**_own(_PROMPT, "codex", "opencode", "claude"),
      "gemini": f"{_GEMINI}::test_an_open_permission_prompt_needs_the_user"}),
    ("a model that fails (429, 500, cut stream, hang, refused) never leaves it `done`",
     _each("tests/agents/test_model_faults.py", "test_a_turn_that_the_model_failed_is_never_called_done")),
    ("a usage limit parks it until the limit ends",
     {"codex": "tests/agents/test_limits.py::test_a_limit_parks_the_session_until_its_end_and_then_it_goes_on",
      "gemini": "tests/agents/test_limits.py::test_gemini_is_parked_until_its_daily_quota_is_there_again",
      "claude": "tests/agents/test_limits.py::test_claude_code_is_parked_until_the_end_that_it_tells"}),
    ("the end of a usage limit is read",
     {"codex": f"{_CODEX}::test_a_usage_limit_tells_when_it_ends",
      "gemini": f"{_GEMINI}::test_a_headless_failure_is_told_and_the_prompt_is_said_again",
      "claude": f"{_CLAUDE}::test_a_usage_limit_tells_when_it_ends"}),
    ("hooks: prompts, tools and turns are in the journal and count as progress",
     _each(_HOOKS, "test_what_the_agent_does_is_written_into_the_journal")),
    ("hooks: an edit of what another session has claimed is refused, and it is told by whom",
     _each(_HOOKS, "test_an_edit_of_what_another_has_claimed_is_refused_and_the_agent_told_by_whom")),
    ("hooks: a message from another session is in its next request, once",
     _each(_HOOKS, "test_a_letter_that_was_given_to_a_killed_agent_is_not_given_again_and_one_that_was_not_is")),
    ("hooks: it works on while crewkeep's home is broken", _each(_HOOKS, "test_with_a_broken_home_the_agent_still_works")),
    ("MCP: it updates the shared context as its session",
     _each("tests/agents/test_mcp.py", "test_an_agent_updates_the_context_as_its_session")),
    ("beside another agent in one repository: claims and messages",
     _each("tests/agents/test_crew.py", "test_two_different_agents_keep_off_each_others_files_and_tell_each_other")),
)  # fmt: skip


def make_table() -> str:
    """Return the table as Markdown."""
    lines = ["| | " + " | ".join(AGENTS) + " |", "|---|" + ":-:|" * len(AGENTS)]
    for what, shown in CAPABILITIES:
        lines.append(f"| {what} | " + " | ".join("✓" if agent in shown else _NO for agent in AGENTS) + " |")
    return "\n".join(lines)


def find_unshown() -> list[str]:
    """Return the tests that are named here and are not there."""
    named = {test for _, shown in CAPABILITIES for test in shown.values()}
    missing = []
    for test in sorted(named):
        path, _, name = test.partition("::")
        try:
            tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        except FileNotFoundError:
            missing.append(test)
            continue
        if name not in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}:
            missing.append(test)
    return missing


def read_page() -> str:
    """Return the table that the documentation has."""
    found = re.search(re.escape(_BEGIN) + r"\n(.*?)\n" + re.escape(_END), PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return found[1] if found else ""


def write_page() -> None:
    """Put the table into the documentation, in the place of the one that is there."""
    text = PAGE.read_text(encoding="utf-8")
    pattern = re.compile(re.escape(_BEGIN) + r"\n.*?\n?" + re.escape(_END), re.DOTALL)
    assert pattern.search(text), f"{PAGE} has no place for it: {_BEGIN}"
    PAGE.write_text(pattern.sub(lambda _: f"{_BEGIN}\n{make_table()}\n{_END}", text), encoding="utf-8")


if __name__ == "__main__":
    if unshown := find_unshown():
        sys.exit("there is no such test: " + ", ".join(unshown))
    write_page()
