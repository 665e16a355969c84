"""Which file system a path is on, from the system's list of mounts."""

from __future__ import annotations

from pathlib import Path

import pytest

from coordinator.context import SharedContext
from coordinator.errors import Refused
from coordinator.system import mounts


@pytest.fixture
def listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A list of mounts in which a directory with a blank in its name is a share."""
    share = tmp_path / "a share"
    escaped = str(share).replace(" ", "\\040")
    lines = f"/dev/sda / ext4 rw 0 0\nserver:/x {escaped} nfs4 rw 0 0\n/dev/sdb {escaped}/local xfs rw 0 0\n"
    (tmp_path / "mounts").write_text(lines)
    monkeypatch.setattr(mounts, "_MOUNTS", str(tmp_path / "mounts"))
    return share


def test_the_innermost_mount_counts(listed: Path) -> None:
    assert mounts.find_file_system(listed.parent) == "ext4"
    assert mounts.find_file_system(listed) == "nfs4"
    assert mounts.find_file_system(listed / "deep/er") == "nfs4"
    assert mounts.find_file_system(listed / "local/x") == "xfs"
    assert mounts.find_file_system(Path(f"{listed} beside")) == "ext4"


def test_a_link_into_a_share_is_followed(listed: Path) -> None:
    listed.mkdir()
    link = listed.parent / "link"
    link.symlink_to(listed)
    assert mounts.find_file_system(link / "x") == "nfs4"


def test_without_a_list_nothing_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(mounts, "_MOUNTS", str(tmp_path / "absent"))
    assert mounts.find_file_system(tmp_path) is None


def test_a_context_on_a_network_file_system_is_refused_before_anything_is_made(listed: Path) -> None:
    with pytest.raises(Refused) as caught:
        SharedContext.open(listed / "context")
    assert "nfs4" in caught.value.message
    assert not listed.exists()
    SharedContext.open(listed.parent / "context").close()
