"""OpenCode's database, read beside the programs that write it: one SQLite file (write-ahead log) for all conversations.

A read is a transaction of its own on a connection that cannot write. Where no write-ahead log stands beside the database
nobody has it open, and it is read as a plain file: a usual reader would make that log, and leave it behind.

Tried with 1.18.33: ``session`` has ``parent_id``, the conversation that started a helper's; ``message`` and ``part`` hold JSON
in ``data``; times are milliseconds since 1970. A tool call that was cut stays ``running`` for ever.

Not promised: that a table, a column or a field is there; what is missing reads as not known.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

if TYPE_CHECKING:
    import sqlite3  # everything that runs imports it where it is used: a session of another agent need not load it

T = TypeVar("T")

#: A heartbeat must not wait for a database that another program holds.
READ_TIMEOUT_S = 0.25
#: A checkpoint or a recovery may.
PATIENT_TIMEOUT_S = 5.0
#: Conversations that one conversation's helpers may have, so that a ring of parents ends.
_TREE_LIMIT = 10_000


class Unreadable(Exception):
    """The database cannot be read now. ``reason``: ``missing``, ``damaged`` or ``busy`` (also: not permitted)."""

    def __init__(self, reason: str, cause: object = "") -> None:
        super().__init__(f"{reason}: {cause}" if cause else reason)
        self.reason = reason


def find_database(environment: Mapping[str, str]) -> str | None:
    """Return the path of the database that OpenCode uses in this environment, ``None`` if it is in no file."""
    home = environment.get("HOME") or os.path.expanduser("~")
    data = os.path.join(environment.get("XDG_DATA_HOME") or os.path.join(home, ".local", "share"), "opencode")
    named = environment.get("OPENCODE_DB") or "opencode.db"
    return None if named == ":memory:" else os.path.join(data, named)


def read(path: str, look: Callable[[sqlite3.Connection], T], timeout_s: float = READ_TIMEOUT_S) -> T:
    """Return what ``look`` finds in one consistent view of the database. Raises ``Unreadable``.

    ``look`` may be called twice.
    """
    import sqlite3

    if not os.path.exists(path):
        raise Unreadable("missing")
    if not os.path.isfile(path):
        raise Unreadable("damaged", "it is no file")
    for _ in range(2):
        still = None if os.path.lexists(f"{path}-wal") else stamp(path)
        try:
            connection = connect(path, "mode=ro" if still is None else "mode=ro&immutable=1", timeout_s)
            try:
                connection.text_factory = lambda data: data.decode("utf-8", "replace")
                connection.execute("BEGIN")
                found = look(connection)
            finally:
                connection.close()
        except sqlite3.Error as error:
            raise Unreadable(_name_reason(error), error) from error
        if still is None or stamp(path) == still:
            return found
    raise Unreadable("busy", "it is being opened by another program")


def connect(path: str, how: str, timeout_s: float) -> sqlite3.Connection:
    """Return a connection in the mode ``how`` (the query of SQLite's URI) that begins no transaction by itself."""
    import sqlite3

    return sqlite3.connect(f"file:{quote(path)}?{how}", uri=True, timeout=timeout_s, isolation_level=None)


def stamp(path: str) -> tuple[object, ...]:
    """Return what changes with each commit. Costs two looks at the file system."""
    seen: list[object] = []
    for name in (path, f"{path}-wal"):
        try:
            found = os.stat(name)
            seen.append((found.st_ino, found.st_size, found.st_mtime_ns))
        except OSError:
            seen.append(None)
    return tuple(seen)


def list_columns(connection: sqlite3.Connection, table: str) -> list[str]:
    """Return the names of a table's columns, none if there is no such table."""
    return [str(row[1]) for row in connection.execute(f"PRAGMA table_info({quote_name(table)})")]


def quote_name(name: str) -> str:
    """Return a table's or column's name as it stands in a statement."""
    return '"' + name.replace('"', '""') + '"'


def has_session(connection: sqlite3.Connection, session: str) -> bool:
    """Tell whether there is a conversation of this id."""
    return connection.execute("SELECT 1 FROM session WHERE id = ?", (session,)).fetchone() is not None


def find_root(connection: sqlite3.Connection, session: str) -> str | None:
    """Return the conversation itself, or the one that a helper's belongs to; ``None`` if it is not written down."""
    root = None
    for _ in range(_TREE_LIMIT):
        row = connection.execute("SELECT parent_id FROM session WHERE id = ?", (session,)).fetchone()
        if row is None:
            return root
        root = session
        if not isinstance(row[0], str):
            return root
        session = row[0]
    return root


def list_tree(connection: sqlite3.Connection, session: str) -> list[str]:
    """Return the conversation and those of its helpers, parents first."""
    if "parent_id" not in list_columns(connection, "session"):
        return [session]
    found, waiting = {session: None}, [session]
    while waiting and len(found) < _TREE_LIMIT:
        rows = connection.execute("SELECT id FROM session WHERE parent_id = ? ORDER BY id", (waiting.pop(0),)).fetchall()
        new = [row[0] for row in rows if row[0] not in found]
        found.update(dict.fromkeys(new))
        waiting += new
    return list(found)


def find_last_message(connection: sqlite3.Connection, session: str) -> tuple[str, dict[str, Any]] | None:
    """Return id and content of the conversation's last message, ``None`` if it has none."""
    row = connection.execute(
        "SELECT id, data FROM message WHERE session_id = ? ORDER BY time_created DESC, id DESC LIMIT 1", (session,)
    ).fetchone()
    return (str(row[0]), parse(row[1])) if row is not None else None


def iter_messages(connection: sqlite3.Connection, session: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield id and content of each message, oldest first."""
    rows = connection.execute("SELECT id, data FROM message WHERE session_id = ? ORDER BY time_created, id", (session,))
    for id, data in rows:
        yield str(id), parse(data)


def iter_parts(connection: sqlite3.Connection, message: str) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield row and content of each part of a message, in its order."""
    cursor = connection.execute("SELECT * FROM part WHERE message_id = ? ORDER BY id", (message,))
    names = [column[0] for column in cursor.description]
    for values in cursor:
        row = dict(zip(names, values, strict=True))
        yield row, parse(row.get("data"))


def iter_changed_parts(
    connection: sqlite3.Connection, sessions: Sequence[str], since_ms: int
) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Yield id, time of change and content of the parts that changed at ``since_ms`` or later."""
    for session in sessions:
        rows = connection.execute(
            "SELECT id, time_updated, data FROM part WHERE session_id = ? AND time_updated >= ?", (session, since_ms)
        )
        for id, changed_ms, data in rows:
            if isinstance(changed_ms, int):
                yield str(id), changed_ms, parse(data)


def find_latest_change(connection: sqlite3.Connection, sessions: Sequence[str]) -> int:
    """Return the time, in ms, at which a part of the conversations changed last; 0 if they have none."""
    latest = 0
    for session in sessions:
        row = connection.execute("SELECT max(time_updated) FROM part WHERE session_id = ?", (session,)).fetchone()
        if isinstance(row[0], int):
            latest = max(latest, row[0])
    return latest


def list_user_texts(connection: sqlite3.Connection, session: str) -> list[str]:
    """Return what the user said in the conversation, oldest first."""
    return [
        part["text"]
        for message, content in iter_messages(connection, session)
        if content.get("role") == "user"
        for _, part in iter_parts(connection, message)
        if part.get("type") == "text" and isinstance(part.get("text"), str) and not part.get("synthetic")
    ]


def holds_text(connection: sqlite3.Connection, session: str, text: str) -> bool:
    """Tell whether ``text`` stands anywhere in the conversation or one of its helpers'."""
    for id in list_tree(connection, session):
        for table in ("part", "message"):
            found = connection.execute(
                f"SELECT 1 FROM {table} WHERE session_id = ? AND instr(CAST(data AS TEXT), ?) LIMIT 1", (id, text)
            ).fetchone()
            if found is not None:
                return True
    return False


def parse(data: object) -> dict[str, Any]:
    """Return the JSON object in a ``data`` column, an empty one for anything else."""
    if not isinstance(data, (str, bytes)):
        return {}
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _name_reason(error: sqlite3.Error) -> str:
    # The lowest byte is the primary result code; those that Python itself raises have none.
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return "damaged" if code in (11, 26) else "busy"  # SQLITE_CORRUPT, SQLITE_NOTADB
