"""``crewkeep-hook AGENT``: what agent programs run at each of their events, with the event as JSON on standard input.

It hands the event to the keeper of its session and prints what that answers; everything else happens in the keeper, so that this
process is over in a few tens of milliseconds. Outside of a session it does nothing.

Invariants:
  - it never keeps the agent from its work: whatever is wrong with crewkeep, it prints nothing and exits with 0
  - the one exception is an edit while ``claim_mode`` is ``enforce``: if claims cannot be asked for, it is refused with the reason
  - letters count as handed over only once they have been printed
"""

from __future__ import annotations

import os
import sys

#: The keeper answers in a millisecond; one that is stopped must not hold up the agent.
_TIMEOUT_S = 1.0
_REQUEST = ord("Q")
#: Events above this (a tool's output in megabytes) are cut before they are handed on.
_EVENT_LIMIT_BYTES = 1 << 20
_TEXT_LIMIT = 10_000
_PATCH = "*** Begin Patch"


def main() -> None:
    """Run the hook and exit."""
    session, home = os.environ.get("CREWKEEP_SESSION"), os.environ.get("CREWKEEP_HOME")
    agent = sys.argv[1] if len(sys.argv) > 1 else ""
    try:
        event = sys.stdin.buffer.read()
        if session and home and agent:
            _tell(event, agent, f"{home}/sessions/{session}/keeper.sock")
    except BaseException:  # noqa: BLE001 - the outermost edge of a process that must not be in its agent's way
        pass
    finally:
        _leave()


def _tell(event: bytes, agent: str, socket_path: str) -> None:
    import json

    if len(event) > _EVENT_LIMIT_BYTES:
        event = json.dumps(_cut(json.loads(event))).encode()
    question = {
        "verb": "hook",
        "agent": agent,
        "event": event.decode("utf-8", "replace"),
        "epoch": os.environ.get("CREWKEEP_EPOCH", ""),
        "parent": os.getppid(),
    }
    try:
        from coordinator.system.asking import Line

        with Line(socket_path, _TIMEOUT_S) as line:
            answer = json.loads(line.ask(_REQUEST, json.dumps(question).encode()))
            if "error" in answer:
                raise ConnectionError(answer["error"])
            _print(str(answer.get("print") or ""))
            if answer.get("letters"):
                line.ask(_REQUEST, json.dumps({"verb": "hook-printed", "letters": answer["letters"]}).encode())
    except Exception as error:  # noqa: BLE001 - whatever is wrong with the keeper or its answer
        from crewkeep.hook_fallback import answer_without_keeper

        _print(answer_without_keeper(agent, event, error))


def _print(text: str) -> None:
    if text:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


def _cut(value: object) -> object:
    """Return the event with its long texts cut: nobody needs a whole file to know that it was read."""
    if isinstance(value, str):
        if len(value) <= _TEXT_LIMIT:
            return value
        if _PATCH in value:  # which files it writes, and where, is what claims are held against
            before, _, patch = value.partition(_PATCH)
            return before[:_TEXT_LIMIT] + "\n".join([_PATCH, *(line for line in patch.splitlines() if line.startswith("*** "))])
        return value[:_TEXT_LIMIT]
    if isinstance(value, dict):
        return {key: _cut(part) for key, part in value.items()}
    return [_cut(part) for part in value[:1000]] if isinstance(value, list) else value


def _leave() -> None:
    try:
        sys.stdout.flush()
    except OSError:
        pass  # the agent does not listen any more
    os._exit(0)


if __name__ == "__main__":
    main()
