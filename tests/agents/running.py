"""An agent program without a keeper, for what the adapter believes of the program itself."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import psutil
from support import wait_until

from coordinator.agents.base import Agent
from coordinator.sessions.conversation import Conversation
from coordinator.sessions.model import LaunchSpec
from coordinator.system.terminal import spawn_on_terminal

#: A program of this size takes its time to start, and more on a busy machine.
SLOW_S = 60


class Running:
    """A program on a terminal whose output is read and never answered, as when nobody is attached."""

    def __init__(self, argv: tuple[str, ...], launch: LaunchSpec) -> None:
        spawned = spawn_on_terminal(argv, cwd=launch.cwd, environment=launch.environment, rows=40, columns=120, cgroup=None)
        self.launch = launch
        self.pid, self._master_fd = spawned.identity.pid, spawned.master_fd
        self.process = psutil.Process(self.pid)
        self.output = b""
        self._seen = 0
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        try:
            while data := os.read(self._master_fd, 1 << 16):
                self.output += data
        except OSError:
            return  # EIO: the other end is closed

    def take_output(self) -> bytes:
        """Return what came since the last call."""
        output = self.output
        new, self._seen = output[self._seen :], len(output)
        return new

    def type(self, text: str) -> None:
        os.write(self._master_fd, text.encode())

    def tree(self) -> list[psutil.Process]:
        return [self.process, *self.process.children(recursive=True)]

    def wait_conversation(self, agent: Agent) -> Conversation:
        """Return its conversation once the adapter finds it."""

        def look() -> Conversation | None:
            found = agent.find_conversation(self.launch, [process.pid for process in self.tree()], 0.0)
            assert found is not None or self.process.status() != psutil.STATUS_ZOMBIE, self.output
            return found

        found = wait_until(look, SLOW_S, "the conversation", every_s=0.05)
        assert found is not None
        return found

    def wait(self) -> int:
        """Return the code that it ends with."""
        ended = wait_until(lambda: [end for end in [os.waitpid(self.pid, os.WNOHANG)] if end[0]], SLOW_S, "its end")
        return os.waitstatus_to_exitcode(ended[0][1])

    def kill(self) -> None:
        """End it with SIGKILL, and what its tools left."""
        try:
            rest = self.tree()[1:]
            self.process.kill()
            self.wait()
        except (psutil.NoSuchProcess, ChildProcessError):
            rest = []
        for process in rest:
            if process.is_running():
                process.kill()
        self._reader.join(5)
        if self._master_fd >= 0:
            os.close(self._master_fd)
            self._master_fd = -1


#: Starts a program, in words of its own if they are given, and ends it with the test.
Start = Callable[..., Running]
