"""Signals as numbers in a pipe, so that an attached terminal meets them between two acts and never within one."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

#: All that ask an attached terminal to leave, to look at its size, or to make way for a shell.
_CAUGHT = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGWINCH, signal.SIGTSTP, signal.SIGCONT)


class Signals:
    """The numbers of the signals that came."""

    def __init__(self) -> None:
        self.fd, self._write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC) if hasattr(os, "pipe2") else _make_pipe()

    def take(self) -> list[int]:
        """Return the numbers of those that came, in order."""
        try:
            return list(os.read(self.fd, 256))
        except BlockingIOError:
            return []

    def put(self, number: int, _: object = None) -> None:
        try:
            os.write(self._write_fd, bytes([number]))
        except OSError:
            return  # full: hundreds are waiting already

    def close(self) -> None:
        os.close(self.fd)
        os.close(self._write_fd)


@contextmanager
def catch_signals() -> Iterator[Signals]:
    """Catch what concerns an attached terminal; put the handlers back. Outside the main thread nothing can be caught."""
    signals = Signals()
    before: dict[int, Callable[..., Any] | int | None] = {}
    try:
        if threading.current_thread() is threading.main_thread():
            for number in _CAUGHT:
                before[number] = signal.signal(number, signals.put)
        yield signals
    finally:
        for caught, handler in before.items():
            signal.signal(caught, signal.SIG_DFL if handler is None else handler)
        signals.close()


def _make_pipe() -> tuple[int, int]:
    pipe = os.pipe()
    for fd in pipe:
        os.set_blocking(fd, False)
    return pipe
