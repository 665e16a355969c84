"""A database and a log of OpenCode's making, as small as they can be."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

ID = "ses_e0145161affePui3E20p1xPgk0"
OTHER_ID = "ses_e014268aeffeFDmZUL8izUeTBh"
HELPER_ID = "ses_e01449600ffeIgpegxG9T0nbNT"

SCHEMA = """
CREATE TABLE migration (id TEXT PRIMARY KEY, time_completed INTEGER NOT NULL);
CREATE TABLE project (id text PRIMARY KEY, worktree text NOT NULL);
CREATE TABLE permission (id text PRIMARY KEY, project_id text NOT NULL, action text NOT NULL);
CREATE TABLE session (id text PRIMARY KEY, project_id text NOT NULL, parent_id text, directory text NOT NULL, title text NOT NULL,
  time_created integer NOT NULL, time_updated integer NOT NULL,
  CONSTRAINT project FOREIGN KEY (project_id) REFERENCES project(id) ON DELETE CASCADE);
CREATE TABLE message (id text PRIMARY KEY, session_id text NOT NULL, time_created integer NOT NULL, time_updated integer NOT NULL,
  data text NOT NULL);
CREATE TABLE part (id text PRIMARY KEY, message_id text NOT NULL, session_id text NOT NULL, time_created integer NOT NULL,
  time_updated integer NOT NULL, data text NOT NULL);
CREATE TABLE todo (session_id text NOT NULL, content text NOT NULL, position integer NOT NULL,
  CONSTRAINT todo_pk PRIMARY KEY(session_id, position));
CREATE TABLE session_share (session_id text PRIMARY KEY, secret text NOT NULL);
CREATE INDEX part_session_idx ON part (session_id);
"""


class Data:
    """A database with one conversation and nothing said in it; each thing that is added happens a second after the last."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "opencode" / "opencode.db"
        self.log = directory / "opencode" / "log" / "opencode.log"
        self.log.parent.mkdir(parents=True)
        self.now_ms = 1_795_275_000_000
        with closing(sqlite3.connect(self.path)) as connection:
            connection.executescript(f"PRAGMA journal_mode = WAL;{SCHEMA}")
        self.execute("INSERT INTO migration VALUES ('first', 1)")
        self.execute("INSERT INTO project VALUES ('global', '/')")
        self.execute("INSERT INTO permission VALUES ('per_1', 'global', 'bash')")
        self.session(ID)

    def execute(self, sql: str, *values: object) -> None:
        with closing(sqlite3.connect(self.path)) as connection, connection:
            connection.execute(sql, values)

    def rows(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.path)) as connection:
            return connection.execute(sql, values).fetchall()

    def _pass(self) -> int:
        self.now_ms += 1000
        return self.now_ms

    def session(self, id: str, *, parent: str | None = None, title: str = "a title", directory: str = "/work") -> None:
        now = self._pass()
        self.execute("INSERT INTO session VALUES (?, 'global', ?, ?, ?, ?, ?)", id, parent, directory, title, now, now)

    def message(self, id: str, role: str, session: str = ID, **more: Any) -> None:
        now = self._pass()
        data = {"role": role, "time": {"created": now}, **more}
        self.execute("INSERT OR REPLACE INTO message VALUES (?, ?, ?, ?, ?)", id, session, now, now, json.dumps(data))

    def part(self, id: str, message: str, session: str = ID, **data: Any) -> None:
        now = self._pass()
        self.execute("INSERT OR REPLACE INTO part VALUES (?, ?, ?, ?, ?, ?)", id, message, session, now, now, json.dumps(data))

    def user(self, number: int, text: str, session: str = ID, **more: Any) -> None:
        self.message(f"msg_{number}", "user", session, **more)
        self.part(f"prt_{number}u", f"msg_{number}", session, type="text", text=text)

    def said(self, id: str, message: str, text: str, session: str = ID) -> None:
        self.part(id, message, session, type="text", text=text, time={"start": self.now_ms, "end": self.now_ms + 1000})

    def tool(self, id: str, message: str, session: str = ID, tool: str = "bash", **state: Any) -> None:
        if state.get("status") in ("completed", "error"):
            state["time"] = {"start": self.now_ms - 500, "end": self.now_ms + 1000}
        self.part(id, message, session, type="tool", tool=tool, callID=f"call_{id}", state=state)

    def assistant(self, number: int, session: str = ID, *, done: bool = False, finish: str = "stop", **more: Any) -> None:
        if done:
            more = {"time": {"created": self.now_ms, "completed": self.now_ms + 1000}, "finish": finish, **more}
        self.message(f"msg_{number}", "assistant", session, **more)

    def write_log(self, run: str, message: str, **fields: object) -> None:
        """Append a line as OpenCode does, at the time of the last thing that happened."""
        at = f"2026-11-21T15:{self.now_ms // 60_000 % 60:02d}:{self.now_ms // 1000 % 60:02d}.{self.now_ms % 1000:03d}Z"
        quoted = {name: json.dumps(str(text)) if " " in str(text) else text for name, text in fields.items()}
        more = "".join(f" {name.replace('__', '.')}={text}" for name, text in quoted.items())
        with self.log.open("a") as file:
            file.write(
                f"timestamp={at} level=INFO run={run} message={json.dumps(message) if ' ' in message else message}{more}\n"
            )
