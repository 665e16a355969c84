"""The benchmark of the shared context as a whole process. Never a speed: only that every row is there and nothing was lost."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from support import wait_until

from benchmarks.context.peers import find_peers, list_names
from benchmarks.context.plan import MEASUREMENTS, QUICK
from benchmarks.context.report import format_report
from benchmarks.context.rows import list_rows
from benchmarks.context.writers import WORKS

ROOT = Path(__file__).parent.parent.parent


@contextmanager
def benchmark(tmp_path: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run the benchmark with its files below ``tmp_path``; nothing of it may be left behind."""
    command = [sys.executable, "-m", "benchmarks.context", "--quick", "--scratch", str(tmp_path), *arguments]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()
        wait_until(lambda: not find_processes(tmp_path), what="the end of every process of the benchmark")


def find_processes(directory: Path) -> list[psutil.Process]:
    """Return the processes that were told of ``directory`` or work in it."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
            if str(directory) in process.cmdline() or Path(process.cwd()).is_relative_to(directory):
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_quick_run_has_every_row_and_loses_nothing(tmp_path: Path) -> None:
    output = tmp_path / "report.json"
    with benchmark(tmp_path, "--output", str(output)) as process:
        printed, said = process.communicate(timeout=280)
    assert process.returncode == 0, said
    report = json.loads(output.read_text())
    assert printed.strip() == format_report(report).strip()
    found, left_out = find_peers()
    assert report["left_out"] == left_out
    assert all(name in said for name in left_out)
    assert sorted({*report["peers"], *report["left_out"]}) == sorted(list_names())
    rows = {row["row"]: row for row in report["rows"]}
    for row in list_rows(QUICK):
        assert rows[row.name]["median"] is not None or row.against in left_out, rows[row.name]
    runs = {(run["work"], run["peer"]): run for run in report["measured"]["runs"]}
    assert set(runs) == {(work.name, peer) for work in WORKS for peer in found}
    for run in runs.values():
        assert run["versions"] == run["acknowledged"] > 0
    assert all(one["unseen"] < one["count"] for one in report["measured"]["seen"])
    assert report["only"] == MEASUREMENTS
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_only_what_is_asked_for_is_measured(tmp_path: Path) -> None:
    output = tmp_path / "report.json"
    with benchmark(tmp_path, "--output", str(output), "--only", "commits-1", "view", "--peers", "sqlite") as process:
        assert process.wait(60) == 0
    report = json.loads(output.read_text())
    measured = {row["row"] for row in report["rows"] if row["median"] is not None}
    assert measured == {"commits-1/sqlite", "view"}
    assert report["left_out"]["naive"] == "not asked for"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_interrupted_leaves_nothing_behind(tmp_path: Path, number: signal.Signals) -> None:
    with benchmark(tmp_path, "--output", str(tmp_path / "report.json"), "--seconds", "60", "--only", "commits-4-same") as process:
        wait_until(lambda: len(find_processes(tmp_path)) > 4, what="the writers")
        process.send_signal(number)
        _, said = process.communicate(timeout=30)
        assert process.returncode == 130, said
        assert "interrupted" in said
        assert not find_processes(tmp_path)
        assert not list(tmp_path.iterdir())


def test_the_processes_of_a_run_that_is_killed_end_with_it(tmp_path: Path) -> None:
    with benchmark(tmp_path, "--seconds", "60", "--only", "commits-4-same") as process:
        wait_until(lambda: len(find_processes(tmp_path)) > 4, what="the writers")
        process.kill()
        process.wait()
        wait_until(lambda: not find_processes(tmp_path), what="the end of the writers")


LIAR = """
import sys
from pathlib import Path
from benchmarks.context.peers.sqlite import Sqlite
from benchmarks.context.writers import CommitsLost, Work, measure_writers

class Liar(Sqlite):
    swaps = 0
    def swap(self, key, value, version):
        self.swaps += 1
        return True if self.swaps == 3 else super().swap(key, value, version)

class Forgetful(Sqlite):  # acknowledges two commits as one: the versions are right, what they count is not
    swaps = 0
    def swap(self, key, value, version):
        self.swaps += 1
        return super().swap(key, {**value, "number": 1} if self.swaps == 3 else value, version)

for peer in (Liar, Forgetful):
    for one_key in (False, True):
        try:
            measure_writers(0, "liar", peer, Work(count=2, one_key=one_key), 0.1, Path(sys.argv[1]))
        except CommitsLost as error:
            print("caught", error)
"""


def test_a_store_that_loses_a_commit_fails_the_benchmark(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", LIAR, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("caught liar") == 4, done.stdout


@pytest.mark.parametrize(("arguments", "named"), [(["--only", "speed"], "speed"), (["--keys", "0"], "at least 1")])
def test_what_cannot_be_measured_is_refused(tmp_path: Path, arguments: list[str], named: str) -> None:
    with benchmark(tmp_path, *arguments) as process:
        _, said = process.communicate(timeout=30)
    assert process.returncode == 2
    assert named in said
