"""The README's figures are those that are kept in the repository."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import readme
from benchmarks.context.plan import Amounts
from benchmarks.context.rows import list_rows


def test_the_section_in_the_readme_is_what_the_published_figures_give() -> None:
    text = readme.README.read_text(encoding="utf-8")
    assert readme.rewrite(text, readme.read_published()) == text, "run python -m benchmarks.readme"


def test_the_published_figures_have_every_row_and_tell_the_noise() -> None:
    report = readme.read_published()
    assert [row["row"] for row in report["rows"]] == [row.name for row in list_rows(Amounts(**report["amounts"]))]
    assert report["noise"]["others_cores"]["count"] > 0
    assert not report["in_memory"]


def test_a_report_of_a_part_is_not_published(tmp_path: Path) -> None:
    part = tmp_path / "part.json"
    part.write_text(json.dumps({"only": ["view"]}))
    with pytest.raises(SystemExit, match="of a part only"):
        readme.publish(part)


def test_a_readme_without_its_markers_is_left_alone() -> None:
    with pytest.raises(SystemExit, match="markers"):
        readme.rewrite("no section", readme.read_published())
