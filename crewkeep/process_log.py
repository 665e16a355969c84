"""What a process of crewkeep's own has to say: lines with their time, on standard error, which is its log file.

For people who look after something went wrong. Nobody parses it, and nothing depends on it: a full disk loses lines only.
"""

from __future__ import annotations

import sys
import time


def say(text: str) -> None:
    """Write one line."""
    now_s = time.time()
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now_s)) + f".{int(now_s % 1 * 1000):03d}Z"
    try:
        sys.stderr.write(f"{stamp} {text}\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        return


def say_error(doing: str, error: BaseException, *, whole: bool = True) -> None:
    """Write what failed while ``doing`` something; with ``whole`` also where (for the unexpected)."""
    say(f"{doing}: {type(error).__name__}: {error}")
    if whole:
        import traceback

        for line in "".join(traceback.format_exception(error)).rstrip().splitlines():
            say(f"    {line}")
