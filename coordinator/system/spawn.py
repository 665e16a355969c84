"""Starting programs so that the outcome is known exactly: it runs, or the reason why not.

The child waits on a pipe until its parent has taken its identity (and put it into its control group), so that an agent
never runs unknown to anybody: a parent that dies before saying "go" takes the child with it. A second pipe, closed by
the exec itself, brings back the errno of whatever failed before.

Invariants:
  - safe in a process with threads: the child does nothing but system calls between fork and exec
  - the child starts with default signal dispositions, an empty signal mask and no descriptors but 0, 1 and 2
  - a failed start leaves no process and no descriptor
"""

from __future__ import annotations

import errno
import fcntl
import gc
import os
import select
import signal
import stat
import sys
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn

from coordinator.config import LOG_LIMIT_BYTES, START_TIMEOUT_S
from coordinator.errors import InvalidInput, StartFailed, StorageError, TimedOut
from coordinator.ids import new_nonce
from coordinator.system import processes
from coordinator.system.processes import ProcessIdentity

#: What a program gets if its environment says nothing (the shell's own default).
_DEFAULT_PATH = "/usr/local/bin:/usr/bin:/bin"


def find_program(argv: Sequence[str], *, cwd: str, environment: Mapping[str, str]) -> str:
    """Return the path of the program that ``argv`` names, without starting it. Raises ``StartFailed`` or ``InvalidInput``.

    The answer may be outdated when it is used; the start itself reports for certain.
    """
    _check_strings(argv, environment)
    try:
        if not stat.S_ISDIR(os.stat(cwd).st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if not os.access(cwd, os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise _explain("c", error.errno or 0, argv, cwd) from error
    seen = errno.ENOENT
    for path in _candidates(argv[0], environment):
        at = os.path.join(cwd, path)
        try:
            mode = os.stat(at).st_mode
        except OSError as error:
            seen = seen if error.errno == errno.ENOENT else error.errno or errno.EIO
            continue
        if stat.S_ISREG(mode) and os.access(at, os.X_OK):
            return at
        seen = errno.EACCES
    raise _explain("x", seen, argv, cwd)


def spawn_detached(argv: Sequence[str], *, environment: Mapping[str, str], log: Path, cwd: str = "/") -> ProcessIdentity:
    """Start a program of our own that outlives us: own OS session, no terminal, output appended to ``log``.

    It is nobody's child here (forked twice), also when this process is a subreaper. A log above its limit is first
    renamed to ``<name>.1``. Raises ``StartFailed``, ``StorageError`` (the log) or ``TimedOut``.
    """
    with ExitStack() as stack:
        output = open_log(log)
        stack.callback(os.close, output)
        try:
            nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise StorageError.from_os(error, "open", os.devnull) from error
        stack.callback(os.close, nothing)
        # A mark of its own: started from inside a session, it is no part of that session's tree (see ``tree``).
        marked = {**environment, "CREWKEEP_NONCE": new_nonce()}
        return start(argv, cwd=cwd, environment=marked, stdio=(nothing, output, output), detached=True)


def open_log(path: Path) -> int:
    """Open a log for appending (mode 0600), renaming one above the limit aside first; the caller closes it."""
    try:
        try:
            if os.lstat(path).st_size > LOG_LIMIT_BYTES:
                os.replace(path, path.with_name(path.name + ".1"))
        except FileNotFoundError:
            pass
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StorageError.from_os(error, "write the log", path) from error


def start(
    argv: Sequence[str],
    *,
    cwd: str,
    environment: Mapping[str, str],
    stdio: tuple[int, int, int],
    detached: bool = False,
    in_child: Callable[[], object] | None = None,
    before_go: Callable[[int], object] | None = None,
) -> ProcessIdentity:
    """Start ``argv`` in an OS session of its own and return who it is, once its exec is known to have succeeded.

    ``stdio`` become its descriptors 0, 1, 2. ``in_child`` runs in the child after those are in place and may only do
    system calls; ``before_go(pid)`` runs here while the child waits. With ``detached`` it is not our child; otherwise
    the caller reaps it. Raises ``StartFailed``, ``InvalidInput`` or ``TimedOut``; then nothing is left.
    """
    arguments, variables = _check_strings(argv, environment)
    with _Descriptors() as held:
        try:
            report_read, report_write = held.pipe()
            go_read, go_write = held.pipe()
            plan = _Plan(
                programs=[os.fsencode(path) for path in _candidates(argv[0], environment)],
                arguments=arguments,
                variables=variables,
                cwd=os.fsencode(cwd),
                stdio=tuple(held.copy(fd) for fd in stdio),
                in_child=in_child,
                report_write=report_write,
                go_read=go_read,
                detached=detached,
            )
            child = _fork(plan)
        except OSError as error:
            raise _explain("f", error.errno or 0, argv, cwd) from error
        try:
            held.close(report_write)
            held.close(go_read)
            deadline_s = time.monotonic() + START_TIMEOUT_S
            pid = child
            if detached:
                found = _read_report(report_read, 4, deadline_s)
                pid = int.from_bytes(found, "little") if len(found) == 4 else 0
            identity = processes.identify(pid)
            if identity is None:
                raise _explain("f", errno.ECHILD, argv, cwd)
            if before_go is not None:
                before_go(pid)
            os.write(go_write, b"g")
            try:
                report = _read_report(report_read, 16, deadline_s)
            except TimedOut:
                processes.send_signal(identity, signal.SIGKILL)
                raise
            if report:
                raise _explain(chr(report[0]), int(report[1:]), argv, cwd)
        except BaseException:
            held.close(go_write)  # a child that still waits ends by itself
            if not detached:
                reap(child)
            raise
        return identity


def reap(pid: int) -> None:
    """Wait for a child of ours that has ended or is about to; one that somebody else has reaped is as good."""
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        return


def become_subreaper() -> bool:
    """Let orphans of our descendants come to us instead of to init. ``False`` where there is no such thing (macOS)."""
    global _subreaper
    _subreaper = _set_subreaper(True)
    return _subreaper


class _Plan:
    """All that the child needs, made before the fork."""

    def __init__(
        self,
        *,
        programs: list[bytes],
        arguments: list[bytes],
        variables: dict[bytes, bytes],
        cwd: bytes,
        stdio: tuple[int, ...],
        in_child: Callable[[], object] | None,
        report_write: int,
        go_read: int,
        detached: bool,
    ) -> None:
        self.programs, self.arguments, self.variables, self.cwd = programs, arguments, variables, cwd
        self.stdio, self.in_child, self.report_write, self.go_read = stdio, in_child, report_write, go_read
        self.detached = detached
        self.signals = [number for number in range(1, signal.NSIG) if number not in (signal.SIGKILL, signal.SIGSTOP)]


class _Descriptors:
    """Descriptors of the parent's, all above 2 and closed on exec; those not yet closed are closed at the end."""

    def __enter__(self) -> _Descriptors:
        self._held: set[int] = set()
        return self

    def __exit__(self, *_: object) -> None:
        for fd in list(self._held):
            self.close(fd)

    def copy(self, fd: int) -> int:
        copy = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
        self._held.add(copy)
        return copy

    def pipe(self) -> tuple[int, int]:
        ends = os.pipe()
        try:
            return self.copy(ends[0]), self.copy(ends[1])  # above 2, even in a process that closed its standard ones
        finally:
            os.close(ends[0])
            os.close(ends[1])

    def close(self, fd: int) -> None:
        if fd in self._held:
            self._held.remove(fd)
            os.close(fd)


def _fork(plan: _Plan) -> int:
    """Fork with every signal blocked, so that none runs a handler of the parent's in the child."""
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        if not plan.detached:
            return _fork_quietly() or _run_child(plan)
        with _subreaper_guard:
            # An orphan comes to the nearest subreaper. If that is us, step aside for the moment in which it is made.
            # An agent's own orphan of this very moment goes past us; its mark in the environment still finds it.
            aside = _subreaper and _set_subreaper(False)
            try:
                middle = _fork_quietly() or _run_middle(plan)
                reap(middle)
                return middle
            finally:
                if aside:
                    _set_subreaper(True)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _fork_quietly() -> int:
    if sys.version_info < (3, 12):
        return os.fork()
    with warnings.catch_warnings():
        # It warns of threads; what it warns of (locks of other threads) is not touched here between fork and exec.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _run_middle(plan: _Plan) -> NoReturn:
    """The process between: make the one that stays, and end."""
    try:
        gc.disable()
        os.setsid()
        if os.fork() == 0:
            os.write(plan.report_write, os.getpid().to_bytes(4, "little"))
            _run_child(plan)
    finally:
        os._exit(0)


def _run_child(plan: _Plan) -> NoReturn:
    """The child up to its exec: system calls only. Everything that fails is reported, nothing is raised."""
    step, failure = "f", 0
    try:
        gc.disable()
        if os.getsid(0) != os.getpid():
            os.setsid()
        for number in plan.signals:
            try:
                signal.signal(number, signal.SIG_DFL)
            except (OSError, ValueError):
                continue  # two of them belong to the C library
        for target, source in enumerate(plan.stdio):
            os.dup2(source, target, inheritable=True)
        _close_others(plan.report_write, plan.go_read)
        if plan.in_child is not None:
            plan.in_child()
        if os.read(plan.go_read, 1) != b"g":
            os._exit(127)  # nobody is there any more who would know of this process
        step = "c"
        os.chdir(plan.cwd)
        step = "x"
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        failure = _exec_first(plan)
    except OSError as error:
        failure = error.errno or errno.EIO
    except BaseException:  # noqa: BLE001  the outermost edge of this process: it must not run the parent's code
        failure = errno.EIO
    try:
        os.write(plan.report_write, f"{step}{failure}".encode())
    finally:
        os._exit(127)


def _exec_first(plan: _Plan) -> int:
    """Execute the first program that can be; return the errno that says most if none can."""
    telling = errno.ENOENT
    for program in plan.programs:
        try:
            os.execve(program, plan.arguments, plan.variables)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ELOOP, errno.ENAMETOOLONG):
                return error.errno or errno.EIO
            if error.errno != errno.ENOENT:
                telling = error.errno
    return telling


def _close_others(*kept: int) -> None:
    """Close what the parent itself inherited without the mark that closes it on exec."""
    try:
        numbers = [int(name) for name in os.listdir("/proc/self/fd" if sys.platform == "linux" else "/dev/fd")]
    except OSError:
        numbers = list(range(3, 4096))  # arbitrary; nobody inherits more
    for fd in numbers:
        if fd > 2 and fd not in kept:
            try:
                os.close(fd)
            except OSError:
                continue  # the one that listed the directory


def _read_report(fd: int, size: int, deadline_s: float) -> bytes:
    """Read up to ``size`` bytes or to the end. Raises ``TimedOut``."""
    data = b""
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    while len(data) < size:
        if not poller.poll(max(0.0, deadline_s - time.monotonic()) * 1000):
            raise TimedOut(f"the program did not start within {START_TIMEOUT_S:g} s", hint="is its file system hanging?")
        if not (part := os.read(fd, size - len(data))):
            break
        data += part
    return data


def _candidates(program: str, environment: Mapping[str, str]) -> list[str]:
    """Return the paths to try in order, relative ones meaning the program's own working directory."""
    if "/" in program:
        return [program]
    places = (environment.get("PATH") or _DEFAULT_PATH).split(":")
    return [os.path.join(place or ".", program) for place in places]


def _check_strings(argv: Sequence[str], environment: Mapping[str, str]) -> tuple[list[bytes], dict[bytes, bytes]]:
    """Return both as bytes. Raises ``InvalidInput`` for what no system can pass on."""
    if not argv or not argv[0]:
        raise InvalidInput("there is no command to start", hint="write it after `--`")
    arguments = [_encode(part, "argument") for part in argv]
    variables = {}
    for name, value in environment.items():
        if not name or "=" in name:
            raise InvalidInput(f"{name!r:.80} cannot name an environment variable", hint="remove it")
        variables[_encode(name, "variable")] = _encode(value, f"value of {name}")
    return arguments, variables


def _encode(text: str, what: str) -> bytes:
    try:
        data = os.fsencode(text)
    except UnicodeEncodeError as error:
        raise InvalidInput(f"the {what} {text!r:.80} cannot be encoded", hint="remove the lone surrogate") from error
    if b"\0" in data:
        raise InvalidInput(f"the {what} {text!r:.80} holds a zero byte", hint="remove it")
    return data


def _explain(step: str, number: int, argv: Sequence[str], cwd: str) -> StartFailed:
    """Put a failed step and its errno into words."""
    program, why = argv[0], os.strerror(number)

    def failed(reason: str, message: str, hint: str) -> StartFailed:
        return StartFailed(message, hint=hint, program=program, reason=reason)

    if step == "c":
        return failed("bad-directory", f"cannot start {program} in {cwd}: {why}", "give an existing directory with --cwd")
    if step == "x" and number == errno.ENOENT:
        if "/" in program and os.path.lexists(os.path.join(cwd, program)):
            return failed("no-interpreter", f"the interpreter that {program} asks for is missing", "look at its first line")
        where = "does not exist" if "/" in program else "is not on the PATH"
        return failed("not-found", f"the command {program} {where}", "check the spelling, or install it")
    if step == "x" and number in (errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.ELOOP):
        return failed("not-executable", f"cannot execute {program}: {why}", f"is it a program? chmod +x {program}")
    if step == "x" and number == errno.ENOEXEC:
        return failed(
            "bad-format", f"{program} is not a program this system can execute", "a script begins with #!, as in #!/bin/sh"
        )
    if step == "x" and number in (errno.E2BIG, errno.ENAMETOOLONG):
        return failed("too-long", f"the command line or environment of {program} is too long for the system", "shorten it")
    if number in (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOSPC):
        return failed(
            "no-room", f"the system has no room to start {program}: {why}", "end something, or raise `ulimit -u` and `ulimit -n`"
        )
    return failed("failed", f"cannot start {program}: {why}", "see `crewkeep doctor`")


def _set_subreaper(on: bool) -> bool:
    if sys.platform != "linux":
        return False
    import ctypes  # here, since only keepers need it

    pr_set_child_subreaper = 36
    return bool(ctypes.CDLL(None).prctl(pr_set_child_subreaper, ctypes.c_ulong(on), 0, 0, 0) == 0)


def _forget_subreaper() -> None:
    global _subreaper, _subreaper_guard
    _subreaper, _subreaper_guard = False, threading.Lock()  # the mark is not inherited, and a lock may have been held


_subreaper = False
_subreaper_guard = threading.Lock()
os.register_at_fork(after_in_child=_forget_subreaper)
