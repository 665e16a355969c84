"""Local sockets: any path, no stale file in the way, the same user only."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from coordinator.errors import Missing, Refused, StorageError, TimedOut
from coordinator.system import sockets

ROOT = Path(__file__).parents[3]


def talk(listener: socket.socket, path: Path) -> None:
    """Prove that who connects at ``path`` reaches this listener."""
    with sockets.connect(path, 2) as client:
        server = sockets.accept(listener)
        assert server is not None
        with server:
            client.sendall(b"hello")
            server.setblocking(True)
            assert server.recv(9) == b"hello"
            assert sockets.peer_pid(server) == os.getpid()


@pytest.mark.parametrize("name", ["k.sock", "with a space.sock", "ключ-é.sock", "[x]*?.sock"])
@pytest.mark.parametrize("depth", [0, 3])
def test_any_path_can_be_listened_at(tmp_path: Path, name: str, depth: int) -> None:
    directory = tmp_path.joinpath(*(["d" * 100] * depth))
    directory.mkdir(parents=True, exist_ok=True)
    with sockets.listen(directory / name) as listener:
        talk(listener, directory / name)
        assert os.listdir(directory) == [name]
        assert stat.S_IMODE(os.stat(directory / name).st_mode) == 0o600


def test_a_stale_socket_or_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "k.sock"
    sockets.listen(path).close()
    with pytest.raises(Missing):
        sockets.connect(path, 1)
    with sockets.listen(path) as listener:
        talk(listener, path)
    path.unlink()
    path.write_text("no socket")
    with sockets.listen(path) as listener:
        talk(listener, path)


def test_the_newer_listener_takes_the_place(tmp_path: Path) -> None:
    path = tmp_path / "k.sock"
    with sockets.listen(path) as older, sockets.listen(path) as newer:
        talk(newer, path)
        assert sockets.accept(older) is None


def test_nobody_there_is_missing_and_not_an_oserror(tmp_path: Path) -> None:
    for path in (tmp_path / "none.sock", tmp_path / "no directory" / "k.sock"):
        with pytest.raises(Missing) as caught:
            sockets.connect(path, 1)
        assert str(path) in str(caught.value)
    with pytest.raises(StorageError):
        sockets.listen(tmp_path / "no directory" / "k.sock")


def test_a_listener_that_takes_nobody_is_timed_out(tmp_path: Path) -> None:
    path = tmp_path / "k.sock"
    waiting: list[socket.socket] = []
    with sockets.listen(path) as listener:
        listener.listen(0)
        with pytest.raises(TimedOut):  # noqa: PT012  how many find room before is the kernel's business
            for _ in range(5):
                waiting.append(sockets.connect(path, 0.05))
        for connection in waiting:
            connection.close()


def test_a_connection_that_is_late_is_still_taken(tmp_path: Path) -> None:
    path = tmp_path / "k.sock"
    with sockets.listen(path) as listener:
        listener.listen(0)
        waiting = [sockets.connect(path, 1)]
        taken: list[socket.socket | None] = []
        timer = threading.Timer(0.05, lambda: taken.append(sockets.accept(listener)))
        timer.start()
        waiting.append(sockets.connect(path, 10))
        timer.join()
        for connection in (*waiting, *taken):
            if connection is not None:
                connection.close()


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that other users can reach, as those of pytest cannot be."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


def test_another_user_is_hung_up_on_and_not_believed(open_directory: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    (open_directory / "theirs").mkdir()
    os.chown(open_directory / "theirs", 65534, 65534)
    path = open_directory / "k.sock"
    with sockets.listen(path) as listener:
        path.chmod(0o777)
        code = f"""
import os, socket, sys
from pathlib import Path
from coordinator.system import sockets
os.setresuid(65534, 65534, 65534)
mine = sockets.listen(Path({str(open_directory / "theirs" / "k.sock")!r}))
stranger = socket.socket(socket.AF_UNIX)
stranger.connect({str(path)!r})
print("up", flush=True)
sys.stdin.readline()
print(stranger.recv(1) == b"")
"""
        with subprocess.Popen(
            [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            assert process.stdin is not None
            assert process.stdout.readline() == "up\n"
            assert sockets.accept(listener) is None
            with pytest.raises(Refused):
                sockets.connect(open_directory / "theirs" / "k.sock", 1)
            out, _ = process.communicate("\n", timeout=10)
            assert out == "True\n"


def test_a_path_too_long_for_a_system_without_the_trick_is_hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    directory = tmp_path / ("d" * 100)
    directory.mkdir()
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        monkeypatch.setattr(tempfile, "tempdir", short)
        with sockets.listen(directory / "k.sock") as listener:
            talk(listener, directory / "k.sock")
            assert os.listdir(directory) == []
            assert [stat.S_IMODE(os.stat(path).st_mode) for path in Path(short).iterdir()] == [0o700]


def test_nothing_leaks(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        with pytest.raises(Missing):
            sockets.connect(tmp_path / "none.sock", 1)
        with pytest.raises(StorageError):
            sockets.listen(tmp_path / "none" / "k.sock")
        with sockets.listen(tmp_path / "k.sock") as listener:
            talk(listener, tmp_path / "k.sock")
    assert len(os.listdir("/proc/self/fd")) == before
