"""The queue that nobody overtakes: whoever waits is woken, whatever the mark in the file says."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from coordinator.context.queue import FairLock
from coordinator.system.wakeup import Bell, Nap

_WORD, _PATIENCE_S = 7, 20.0


class _Lock(FairLock):
    """A lock that tells when somebody is about to sleep, for long, and whether that was cut short."""

    def __init__(self, path: Path, bell: Bell) -> None:
        super().__init__(path, bell, _WORD, may_go=False)
        self.sleeps = threading.Event()
        self.was_woken: list[bool] = []
        self._doze, bell.doze = bell.doze, self._look_at_doze  # type: ignore[method-assign]

    def _look_at_doze(self, seen: int, word: int, nap: Nap) -> bool:
        self.sleeps.set()
        self.was_woken.append(self._doze(seen, word, Nap(_PATIENCE_S)))
        return self.was_woken[-1]


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[_Lock, _Lock]]:
    """Two handles on one lock, as two processes have them."""
    with closing(Bell(tmp_path / "bell")) as one, closing(Bell(tmp_path / "bell")) as other:
        if one.mode != "futex":
            pytest.skip("nobody is woken where waiting is looking again and again")
        yield _Lock(tmp_path / "turn", one), _Lock(tmp_path / "turn", other)


def test_who_comes_while_the_lock_is_held_is_woken_at_its_release(pair: tuple[_Lock, _Lock]) -> None:
    holder, waiter = pair
    assert holder.acquire(_PATIENCE_S)
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(waiter.acquire, _PATIENCE_S)
        assert waiter.sleeps.wait(_PATIENCE_S)
        holder.release()
        assert waits.result(_PATIENCE_S)
    waiter.release()
    assert holder.find_wanted() == b""


def test_who_believes_a_mark_that_is_just_being_cleared_is_woken(
    pair: tuple[_Lock, _Lock], monkeypatch: pytest.MonkeyPatch
) -> None:
    holder, waiter = pair
    assert holder.acquire(_PATIENCE_S)
    holder._note_wanted(b"somebody")  # who waited for it and has it by now
    note = holder._note_wanted
    with ThreadPoolExecutor(1) as pool:

        def let_somebody_come_and_note(what: bytes) -> None:
            come.append(pool.submit(waiter.acquire, _PATIENCE_S))
            assert waiter.sleeps.wait(_PATIENCE_S)
            note(what)

        come: list[object] = []
        monkeypatch.setattr(holder, "_note_wanted", let_somebody_come_and_note)
        holder.release()
        [waits] = come
        assert waits.result(_PATIENCE_S)  # type: ignore[attr-defined]
    assert waiter.was_woken == [True]
    waiter.release()
