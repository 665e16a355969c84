"""Runs an agent's hook as the agent does, against a stand-in for a keeper that hears it and gives it something to print."""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from coordinator.agents.hook_events import HookKind, HookReply, parse_event, render_reply
from coordinator.errors import CrewkeepError
from coordinator.system import sockets
from crewkeep.setup.hooks import MARK, find_program, make_command
from crewkeep.terminal import frames
from crewkeep.terminal.frames import FrameReader, Kind

_SAID = "crewkeep hears this agent"
_TIMEOUT_S = 30.0


def run_hook(agent: str, count: int) -> dict[str, Any]:
    """Run the hook ``count`` times; returns ``works``, ``p50_ms``, ``max_ms`` of whole processes, and ``problem``."""
    event = {
        "hook_event_name": "BeforeAgent" if agent == "gemini" else "UserPromptSubmit",
        "session_id": "test",
        "prompt": "test",
    }
    answer = render_reply(parse_event(agent, event), HookReply(context=_SAID))
    spent_ms, problem = [], None
    with tempfile.TemporaryDirectory(prefix="crewkeep-") as directory:
        path = Path(directory) / "sessions" / "test" / "keeper.sock"
        path.parent.parent.mkdir()
        path.parent.mkdir()
        with _StandIn(path, answer) as keeper:
            environment = {**os.environ, "CREWKEEP_HOME": directory, "CREWKEEP_SESSION": "test", "CREWKEEP_EPOCH": "1"}
            # OpenCode's plug-in starts the program itself.
            command = [find_program(), agent] if agent == "opencode" else ["sh", "-c", make_command(agent)]
            for number in range(count):
                began_s = time.perf_counter()
                done = subprocess.run(
                    command,
                    env=environment,
                    input=json.dumps(event).encode(),
                    capture_output=True,
                    timeout=_TIMEOUT_S,
                    check=False,
                )
                spent_ms.append((time.perf_counter() - began_s) * 1000)
                if done.returncode != 0:
                    problem = f"{MARK} ended with {done.returncode}: {done.stderr.decode('utf-8', 'replace')[-200:]}"
                elif _SAID not in done.stdout.decode("utf-8", "replace"):
                    problem = f"{MARK} printed {done.stdout!r:.200} instead of what it was told"
                elif len(keeper.heard) != number + 1 or keeper.heard[-1] is not HookKind.PROMPT:
                    problem = f"the stand-in for a keeper heard {len(keeper.heard)} of {number + 1} events"
                if problem:
                    break
    return {
        "works": problem is None,
        "p50_ms": round(statistics.median(spent_ms), 1),
        "max_ms": round(max(spent_ms), 1),
        "problem": problem,
    }


class _StandIn:
    """Listens where a keeper would, for as long as the block."""

    def __init__(self, path: Path, answer: str) -> None:
        self.heard: list[HookKind] = []
        self._answer = answer
        self._listener = sockets.listen(path)
        self._listener.setblocking(True)
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> _StandIn:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return  # shut down: the test is over
            with connection:
                self._answer_all(connection)

    def _answer_all(self, connection: socket.socket) -> None:
        reader = FrameReader()
        try:
            while data := connection.recv(1 << 16):
                for frame in reader.feed(data):
                    words = frame.words()
                    self.heard.append(parse_event(str(words["agent"]), json.loads(words["event"])).kind)
                    connection.sendall(frames.encode(Kind.ANSWER, {"print": self._answer}))
        except (CrewkeepError, OSError, ValueError, KeyError):
            return  # what was not heard is told by its absence
