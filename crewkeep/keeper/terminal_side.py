"""Between the agent's terminal and those who watch it: what it prints goes to the server, what they type goes to it.

An agent that does not read its terminal fills a bounded buffer; then visitors wait, and nothing is lost or grows.
"""

from __future__ import annotations

import collections
from collections.abc import Callable
from typing import Any

from coordinator.paths import SessionPaths
from coordinator.sessions.heartbeat import Progress
from coordinator.sessions.model import SessionRecord
from coordinator.system import files, terminal
from coordinator.system.clock import SYSTEM, Clock
from crewkeep.keeper.agent_process import AgentProcess
from crewkeep.loop import READ, WRITE, Loop
from crewkeep.terminal.output import OutputLog
from crewkeep.terminal.serve import Handlers, Later, TerminalServer

#: The rest of what an agent printed is read up to this much after its end.
_DRAIN_LIMIT_BYTES = 4 << 20
#: Keys that the agent does not take are kept up to this much; then visitors wait.
_INPUT_LIMIT_BYTES = 64 << 10
#: ctrl-c and ctrl-\\: the terminal turns them into signals, which crewkeep has thereby passed on.
_INTERRUPT_KEYS = frozenset(b"\x03\x1c")


class TerminalSide:
    """One session's terminal, through all incarnations that one keeper starts."""

    def __init__(
        self,
        loop: Loop,
        paths: SessionPaths,
        record: SessionRecord,
        output: OutputLog,
        progress: Progress,
        *,
        size: tuple[int, int],
        answer: Callable[[str, dict[str, Any]], dict[str, Any] | Later],
        on_output: Callable[[], None],
        on_input: Callable[[], None],
        clock: Clock = SYSTEM,
    ) -> None:
        """Begin to listen. Raises ``StorageError``."""
        self._clock = clock
        self._loop, self._paths, self._output, self._progress = loop, paths, output, progress
        self._on_output = on_output
        self._agent: AgentProcess | None = None
        self._look: Callable[[bytes], None] = lambda data: None
        self._input: collections.deque[bytes] = collections.deque()
        self._input_bytes = 0
        handlers = Handlers(
            input=self._type,
            resize=self._resize,
            request=answer,
            touched=on_input,
            is_running=lambda: self._agent is not None,
            is_asking=lambda: progress.needs_user,
            is_line_mode=lambda: self._agent is not None and not terminal.is_raw(self._agent.master_fd),
            has_unread=lambda: (
                self._agent is not None and (bool(self._input) or terminal.has_unread_input(self._agent.master_fd))
            ),
        )
        hello = {"session": record.id, "name": record.name, "epoch": record.epoch}
        self.server = TerminalServer(loop, paths.socket, output, handlers, hello=hello)
        #: When somebody last typed a key that interrupts what runs, monotonic seconds.
        self.interrupted_s: float | None = None
        #: Rows and columns for the next agent.
        self.size = self.server.size or size

    def connect(self, agent: AgentProcess, look: Callable[[bytes], None]) -> None:
        """Serve this agent's terminal from now on; ``look`` sees what it prints before anybody else."""
        self._agent, self._look = agent, look
        self._input.clear()
        self._input_bytes = 0
        self._loop.watch(agent.master_fd, READ, self._on_ready)

    def disconnect(self) -> None:
        """Serve it no more."""
        agent, self._agent = self._agent, None
        if agent is not None:
            self._loop.forget(agent.master_fd)
            self.server.pause_input(False)

    def drain(self) -> None:
        """Take what it has printed by now."""
        rest_bytes = _DRAIN_LIMIT_BYTES
        while self._agent is not None and rest_bytes > 0 and (data := self._agent.read()):
            self._show(data)
            rest_bytes -= len(data)

    def close(self, *, remove: bool) -> None:
        """Hang up on everybody; ``remove`` the socket's name if no newer keeper can have taken it over."""
        self.disconnect()
        if remove:
            files.remove_quietly(self._paths.socket)
        self.server.close()
        self._output.close()

    def _on_ready(self, ready: int) -> None:
        agent = self._agent
        if agent is None:
            return
        if ready & READ:
            data = agent.read()
            if data is None:
                self._loop.forget(agent.master_fd)  # its end comes as a signal; some close their terminal and live on
                return
            if data:
                self._show(data)
        if ready & WRITE:
            self._type_pending()

    def _show(self, data: bytes) -> None:
        self._progress.note_output(len(data))
        self._look(data)
        self._on_output()
        self.server.broadcast(data)

    def _type(self, data: bytes) -> None:
        if self._agent is not None:  # while none runs, keys are for nobody
            if not _INTERRUPT_KEYS.isdisjoint(data) and not terminal.is_raw(self._agent.master_fd):
                self.interrupted_s = self._clock.monotonic_s()
            self._input.append(data)
            self._input_bytes += len(data)
            self._type_pending()

    def _type_pending(self) -> None:
        agent = self._agent
        if agent is None:
            return
        was_full = self._input_bytes > _INPUT_LIMIT_BYTES
        while self._input:
            taken = agent.write(self._input[0])
            self._input_bytes -= taken
            if taken < len(self._input[0]):
                self._input[0] = self._input[0][taken:]
                break
            self._input.popleft()
        self._loop.watch(agent.master_fd, READ | WRITE if self._input else READ, self._on_ready)
        is_full = self._input_bytes > _INPUT_LIMIT_BYTES
        if is_full != was_full or is_full:
            self.server.pause_input(is_full)

    def _resize(self, rows: int, columns: int) -> None:
        self.size = (rows, columns)
        if self._agent is not None:
            terminal.set_window_size(self._agent.master_fd, rows, columns)
