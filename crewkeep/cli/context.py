"""``crewkeep context``: the shared context from a shell or from inside an agent.

In a session's own processes (``CREWKEEP_SESSION`` is set) a write carries the session's name and epoch, so that an
incarnation that was replaced can write no more; elsewhere it is unnamed.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from coordinator.config import VALUE_LIMIT_BYTES
from coordinator.errors import CrewkeepError, InvalidInput, NotFound, Superseded
from crewkeep.cli import output
from crewkeep.cli.options import Json, Workspace

if TYPE_CHECKING:
    from coordinator.context.model import Change, Context, Entry
    from coordinator.paths import Home
    from coordinator.sessions.model import Writer

_WAIT_S = 1.0
#: As text a value may be longer than it is kept: each character can be an escape of six.
_TEXT_LIMIT_BYTES = 8 * VALUE_LIMIT_BYTES
_NEGATIVE_NUMBER = re.compile(r"-\.?[0-9]")
#: Stands before an argument that is not to be taken for an option; not seen where an error message quotes it.
_SHIELD = " "

Key = Annotated[str, typer.Argument(metavar="KEY", help="A path such as tasks/auth.")]
Prefix = Annotated[str, typer.Argument(metavar="PREFIX", help="Only keys that begin with it.")]
IfVersion = Annotated[
    int | None, typer.Option("--if-version", metavar="N", min=0, help="Only if the key is at version N; 0: only if absent.")
]


class _CommandWithNumbers(TyperCommand):
    """Takes ``-5`` for an argument and every other unknown word with a dash for a mistake, as always."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        takes_value = {name for param in self.params if not getattr(param, "is_flag", True) for name in param.opts}
        end = args.index("--") if "--" in args else len(args)
        shielded = list(args)
        for index, word in enumerate(args[:end]):
            if _NEGATIVE_NUMBER.match(word) and (index == 0 or args[index - 1] not in takes_value):
                shielded[index] = _SHIELD + word
        rest = super().parse_args(ctx, shielded)
        shields = set(shielded) - set(args)
        for name, value in ctx.params.items():
            if value in shields:
                ctx.params[name] = value.removeprefix(_SHIELD)
        return rest


def register(app: typer.Typer) -> None:
    """Add the group."""
    from crewkeep.cli.app import make_group

    group = make_group("Read and write the context that all sessions of a workspace share.")
    group.command("get")(get)
    group.command("put", cls=_CommandWithNumbers)(put)
    group.command("rm")(remove)
    group.command("ls")(list_keys)
    group.command("history")(show_history)
    group.command("diff")(diff)
    group.command("watch")(watch)
    group.command("export")(export)
    group.command("import")(import_)
    group.command("check")(check)
    app.add_typer(group, name="context")


def get(key: Key, workspace: Workspace = None, as_json: Json = False) -> None:
    """Print the value of KEY."""
    with open_workspace(workspace) as context:
        entry = _get_entry(context, key)
    if as_json:
        output.print_json(encode_entry(entry))
    else:
        _print_value(entry.value)


def put(
    key: Key,
    value: Annotated[str, typer.Argument(metavar="VALUE|-", help="JSON, or any other text as a string; - reads stdin.")],
    if_version: IfVersion = None,
    workspace: Workspace = None,
    as_json: Json = False,
) -> None:
    """Set KEY and print its new version. Without --if-version it replaces whatever is there."""
    parsed = parse_value(_read_value() if value == "-" else os.fsencode(value))
    with open_workspace(workspace, write=True) as context:
        if if_version is None:
            entry = context.put(key, parsed, unconditional=True)
        else:
            entry = context.put(key, parsed, expected_version=if_version)
    _print_version(entry, as_json)


def remove(key: Key, if_version: IfVersion = None, workspace: Workspace = None, as_json: Json = False) -> None:
    """Delete KEY and print the version of its deletion; its history stays."""
    with open_workspace(workspace, write=True) as context:
        if if_version is None:
            _get_entry(context, key)
            entry = context.delete(key, unconditional=True)
        else:
            entry = context.delete(key, expected_version=if_version)
    _print_version(entry, as_json)


