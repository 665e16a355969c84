"""A person's terminal while it is attached: keys as they are pressed, output without waiting, and always put back.

Invariants:
  - what was switched on for the program is switched off when the terminal is given back, whatever happened in between
  - a terminal that does not take output holds up nobody: bytes wait here, up to a bound that the caller heeds
  - the description that the shell uses is never made non-blocking: ours is opened anew
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from types import TracebackType

from coordinator.system import terminal
from crewkeep.terminal.modes import Modes

#: More than this waiting to be written: read nothing more from the keeper.
PENDING_LIMIT_BYTES = 256 << 10
#: To a pipe that is ready, so much can be written without waiting (PIPE_BUF is at least this).
_SAFE_WRITE_BYTES = 512
_GIVE_BACK_S = 1.0


class PersonsTerminal:
    """Stdin and stdout of whoever attaches; also where one or both are no terminal. Use as a context manager."""

    def __init__(self, stdin_fd: int, stdout_fd: int) -> None:
        self.stdin_fd = stdin_fd
        self.reads_keys = _is_terminal(stdin_fd)
        self.shows_screen = _is_terminal(stdout_fd)
        #: Where output goes; may be another descriptor than stdout's.
        self.out_fd = stdout_fd
        self._stdout_fd = stdout_fd
        self._pending = bytearray()
        self._modes = Modes()
        self._raw = contextlib.ExitStack()
        #: As far as can be told: on the main screen, nothing stands left of the cursor.
        self._at_line_start = True

    def __enter__(self) -> PersonsTerminal:
        if self.shows_screen:
            try:
                self.out_fd = os.open(os.ttyname(self._stdout_fd), os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
            except OSError:
                self.out_fd = self._stdout_fd  # a terminal without a name here: small writes, each when it is ready
        self.take()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self.give_back()
        finally:
            if self.out_fd != self._stdout_fd:
                os.close(self.out_fd)

    def take(self) -> None:
        """Pass every key through from now on; not while another job has the terminal."""
        if self.reads_keys and self._is_ours_now():
            self._raw.enter_context(terminal.raw_mode(self.stdin_fd))

    def give_back(self) -> None:
        """Put the terminal back as it was taken: modes off that the program switched on, line editing on."""
        try:
            self.reset_screen()
        finally:
            self._raw.close()

    def reset_screen(self) -> None:
        """Write what waits, switch off what the program switched on, begin a line; gives up after a second."""
        self._drain(_GIVE_BACK_S)
        if self.shows_screen:
            if self._pending:
                self._pending[:] = b"\x18"  # what was cut off in the middle of a sequence ends
            self._pending += self._modes.restore()
            self._modes.forget()
            if not self._at_line_start:
                self._pending += b"\r\n"
                self._at_line_start = True
            self._drain(_GIVE_BACK_S)

    def find_size(self) -> tuple[int, int] | None:
        """Return rows and columns, ``None`` where there is no screen."""
        return terminal.get_window_size(self._stdout_fd) if self.shows_screen else None

    @property
    def is_full_screen(self) -> bool:
        return self.shows_screen and self._modes.is_full_screen

    @property
    def pending_bytes(self) -> int:
        return len(self._pending)

    def show(self, data: bytes) -> None:
        """Take output of the program; it is written when the terminal is ready."""
        if self.shows_screen:
            self._modes.feed(data)
        if data and not self.is_full_screen:
            self._at_line_start = data.endswith(b"\n")
        self._pending += data

    def say(self, text: str, to_fd: int) -> None:
        """Tell the person something in a line of its own, behind the output so far."""
        self._drain(_GIVE_BACK_S)
        line = f"[crewkeep] {text}\n"
        if self.reads_keys and _is_terminal(to_fd):
            line = ("" if self._at_line_start else "\r\n") + line.replace("\n", "\r\n")
            self._at_line_start = True
        try:
            os.write(to_fd, line.encode("utf-8", "replace"))
        except OSError:
            return  # nobody reads it

    def write_ready(self) -> None:
        """Write some of what waits; call it when ``out_fd`` is ready. Raises ``OSError`` if nobody reads any more."""
        size = len(self._pending) if self.out_fd != self._stdout_fd else _SAFE_WRITE_BYTES
        try:
            written = os.write(self.out_fd, self._pending[:size])
        except BlockingIOError:
            return
        del self._pending[:written]

    def _is_ours_now(self) -> bool:
        try:
            return os.tcgetpgrp(self.stdin_fd) == os.getpgrp()
        except OSError:
            return True  # not the terminal that controls us: nobody else's job has it

    def _drain(self, timeout_s: float) -> None:
        deadline_s = time.monotonic() + timeout_s
        try:
            while self._pending and (rest_s := deadline_s - time.monotonic()) > 0:
                if select.select((), (self.out_fd,), (), rest_s)[1]:
                    self.write_ready()
        except (OSError, ValueError):
            self._pending.clear()  # the terminal is gone


def _is_terminal(fd: int) -> bool:
    try:
        return os.isatty(fd)
    except (OSError, ValueError):
        return False
