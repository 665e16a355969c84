"""Keeps a small store of today's format, with what was said of it, for programs of later formats to open.

``python -m proof.launch - proof.fixture FILE.zip``. ``format-1.zip`` was made so by the engine whose log had format 1.
"""

from __future__ import annotations

import tempfile
import zipfile
from pathlib import Path

from proof import engine
from proof.crash_run import BOOTS
from proof.scenarios import SCENARIOS, Stage
from proof.witness import Witness


def main(target: str) -> None:
    """Write the archive."""
    with tempfile.TemporaryDirectory() as base:
        root, said = Path(base) / "root", Path(base) / "said"
        root.mkdir()
        engine.set_boot(BOOTS[0])
        stage = Stage(str(root), Witness(str(said), str(root)))
        SCENARIOS["small"].before(stage)
        for _ in range(3):
            stage.count("n")
        stage.reopen()
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(root.rglob("*")):
                archive.write(path, path.relative_to(root))
            archive.write(said, "said.jsonl")
