"""What the processes of ``test_epochs`` run: one act on a registry, its outcome printed as one word."""

import dataclasses
import os
import sys

from coordinator.errors import Refused, Superseded
from coordinator.paths import Home
from coordinator.sessions.heartbeat import HeartbeatFile, Progress
from coordinator.sessions.journal import Journal
from coordinator.sessions.launch import build_launch
from coordinator.sessions.model import Hosting, Restart
from coordinator.sessions.registry import Registry
from coordinator.system.processes import boot_id, identify_self


def wait_for_start() -> None:
    """Say that one is ready, then wait until the test lets all go at once."""
    print("ready", flush=True)
    sys.stdin.readline()


def raise_epoch(home: Home, session_id: str) -> None:
    wait_for_start()
    try:
        record = Registry(home).raise_epoch(session_id, expected=1, reason="it died", by=identify_self())
    except Superseded:
        print("lost")
    else:
        print(f"won {record.epoch}")


def create(home: Home, name: str) -> None:
    wait_for_start()
    launch = build_launch(["agent"], "/", {})
    try:
        Registry(home).create(name=name, workspace="w", hosting=Hosting.KEEPER, launch=launch, restart=Restart.NEVER)
    except Refused:
        print("refused")
    else:
        print("created")


def write(home: Home, session_id: str) -> None:
    """Write in every way there is, once the test has stopped and continued us."""
    from coordinator.context import SharedContext

    registry, paths = Registry(home), home.session(session_id)
    record = registry.get(session_id)
    context = SharedContext.open(home.context("shop"), writer=record.writer)
    heartbeat = HeartbeatFile(paths.heartbeat)
    beat = Progress().make_beat(session=record.id, epoch=record.epoch, seq=1, boot_id=boot_id())
    heartbeat.write(beat)
    context.put("k", "mine", unconditional=True)
    wait_for_start()
    acts = {
        "record": lambda: registry.change(record.id, epoch=1, change=lambda known: dataclasses.replace(known, reason="late")),
        "journal": lambda: Journal(paths).append("late", {}, epoch=1),
        "heartbeat": lambda: heartbeat.write(dataclasses.replace(beat, seq=2)),
        "context": lambda: context.put("k", "late", unconditional=True),
        "epoch": lambda: registry.raise_epoch(record.id, expected=1, reason="late", by=identify_self()),
    }
    for name, act in acts.items():
        try:
            act()
        except Superseded:
            print(f"{name}:superseded", flush=True)
        else:
            print(f"{name}:written", flush=True)


if __name__ == "__main__":
    act, home_path, what = sys.argv[1:]
    {"raise": raise_epoch, "create": create, "write": write}[act](Home.at(home_path), what)
    sys.stdout.flush()
    os._exit(0)
