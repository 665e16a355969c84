"""The edge to the user: errors become one message with a next step, and an exit code; never a traceback.

An error that is not ours is a bug: its traceback goes to ``last-error.log`` in the home, and the message says so.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import NoReturn

from coordinator.errors import CrewkeepError, StorageError

EXIT_FAILED, EXIT_INTERRUPTED, EXIT_BROKEN_PIPE = 1, 130, 141


def guard(run: Callable[[list[str]], int], arguments: list[str]) -> int:
    """Return ``run(arguments)``, or the exit code that belongs to the error it raised, after telling it."""
    _accept_any_text()
    try:
        code = run(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        return _close_quietly()
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except CrewkeepError as error:
        return _tell(error, arguments)
    except OSError as error:  # what is no file of a room's, with a name, is a stream, or the directory we are in
        if isinstance(error, FileNotFoundError) and error.filename is None:
            return _tell(CrewkeepError("the current directory does not exist any more", hint="cd to one that does"), arguments)
        return _tell(StorageError.from_os(error, "use", error.filename or "standard output"), arguments)
    except Exception as error:  # noqa: BLE001 - the outermost edge of the process
        return _tell(_describe_bug(error), arguments)


def open_missing_streams() -> None:
    """Give a process that was started with closed standard streams the null device in their place.

    Otherwise the next file that is opened would get the number of one, and what is printed would end up in it.
    """
    for descriptor, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one
            assert opened == descriptor, f"{opened} was free, {descriptor} is closed"
            os.set_inheritable(descriptor, True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(descriptor, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 - as long as the process


def leave(code: int) -> NoReturn:
    """Exit with ``code``; output that can no longer be written makes a success a failure."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            code = _close_quietly()
        except (OSError, ValueError):
            _close_quietly()  # `guard` has told it, unless it is stderr itself
            code = code or EXIT_FAILED
    sys.exit(code)


def tell_error(error: CrewkeepError, *, as_json: bool) -> None:
    """Write an error to stderr: the thing and the cause, then the next step."""
    from crewkeep.cli import output

    if as_json:
        told = {"error": error.code, **error.fields}
        told.setdefault("message", error.message)
        told.setdefault("hint", error.hint)
        sys.stderr.write(output.encode_json(told, sys.stderr) + "\n")
        return
    sys.stderr.write(f"crewkeep: {output.make_printable(error.message)}\n")
    if error.hint:
        sys.stderr.write(f"  next: {output.make_printable(error.hint)}\n")


def _tell(error: CrewkeepError, arguments: list[str]) -> int:
    try:
        # Of a command to run, nothing is ours after "--".
        own = arguments[: arguments.index("--")] if "--" in arguments else arguments
        tell_error(error, as_json="--json" in own)
    except OSError:
        pass  # nobody listens; the code still says it
    return error.exit_code


def _describe_bug(error: Exception) -> CrewkeepError:
    import traceback

    what = f"{type(error).__name__}: {error}"
    if os.environ.get("CREWKEEP_DEBUG"):
        traceback.print_exception(error)
    try:
        from coordinator.paths import Home

        home = Home.find().path
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = home / "last-error.log"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.writelines(traceback.format_exception(error))
    except OSError:
        return CrewkeepError(f"a bug in crewkeep: {what}", hint="run it again with CREWKEEP_DEBUG=1 and report what it shows")
    return CrewkeepError(f"a bug in crewkeep: {what}", hint=f"report it with {path}")


def _accept_any_text() -> None:
    # Paths and arguments may hold bytes that are no UTF-8; a message about them must not fail.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _close_quietly() -> int:
    # The interpreter flushes at exit and would complain about the closed pipe.
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, sys.stdout.fileno())
    return EXIT_BROKEN_PIPE
