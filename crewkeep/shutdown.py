"""A program's end within seconds, however it comes: what a session must still do when its process leaves.

At the interpreter's own end and at SIGTERM or SIGHUP every registered farewell is run, all of them together for at most
``SHUTDOWN_TIMEOUT_S``; then the program goes on ending, in the signal's own way. A second signal ends it at once. SIGINT is
Python's: it comes as ``KeyboardInterrupt``, and the farewells run as the program unwinds.

A thread of our own does it, woken by the system's signal handler through a pipe: Python runs handlers on the main thread
only, and that one may be deep in a call that does not return.
Not promised: anything after ``kill -9``, ``os._exit`` or ``exec``; then the next start recovers. Signals for which the program
has set handlers of its own stay its own.
"""

from __future__ import annotations

import atexit
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType

from coordinator.config import SHUTDOWN_TIMEOUT_S

#: Gets why the program ends: ``exit``, ``SIGTERM``, ``SIGHUP``.
Farewell = Callable[[str], None]

_SIGNALS = (signal.SIGTERM, signal.SIGHUP)
_EXIT = b"\0"

_lock = threading.Lock()
_farewells: list[Farewell] = []
_said = threading.Event()
_pipe: tuple[int, int] | None = None
_is_hooked = False


def register(farewell: Farewell) -> None:
    """Let ``farewell`` run when the program ends. It may be run once only, on a thread of its own."""
    _install()
    with _lock:
        _farewells.append(farewell)


def forget(farewell: Farewell) -> None:
    """Undo ``register``."""
    with _lock:
        if farewell in _farewells:
            _farewells.remove(farewell)


def run_bounded(work: Callable[[], None], timeout_s: float) -> bool:
    """Run ``work`` on a thread that nobody waits for longer than ``timeout_s``; tell whether it ended. Raises what it raises."""
    failed: list[BaseException] = []
    done = threading.Event()

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - handed to the caller
            failed.append(error)
        finally:
            done.set()

    try:
        threading.Thread(target=run, name="crewkeep-end", daemon=True).start()
    except RuntimeError:  # the interpreter gives no threads any more: then here, as long as it takes
        run()
    ended = done.wait(timeout_s)
    if failed:
        raise failed[0]
    return ended


def _install() -> None:
    """Once a process, and anew in a forked child: the thread, the exit hook and, where they are free, the signals."""
    global _pipe, _is_hooked
    with _lock:
        if _pipe is not None:
            return
        if not _is_hooked:
            atexit.register(_at_exit)
            os.register_at_fork(after_in_child=_forget_all)
            _is_hooked = True
        _pipe = os.pipe()
        os.set_blocking(_pipe[1], False)
        _said.clear()
    threading.Thread(target=_watch, args=(_pipe[0],), name="crewkeep-farewell", daemon=True).start()
    if threading.current_thread() is not threading.main_thread():
        return  # only the main thread may set handlers
    ours = [number for number in _SIGNALS if signal.getsignal(number) in (signal.SIG_DFL, _on_signal)]
    for number in ours:
        signal.signal(number, _on_signal)
    if ours:
        before = signal.set_wakeup_fd(_pipe[1], warn_on_full_buffer=False)
        if before != -1:
            signal.set_wakeup_fd(before)  # somebody else's (asyncio): then our handler writes to the pipe itself


def _on_signal(number: int, frame: FrameType | None) -> None:
    """On the main thread: it does no more of its own; the farewell thread ends the process."""
    _write(bytes([number]))
    threading.Event().wait(2 * SHUTDOWN_TIMEOUT_S)


def _at_exit() -> None:
    if not _farewells:
        return
    _said.clear()
    _write(_EXIT)
    _said.wait(SHUTDOWN_TIMEOUT_S)


def _forget_all() -> None:
    """In a forked child: nothing of the parent's session is its own, least of all the pipe that a signal would write to."""
    global _pipe, _lock, _said
    _lock, _said = threading.Lock(), threading.Event()  # the parent's may be held by threads that are not here
    _farewells.clear()
    if _pipe is None:
        return
    before = signal.set_wakeup_fd(-1)
    if before not in (-1, _pipe[1]):
        signal.set_wakeup_fd(before)
    for number in _SIGNALS:
        if signal.getsignal(number) is _on_signal:
            signal.signal(number, signal.SIG_DFL)
    for fd in _pipe:
        os.close(fd)
    _pipe = None


def _write(data: bytes) -> None:
    assert _pipe is not None
    try:
        os.write(_pipe[1], data)
    except OSError:
        return  # full: it has more than enough to wake up for


def _watch(fd: int) -> None:
    while True:
        data = os.read(fd, 1)
        if data == _EXIT:
            _say_all("exit")
            _said.set()
        elif data and data[0] in _SIGNALS and signal.getsignal(data[0]) is _on_signal:
            _end_by(data[0])
        # All signals that the program handles come by on the same pipe; those with handlers of its own mean nothing here.


def _end_by(number: int) -> None:
    """Say farewell within the time there is, then end the process by the very signal."""
    _restore_default(number)
    reason = signal.Signals(number).name
    worker = threading.Thread(target=_say_all, args=(reason,), daemon=True)
    worker.start()
    worker.join(SHUTDOWN_TIMEOUT_S)
    os.kill(os.getpid(), number)
    worker.join(1.0)  # the signal is on its way
    os._exit(128 + number)  # it was blocked, or its default could not be set


def _say_all(reason: str) -> None:
    with _lock:
        farewells, _farewells[:] = list(_farewells), []
    for farewell in farewells:
        try:
            farewell(reason)
        except Exception:  # noqa: BLE001 - the edge of the process: the others still have theirs to say
            continue


def _restore_default(number: int) -> None:
    """Give all ending signals their default action, below Python, which would allow it to the main thread only.

    From here on a second signal ends the process at once.
    """
    import ctypes

    library = ctypes.CDLL(None)
    library.signal.restype = ctypes.c_void_p
    for other in {*_SIGNALS, signal.SIGINT, number}:
        library.signal(ctypes.c_int(other), ctypes.c_void_p(0))
