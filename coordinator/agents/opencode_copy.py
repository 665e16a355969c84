"""One conversation taken out of OpenCode's database, and put back into it.

A copy is lines of JSON: a head (kind, format version, the conversation), the statements that made the database's tables, the
rows, and an end that counts them. The rows are those of the conversation and its helpers in every table that has a
``session_id``, their project, and the list of migrations: with the statements they make a database that OpenCode takes
for its own, so that even a conversation whose whole database is gone comes back.

Left out: the secret of a shared conversation, permissions that were granted for the project, and OpenCode's record of single
changes (``event``), which says nothing that the rows do not say.
"""

from __future__ import annotations

import base64
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coordinator.agents import opencode_store as store
from coordinator.agents import transcript
from coordinator.errors import StorageError

if TYPE_CHECKING:
    import sqlite3

KIND, FORMAT = "opencode-conversation", 1
#: Tables that say how far a database is: wanted only where the whole database is made anew.
_MIGRATIONS = ("migration", "data_migration", "__drizzle_migrations")
_LEFT_OUT = frozenset({"session_share"})
#: So many keys are asked for at once; SQLite of old takes 999.
_KEYS_AT_ONCE = 500


@dataclass(kw_only=True, slots=True)
class Copy:
    """A conversation's rows, with what is needed to make a database for them."""

    conversation: str
    #: The statements that made tables, then those that made indexes.
    schema: list[str] = field(default_factory=list)
    #: (table, column -> value).
    rows: list[tuple[str, dict[str, Any]]] = field(default_factory=list)


def take_out(path: str, conversation: str) -> bytes | None:
    """Return a copy of the conversation as bytes, ``None`` if the database is gone or does not hold it.

    Raises ``StorageError``.
    """
    try:
        copy = store.read(path, lambda connection: _take(connection, conversation), store.PATIENT_TIMEOUT_S)
    except store.Unreadable as error:
        if error.reason == "missing":
            return None
        raise _refuse("read", path, error) from error
    return _encode(copy) if copy is not None else None


def put_back(path: str, conversation: str, saved: Path) -> bool:
    """Let the database at ``path`` hold the copy ``saved`` again if the conversation is not in it; tell whether it was put back.

    Nothing that is there is changed. A database that is gone is made anew; one that is damaged is set aside first, with
    its log. Raises ``StorageError``; then nothing of the conversation was put in.
    """
    copy = read_copy(saved)
    if copy is None or copy.conversation != conversation:
        return False
    try:
        held = store.read(path, lambda connection: _holds(connection, copy), store.PATIENT_TIMEOUT_S)
    except store.Unreadable as error:
        if error.reason == "busy":
            raise _refuse("read", path, error) from error
        _make_anew(Path(path), copy)
        return True
    if held is None:
        _make_anew(Path(path), copy)
    elif not held:
        _insert(path, copy)
    return not held


def read_copy(saved: Path) -> Copy | None:
    """Return the copy in a file, ``None`` if it is none, not whole, or of a newer format."""
    try:
        lines = saved.read_bytes().splitlines()
    except OSError:
        return None
    head, *body = [transcript.parse_line(line) or {} for line in lines] or [{}]
    conversation, end = head.get("id"), body.pop() if body else {}
    if (head.get("kind"), head.get("format")) != (KIND, FORMAT) or not isinstance(conversation, str):
        return None
    if end != {"kind": "end", "lines": len(body)}:
        return None  # cut short
    copy = Copy(conversation=conversation)
    for line in body:
        sql, table, row = line.get("sql"), line.get("table"), line.get("row")
        if line.get("kind") == "schema" and isinstance(sql, str):
            copy.schema.append(sql)
        elif line.get("kind") == "row" and isinstance(table, str) and isinstance(row, dict):
            copy.rows.append((table, {name: _decode_value(value) for name, value in row.items()}))
    return copy


def _take(connection: sqlite3.Connection, conversation: str) -> Copy | None:
    if not store.has_session(connection, conversation):
        return None
    copy = Copy(conversation=conversation)
    made = connection.execute(
        "SELECT type, name, sql FROM sqlite_master WHERE type IN ('table', 'index') AND sql IS NOT NULL"
        " AND name NOT LIKE 'sqlite!_%' ESCAPE '!' ORDER BY type = 'index'"
    ).fetchall()
    copy.schema = [sql for _, _, sql in made]
    tables = [name for kind, name, _ in made if kind == "table"]
    sessions = store.list_tree(connection, conversation)
    for table in _MIGRATIONS:
        if table in tables:
            copy.rows += _select(connection, table, None, [])
    held = list(_select(connection, "session", "id", sessions))
    for table, column in (("project", "project_id"), ("workspace", "workspace_id")):
        if table in tables:
            ids = {row[column] for _, row in held if row.get(column) is not None}
            copy.rows += _select(connection, table, "id", sorted(ids))
    copy.rows += held
    for table in sorted(set(tables) - _LEFT_OUT):
        if "session_id" in store.list_columns(connection, table):
            copy.rows += _select(connection, table, "session_id", sessions)
    return copy


