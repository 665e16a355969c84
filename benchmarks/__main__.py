"""Run every benchmark, one after another: ``make bench``. Each has more options of its own."""

from __future__ import annotations

import argparse

from benchmarks import history, sessions
from benchmarks.context.__main__ import main as measure_context


def main() -> None:
    """Measure the shared context, the sessions, their histories."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").partition(":")[0])
    parser.add_argument("--quick", action="store_true", help="little of everything: to see that it works, not how fast")
    arguments = parser.parse_args()
    measure_context(["--quick"] if arguments.quick else [])
    print(f"\n{(sessions.__doc__ or '').splitlines()[0]}\n")
    sessions.main(["--rounds", "3", "--idle-s", "2"] if arguments.quick else [])
    print(f"\n{(history.__doc__ or '').splitlines()[0]}\n")
    quick = ["--rounds", "2", "--count", "5000", "--sessions", "500", "--lives", "10"]
    history.main(quick if arguments.quick else [])


if __name__ == "__main__":
    main()
