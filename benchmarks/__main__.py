"""Run every benchmark, one after another: ``make bench``."""

from __future__ import annotations

from benchmarks import sessions
from benchmarks.context.__main__ import main as measure_context

if __name__ == "__main__":
    print("\nWhat a commit to the shared context costs, and how soon others see it\n")
    measure_context()
    print(f"\n{(sessions.__doc__ or '').splitlines()[0]}\n")
    sessions.main()
