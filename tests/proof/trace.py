"""Reading what strace wrote: system calls with their arguments as bytes, numbers and words, in the order they took place.

Expected are ``-f -y -xx`` and a string limit above every string. A call that was interrupted in the listing by another
process's ("unfinished ... resumed") keeps both places: where it began and where it ended. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

#: The calls by which files, and what is mapped of them, change, and those that say which descriptor is which file.
FILE_CALLS = (
    *("open", "openat", "openat2", "creat", "close", "close_range", "dup", "dup2", "dup3", "fcntl", "lseek", "read", "readv"),
    *("write", "pwrite64", "writev", "pwritev", "pwritev2", "copy_file_range", "sendfile", "splice", "io_uring_setup"),
    *("truncate", "ftruncate", "fallocate", "rename", "renameat", "renameat2", "link", "linkat", "symlink", "symlinkat"),
    *("unlink", "unlinkat", "mkdir", "mkdirat", "rmdir", "mknod", "mknodat", "chdir", "fchdir"),
    *("fsync", "fdatasync", "sync_file_range", "sync", "syncfs", "msync", "mmap", "clone", "clone3", "fork", "vfork"),
)


class Descriptor(NamedTuple):
    """A file descriptor, and the path that the kernel gave for it."""

    number: int
    path: bytes
    deleted: bool


#: bytes: a string. int: a number. Descriptor. str: anything else, as it stands. list: an array or structure.
Argument = bytes | int | Descriptor | str | list["Argument"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """One system call that returned."""

    pid: int
    name: str
    arguments: list[Argument]
    #: What it returned; a ``Descriptor`` where it returned one. Negative: it failed.
    result: int | Descriptor
    #: Lines of the listing; all that ended before ``began`` was done when this one began.
    began: int
    ended: int

    @property
    def failed(self) -> bool:
        return isinstance(self.result, int) and self.result < 0


_LINE = re.compile(rb"^(\d+) +(.*)$", re.DOTALL)
_START = re.compile(rb"^(\w+)\(")
_RESUMED = re.compile(rb"^<\.\.\. (\w+) resumed>(.*)$", re.DOTALL)
_RESULT = re.compile(rb"\) += (0x[0-9a-f]+|-?\d+|\?)(<(?:\\x[0-9a-f]{2}|[^>\\])*>)?")
_TOKEN = re.compile(
    rb'"(?P<text>(?:\\x[0-9a-f]{2})*)"(?P<cut>\.\.\.)?'
    rb"|(?P<fd>-?\d+|AT_FDCWD)<(?P<path>(?:\\x[0-9a-f]{2})*|[^>]*)>(?P<deleted>\(deleted\))?"
    rb"|(?P<number>-?(?:0x[0-9a-f]+|\d+))(?=[,)\]}\s]|$)"
    rb"|(?P<open>[\[{])|(?P<close>[\]}])|(?P<comma>,\s*)|(?P<end>\))|(?P<word>[^,\[\]{}()\"]+(?:\([^()]*\))?)"
)
#: Stands for the working directory in a descriptor's place.
CWD = -100


def read_calls(lines: Iterable[bytes]) -> Iterator[Call]:
    """Yield the calls in the order in which they ended. Raises ``ValueError`` at what it does not understand."""
    begun: dict[int, tuple[int, bytes]] = {}
    for number, line in enumerate(lines):
        match = _LINE.match(line.rstrip(b"\n"))
        if match is None:
            raise ValueError(f"line {number} of the trace has no process: {line[:80]!r}")
        pid, text = int(match[1]), match[2]
        if text.startswith((b"+++", b"---", b"strace:")):
            continue
        began = number
        if resumed := _RESUMED.match(text):
            began, first = begun.pop(pid)
            text = first + resumed[2]
        elif text.endswith(b"<unfinished ...>"):
            begun[pid] = number, text[: -len(b"<unfinished ...>")]
            continue
        if (call := _read_call(pid, text, began, number)) is not None:
            yield call


def _read_call(pid: int, text: bytes, began: int, ended: int) -> Call | None:
    start = _START.match(text)
    if start is None:
        raise ValueError(f"line {ended} of the trace is no call: {text[:80]!r}")
    name = start[1].decode()
    arguments, at = _read_arguments(text, start.end(), ended)
    found = _RESULT.match(text, at)
    if found is None:
        found = _RESULT.search(text, at)  # clone3 and others say more before the result
        if found is None:
            raise ValueError(f"line {ended} of the trace has no result: {text[-80:]!r}")
    if found[1] == b"?":
        return None  # it never returned
    value = _number(found[1])
    result = _descriptor(found[1], found[2][1:-1], b"(deleted)" in text[found.end() :]) if found[2] else value
    return Call(pid=pid, name=name, arguments=arguments, result=result, began=began, ended=ended)


def _read_arguments(text: bytes, at: int, line: int) -> tuple[list[Argument], int]:
    top: list[Argument] = []
    stack = [top]
    while at < len(text):
        token = _TOKEN.match(text, at)
        if token is None:
            raise ValueError(f"line {line} of the trace at {at}: {text[at : at + 60]!r}")
        kind = token.lastgroup
        if kind == "end":
            return top, at
        at = token.end()
        if kind in ("text", "cut"):
            if token["cut"]:
                raise ValueError(f"line {line} of the trace: a string was cut")
            stack[-1].append(_unhex(token["text"]))
        elif kind in ("path", "deleted", "fd"):
            stack[-1].append(_descriptor(token["fd"], token["path"], bool(token["deleted"])))
        elif kind == "number":
            stack[-1].append(_number(token["number"]))
        elif kind == "open":
            inner: list[Argument] = []
            stack[-1].append(inner)
            stack.append(inner)
        elif kind == "close":
            stack.pop()
        elif kind == "word" and (word := token["word"].decode("latin-1").strip()):
            stack[-1].append(word)
    return top, at


def _number(text: bytes) -> int:
    return int(text, 8) if len(text) > 1 and text.isdigit() and text.startswith(b"0") else int(text, 0)


def _descriptor(number: bytes, path: bytes, deleted: bool) -> Descriptor:
    raw = _unhex(path)
    return Descriptor(CWD if number == b"AT_FDCWD" else int(number), raw, deleted)


def _unhex(text: bytes) -> bytes:
    return bytes.fromhex(text.replace(b"\\x", b"").decode()) if text.startswith(b"\\x") else text