def _select(
    connection: sqlite3.Connection, table: str, column: str | None, keys: Sequence[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the rows of a table whose column has one of the keys; without a column, all."""
    for at in range(0, len(keys) if column is not None else 1, _KEYS_AT_ONCE):
        some = keys[at : at + _KEYS_AT_ONCE]
        where = f" WHERE {store.quote_name(column)} IN ({', '.join('?' * len(some))})" if column is not None else ""
        cursor = connection.execute(f"SELECT * FROM {store.quote_name(table)}{where}", some)
        names = [described[0] for described in cursor.description]
        for values in cursor:
            yield table, dict(zip(names, values, strict=True))


def _encode(copy: Copy) -> bytes:
    body: list[dict[str, Any]] = [{"kind": "schema", "sql": sql} for sql in copy.schema]
    body += [
        {"kind": "row", "table": table, "row": {name: _encode_value(value) for name, value in row.items()}}
        for table, row in copy.rows
    ]
    head = {"kind": KIND, "format": FORMAT, "id": copy.conversation}
    lines = [head, *body, {"kind": "end", "lines": len(body)}]
    return b"".join(json.dumps(line, separators=(",", ":")).encode() + b"\n" for line in lines)


def _encode_value(value: Any) -> Any:
    return {"base64": base64.b64encode(value).decode("ascii")} if isinstance(value, bytes) else value


def _decode_value(value: Any) -> Any:
    return base64.b64decode(value.get("base64", "")) if isinstance(value, dict) else value


def _holds(connection: sqlite3.Connection, copy: Copy) -> bool | None:
    """Tell whether the conversation is there with anything said in it, if the copy has that.

    ``None`` if conversations have no table: a database that lost its log, or all it held, with a power loss.
    """
    if not store.list_columns(connection, "session"):
        return None
    if not store.has_session(connection, copy.conversation):
        return False
    said = any(table == "message" and row.get("session_id") == copy.conversation for table, row in copy.rows)
    return not said or store.find_last_message(connection, copy.conversation) is not None


def _insert(path: str, copy: Copy) -> None:
    """Put the rows into a database that is there, all or none. What it holds of them stays as it is."""
    rows = [(table, row) for table, row in copy.rows if table not in _MIGRATIONS]
    _write(path, lambda connection: _insert_rows(connection, rows))


def _make_anew(path: Path, copy: Copy) -> None:
    """Make a database that holds this conversation alone; OpenCode migrates it if it has become newer."""
    # A log of the lost database would be taken for the new one's.
    for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
        if os.path.lexists(path.with_name(name)):
            transcript.set_aside(path.with_name(name))
    with tempfile.TemporaryDirectory(prefix="crewkeep-") as directory:
        made = Path(directory) / "made.db"

        def fill(connection: sqlite3.Connection) -> None:
            for sql in copy.schema:
                connection.execute(sql)
            _insert_rows(connection, copy.rows)

        _write(str(made), fill, create=True)
        transcript.put_back(made, path)


def _insert_rows(connection: sqlite3.Connection, rows: Sequence[tuple[str, dict[str, Any]]]) -> None:
    columns: dict[str, set[str]] = {}
    for table, row in rows:
        if table not in columns:
            columns[table] = set(store.list_columns(connection, table))
        # What a newer OpenCode no longer has a place for is left in the copy; what it asks for beyond that is an error.
        names = [name for name in row if name in columns[table]]
        if names:
            into = ", ".join(store.quote_name(name) for name in names)
            connection.execute(
                f"INSERT INTO {store.quote_name(table)} ({into}) VALUES ({', '.join('?' * len(names))}) ON CONFLICT DO NOTHING",
                [row[name] for name in names],
            )


def _write(path: str, change: Callable[[sqlite3.Connection], None], *, create: bool = False) -> None:
    """Make a change in one durable transaction. Raises ``StorageError``; then nothing was changed."""
    import sqlite3

    try:
        connection = store.connect(path, "mode=rwc" if create else "mode=rw", store.PATIENT_TIMEOUT_S)
        try:
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("BEGIN IMMEDIATE")
            change(connection)
            connection.execute("COMMIT")
        finally:
            connection.close()  # rolls back what was not committed
    except sqlite3.Error as error:
        raise _refuse("write", path, error) from error


def _refuse(operation: str, path: str, error: Exception) -> StorageError:
    return StorageError(
        f"cannot {operation} OpenCode's database {path}: {error}",
        hint="end the programs that hold it, then try again; `opencode db path` tells which one is used",
        operation=operation,
        path=path,
        cause=type(error).__name__,
    )
