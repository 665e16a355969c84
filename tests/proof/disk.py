"""What a disk holds: contents that are cheap to copy and compare, and a tree of them that can be put into a real directory."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

PAGE_BYTES = 4096
_ZEROS = bytes(PAGE_BYTES)


class Content:
    """A file's bytes, never changed once made. Pages of zeros are not kept, so that a preallocated file costs nothing."""

    __slots__ = ("key", "pages", "size")

    def __init__(self, pages: dict[int, bytes], size: int) -> None:
        self.pages, self.size = pages, size
        #: Equal for equal contents.
        self.key = size, frozenset(pages.items())

    @classmethod
    def of(cls, data: bytes) -> Content:
        return EMPTY.write(0, data)

    def write(self, offset: int, data: bytes) -> Content:
        pages = dict(self.pages)
        at, end = offset, offset + len(data)
        while at < end:
            number, start = divmod(at, PAGE_BYTES)
            stop = min(PAGE_BYTES, start + end - at)
            part = data[at - offset : at - offset + stop - start]
            if stop - start < PAGE_BYTES:
                old = pages.get(number, _ZEROS)
                part = old[:start] + part + old[stop:]
            if part == _ZEROS:
                pages.pop(number, None)
            else:
                pages[number] = bytes(part)
            at += stop - start
        return Content(pages, max(self.size, end))

    def resize(self, size: int, *, only_grow: bool = False) -> Content:
        if size >= self.size or only_grow:
            return Content(self.pages, max(size, self.size))
        pages = {number: page for number, page in self.pages.items() if number * PAGE_BYTES < size}
        last, rest = divmod(size, PAGE_BYTES)
        if last in pages:
            cut = pages.pop(last)[:rest]
            if cut.strip(b"\0"):
                pages[last] = cut + bytes(PAGE_BYTES - rest)
        return Content(pages, size)

    def clear(self, offset: int, length: int) -> Content:
        end = min(self.size, offset + length)
        return self.write(offset, bytes(end - offset)) if end > offset else self

    def whole(self) -> bytes:
        data = bytearray(self.size)
        for number, page in self.pages.items():
            start = number * PAGE_BYTES
            data[start : min(self.size, start + PAGE_BYTES)] = page[: self.size - start]
        return bytes(data)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Content) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def __reduce__(self) -> tuple[type[Content], tuple[dict[int, bytes], int]]:
        return Content, (self.pages, self.size)


EMPTY = Content({}, 0)


@dataclass(slots=True)
class Tree:
    """Paths relative to a directory: contents, or ``None`` for a directory. Names of one file are one inode."""

    files: dict[bytes, Content | None] = field(default_factory=dict)
    #: Paths that are names of the same file as another path.
    links: dict[bytes, bytes] = field(default_factory=dict)

    @property
    def key(self) -> frozenset[tuple[bytes, object]]:
        return frozenset((path, None if content is None else content.key) for path, content in self.files.items())

    @classmethod
    def read(cls, directory: Path) -> Tree:
        tree, first = cls(), dict[tuple[int, int], bytes]()
        for path in sorted(directory.rglob("*")):
            name, status = os.fsencode(path.relative_to(directory)), path.stat()
            tree.files[name] = None if path.is_dir() else Content.of(path.read_bytes())
            if not path.is_dir() and first.setdefault((status.st_dev, status.st_ino), name) != name:
                tree.links[name] = first[status.st_dev, status.st_ino]
        return tree

    def put(self, directory: Path) -> None:
        """Make ``directory``, which is not there, hold this tree."""
        base = os.fsencode(directory)
        os.mkdir(base, 0o700)
        for path in sorted(self.files):
            content, whole = self.files[path], base + b"/" + path
            if content is None:
                os.mkdir(whole, 0o700)
            elif path in self.links:
                continue
            else:
                fd = os.open(whole, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                try:
                    for number, page in content.pages.items():
                        os.pwrite(fd, page[: content.size - number * PAGE_BYTES], number * PAGE_BYTES)
                    os.ftruncate(fd, content.size)
                finally:
                    os.close(fd)
        for path, first in self.links.items():
            os.link(base + b"/" + first, base + b"/" + path)


def walk(names: Mapping[int, Mapping[bytes, int]], directory: int, prefix: bytes = b"") -> Iterator[tuple[bytes, int]]:
    """Yield the paths below a directory of a table of names, with their inodes."""
    for name, inode in names.get(directory, {}).items():
        yield prefix + name, inode
        if inode in names:
            yield from walk(names, inode, prefix + name + b"/")
