"""The patrol's day: notice deaths, sweep, wait for delayed starts, hand each to a thread that attends to it, leave when idle.

The loop's thread only notices, so that a slow recovery never delays the noticing of another death. A few threads attend;
one session is in one thread's hands at a time, and what is noticed meanwhile makes it be looked at once more.
"""

from __future__ import annotations

import functools
import heapq
import queue
import socket
import threading
from typing import Any

from coordinator.config import PATROL_IDLE_S, PATROL_SWEEP_S, START_TIMEOUT_S
from coordinator.paths import Home
from coordinator.sessions.model import Phase, SessionRecord, State
from coordinator.sessions.registry import Registry
from coordinator.sessions.sight import show_state
from coordinator.system.clock import SYSTEM, Clock
from coordinator.system.processes import identify_self, observe
from crewkeep.loop import Loop, Timer
from crewkeep.patrol.attending import Attention, attend
from crewkeep.patrol.records import Records
from crewkeep.patrol.roster import Roster, Watched
from crewkeep.pauses import GrowingPause
from crewkeep.process_log import say, say_error

#: Recoveries at a time. A start is Python's own start-up, which is work for a core; more would only slow each other down.
_THREADS = 2


class Patrol:
    """One home's patrol. It has the lock for life already."""

    def __init__(self, home: Home, listener: socket.socket, clock: Clock = SYSTEM) -> None:
        self._home, self._clock = home, clock
        self._loop = Loop(clock)
        self._records = Records(home, Registry(home, clock))
        self._roster = Roster(self._loop, listener, on_death=self._on_death, answer=self._answer)
        self._work: queue.SimpleQueue[tuple[str, float | None] | None] = queue.SimpleQueue()
        #: Sessions in a thread's hands; the value says when a death was noticed meanwhile (``None``: none was).
        self._busy: dict[str, float | None] = {}
        #: Monotonic time of the next look, session id.
        self._looks: list[tuple[float, str]] = []
        self._look_timer: Timer | None = None
        self._idle_since_s: float | None = None
        self._arrival_count = 0
        self._last_said: dict[str, str] = {}
        #: Sessions that something was in the way of at the last look, and how long that look's successor waits.
        self._retries: dict[str, GrowingPause] = {}
        self._threads = [
            threading.Thread(target=self._attend_all, name=f"attend-{number}", daemon=True) for number in range(_THREADS)
        ]

    def run(self, signals: tuple[int, ...]) -> None:
        """Watch until no session is left that lives, or one of ``signals`` comes."""
        for number in signals:
            self._loop.on_signal(number, self._loop.stop)
        for thread in self._threads:
            thread.start()
        self._loop.call_later(0.0, self._sweep)
        self._loop.run()
        self._roster.close()
        for _ in self._threads:
            self._work.put(None)
        self._loop.close()

    def _on_death(self, watched: Watched) -> None:
        now_s = self._clock.wall_s()
        say(f"owner {watched.identity.pid} of {watched.session} at epoch {watched.epoch} is gone")
        self._hand_over(watched.session, now_s)

    def _hand_over(self, session_id: str, noticed_at: float | None = None) -> None:
        if session_id in self._busy:
            self._busy[session_id] = noticed_at or self._busy[session_id]
            return
        self._busy[session_id] = None
        self._work.put((session_id, noticed_at))

    def _attend_all(self) -> None:
        while (work := self._work.get()) is not None:
            session_id, noticed_at = work
            try:
                attention = attend(
                    self._home, session_id, self._roster.secrets.get(session_id, {}), noticed_at=noticed_at, clock=self._clock
                )
            except Exception as error:  # noqa: BLE001 - the edge of a thread: one session's trouble must not end the watch
                say_error(f"attending to {session_id}", error)
                attention = Attention(failed=True)
            self._loop.call_from_thread(functools.partial(self._on_attended, session_id, attention))

    def _on_attended(self, session_id: str, attention: Attention) -> None:
        noticed_at = self._busy.pop(session_id)
        again_s = attention.again_s
        if attention.failed:
            again_s = self._retries.setdefault(session_id, GrowingPause()).fail()
        else:
            self._retries.pop(session_id, None)
        if attention.did and self._last_said.get(session_id) != attention.did:
            say(f"{session_id}: {attention.did}")
        self._last_said[session_id] = attention.did
        if noticed_at is not None:
            self._hand_over(session_id, noticed_at)
        elif again_s is not None:
            heapq.heappush(self._looks, (self._clock.monotonic_s() + again_s, session_id))
            self._set_look_timer()

    def _set_look_timer(self) -> None:
        if self._look_timer is not None:
            self._look_timer.cancel()
            self._look_timer = None
        if self._looks:
            self._look_timer = self._loop.call_at(self._looks[0][0], self._look_at_due)

    def _look_at_due(self) -> None:
        now_s = self._clock.monotonic_s()
        while self._looks and self._looks[0][0] <= now_s:
            self._hand_over(heapq.heappop(self._looks)[1])
        self._set_look_timer()

    def _sweep(self) -> None:
        """Look at every live record, for what nobody registered and what no death tells; leave when nothing is left."""
        live = self._records.list_live()
        self._forget_looks({record.id for record in live} | set(self._records.damaged))
        waiting = {session_id for _, session_id in self._looks}
        keeps_us = bool(self._busy or self._looks)
        for record in live:
            if self._lives(record):
                keeps_us = True
                if record.phase is Phase.RUNNING and self._hangs(record):
                    self._hand_over(record.id)
            elif record.id not in waiting:
                self._hand_over(record.id)
        for session_id in self._records.damaged:  # attending to it mends its record; while that fails, it is told once
            if session_id not in waiting:
                self._hand_over(session_id)
        for session_id in (
            self._roster.secrets.keys()
            - set(self._records.damaged)
            - {record.id for record in live}
            - self._roster.watched.keys()
        ):
            del self._roster.secrets[session_id]
        now_s = self._clock.monotonic_s()
        arrived = self._roster.arrival_count != self._arrival_count  # and left again since the last sweep
        self._arrival_count = self._roster.arrival_count
        if keeps_us or arrived or self._roster.watched:
            self._idle_since_s = None
        elif self._idle_since_s is None:
            self._idle_since_s = now_s
        if self._idle_since_s is not None and now_s - self._idle_since_s >= PATROL_IDLE_S:
            self._loop.stop()
        pause_s = PATROL_SWEEP_S if self._idle_since_s is None else min(PATROL_SWEEP_S, PATROL_IDLE_S / 2)
        self._loop.call_later(pause_s, self._sweep)

    def _forget_looks(self, live: set[str]) -> None:
        """Drop looks at sessions that ended meanwhile, so that nothing keeps the patrol here for them."""
        for session_id in self._retries.keys() - live:
            del self._retries[session_id]
        kept = [look for look in self._looks if look[1] in live]
        if len(kept) != len(self._looks):
            heapq.heapify(kept)
            self._looks = kept
            self._set_look_timer()

    def _lives(self, record: SessionRecord) -> bool:
        """Tell whether somebody is at work on the session, so that it needs no attention."""
        if record.phase is Phase.RECOVERING:
            return record.recoverer != identify_self() and not observe(record.recoverer).is_gone
        if record.owner is None:
            return abs(self._clock.wall_s() - record.phase_at) < START_TIMEOUT_S
        watched = self._roster.watched.get(record.id)
        return (watched is not None and watched.identity == record.owner) or not observe(record.owner).is_gone

    def _hangs(self, record: SessionRecord) -> bool:
        settings = self._records.get_settings(record.id)
        return settings.hang_policy == "restart" and show_state(self._home, record, settings, self._clock)[0] is State.HUNG

    def _answer(self, verb: str) -> dict[str, Any]:
        if verb == "awake":
            return {"ok": True}
        answer: dict[str, Any] = {
            "ok": True,
            "pid": identify_self().pid,
            "watched": sorted(self._roster.watched),
            "busy": sorted(self._busy),
            "retries": {session_id: pause.now_s for session_id, pause in self._retries.items()},
        }
        if verb == "look":
            self._loop.call_later(0.0, self._sweep_once)
        return answer

    def _sweep_once(self) -> None:
        for record in self._records.list_live():
            if not self._lives(record):
                self._hand_over(record.id)
