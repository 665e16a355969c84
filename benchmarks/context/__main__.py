"""What a commit to the shared context costs, and how soon others see it: ``make bench-context``."""

from __future__ import annotations

import argparse
import dataclasses
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import NoReturn

from benchmarks.context.machine import is_in_memory
from benchmarks.context.peers import OURS, find_peers, list_names
from benchmarks.context.plan import MEASUREMENTS, QUICK, Amounts, measure
from benchmarks.context.report import build_report, format_report, write_report
from benchmarks.context.writers import CommitsLost

RESULTS = Path(__file__).parent.parent / "results"
_EXIT_INTERRUPTED = 130


def main(argv: list[str] | None = None) -> None:
    """Measure, print the tables, write JSON."""
    arguments = _parse(argv)
    amounts = QUICK if arguments.quick else Amounts()
    given = {name: value for name in Amounts.__slots__ if (value := getattr(arguments, name)) is not None}
    amounts = dataclasses.replace(amounts, **given)
    only: list[str] = arguments.only or MEASUREMENTS
    peers, left_out = find_peers([OURS, *arguments.peers] if arguments.peers is not None else None)
    for name, why in left_out.items():
        print(f"{name} is left out: {why}", file=sys.stderr)
    arguments.scratch.mkdir(parents=True, exist_ok=True)
    if is_in_memory(arguments.scratch):
        print(f"{arguments.scratch} is in memory: nothing there is durable, the figures are worth nothing", file=sys.stderr)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        results = measure(peers, amounts, only, arguments.scratch)
    except KeyboardInterrupt:
        print("interrupted; nothing is written, everything is cleaned up", file=sys.stderr)
        sys.exit(_EXIT_INTERRUPTED)
    except CommitsLost as error:
        sys.exit(f"COMMITS LOST: {error}")
    report = build_report(results, peers, left_out, amounts, only, arguments.scratch)
    write_report(report, arguments.output)
    print(format_report(report))
    print(f"written to {arguments.output}", file=sys.stderr)


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.context", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="everything, but little of it: to see that it works, not how fast")
    parser.add_argument("--only", nargs="+", metavar="ROW", choices=MEASUREMENTS, help=f"measure only: {', '.join(MEASUREMENTS)}")
    parser.add_argument("--peers", nargs="*", choices=list_names()[1:], help="measure these peers only")
    parser.add_argument("--rounds", type=_at_least_one, help="rounds; medians are shown")
    parser.add_argument("--seconds", type=float, help="length of a run of writers")
    parser.add_argument("--keys", type=_at_least_one, help="keys of the large context (default: 1,000,000)")
    parser.add_argument("--watchers", type=_at_least_one, help="watchers that wait together (default: 512)")
    parser.add_argument("--output", type=Path, default=RESULTS / "context.json", help="where the JSON goes")
    parser.add_argument("--scratch", type=Path, default=RESULTS, help="a directory on the disk to measure")
    parser.set_defaults(read_seconds=None, changes=None, idle_seconds=None, crowd_writes=None, swaps=None)
    return parser.parse_args(argv)


def _at_least_one(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    """End the run; a second ctrl-c must not end the cleaning up."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