def list_keys(
    prefix: Prefix = "",
    long: Annotated[bool, typer.Option("-l", "--long", help="With version, author and age.")] = False,
    workspace: Workspace = None,
    as_json: Json = False,
) -> None:
    """List keys."""
    with open_workspace(workspace) as context:
        if not as_json and not long:
            for key in sorted(context.keys(prefix)):
                output.print_line(key)
            return
        entries = [entry for _, entry in sorted(context.snapshot(prefix).items())]
    if as_json:
        output.print_json([encode_entry(entry) for entry in entries])
        return
    rows = [(one.version, one.author, output.format_time(one.at), one.key) for one in entries]
    output.print_table(("VERSION", "AUTHOR", "AT", "KEY"), rows)


def show_history(key: Key, workspace: Workspace = None, as_json: Json = False) -> None:
    """Print the kept versions of KEY, newest first."""
    with open_workspace(workspace) as context:
        entries = sorted(context.history(key), key=lambda entry: -entry.version)
    if not entries:
        raise _no_such_key(key)
    if as_json:
        output.print_json([encode_entry(entry) for entry in entries])
        return
    rows = [
        (
            one.version,
            one.author,
            one.epoch or None,
            output.format_time(one.at),
            "(deleted)" if one.deleted else _compact(one.value),
        )
        for one in entries
    ]
    output.print_table(("VERSION", "AUTHOR", "EPOCH", "AT", "VALUE"), rows)


def diff(
    key: Key,
    first: Annotated[int, typer.Argument(metavar="V1", min=1, help="A version.")],
    second: Annotated[int, typer.Argument(metavar="V2", min=1, help="Another.")],
    workspace: Workspace = None,
    as_json: Json = False,
) -> None:
    """Show what changed between two versions of KEY."""
    with open_workspace(workspace) as context:
        old, new = (_get_version(context, key, version) for version in (first, second))
    if as_json:
        output.print_json({"key": key, "from": encode_entry(old), "to": encode_entry(new), "equal": _lines(old) == _lines(new)})
        return
    import difflib

    for line in difflib.unified_diff(
        _lines(old), _lines(new), f"{key} (version {first})", f"{key} (version {second})", lineterm=""
    ):
        colour = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1], "")
        output.print_line(output.paint(output.make_printable(line), colour))


def watch(
    prefix: Prefix = "",
    start: Annotated[
        list[str] | None,
        typer.Option("--from", metavar="SHARD:REVISION", help="Begin after this revision of the shard; may be repeated."),
    ] = None,
    workspace: Workspace = None,
    as_json: Json = False,
) -> None:
    """Print each change as it is committed, until Ctrl-C. Nothing is left out, whatever the pace."""
    given = dict(parse_position(text) for text in start or [])
    with open_workspace(workspace, make=True) as context:
        position = context.revisions() | given
        unknown = set(given) - set(context.revisions())
        if unknown:
            raise InvalidInput(f"there is no shard {min(unknown)}", hint=f"shards: 0 to {max(context.revisions())}")
        while True:
            # The bell is read first: a change that comes after the look rings it again.
            seen = context.bell(prefix)
            changes = context.read_changes(prefix, position)
            for change in changes:
                _print_change(change, as_json)
            moved = changes.position != position
            position = dict(changes.position)
            if not moved:
                context.wait_bell(seen, _WAIT_S, prefix)


def export(
    file: Annotated[str, typer.Argument(metavar="FILE", help="Where to; default: stdout.")] = "-", workspace: Workspace = None
) -> None:
    """Write all keys with their values as NDJSON, as of one moment. Deleted keys and older versions are left out."""
    with open_workspace(workspace) as context:
        if file == "-":
            # UTF-8 whatever the terminal speaks: what cannot be imported again is no export.
            with open(sys.stdout.fileno(), "w", encoding="utf-8", newline="\n", closefd=False) as stream:
                count = context.export(stream)
        else:
            with open(file, "x", encoding="utf-8", newline="\n") as stream:
                count = context.export(stream)
    output.note(f"{count} keys exported")


