"""The rules of ATIF v1.8, as far as what we write needs them; the format's own models are not among our dependencies."""

from typing import Any


def check_atif(trajectory: dict[str, Any]) -> None:
    """The rules of ATIF v1.8 for what we write (its own models are stricter about nothing that is left out here)."""
    assert trajectory.keys() <= {"schema_version", "session_id", "agent", "steps", "notes", "extra"}
    assert trajectory["schema_version"] == "ATIF-v1.8" and trajectory["agent"].keys() == {"name", "version"}
    seen: set[str] = set()
    for number, step in enumerate(trajectory["steps"], 1):
        assert step["step_id"] == number and step["source"] in ("system", "user", "agent") and isinstance(step["message"], str)
        assert step.keys() <= {"step_id", "timestamp", "source", "message", "tool_calls", "observation", "extra"}
        if step["source"] != "agent":
            assert "tool_calls" not in step
        calls = [call["tool_call_id"] for call in step.get("tool_calls", [])]
        assert not seen & set(calls) and len(set(calls)) == len(calls)
        seen |= set(calls)
        for call in step.get("tool_calls", []):
            assert call.keys() <= {"tool_call_id", "function_name", "arguments", "extra"} and isinstance(call["arguments"], dict)
        for result in step.get("observation", {"results": []})["results"]:
            assert result["source_call_id"] in calls and isinstance(result["content"], str)
