"""A person at a terminal emulator: what their screen shows, what their terminal answers, and what state it is left in.

The other side of a pseudo-terminal, read all the time by a thread, as an emulator does; programs that ask where the cursor
is or what the terminal can do are answered as xterm would. Which modes are on is followed here by rules of its own, so that
a mode which crewkeep does not know of is seen as well.
"""

from __future__ import annotations

import os
import re
import select
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pexpect
import pytest
from support import CREWKEEP, make_environment, wait_until

from coordinator.paths import Home
from crewkeep.terminal.render import Renderer

DETACH_KEY = "\x1d"
_ASKED = re.compile(rb"\x1b\[(?P<csi>[56]n|0?c|\?u)|\x1b\](?P<color>1[01]);\?(?:\x07|\x1b\\)")
_UNFINISHED = re.compile(rb"\x1b(?:\[[<-?]?[0-9;]*|\][^\x07\x1b]{0,40})?\Z")
_MODE = re.compile(
    rb"\x1b\[\?(?P<private>[0-9;]+)(?P<switch>[hl])|\x1b\[(?P<kitty>[<>])(?P<count>[0-9]*)[0-9;]*u|\x1b\[>4;(?P<keys>[0-9])m"
    rb"|\x1b\](?P<colored>1[0-2]);(?!\?)|\x1b\]1(?P<uncolored>1[0-2])[\x07\x1b]"
    rb"|\x1b\[(?P<style>[0-9]?) q|\x1b\[(?P<region>[0-9;]*)r|\x1b(?P<keypad>[=>])"
)
#: On in a new terminal: lines wrap, the cursor shows.
_ON_WHEN_NEW = {"?7", "?25"}
#: How wide joined characters are: on in some new terminals, off in others, and harmless. OpenCode leaves it on itself.
_LEFT_ALONE = {"?2027"}


class PersonTerminal:
    """Runs ``crewkeep ARGUMENTS...`` on a terminal of its own; use as a context manager, which closes the terminal."""

    def __init__(
        self,
        home: Home,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        rows: int = 30,
        columns: int = 100,
    ) -> None:
        environment = make_environment(home, {"TERM": "xterm-256color", **(env or {})})
        self.child: Any = pexpect.spawn(
            str(CREWKEEP), list(arguments), env=environment, dimensions=(rows, columns), cwd=None if cwd is None else str(cwd)
        )
        self._fd = os.dup(self.child.child_fd)
        self._lock = threading.Lock()
        self._renderer = Renderer(rows, columns, least_rows=2)
        self._held = b""
        self._raw = bytearray()
        self._closing = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> PersonTerminal:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing = True
        self._reader.join(5)
        self.child.close(force=True)
        os.close(self._fd)

    @property
    def raw(self) -> bytes:
        """Everything that was written to it."""
        with self._lock:
            return bytes(self._raw)

    @property
    def screen(self) -> str:
        with self._lock:
            return "\n".join(row.text().rstrip() for row in self._renderer.screen.grid)

    def press(self, keys: str) -> None:
        os.write(self._fd, keys.encode())

    def resize(self, rows: int, columns: int) -> None:
        """Change the window. What stood on the screen is forgotten: what a program does not draw anew is not there."""
        with self._lock:
            self._renderer = Renderer(rows, columns, least_rows=2)
        self.child.setwinsize(rows, columns)

    def wait_for(self, *texts: str, timeout_s: float = 30) -> str:
        """Return the screen once all ``texts`` stand on it."""
        self._wait(lambda: all(text in self.screen for text in texts), f"{texts} on the screen", timeout_s)
        return self.screen

    def wait_written(self, text: str, behind: int = 0, timeout_s: float = 30) -> None:
        """Wait until ``text`` was written, however short it stood there, ``behind`` so many bytes of ``raw``."""
        self._wait(lambda: text.encode() in self.raw[behind:], repr(text), timeout_s)

    def wait_end(self, timeout_s: float = 20) -> int:
        """Return the exit code of the command."""
        self._wait(lambda: not self.child.isalive(), "the command's end", timeout_s)
        self._reader.join(5)
        assert self.child.exitstatus is not None, f"it was killed by signal {self.child.signalstatus}"
        return int(self.child.exitstatus)

    def find_left_on(self) -> set[str]:
        """Return the modes that are otherwise than in a new terminal, from what was written so far."""
        left: set[str] = set()
        kitty = 0
        for match in _MODE.finditer(self.raw):
            if match["private"] is not None:
                for number in match["private"].decode().split(";"):
                    differs = (match["switch"] == b"h") != (f"?{number}" in _ON_WHEN_NEW)
                    (left.add if differs else left.discard)(f"?{number}")
            elif match["kitty"] is not None:
                kitty = kitty + 1 if match["kitty"] == b">" else max(kitty - int(match["count"] or 1), 0)
            elif colored := match["colored"]:
                left.add(f"color {colored.decode()}")
            elif uncolored := match["uncolored"]:
                left.discard(f"color {uncolored.decode()}")
            else:
                name = next(name for name in ("keys", "style", "region", "keypad") if match[name] is not None)
                (left.discard if match[name] in (b"", b"0", b">") else left.add)(name)
        return (left - _LEFT_ALONE) | ({"kitty"} if kitty else set())

    def _wait(self, condition: Callable[[], object], what: str, timeout_s: float) -> None:
        try:
            wait_until(condition, timeout_s, what, every_s=0.03)
        except pytest.fail.Exception as error:
            raise AssertionError(f"{error}; the screen:\n{self.screen}\nthe last bytes: {self.raw[-600:]!r}") from None

    def _read(self) -> None:
        while not self._closing:
            if not select.select((self._fd,), (), (), 0.05)[0]:
                continue
            try:
                data = os.read(self._fd, 1 << 16)
            except OSError:  # EIO: nobody has the other end any more
                return
            if not data:
                return
            with self._lock:
                self._take(data)

    def _take(self, data: bytes) -> None:
        self._raw += data
        data = self._held + data
        if unfinished := _UNFINISHED.search(data):
            data, self._held = data[: unfinished.start()], data[unfinished.start() :]
        else:
            self._held = b""
        at = 0
        for match in _ASKED.finditer(data):
            self._renderer.feed(data[at : match.end()])
            at = match.end()
            self._answer(match)
        self._renderer.feed(data[at:])

    def _answer(self, match: re.Match[bytes]) -> None:
        screen = self._renderer.screen
        if match["color"] is not None:
            answer = b"\x1b]%s;rgb:1010/2020/3030\x1b\\" % match["color"]
        else:
            cursor = b"\x1b[%d;%dR" % (screen.y + 1, min(screen.x, screen.columns - 1) + 1)
            answer = {b"6n": cursor, b"5n": b"\x1b[0n", b"?u": b"\x1b[?0u"}.get(match["csi"], b"\x1b[?62;22c")
        os.write(self._fd, answer)
