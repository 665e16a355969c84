"""Redis with ``appendfsync always``: a server on loopback that is started for one run and ended after it."""

from __future__ import annotations

import contextlib
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import orjson
import redis

from benchmarks.context.crew import die_with_parent, end_process
from benchmarks.context.peers.base import LOCK_TIMEOUT_S, Peer, Place
from coordinator.system import processes

_PROGRAM = "redis-server"
_START_TIMEOUT_S = 10.0
_START_TRIES = 5
#: Compares the version and sets the next one; publishes only for the measurements that have somebody who listens.
_SWAP = """
if (tonumber(redis.call('HGET', KEYS[1], 'version')) or 0) ~= tonumber(ARGV[1]) then return 0 end
redis.call('HSET', KEYS[1], 'version', ARGV[1] + 1, 'value', ARGV[2])
redis.call('PUBLISH', KEYS[1], '')
return 1
"""


class Redis(Peer):
    """The server writes and flushes its append-only file once a turn of its loop, before it answers or publishes: a true
    group commit. A client pays a round trip. The parser is hiredis where it is installed.

    Not promised: a cheap compare-and-swap on a contended key (clients storm), history, that a subscriber which is away
    misses nothing. A server must run, and all state must fit in its memory.
    """

    configured = "appendonly, appendfsync always, Lua"
    notices = "subscribes"
    lacks = "fairness, history, a stream without gaps"

    @classmethod
    def find_missing(cls) -> str | None:
        return None if shutil.which(_PROGRAM) else f"the program {_PROGRAM} is not installed"

    @classmethod
    def version(cls) -> str:
        said = subprocess.run([_PROGRAM, "--version"], capture_output=True, text=True, check=True).stdout
        server = next((word[2:] for word in said.split() if word.startswith("v=")), "?")
        return f"{server} (redis-py {redis.__version__})"

    @classmethod
    @contextlib.contextmanager
    def host(cls, directory: Path) -> Iterator[Place]:
        for _ in range(_START_TRIES):
            place, server = _start(directory)
            identity = processes.identify(server.pid)
            try:
                if not _answers(place, server):
                    continue  # somebody took the port between our look and the server's
                yield place
                return
            finally:
                end_process(identity, server)
        raise RuntimeError(f"{_PROGRAM} did not start in {_START_TRIES} tries")

    def __init__(self, place: Place) -> None:
        self.client = redis.Redis(
            host="127.0.0.1", port=place.port, password=place.password, socket_timeout=LOCK_TIMEOUT_S, protocol=2
        )
        self.swap_script: Any = self.client.script_load(_SWAP)

    def read(self, key: str) -> tuple[Any, int]:
        found: Any = self.client.hmget(key, ["value", "version"])
        return (None, 0) if found[1] is None else (orjson.loads(found[0]), int(found[1]))

    def swap(self, key: str, value: Any, version: int) -> bool:
        done: Any = self.client.evalsha(self.swap_script, 1, key, str(version), orjson.dumps(value))
        return bool(done)

    def follow(self, key: str) -> Iterator[Any]:
        channel: Any = self.client.pubsub(ignore_subscribe_messages=True)
        channel.subscribe(key)
        seen = self.read(key)[1]
        while (told := channel.get_message(ignore_subscribe_messages=False, timeout=LOCK_TIMEOUT_S)) is not None:
            if told["type"] == "subscribe":
                break
        return self._iter_values(channel, key, seen)

    def _iter_values(self, channel: Any, key: str, seen: int) -> Iterator[Any]:
        while True:
            if channel.get_message(timeout=None) is None:
                continue
            value, version = self.read(key)
            if version != seen:
                seen = version
                yield value

    def fill(self, entries: Iterable[tuple[str, Any]]) -> None:
        with self.client.pipeline(transaction=False) as pipeline:
            for key, value in entries:
                pipeline.hset(key, mapping={"version": 1, "value": orjson.dumps(value)})
            pipeline.execute()

    def close(self) -> None:
        self.client.close()


def _start(directory: Path) -> tuple[Place, subprocess.Popen[str]]:
    """Start a server on a free port of loopback. The password is told on its standard input: arguments are everybody's."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    password = secrets.token_hex(16)
    data = directory / "redis"
    data.mkdir(exist_ok=True)
    server = subprocess.Popen(
        [_PROGRAM, "-"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, preexec_fn=die_with_parent, cwd=data
    )
    assert server.stdin is not None
    server.stdin.write(
        f'bind 127.0.0.1\nport {port}\nrequirepass {password}\ndaemonize no\nsave ""\nappendonly yes\nappendfsync always\n'
        "no-appendfsync-on-rewrite no\nmaxclients 4096\ndir .\n"
    )
    server.stdin.close()
    return Place(directory=directory, port=port, password=password, server_pid=server.pid), server


def _answers(place: Place, server: subprocess.Popen[str]) -> bool:
    """Wait until the server that we started answers; ``False`` if it ended."""
    deadline_s = time.monotonic() + _START_TIMEOUT_S
    while server.poll() is None and time.monotonic() < deadline_s:
        try:
            with redis.Redis(host="127.0.0.1", port=place.port, password=place.password, socket_timeout=1) as client:
                told: Any = client.info("server")
                return int(told["process_id"]) == server.pid
        except redis.RedisError:
            time.sleep(0.01)
    return False
