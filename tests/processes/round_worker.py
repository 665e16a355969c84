"""A program that works in a session as real ones do, and keeps evidence of what it was promised.

Usage: round_worker.py EVIDENCE_DIRECTORY. While it lives it holds an exclusive mark that two incarnations cannot hold at
once; each write that was acknowledged stands in its ledger before the next is tried. It also has a child in an OS session
of its own, which a careless recovery would leave behind.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import crewkeep


def main() -> None:
    evidence = Path(sys.argv[1])
    with crewkeep.Session.current() as session:
        mark = os.open(evidence / f"{session.name}.mark", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            (evidence / f"{session.name}.overlap-{session.epoch}").touch()
            raise
        ledger = os.open(evidence / f"{session.name}.ledger", os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        subprocess.Popen(["sleep", "1000"], start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        number = 0
        while True:
            number += 1
            count = session.context.update(f"counts/{session.name}", lambda value: (value or 0) + 1)
            own = session.context.put(f"work/{session.name}/{session.epoch}/{number}", number, expected_version=0)
            for entry in (count, own):
                line = {"key": entry.key, "value": entry.value, "version": entry.version, "epoch": entry.epoch}
                os.write(ledger, (json.dumps(line) + "\n").encode())
            time.sleep(0.1)


if __name__ == "__main__":
    main()
