"""What a shard needs now and then, done by whoever commits when it is due: compaction, and saving its table.

Small shards are kept up at once, in the commit that made it due; large ones by a thread of its own, so that nobody waits for
it. Nothing depends on it: whatever fails or is killed in the middle is tried again later, by anybody.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from coordinator.config import SAVE_EVERY_BYTES
from coordinator.context import compaction, saved
from coordinator.context.compaction import COMPACTION_NAME
from coordinator.context.control import State
from coordinator.context.generation import Generation
from coordinator.context.table import Table, TableVoid
from coordinator.errors import Busy, Damaged, StorageError
from coordinator.system.locks import LockFile

if TYPE_CHECKING:
    from coordinator.context.shard import Shard

#: A log up to this size is kept up within a commit: some tens of milliseconds. Arbitrary.
_AT_ONCE_BYTES = 4 << 20


class Upkeep:
    """The upkeep of one shard by this process."""

    def __init__(self, shard: Shard) -> None:
        self._shard = shard
        self._not_before_bytes = 0
        #: Of which generation the table was saved, and at which size of the log it is due again.
        self._next_save = (0, 0)
        self._thread: threading.Thread | None = None

    def after_commit(self, generation: Generation, state: State | None) -> None:
        """Do what is due now that a commit ends at ``state``, and say when to look again. Never raises: the commit is done."""
        if state is None:
            return
        generation.upkeep_at = state.end + state.end // 16
        if not self._is_due(state) or (self._thread is not None and self._thread.is_alive()):
            return
        if state.end <= _AT_ONCE_BYTES:
            self._keep_up(state)
            return
        thread = threading.Thread(target=self._keep_up, args=(state,), name="crewkeep-upkeep", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            return  # no thread to be had, or the interpreter is ending: somebody else does it
        self._thread = thread

    def wait(self, timeout_s: float) -> None:
        """Wait for what is under way, at most so long."""
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout_s)

    def _is_due(self, state: State) -> bool:
        if compaction.is_due(state, self._not_before_bytes):
            return True
        generation, end = self._next_save
        if generation != state.generation:
            path = self._shard.directory / saved.SAVED_NAME
            end = saved.read_end(path, self._shard.header, state.generation) + SAVE_EVERY_BYTES
            self._next_save = (state.generation, end)
        return state.end >= end

    def _keep_up(self, state: State) -> None:
        alone = LockFile(self._shard.directory / COMPACTION_NAME)
        try:
            if not alone.acquire(0):
                return  # somebody is at it
            try:
                if compaction.is_due(state, self._not_before_bytes):
                    compaction.compact(self._shard)
                else:
                    self._save_table()
            finally:
                alone.release()
        except (StorageError, Damaged, Busy, TableVoid):
            # Without space the log goes on growing. Not for every commit anew.
            self._not_before_bytes = state.end + state.end // 4
            self._next_save = (state.generation, state.end + SAVE_EVERY_BYTES)

    def _save_table(self) -> None:
        shard = self._shard
        with shard.alone() as page:
            generation, state = shard.prepare(page)
            assert isinstance(generation.table, Table), "what can be written has a table on disk"
            image = generation.table.read_whole()
        shard.make_durable(state, generation, page)
        saved.save(shard.directory / saved.SAVED_NAME, generation.header, state, image)
        self._next_save = (state.generation, state.end + SAVE_EVERY_BYTES)
