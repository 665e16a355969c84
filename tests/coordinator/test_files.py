"""Replacing a file is atomic, durable and honest about failure."""

import errno
import os

import pytest

from coordinator.errors import Busy, Refused, StorageError
from coordinator.system import failpoints, files, locks

PLACES = ["files.open", "files.write", "files.fsync", "files.rename"]
ERRNOS = [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT, errno.EACCES, errno.EMFILE]


def fail_at(place: str, number: int):
    def observer(name: str) -> None:
        if name == place:
            raise OSError(number, os.strerror(number))

    return failpoints.observe(observer)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("number", ERRNOS)
def test_a_failed_replacement_leaves_the_old_file_and_no_temporary(tmp_path, place: str, number: int) -> None:
    path = tmp_path / "file"
    files.replace_durably(path, b"old")
    with fail_at(place, number), pytest.raises(StorageError) as caught:
        files.replace_durably(path, b"new")
    assert caught.value.cause == errno.errorcode[number]
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["file"]


def test_a_failed_fsync_is_not_tried_again(tmp_path) -> None:
    seen: list[str] = []

    def observer(name: str) -> None:
        seen.append(name)
        if name == "files.fsync":
            raise OSError(errno.EIO, "I/O error")

    with failpoints.observe(observer), pytest.raises(StorageError):
        files.replace_durably(tmp_path / "file", b"new")
    assert seen.count("files.fsync") == 1


def test_short_writes_are_continued(tmp_path, monkeypatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, bytes(data[:3])))
    files.replace_durably(tmp_path / "file", b"0123456789")
    assert (tmp_path / "file").read_bytes() == b"0123456789"


def test_the_name_is_durable_before_the_call_returns(tmp_path) -> None:
    order: list[str] = []
    with failpoints.observe(order.append):
        files.replace_durably(tmp_path / "file", b"x")
    assert order == ["files.open", "files.write", "files.fsync", "files.rename", "files.sync_directory"]


def test_a_symlink_is_replaced_not_followed(tmp_path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"precious")
    (tmp_path / "file").symlink_to(target)
    with pytest.raises(Refused):
        files.read_bounded(tmp_path / "file", 100)
    files.replace_durably(tmp_path / "file", b"new")
    assert target.read_bytes() == b"precious" and not (tmp_path / "file").is_symlink()


def test_a_file_above_the_limit_or_that_is_no_file_is_refused(tmp_path) -> None:
    (tmp_path / "big").write_bytes(b"x" * 101)
    os.mkfifo(tmp_path / "pipe")
    for name in ("big", "pipe"):
        with pytest.raises(Refused):
            files.read_bounded(tmp_path / name, 100)


def test_new_files_and_directories_are_private(tmp_path) -> None:
    files.make_directory(tmp_path / "a" / "b")
    files.replace_durably(tmp_path / "a" / "b" / "c", b"x")
    assert [oct(os.stat(tmp_path / p).st_mode & 0o777) for p in ("a", "a/b", "a/b/c")] == ["0o700", "0o700", "0o600"]


def test_a_directory_that_others_may_write_to_is_refused(tmp_path) -> None:
    os.chmod(tmp_path, 0o777)
    with pytest.raises(Refused):
        files.check_private(tmp_path)


def test_a_held_lock_makes_the_second_wait_and_then_say_busy(tmp_path) -> None:
    with locks.locked(tmp_path / "lock", timeout_s=1):
        with pytest.raises(Busy), locks.locked(tmp_path / "lock", timeout_s=0.05):
            raise AssertionError("both hold it")
    with locks.locked(tmp_path / "lock", timeout_s=0):
        assert True


def test_shared_holders_do_not_exclude_one_another(tmp_path) -> None:
    with locks.locked(tmp_path / "lock", timeout_s=0, shared=True), locks.locked(tmp_path / "lock", timeout_s=0, shared=True):
        with pytest.raises(Busy), locks.locked(tmp_path / "lock", timeout_s=0.01):
            raise AssertionError("both hold it")
