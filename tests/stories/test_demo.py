"""The demo is the main job: what it says it measured must hold, and nothing of it may remain."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import cli_json


@pytest.mark.slow
def test_the_demo_keeps_every_promise_and_leaves_nothing(tmp_path: Path) -> None:
    place = tmp_path / "tmp"
    place.mkdir()
    measured = cli_json("demo", "--json", home=tmp_path / "unused", env={"TMPDIR": str(place)}, timeout_s=55)
    assert measured["kept"], measured
    assert [kill["what"] for kill in measured["kills"]] == ["agent", "keeper"]
    assert measured["writes_acknowledged"] >= 170  # the kill may fall between a write and its note
    assert not list(place.iterdir())
    assert not (tmp_path / "unused").exists()
