"""Work that is killed in the middle of a tool call: the model's side, the session, and how to tell that it came back."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from agent_home import AgentHome
from model_server import Ask, ModelServer, Shell
from running import SLOW_S
from support import cli, cli_json, wait_until

from coordinator.paths import Home
from coordinator.sessions.conversation import Conversation, read_conversation
from coordinator.sessions.model import SessionRecord
from coordinator.sessions.registry import Registry

#: A tool that writes on and on, from a daemon that left the agent's process group, OS session and parent.
_WRITER = "setsid sh -c 'while :; do echo tick >> ticks.txt; sleep 0.02; done' < /dev/null > /dev/null 2>&1 &"


class Work:
    """The model's side: it lets a tool run that is cut short, and says "finished" once the agent was told to go on."""

    def __init__(self, directory: Path, go_on: str) -> None:
        self.ticks, self.go_on = directory / "ticks.txt", go_on
        #: Size of what the killed tool had written when the next incarnation first asked.
        self.ticks_at_return: int | None = None

    def answer(self, ask: Ask) -> str | Shell:
        if self.is_return(ask) and not ask.after_tool:
            self.ticks_at_return = self.ticks.stat().st_size
            return Shell("sleep 0.5; echo again")  # time in which a tool that was left over would write
        if self.is_return(ask):
            return "finished"
        if "remember" in ask.last_user:
            return "the heron, noted"
        return Shell(f"{_WRITER}\nwhile [ ! -s ticks.txt ]; do sleep 0.01; done; echo begun > begun.txt; sleep 300")

    def is_return(self, ask: Ask) -> bool:
        return self.go_on in ask.last_user  # OpenCode puts it in quotation marks

    def wait_return(self, model: ModelServer) -> Ask:
        """Return the first request of the next incarnation."""
        return wait_until(lambda: list(filter(self.is_return, model.working_asks())), SLOW_S, "the return")[0]


def run_coder(home: Home, agent: AgentHome, *argv: str) -> tuple[SessionRecord, Conversation]:
    """Start a session named coder and wait until its tool is at work and its conversation is written down."""
    words = ("run", "-d", "--json", "--name", "coder", "--cwd", str(agent.work), "--", *argv)
    cli_json(*words, home=home, env=agent.environment)
    wait_until((agent.work / "begun.txt").exists, SLOW_S, "the tool call")
    paths = home.session(Registry(home).find("coder").id)

    def read() -> Conversation | None:
        talk = read_conversation(paths)
        return talk if talk is not None and (talk.transcript or talk.store) else None

    talk = wait_until(read, SLOW_S, "the conversation")
    assert talk is not None
    return Registry(home).find("coder"), talk


def kill_part(record: SessionRecord, which: str = "agent") -> None:
    """Kill with SIGKILL what ``which`` names: the agent, the keeper, or both."""
    assert record.agent is not None
    assert record.owner is not None
    for name, process in (("keeper", record.owner), ("agent", record.agent)):
        if name in which:
            os.kill(process.pid, signal.SIGKILL)


def check_next_words(home: Home, model: ModelServer, work: Work) -> None:
    """Wait until an interactive program that came back is done with its turn, and see that it takes what is sent then."""
    assert "work on the heron" in work.wait_return(model).said_by("user")
    wait_until(lambda: "finished" in cli("logs", "coder", home=home).stdout, SLOW_S, "the answer on the screen", every_s=0.3)
    assert work.ticks.stat().st_size == work.ticks_at_return
    sent = cli("send", "coder", "remember this", home=home)
    assert sent.returncode == 0, sent.stderr
    asks = wait_until(lambda: [ask for ask in model.working_asks() if ask.last_user == "remember this"], what="the next words")
    assert "work on the heron" in asks[-1].said_by("user")


def wait_permission_prompt(home: Home, agent: AgentHome, *argv: str) -> None:
    """Start a session named coder of a program that will ask its user for leave, and wait until it shows as waiting for that."""
    done = cli("run", "-d", "--name", "coder", "--cwd", str(agent.work), "--", *argv, home=home, env=agent.environment)
    assert done.returncode == 0, done.stderr
    wait_until(lambda: cli_json("ps", "--json", home=home)[0]["state"] == "waiting", SLOW_S, "the state waiting", every_s=0.2)
