"""A model that fails: whatever the program makes of it, the session is never called done, and says what is known of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from model_server import Cut, Fault, Hang, ModelServer
from programs import CODEX, GEMINI, OPENCODE, Program, with_each
from running import SLOW_S
from support import cli, cli_json, wait_until

from coordinator.paths import Home
from coordinator.sessions.conversation import read_conversation

pytestmark = [pytest.mark.agents, pytest.mark.timeout(180)]  # alone each takes 2 to 15 s; a busy machine needs more

#: What a session may be whose turn has not succeeded; `hung` only once it was quiet for long.
TRUTHFUL = {"starting", "working", "waiting", "hung", "failed", "parked"}
#: Nobody listens there.
REFUSING = "http://127.0.0.1:9"
FAULTS: dict[str, Fault | Cut | Hang | None] = {
    "429": Fault(429, "too many of them"),
    "500": Fault(500, "it broke"),
    "cut": Cut(),
    "hang": Hang(),
    "refused": None,
}
#: Those that come to an end soon, with what the program itself says of it; all others try again for a minute or more, or wait.
ENDS = {
    (CODEX.name, "429"): "hit your usage limit",
    (CODEX.name, "cut"): "stream disconnected",
    (GEMINI.name, "cut"): "",
}


class Watched:
    """One headless session of a program, looked at as a script does."""

    def __init__(self, home: Home, program: Program, url: str, tmp_path: Path) -> None:
        self.home = home
        installed = program.install(url, tmp_path)
        words = ("run", "-d", "--name", "auth", "--", *program.headless, "do the work")
        done = cli(*words, home=home, env=installed.environment, cwd=installed.work)
        assert done.returncode == 0, done.stderr

    def look(self) -> dict[str, Any]:
        row: dict[str, Any] = cli_json("inspect", "auth", "--json", home=self.home)
        assert row["state"] in TRUTHFUL, f"{row['state']}: {row['reason']}"
        return row

    def wait_ended(self) -> dict[str, Any]:
        return wait_until(lambda: row if (row := self.look())["phase"] == "ended" else None, SLOW_S, "its end", every_s=0.1)

    def watch(self, seconds: float) -> dict[str, Any]:
        """Look again and again for so long, or until it ends."""
        until_s = time.monotonic() + seconds
        return wait_until(
            lambda: row if (row := self.look())["phase"] == "ended" or time.monotonic() > until_s else None,
            seconds + SLOW_S,
            "the end of watching",
            every_s=0.1,
        )


@pytest.fixture
def watch(home: Home, tmp_path: Path) -> Iterator[Callable[[Program, str], Watched]]:
    yield lambda program, url: Watched(home, program, url, tmp_path)
    cli("kill", "--all", home=home)


@pytest.mark.parametrize("kind", FAULTS)
@with_each
def test_a_turn_that_the_model_failed_is_never_called_done(
    watch: Callable[[Program, str], Watched], program: Program, kind: str
) -> None:
    fault = FAULTS[kind]
    with ModelServer(lambda ask: fault or "nobody asks") as model:
        session = watch(program, REFUSING if fault is None else model.root)
        if (program.name, kind) in ENDS:
            row = session.wait_ended()
            assert (row["state"], row["exit_code"]) == ("failed", 1)
            assert row["reason"].startswith("it left with code 1")
            assert ENDS[program.name, kind] in row["reason"]
            return
        if fault is not None:
            asks = 1 if isinstance(fault, Hang) else 2  # the second is its trying again
            wait_until(lambda: session.look() and len(model.working_asks()) >= asks, SLOW_S, "its requests", every_s=0.1)
        wait_until(lambda: session.look()["conversation"], SLOW_S, "its conversation, in which a turn began", every_s=0.1)
        row = session.watch(3)
        assert row["state"] in {"working", "hung"}, "it waits, or tries again"
        (ended,) = cli_json("kill", "auth", "--json", home=session.home)
        assert ended["left"] == []
        row = cli_json("inspect", "auth", "--json", home=session.home)
        assert (row["state"], row["exit_signal"]) == ("stopped", 9)


@pytest.mark.parametrize("status", [429, 500])
def test_tries_that_come_to_an_end_leave_a_failed_session(watch: Callable[[Program, str], Watched], status: int) -> None:
    """OpenCode, told that it need not wait between its tries."""
    with ModelServer(lambda ask: Fault(status, "it broke for good", {"retry-after-ms": "1"})) as model:
        session = watch(OPENCODE, model.root)
        row = session.wait_ended()
        assert (row["state"], row["exit_code"]) == ("failed", 1)
        # Its words are known if its conversation was: nothing proves whose it is once the process is gone.
        known = read_conversation(session.home.session(row["id"])) is not None
        assert ("it broke for good" in row["reason"]) if known else (row["reason"] == "it left with code 1")
        assert len(model.working_asks()) > 1


@pytest.mark.parametrize("program", [CODEX, GEMINI], ids=["codex", "gemini"])
def test_a_request_that_cannot_be_mended_leaves_a_failed_session(
    watch: Callable[[Program, str], Watched], program: Program
) -> None:
    with ModelServer(lambda ask: Fault(400, "it makes no sense")) as model:
        session = watch(program, model.root)
        row = session.wait_ended()
        assert (row["state"], row["exit_code"]) == ("failed", 1)
        assert "it makes no sense" in row["reason"]
        assert "it makes no sense" in cli("why", "auth", home=session.home).stdout
