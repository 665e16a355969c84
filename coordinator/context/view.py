"""One generation of a shard's log as this process knows it: the open file, and the index of what stands where in it."""

from __future__ import annotations

import os
from pathlib import Path

from coordinator.context import log
from coordinator.context.codec import HEADER_BYTES, Record
from coordinator.context.index import Index
from coordinator.context.log import Scan


class View:
    """One generation of the log as this process knows it. Its file is closed when the last reader lets go of it."""

    def __init__(self, path: Path) -> None:
        """Open the log. Raises ``Damaged``, ``FormatTooNew`` or ``StorageError``."""
        self.path = path
        self._fd = -1
        self._fd, self.header, self.is_writable = log.open_log(path)
        status = os.fstat(self._fd)
        #: Which file it is: the one called ``log`` may be another by now.
        self.inode = (status.st_dev, status.st_ino)
        self.index = Index(self.header.floor)
        self.scan = Scan(end=HEADER_BYTES, checksum=0)
        #: The published word up to which the index was brought.
        self.word = -1

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    @property
    def fd(self) -> int:
        return self._fd

    def replay(self, stop: int) -> str | None:
        """Bring the index up to ``stop``; return ``None``, or why it cannot be."""
        for placed in log.iter_records(self._fd, self.header, self.scan, stop, self.path):
            if reason := self.index.apply(placed):
                self.scan.end, self.scan.reason = placed.offset, "wrong-order"
                return reason
        return self.scan.reason

    def read(self, offset: int, length: int) -> Record:
        """Return the record at a place that the index names."""
        return log.read_record(self._fd, self.header, offset, length, self.path)