def import_(
    file: Annotated[str, typer.Argument(metavar="FILE", help="What `export` wrote; default: stdin.")] = "-",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace keys that exist; otherwise they are a conflict.")
    ] = False,
    workspace: Workspace = None,
) -> None:
    """Write what an export holds. Every value is a new write; versions, authors and times of the export are not kept."""
    with (
        open(sys.stdin.fileno() if file == "-" else file, "rb", closefd=file != "-") as stream,
        open_workspace(workspace, write=True) as context,
    ):
        count = context.import_(_iter_lines(stream), unconditional=overwrite)
    output.note(f"{count} keys imported")


def check(
    repair: Annotated[
        bool, typer.Option("--repair", help="Mend what can be mended; damaged bytes are set aside, never deleted.")
    ] = False,
    workspace: Workspace = None,
    as_json: Json = False,
) -> None:
    """Verify every invariant of the store, and of that of claims and messages; exit code 1 if something stays wrong."""
    from coordinator.paths import Home
    from coordinator.services.crew import open_crew

    with open_workspace(workspace) as context:
        findings = context.check(repair=repair)
    home = Home.find()
    if home.crew.is_dir():
        with open_crew(home, None, must_exist=True) as crew:
            findings += crew.check(repair=repair)
    if as_json:
        import dataclasses

        output.print_json([dataclasses.asdict(finding) for finding in findings])
    else:
        for finding in findings:
            output.print_line(f"{'repaired: ' if finding.repaired else ''}{output.make_printable(finding.message)}")
        if not findings:
            output.note("the shared context is whole")
    if any(not finding.repaired for finding in findings):
        raise typer.Exit(1)


@contextmanager
def open_workspace(workspace: str | None, *, write: bool = False, make: bool = False) -> Iterator[Context]:
    """Open the shared context of the workspace that is meant; one that is not there reads as empty, unless ``make``."""
    from coordinator.context import MemoryContext, SharedContext
    from coordinator.paths import Home
    from coordinator.sessions.workspace import resolve_workspace, workspace_id

    home = Home.find()
    meant = resolve_workspace(workspace, os.environ, _find_directory())
    directory = home.context(workspace_id(meant))
    context: Context
    if write:
        from coordinator.services.breaker import Breaker

        Breaker(home).check()
        context = SharedContext.open(directory, writer=find_writer(home, meant))
    elif make or directory.is_dir():
        context = SharedContext.open(directory)
    else:
        context = MemoryContext()
    try:
        yield context
    finally:
        context.close()


def find_writer(home: Home, workspace: str) -> Writer | None:
    """Return by what right this process writes: as the session that started it, or as nobody.

    Raises ``Superseded`` if that session has a newer incarnation by now.
    """
    session_id, epoch = os.environ.get("CREWKEEP_SESSION"), os.environ.get("CREWKEEP_EPOCH")
    if not session_id or not epoch:
        return None
    if not epoch.isdigit():
        raise InvalidInput(f"CREWKEEP_EPOCH cannot be {epoch!r}", hint="unset CREWKEEP_SESSION to write as nobody")
    import dataclasses

    from coordinator.sessions.registry import Registry

    registry = Registry(home)
    record = registry.get(session_id)
    if record.epoch != int(epoch):
        raise Superseded(session_id, int(epoch), record.epoch)
    if workspace != record.workspace and workspace not in record.other_workspaces:
        # Written down first: whoever recovers the session must know every context that has to be fenced.
        registry.change(
            session_id,
            epoch=record.epoch,
            change=lambda known: dataclasses.replace(known, other_workspaces=(*known.other_workspaces, workspace)),
        )
    return record.writer


