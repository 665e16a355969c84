"""Witnesses: what a program says before and after each act, and what must therefore be found later.

``{"do": 3, "kind": "put", "key": "a", "value": 1}`` before, ``{"done": 3, "version": 7}`` after: a line of JSON, written by one
system call, so that the recorder sees it in its place between the others. Before it says that something is done, the
program shows what the files hold that it has mapped for writing, which no system call would tell.

What was done must be there. What was begun may be there, whole. Nothing else may.
"""

from __future__ import annotations

import base64
import json
import os
import threading
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

#: The value of a deletion.
TOMBSTONE = "\0tombstone"


class Witness:
    """The mouth of a program; any thread, and forked children, may use it."""

    def __init__(self, said: str, root: str, *, ignored: frozenset[bytes] = frozenset(), who: str = "main") -> None:
        self._fd = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._root, self._ignored, self._who = os.path.realpath(root), ignored, who
        self._count = 0
        self._shown: dict[str, int] = {}
        self._lock = threading.Lock()

    def as_another(self, who: str) -> Witness:
        """Return a witness for a thread or a forked child of this one."""
        other = Witness.__new__(Witness)
        other.__dict__.update(self.__dict__)
        other._who, other._count, other._lock = who, 0, threading.Lock()
        return other

    def do(self, kind: str, **what: Any) -> str:
        """Say what is about to be done; returns its name."""
        with self._lock:
            self._count += 1
            name = f"{self._who}-{self._count}"
        self.say({"do": name, "kind": kind, **what})
        return name

    def done(self, name: str, **what: Any) -> None:
        """Say that it is done."""
        self._show_mapped()
        self.say({"done": name, **what})

    def say(self, statement: dict[str, Any]) -> None:
        data = json.dumps(statement).encode() + b"\n"
        written = os.write(self._fd, data)
        assert written == len(data), "a statement is one system call"

    def _show_mapped(self) -> None:
        for path in find_mapped(self._root):
            if os.path.basename(os.fsencode(path)) in self._ignored:
                continue
            try:
                with open(path, "rb") as file:
                    data = file.read()
            except FileNotFoundError:
                continue  # replaced since
            digest = zlib.crc32(data)
            if self._shown.get(path) != digest:
                self._shown[path] = digest
                self.say({"seen": path, "data": base64.b85encode(zlib.compress(data, 1)).decode()})


def find_mapped(root: str) -> list[str]:
    """Return the files below ``root`` that this process has mapped for writing, shared with others."""
    found = set()
    with open("/proc/self/maps", "rb") as maps:
        for line in maps:
            fields = line.rstrip(b"\n").split(maxsplit=5)
            if len(fields) == 6 and fields[1][1:2] == b"w" and fields[1][3:4] == b"s":
                path = os.fsdecode(fields[5])
                if path.startswith(root + "/") and not path.endswith(" (deleted)"):
                    found.add(path)
    return sorted(found)


@dataclass(slots=True)
class Expectation:
    """What is to be found, made from what was said."""

    #: Key to the values that were ever tried, tombstones included, as JSON.
    tried: dict[str, set[str]] = field(default_factory=dict)
    #: Key to how many writes were begun.
    begun: dict[str, int] = field(default_factory=dict)
    #: Key to version to value, as JSON, of all that was acknowledged.
    acknowledged: dict[str, dict[int, str]] = field(default_factory=dict)
    #: Keys whose value is always their version.
    counts: set[str] = field(default_factory=set)
    fences: dict[str, int] = field(default_factory=dict)
    fences_tried: dict[str, set[int]] = field(default_factory=dict)
    rules: dict[str, str] = field(default_factory=dict)
    rules_tried: dict[str, set[str]] = field(default_factory=dict)
    #: Keys of which versions may be missing, since they were damaged on purpose.
    hurt: set[str] = field(default_factory=set)
    #: The store was damaged on purpose, and nobody has said yet that it is repaired.
    is_damaged: bool = False

    @classmethod
    def make(cls, begun: Iterable[dict[str, Any]], done: Iterable[dict[str, Any]] | None = None) -> Expectation:
        """Return what follows if ``begun`` was said by then at the earliest, ``done`` (else the same) at the latest."""
        begun = list(begun)
        made = cls()
        acts: dict[str, dict[str, Any]] = {}
        later = begun if done is None else list(done)
        for statement in later:
            if "do" in statement:
                acts[statement["do"]] = statement
            elif "done" in statement:
                made._acknowledge(acts[statement["done"]], statement)
            elif "saw" in statement:
                made._acknowledge_value(statement["saw"], statement["version"], statement["value"])
            elif "hurt" in statement:
                made.hurt |= set(statement["hurt"])
                made.is_damaged = True
        for statement in begun:
            if "do" in statement:
                made._try(statement)
        return made

    def _try(self, act: dict[str, Any]) -> None:
        match act["kind"]:
            case "put":
                self._try_value(act["key"], act["value"])
            case "delete":
                self._try_value(act["key"], TOMBSTONE)
            case "count":
                self.counts.add(act["key"])
                self.begun[act["key"]] = self.begun.get(act["key"], 0) + 1
            case "fence":
                self.fences_tried.setdefault(act["session"], set()).add(act["epoch"])
            case "rule":
                self.rules_tried.setdefault(act["prefix"], set()).add(act["rule"])

    def _try_value(self, key: str, value: Any) -> None:
        self.tried.setdefault(key, set()).add(encode(value))
        self.begun[key] = self.begun.get(key, 0) + 1

    def _acknowledge(self, act: dict[str, Any], done: dict[str, Any]) -> None:
        match act["kind"]:
            case "put":
                self._acknowledge_value(act["key"], done["version"], act["value"])
            case "delete":
                self._acknowledge_value(act["key"], done["version"], TOMBSTONE)
            case "count":
                self._acknowledge_value(act["key"], done["version"], done["version"])
            case "fence":
                self.fences[act["session"]] = max(act["epoch"], self.fences.get(act["session"], 0))
            case "rule":
                self.rules[act["prefix"]] = act["rule"]
            case "repair":
                self.is_damaged = False

    def _acknowledge_value(self, key: str, version: int, value: Any) -> None:
        self.acknowledged.setdefault(key, {})[version] = encode(value)


def encode(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
