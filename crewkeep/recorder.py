"""What a session says and does, as its program records it: messages and commands, live, and read back.

``Session`` inherits from ``Recording``. A recorded message or command counts as progress of the session. What is recorded, what
survives and what a pause means: ``coordinator.sessions.recording``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordinator.services.sync import CoordinatorThread
from coordinator.sessions.recordable import encode_command, encode_message
from coordinator.sessions.recording import Recorder

if TYPE_CHECKING:
    from coordinator.paths import Home
    from coordinator.sessions.history import Role
    from coordinator.sessions.model import SessionRecord
    from coordinator.sessions.recorded import Entry

#: A coroutine that records without a pause lets the loop's other tasks run after so many records: a fraction of a millisecond.
_YIELD_EVERY = 256


class Recording:
    """The part of a session that records."""

    home: Home
    _record: SessionRecord
    _recorder: Recorder
    _recorded_count = 0

    def record_message(
        self, role: Role | str, text: str, *, at: float | None = None, id: str | None = None, raw: str | None = None
    ) -> bool:
        """Write down what was said: ``role`` is ``user``, ``assistant`` or ``system``, ``at`` wall-clock seconds (default: now).

        On return it survives kill -9, and power loss about a second later or after ``flush_recording``. ``False``: recording is
        paused. Any text comes back as it was. Raises ``InvalidInput``, ``Superseded`` if a newer incarnation exists, ``NotFound``
        if the session was removed, ``StorageError`` (disk full: ``cause == "ENOSPC"``); then nothing of it was kept.
        """
        return self._recorder.record_message(role, text, at, id, raw)

    def record_command(
        self,
        name: str,
        text: str,
        *,
        at: float | None = None,
        id: str | None = None,
        output: str | None = None,
        ok: bool | None = None,
        exit_code: int | None = None,
        duration_s: float | None = None,
        raw: str | None = None,
    ) -> bool:
        """Write down what was done: the tool or ``shell``, its command line or arguments, and what came of it.

        A command that is recorded again with the same ``id`` replaces the first one: once when it starts, once when it ended.
        Promises and errors as ``record_message``.
        """
        record = encode_command(name, text, at, id=id, output=output, ok=ok, exit_code=exit_code, duration_s=duration_s, raw=raw)
        return bool(self._recorder.append(record))

    async def record_message_async(
        self, role: Role | str, text: str, *, at: float | None = None, id: str | None = None, raw: str | None = None
    ) -> bool:
        """As ``record_message``, without holding up the event loop: what has to wait for a lock or a file does so in a thread."""
        return await self._append_async(encode_message(role, text, at, id, raw))

    async def record_command_async(
        self,
        name: str,
        text: str,
        *,
        at: float | None = None,
        id: str | None = None,
        output: str | None = None,
        ok: bool | None = None,
        exit_code: int | None = None,
        duration_s: float | None = None,
        raw: str | None = None,
    ) -> bool:
        """As ``record_command``, without holding up the event loop."""
        return await self._append_async(
            encode_command(name, text, at, id=id, output=output, ok=ok, exit_code=exit_code, duration_s=duration_s, raw=raw)
        )

    def pause_recording(self) -> bool:
        """Record nothing in this program until ``resume_recording``; tell whether it was recording. The pause itself is recorded.

        Not paused: other programs of the session, and the transcript that an agent program writes itself.
        """
        return self._recorder.pause()

    def resume_recording(self) -> bool:
        """Go on recording; tell whether it was paused."""
        return self._recorder.resume()

    def flush_recording(self) -> None:
        """Return when everything recorded by now survives power loss. Raises ``StorageError``."""
        self._recorder.sync()

    def history(self) -> list[Entry]:
        """Return what was said and done in this session, oldest first, across its incarnations and from all that tell.

        ``Message``, ``Command`` and ``Mark`` (a pause, something dropped or damaged) of ``coordinator.sessions``.
        """
        from coordinator.services.archive import read_session

        return read_session(self.home, self._record)

    async def _append_async(self, record: bytes) -> bool:
        """Write at once what can be: that takes microseconds, a thread's turn a hundred. The rest goes to a thread."""
        import asyncio  # whoever calls has loaded it; other sessions need not

        recorder = self._recorder
        done = None if recorder.is_slow else recorder.append(record, wait=False)
        if done is None:
            done = await asyncio.to_thread(recorder.append, record)
        elif recorder.count % _YIELD_EVERY == 0:
            await asyncio.sleep(0)
        return bool(done)

    def _begin_recording(self, thread: CoordinatorThread, limit_bytes: int) -> None:
        """Be ready to record; no file is touched before something is."""
        record = self._record
        self._recorder = Recorder(self.home.session(record.id), record.id, record.epoch, limit_bytes=limit_bytes)

        def keep_up() -> None:
            count = self._recorder.count
            if count != self._recorded_count:
                thread.progress.note(count - self._recorded_count, fruitful=True)
                self._recorded_count = count
            self._recorder.sync()

        thread.add_upkeep(keep_up)