def _find_directory() -> str:
    try:
        return os.getcwd()
    except OSError as error:
        raise InvalidInput("the current directory does not exist any more", hint="name the workspace: -w NAME") from error


def _read_value() -> bytes:
    """Read stdin, as much of it as a value can take."""
    data = sys.stdin.buffer.read(_TEXT_LIMIT_BYTES + 1)
    if len(data) > _TEXT_LIMIT_BYTES:
        raise InvalidInput(f"the value has more than {_TEXT_LIMIT_BYTES} bytes", hint="keep large things in files")
    return data


def _iter_lines(stream: IO[bytes]) -> Iterator[str]:
    """Yield the lines of an export; bytes that are no UTF-8 become what no JSON can hold."""
    while line := stream.readline(_TEXT_LIMIT_BYTES + 1):
        if len(line) > _TEXT_LIMIT_BYTES:
            raise InvalidInput(f"a line has more than {_TEXT_LIMIT_BYTES} bytes", hint="this is not an export of a context")
        yield line.decode("utf-8", "surrogateescape")


def parse_value(data: bytes) -> Any:
    """Return the JSON value of ``data``, or its text if it is not JSON. Raises ``InvalidInput`` for what is no UTF-8."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"the value is not UTF-8: {error}", hint="encode it, base64 for example") from error
    try:
        return json.loads(text)
    except RecursionError as error:
        raise InvalidInput("the value is nested too deeply", hint="see the limits: docs/context.md") from error
    except ValueError as error:
        if not isinstance(error, json.JSONDecodeError):  # digits without end: a number, if no number of ours
            raise InvalidInput("the value holds an integer that is too long", hint="integers have 64 bits") from error
        return text


def parse_position(text: str) -> tuple[int, int]:
    """Return the shard and revision of ``2:117``."""
    shard, colon, revision = text.partition(":")
    if not (colon and shard.isascii() and shard.isdigit() and revision.isascii() and revision.isdigit()):
        raise InvalidInput(f"--from cannot be {text!r}", hint="give SHARD:REVISION, for example 2:117")
    return int(shard), int(revision)


def encode_entry(entry: Entry) -> dict[str, Any]:
    """Return the promised JSON fields of an entry."""
    fields: dict[str, Any] = {
        "key": entry.key,
        "value": entry.value,
        "version": entry.version,
        "author": entry.author,
        "epoch": entry.epoch or None,
        "at": output.format_time(entry.at),
    }
    return fields | {"deleted": True} if entry.deleted else fields


def _print_change(change: Change, as_json: bool) -> None:
    if as_json:
        output.print_json_line(encode_entry(change.entry) | {"shard": change.shard, "revision": change.revision})
        return
    value = "(deleted)" if change.deleted else _compact(change.value)
    output.print_line(f"{change.key} v{change.version} {change.author or '-'} {output.make_printable(value)}")
    sys.stdout.flush()


def _print_value(value: Any) -> None:
    if isinstance(value, str):
        # As it is: a script wants the text and not its JSON form.
        output.print_line(value)
    else:
        output.print_json(value)


def _print_version(entry: Entry, as_json: bool) -> None:
    if as_json:
        output.print_json(encode_entry(entry))
    else:
        output.print_line(str(entry.version))


def _get_entry(context: Context, key: str) -> Entry:
    entry = context.get(key)
    if entry is None:
        raise _no_such_key(key)
    return entry


def _get_version(context: Context, key: str, version: int) -> Entry:
    entry = context.get_version(key, version)
    if entry is None:
        raise NotFound(f"there is no version {version} of {key!r} any more, or not yet", hint=f"crewkeep context history {key}")
    return entry


def _no_such_key(key: str) -> CrewkeepError:
    return NotFound(f"there is no key {key!r}", hint="see: crewkeep context ls", key=key)


def _lines(entry: Entry) -> list[str]:
    if entry.deleted:
        return []
    text = entry.value if isinstance(entry.value, str) else json.dumps(entry.value, indent=2, sort_keys=True, ensure_ascii=False)
    return text.splitlines()


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
