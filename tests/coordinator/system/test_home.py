"""A home is private, made once by however many come at the same time, and nothing that git would pick up."""

from __future__ import annotations

import subprocess
import threading
from pathlib import Path

import pytest

from coordinator.errors import Busy, Refused
from coordinator.paths import Home
from coordinator.system import locks
from coordinator.system.home import prepare_home


def test_a_home_inside_a_repository_is_nothing_to_git(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    home = Home.at(tmp_path / "state")
    prepare_home(home)
    (home.path / "sessions").mkdir()
    (home.path / "sessions" / "file").write_text("x")
    listed = subprocess.run(
        ["git", "ls-files", "--others", "--exclude-standard"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert listed.stdout == ""
    assert home.path.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in (home.lock, home.ignore_file)} == {0o600}


def test_a_home_that_others_can_write_is_refused_before_anything_is_put_into_it(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(Refused):
        prepare_home(Home.at(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_many_may_make_one_home_at_the_same_time(tmp_path: Path) -> None:
    home = Home.at(tmp_path / "home")
    makers = [threading.Thread(target=prepare_home, args=(home,)) for _ in range(8)]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join()
    assert sorted(path.name for path in home.path.iterdir()) == [".gitignore", "home.lock"]


def test_an_administrative_lock_has_one_holder(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with locks.administrative_lock(path, timeout_s=1), pytest.raises(Busy), locks.administrative_lock(path, timeout_s=0.01):
        pass
    with locks.administrative_lock(path, timeout_s=0.01):
        pass
