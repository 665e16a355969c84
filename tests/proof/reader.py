"""Following a program's system calls: which descriptor is which file, and so what was done to the files below one directory.

A descriptor is followed from call to call (open, dup, fork, threads), not taken from the path that strace prints, since
that is the path of now. Between the line where a call begins and the one where it returns there may be many of others, who see
what it did before we are told that it returned: what it is given, does and gives up counts from where it began. The number
that it returns is there to be used once it has returned, and a flush is one from then on.

Whatever could change a file in a way that is not modelled raises ``Unmodelled``: a tool that overlooks something would prove
nothing.
"""

from __future__ import annotations

import base64
import json
import os
import zlib
from collections.abc import Callable, Iterable
from typing import Any, TypeGuard

from proof.disk import Content, walk
from proof.operations import ROOT, Clear, FailedFlush, Flush, Mapped, Name, Operation, Resize, Said, Seen, Write
from proof.trace import Call, Descriptor


class Unmodelled(Exception):
    """The program did something to its files of which the crash models know nothing."""


class _Open:
    """An open file description: shared by duplicates and forked children."""

    def __init__(self, inode: int, *, append: bool, durable: bool) -> None:
        self.inode, self.append, self.durable, self.position = inode, append, durable, 0


class Reader:
    """Follows the calls and collects ``operations``."""

    def __init__(self, root: bytes, said: bytes, paths: dict[bytes, int], contents: dict[int, bytes]) -> None:
        self.root, self.said = root, said
        self.operations: list[Operation] = []
        #: Processes and threads that changed a file.
        self.actors: set[int] = set()
        self.names: dict[int, dict[bytes, int]] = {
            ROOT: {},
            **{inode: {} for inode in paths.values() if inode not in contents},
        }
        self.files = {inode: bytearray(data) for inode, data in contents.items()}
        self._first = contents
        self.mapped: set[int] = set()
        for path, inode in paths.items():
            if path:
                head, _, name = path.rpartition(b"/")
                self.names[paths[head]][name] = inode
        self._count = max(paths.values(), default=0)
        self._tables: dict[int, dict[int, _Open]] = {}
        #: Each process or thread to what the descriptor will be that its call returns, ``None`` for a file of no interest.
        self._returned: dict[int, tuple[int, _Open | None]] = {}

    def follow(self, calls: Iterable[Call]) -> None:
        """Take all calls of a recording in."""
        turns = [turn for call in calls for turn in ((call.began, self._take, call), (call.ended, self._return, call))]
        for _, turn, call in sorted(turns, key=lambda turn: turn[0]):  # stable: on one line a call begins before it returns
            turn(call)
        self.operations.sort(key=lambda each: each.ended if isinstance(each, Flush | FailedFlush | Said) else each.began)

    def _take(self, call: Call) -> None:
        if call.failed:
            if call.name in ("fsync", "fdatasync") and (opened := self._find_open(call, call.arguments[0])) is not None:
                self._add(call, FailedFlush(inode=opened.inode, began=call.began, ended=call.ended))
            return
        handler: Callable[[Call], None] | None = getattr(self, f"_{call.name}", None)
        if handler is not None:
            handler(call)
        elif any(self._is_below(argument) for argument in call.arguments):
            raise Unmodelled(f"{call.name} on a file below the directory: {str(call.arguments)[:200]}")

    def assert_matches(self, found: tuple[dict[bytes, int], dict[int, bytes]]) -> None:
        """Raise ``Unmodelled`` if what was followed did not lead to what is there now."""
        paths, contents = found
        mine = dict(walk(self.names, ROOT))
        if set(mine) != set(paths) - {b""}:
            raise Unmodelled(f"names differ: {sorted(set(mine) ^ (set(paths) - {b''}))}")
        for path, inode in mine.items():
            if inode in self.files and inode not in self.mapped and not self._settle(inode, contents[paths[path]]):
                raise Unmodelled(f"the contents of {path!r} differ from what was traced")

    def _settle(self, inode: int, found: bytes) -> bool:
        """Put writes to one place that were under way at once into the order that led to what is there, if there is one."""
        for _ in range(len(self.operations) + 1):  # more than enough
            content = self._replay(inode)
            if content == found:
                return True
            differing = (at for at, (mine, theirs) in enumerate(zip(content, found, strict=False)) if mine != theirs)
            at = next(differing, len(content))
            writes = [(place, each) for place, each in enumerate(self.operations) if _covers(each, inode, at)]
            if not writes or at >= len(found):
                return False
            last_place, last = writes[-1]
            places = [place for place, each in writes if each.ended > last.began and each.data[at - each.offset] == found[at]]
            if not places:
                return False
            self.operations.insert(last_place, self.operations.pop(places[-1]))  # behind the last one
        return False

    def _replay(self, inode: int) -> bytes:
        content = Content.of(self._first.get(inode, b""))
        for each in self.operations:
            match each:
                case Write() if each.inode == inode:
                    content = content.write(each.offset, each.data)
                case Resize() if each.inode == inode:
                    content = content.resize(each.size, only_grow=each.only_grow)
                case Clear() if each.inode == inode:
                    content = content.clear(each.offset, each.length)
        return content.whole()

    # descriptors

    def _table(self, pid: int) -> dict[int, _Open]:
        return self._tables.setdefault(pid, {})

    def _return(self, call: Call) -> None:
        if call.pid in self._returned:
            number, opened = self._returned.pop(call.pid)
            self._table(call.pid).pop(number, None)
            if opened is not None:
                self._table(call.pid)[number] = opened

    def _is_below(self, argument: object) -> bool:
        if isinstance(argument, Descriptor):
            return argument.path == self.root or argument.path.startswith(self.root + b"/")
        if isinstance(argument, bytes):
            return argument == self.root or argument.startswith(self.root + b"/")
        return False

    def _find_open(self, call: Call, argument: object) -> _Open | None:
        if not isinstance(argument, Descriptor) or not self._is_below(argument):
            return None
        found = self._table(call.pid).get(argument.number)
        if found is None:
            raise Unmodelled(f"line {call.began} of the trace: {call.name} on a descriptor nobody saw opened: {argument}")
        return found

    def _clone(self, call: Call) -> None:
        assert isinstance(call.result, int)
        table = self._table(call.pid)
        self._tables[call.result] = table if "CLONE_FILES" in str(call.arguments) else dict(table)

    _clone3 = _fork = _vfork = _clone

    def _dup(self, call: Call) -> None:
        opened = self._find_open(call, call.arguments[0])
        if isinstance(call.result, Descriptor):
            self._returned[call.pid] = call.result.number, opened

    _dup2 = _dup3 = _dup

    def _fcntl(self, call: Call) -> None:
        if str(call.arguments[1]).startswith("F_DUPFD"):
            self._dup(call)

    def _close(self, call: Call) -> None:
        if isinstance(call.arguments[0], Descriptor):
            self._table(call.pid).pop(call.arguments[0].number, None)

    def _close_range(self, call: Call) -> None:
        first, last = call.arguments[0], call.arguments[1]
        low = first.number if isinstance(first, Descriptor) else int(first)  # type: ignore[arg-type]
        high = last.number if isinstance(last, Descriptor) else int(last) if isinstance(last, int) else 1 << 32
        table = self._table(call.pid)
        for number in [number for number in table if low <= number <= high]:
            del table[number]

    # names

    def _resolve(self, call: Call, at: object, path: object) -> tuple[int, bytes] | None:
        """Return the directory and the last name of a path below the root; ``None`` if it is elsewhere."""
        assert isinstance(path, bytes)
        if not path.startswith(b"/"):
            if not isinstance(at, Descriptor):
                raise Unmodelled(f"{call.name} with a relative path: {path!r}")
            path = at.path + b"/" + path
        path = os.path.normpath(path)
        if not path.startswith(self.root + b"/"):
            return None
        *heads, name = path[len(self.root) + 1 :].split(b"/")
        directory = ROOT
        for head in heads:
            directory = self.names[directory][head]
        return directory, name

    def _openat(self, call: Call) -> None:
        self._open_path(call, call.arguments[0], call.arguments[1], str(call.arguments[2]))

    def _open(self, call: Call) -> None:
        self._open_path(call, None, call.arguments[0], str(call.arguments[1]))

    def _open_path(self, call: Call, at: object, path: object, flags: str) -> None:
        assert isinstance(call.result, Descriptor)
        opened = self._open_below(call, call.result, at, path, flags) if self._is_below(call.result) else None
        self._returned[call.pid] = call.result.number, opened

    def _open_below(self, call: Call, result: Descriptor, at: object, path: object, flags: str) -> _Open:
        durable = "O_SYNC" in flags or "O_DSYNC" in flags
        if "O_TMPFILE" in flags:
            raise Unmodelled("a file without a name")
        if result.path == self.root:
            return _Open(ROOT, append=False, durable=False)
        place = self._resolve(call, at, path)
        assert place is not None
        directory, name = place
        inode = self.names[directory].get(name)
        if inode is None:
            inode = self._create(call, directory, name)
        elif "O_TRUNC" in flags and inode in self.files:
            self._add(call, Resize(inode=inode, size=0, began=call.began, ended=call.ended))
            del self.files[inode][:]
        return _Open(inode, append="O_APPEND" in flags, durable=durable)

    def _create(self, call: Call, directory: int, name: bytes, *, is_directory: bool = False) -> int:
        self._count += 1
        inode = self._count
        if is_directory:
            self.names[inode] = {}
        else:
            self.files[inode] = bytearray()
        self._name(call, directory, name, inode, new=True, is_directory=is_directory)
        return inode

    def _name(self, call: Call, directory: int, name: bytes, inode: int | None, **more: Any) -> None:
        given_up = more.get("given_up")
        if given_up is not None:
            del self.names[given_up[0]][given_up[1]]
        if inode is None:
            self.names[directory].pop(name)
        else:
            self.names[directory][name] = inode
        self._add(call, Name(directory=directory, name=name, inode=inode, began=call.began, ended=call.ended, **more))

    def _mkdir(self, call: Call) -> None:
        self._make_directory(call, None, call.arguments[0])

    def _mkdirat(self, call: Call) -> None:
        self._make_directory(call, call.arguments[0], call.arguments[1])

    def _make_directory(self, call: Call, at: object, path: object) -> None:
        if (place := self._resolve(call, at, path)) is not None:
            self._create(call, *place, is_directory=True)

    def _rename(self, call: Call) -> None:
        self._rename_path(call, None, call.arguments[0], None, call.arguments[1])

    def _renameat(self, call: Call) -> None:
        self._rename_path(call, *call.arguments[:4])

    def _renameat2(self, call: Call) -> None:
        if call.arguments[4] not in (0, "RENAME_NOREPLACE"):
            raise Unmodelled(f"renameat2 with {call.arguments[4]!r}")
        self._rename_path(call, *call.arguments[:4])

    def _rename_path(self, call: Call, old_at: object, old: object, new_at: object, new: object) -> None:
        source, target = self._resolve(call, old_at, old), self._resolve(call, new_at, new)
        if source is None and target is None:
            return
        if source is None or target is None:
            raise Unmodelled("a rename into or out of the directory")
        inode = self.names[source[0]][source[1]]
        if self.names[target[0]].get(target[1]) != inode:
            self._name(call, *target, inode, given_up=source)

    def _link(self, call: Call) -> None:
        self._link_path(call, None, call.arguments[0], None, call.arguments[1])

    def _linkat(self, call: Call) -> None:
        self._link_path(call, *call.arguments[:4])

    def _link_path(self, call: Call, old_at: object, old: object, new_at: object, new: object) -> None:
        source, target = self._resolve(call, old_at, old), self._resolve(call, new_at, new)
        if source is None and target is None:
            return
        if source is None or target is None:
            raise Unmodelled("a link into or out of the directory")
        self._name(call, *target, self.names[source[0]][source[1]])

    def _unlink(self, call: Call) -> None:
        if (place := self._resolve(call, None, call.arguments[0])) is not None:
            self._name(call, *place, None)

    def _unlinkat(self, call: Call) -> None:
        if (place := self._resolve(call, call.arguments[0], call.arguments[1])) is not None:
            self._name(call, *place, None)

    _rmdir = _unlink

    # contents

    def _add(self, call: Call, operation: Operation) -> None:
        self.operations.append(operation)
        self.actors.add(call.pid)

    def _put(self, call: Call, opened: _Open, offset: int, data: bytes, *, durable: bool = False) -> None:
        content = self.files[opened.inode]
        if len(content) < offset:
            content.extend(bytes(offset - len(content)))
        content[offset : offset + len(data)] = data
        durable = durable or opened.durable
        self._add(call, Write(inode=opened.inode, offset=offset, data=data, durable=durable, began=call.began, ended=call.ended))

    def _written(self, call: Call, data: bytes) -> bytes:
        assert isinstance(call.result, int)
        return data[: call.result]

    def _write(self, call: Call) -> None:
        target, data = call.arguments[0], call.arguments[1]
        assert isinstance(data, bytes)
        if isinstance(target, Descriptor) and target.path == self.said:
            self._hear(call, data)
            return
        self._write_on(call, data)

    def _write_on(self, call: Call, data: bytes) -> None:
        opened = self._find_open(call, call.arguments[0])
        if opened is not None:
            data = self._written(call, data)
            offset = len(self.files[opened.inode]) if opened.append else opened.position
            self._put(call, opened, offset, data)
            opened.position = offset + len(data)

    def _pwrite64(self, call: Call) -> None:
        opened = self._find_open(call, call.arguments[0])
        if opened is not None:
            data, offset = call.arguments[1], call.arguments[3]
            assert isinstance(data, bytes) and isinstance(offset, int)
            self._put(call, opened, offset, self._written(call, data))

    def _writev(self, call: Call) -> None:
        self._write_on(call, _join(call.arguments[1]))

    def _pwritev(self, call: Call) -> None:
        opened = self._find_open(call, call.arguments[0])
        if opened is not None:
            offset = call.arguments[3]
            assert isinstance(offset, int)
            durable = len(call.arguments) > 4 and "SYNC" in str(call.arguments[4])
            self._put(call, opened, offset, self._written(call, _join(call.arguments[1])), durable=durable)

    _pwritev2 = _pwritev

    def _copy_file_range(self, call: Call) -> None:
        source, target = self._find_open(call, call.arguments[0]), self._find_open(call, call.arguments[2])
        if target is None:
            return
        if source is None or isinstance(call.arguments[1], list) or isinstance(call.arguments[3], list):
            raise Unmodelled("copy_file_range from elsewhere, or with offsets")
        assert isinstance(call.result, int)
        data = bytes(self.files[source.inode][source.position : source.position + call.result])
        self._put(call, target, target.position, data)
        source.position += len(data)
        target.position += len(data)

    def _lseek(self, call: Call) -> None:
        if (opened := self._find_open(call, call.arguments[0])) is not None:
            assert isinstance(call.result, int)
            opened.position = call.result

    def _read(self, call: Call) -> None:
        if (opened := self._find_open(call, call.arguments[0])) is not None:
            assert isinstance(call.result, int)
            opened.position += call.result

    _readv = _read

    def _ftruncate(self, call: Call) -> None:
        if (opened := self._find_open(call, call.arguments[0])) is not None:
            self._resize(call, opened.inode, call.arguments[1])

    def _truncate(self, call: Call) -> None:
        if (place := self._resolve(call, None, call.arguments[0])) is not None:
            self._resize(call, self.names[place[0]][place[1]], call.arguments[1])

    def _resize(self, call: Call, inode: int, size: object, *, only_grow: bool = False) -> None:
        assert isinstance(size, int)
        content = self.files[inode]
        if len(content) < size:
            content.extend(bytes(size - len(content)))
        elif not only_grow:
            del content[size:]
        self._add(call, Resize(inode=inode, size=size, only_grow=only_grow, began=call.began, ended=call.ended))

    def _fallocate(self, call: Call) -> None:
        opened = self._find_open(call, call.arguments[0])
        if opened is None:
            return
        mode, offset, length = call.arguments[1:4]
        assert isinstance(offset, int) and isinstance(length, int)
        words = set() if mode == 0 else set(str(mode).split("|"))
        if not words <= {"FALLOC_FL_KEEP_SIZE", "FALLOC_FL_ZERO_RANGE", "FALLOC_FL_PUNCH_HOLE"}:
            raise Unmodelled(f"fallocate with {mode!r}")
        if words & {"FALLOC_FL_ZERO_RANGE", "FALLOC_FL_PUNCH_HOLE"}:
            content = self.files[opened.inode]
            end = min(len(content), offset + length)
            content[offset:end] = bytes(max(0, end - offset))
            self._add(call, Clear(inode=opened.inode, offset=offset, length=length, began=call.began, ended=call.ended))
        if "FALLOC_FL_KEEP_SIZE" not in words:
            self._resize(call, opened.inode, offset + length, only_grow=True)

    def _fsync(self, call: Call) -> None:
        if (opened := self._find_open(call, call.arguments[0])) is not None:
            self._add(call, Flush(inode=opened.inode, began=call.began, ended=call.ended))

    _fdatasync = _fsync

    def _sync_file_range(self, call: Call) -> None:
        """It promises nothing about a crash (sync_file_range(2)), so it is none of our operations."""

    def _sync(self, call: Call) -> None:
        for inode in (*self.files, *self.names):
            self._add(call, Flush(inode=inode, began=call.began, ended=call.ended))

    _syncfs = _sync

    def _mmap(self, call: Call) -> None:
        opened = self._find_open(call, call.arguments[4])
        if opened is not None and "MAP_SHARED" in str(call.arguments[3]) and "PROT_WRITE" in str(call.arguments[2]):
            self.mapped.add(opened.inode)
            self._add(call, Mapped(inode=opened.inode, began=call.began, ended=call.ended))

    def _chdir(self, call: Call) -> None:
        """Relative paths come with the directory they are relative to."""

    def _hear(self, call: Call, data: bytes) -> None:
        for line in data.splitlines():
            statement = json.loads(line)
            seen = statement.get("seen")
            if seen is None:
                self._add(call, Said(statement=statement, began=call.began, ended=call.ended))
                continue
            path = os.fsencode(seen)[len(self.root) + 1 :]
            inode = dict(walk(self.names, ROOT)).get(path)
            if inode is not None:
                content = zlib.decompress(base64.b85decode(statement["data"]))
                self.files[inode][:] = content
                self.mapped.add(inode)
                self._add(call, Seen(inode=inode, data=content, began=call.began, ended=call.ended))


def _covers(operation: Operation, inode: int, at: int) -> TypeGuard[Write]:
    """Tell whether it is a write to that place."""
    if not isinstance(operation, Write) or operation.inode != inode:
        return False
    return operation.offset <= at < operation.offset + len(operation.data)


def _join(vector: object) -> bytes:
    """Return the bytes of an iovec as strace prints it: ``[{iov_base="...", iov_len=n}, ...]``."""
    parts = []
    assert isinstance(vector, list)
    for item in vector:
        assert isinstance(item, list)
        parts += [part for part in item if isinstance(part, bytes)]
    return b"".join(parts)
