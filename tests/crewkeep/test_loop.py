"""The loop of keeper and patrol: descriptors, times, signals and other threads' words, one after another."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from crewkeep.loop import READ, Loop


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


def test_what_is_due_runs_in_the_order_of_its_times(loop: Loop) -> None:
    ran: list[str] = []
    loop.call_later(0.02, lambda: (ran.append("second"), loop.stop())[0])
    loop.call_later(0.0, lambda: ran.append("first"))
    loop.call_later(0.01, lambda: ran.append("cancelled")).cancel()
    loop.run()
    assert ran == ["first", "second"]


def test_a_word_from_another_thread_wakes_a_sleeping_loop(loop: Loop) -> None:
    threading.Timer(0.02, loop.call_from_thread, (loop.stop,)).start()
    began_s = time.monotonic()
    loop.run()
    assert time.monotonic() - began_s < 5


def test_a_signal_runs_its_callback_on_the_loop_and_not_in_the_middle_of_another(loop: Loop) -> None:
    ran: list[str] = []

    def send() -> None:
        os.kill(os.getpid(), signal.SIGUSR1)
        ran.append("sent")

    before = signal.getsignal(signal.SIGUSR1)
    try:
        loop.on_signal(signal.SIGUSR1, lambda: (ran.append("signal"), loop.stop())[0])
        loop.call_later(0.0, send)
        loop.run()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert ran == ["sent", "signal"]


def test_a_descriptor_that_an_earlier_callback_dropped_is_not_called(loop: Loop) -> None:
    pipes = [os.pipe(), os.pipe()]
    called: list[int] = []

    def drop_the_other(mine: int, other: int) -> None:
        called.append(mine)
        loop.forget(other)

    (first, _), (second, _) = pipes
    loop.watch(first, READ, lambda ready: drop_the_other(first, second))
    loop.watch(second, READ, lambda ready: drop_the_other(second, first))
    for _, write in pipes:
        os.write(write, b"x")
    loop.run_once(1.0)
    assert len(called) == 1
    for fd in (fd for pipe in pipes for fd in pipe):
        os.close(fd)
