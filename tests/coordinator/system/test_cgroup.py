"""Control groups, where the machine lets us have them, and quiet where it does not."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from support import wait_until

from coordinator.system import cgroup


def test_a_group_holds_its_processes_and_their_children_and_ends_them() -> None:
    name = f"test-group-{os.getpid()}"
    group = cgroup.create_group(name)
    if group is None:
        pytest.skip("no control group can be made here")
    try:
        assert cgroup.is_ours(group)
        assert cgroup.create_group(name) == group
        assert cgroup.find_group(name) == group
        assert cgroup.members(group) == []
        with subprocess.Popen(["sh", "-c", "read line; sleep 1000 & sleep 1000"], stdin=subprocess.PIPE) as process:
            assert cgroup.join(group, process.pid)
            assert process.stdin is not None
            process.stdin.write(b"\n")
            process.stdin.close()
            assert cgroup.group_of(process.pid) == group
            wait_until(lambda: len(cgroup.members(group)) == 3, what="three members")
            below = group / "below"
            below.mkdir()
            assert cgroup.join(below, cgroup.members(group)[-1])
            assert len(cgroup.members(group)) == 3
            assert not cgroup.remove(group)
            if not cgroup.kill(group):
                pytest.skip("this kernel has no cgroup.kill")
        wait_until(lambda: cgroup.remove(group), what="an empty control group")
        assert cgroup.find_group(name) is None
    finally:
        cgroup.kill(group)
        wait_until(lambda: cgroup.remove(group), what="an empty control group")


def test_what_is_not_possible_is_quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = tmp_path / "crewkeep-nowhere"
    assert not cgroup.join(nowhere, os.getpid())
    assert cgroup.members(nowhere) == []
    assert not cgroup.kill(nowhere)
    assert cgroup.remove(nowhere)
    assert cgroup.group_of(2**22 + 1) is None
    assert not cgroup.is_ours(Path("/sys/fs/cgroup"))
    monkeypatch.setattr(cgroup, "_found", Path())  # as on a system without the version 2 hierarchy
    assert cgroup.create_group("x") is None
    assert cgroup.find_group("x") is None


def test_a_hierarchy_that_may_not_be_written_gives_no_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroup, "_found", tmp_path)
    own = cgroup.group_of(os.getpid())
    assert own is not None
    own.mkdir(parents=True, exist_ok=True)
    assert cgroup.create_group("x") is None  # a plain directory is no group: nothing in it can be joined
    assert not (own / "crewkeep-x").exists()
