"""The README's performance section: written between its two markers from the figures that are kept in the repository.

``python -m benchmarks.readme`` writes it anew; with a report of ``benchmarks.context`` it keeps that one's figures first.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.context.plan import MEASUREMENTS
from benchmarks.context.report import format_section, write_report

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PUBLISHED = Path(__file__).parent / "results" / "published.json"
_BEGIN, _END = "<!-- performance: written by `python -m benchmarks.readme` -->", "<!-- end of performance -->"


def main(argv: list[str] | None = None) -> None:
    """Keep a report's figures, if one is given, and write the section."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.readme", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("report", nargs="?", type=Path, help="a report of benchmarks.context to publish")
    arguments = parser.parse_args(argv)
    if arguments.report is not None:
        publish(arguments.report)
    README.write_text(rewrite(README.read_text(encoding="utf-8"), read_published()), encoding="utf-8")


def publish(path: Path) -> None:
    """Keep the figures of a whole report, without every single measurement behind them."""
    report = json.loads(path.read_text(encoding="utf-8"))
    if absent := sorted(set(MEASUREMENTS) - set(report["only"])):
        sys.exit(f"{path} is of a part only, without {', '.join(absent)}; run `make bench-context` without --only")
    del report["measured"]
    write_report(report, PUBLISHED)


def read_published() -> dict[str, Any]:
    """Return the figures that are kept in the repository."""
    report: dict[str, Any] = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    return report


def rewrite(text: str, report: dict[str, Any]) -> str:
    """Return the README with the section of that report."""
    before, begin, rest = text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        sys.exit(f"README.md has lost its markers: put {_BEGIN} and {_END} where the figures belong")
    return f"{before}{_BEGIN}\n\n{format_section(report)}\n{_END}{after}"


if __name__ == "__main__":
    main()
