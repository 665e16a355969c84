"""The user is told of sessions that need somebody, by a process of its own; nothing about it can hold up a session."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from support import cli, wait_until

from coordinator.config import Notify, load_notify
from coordinator.errors import InvalidInput
from coordinator.paths import Home


class Webhook:
    """A server on loopback that keeps what it is sent."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []
        told = self.told

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"json://127.0.0.1:{self._http.server_address[1]}/secret-path"
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    pytest.importorskip("apprise")
    webhook = Webhook()
    yield webhook
    webhook.close()


def configure(home: Home, text: str) -> Path:
    path = home.path.parent / "config" / "crewkeep" / "config.toml"  # see make_environment
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_a_webhook_is_told_what_happened_and_what_to_type(home: Home, webhook: Webhook) -> None:
    configure(home, f'[notify]\nurls = ["{webhook.url}"]\non = ["failed", "done"]\n')
    cli("run", "-d", "--name", "broken", "--", "sh", "-c", "exit 3", home=home)
    cli("run", "-d", "--name", "fine", "--", "true", home=home)
    wait_until(lambda: len(webhook.told) == 2, timeout_s=30, what="both messages")
    told = {one["title"]: one["message"] for one in webhook.told}
    assert set(told) == {"broken is failed", "fine is done"}
    assert "left with code 3" in told["broken is failed"]
    assert "crewkeep logs broken" in told["broken is failed"]
    log = wait_until(lambda: text if (text := home.notify_log.read_text()).count("told") == 2 else None, what="the log")
    assert "secret-path" not in log


def test_a_crash_that_only_the_patrol_saw_is_told(home: Home, webhook: Webhook) -> None:
    import os
    import signal

    from coordinator.sessions.registry import Registry

    configure(home, f'[notify]\nurls = ["{webhook.url}"]\n')
    cli("run", "-d", "--name", "lost", "--restart", "never", "--", "sleep", "300", home=home)
    owner = Registry(home).find("lost").owner
    assert owner is not None
    os.kill(owner.pid, signal.SIGKILL)
    wait_until(lambda: [one["title"] for one in webhook.told] == ["lost is crashed"], timeout_s=30, what="the message")


def test_an_address_that_does_not_answer_holds_up_nothing(home: Home) -> None:
    configure(home, '[notify]\nurls = ["json://127.0.0.1:9/", "nonsense"]\non = ["done"]\n')
    began_s = time.monotonic()
    done = cli("run", "--name", "fine", "--", "true", home=home)
    assert (done.returncode, done.stderr) == (0, "")
    assert time.monotonic() - began_s < 20
    wait_until(lambda: home.notify_log.exists() and "not understood" in home.notify_log.read_text(), what="the log")
    assert "not taken" in home.notify_log.read_text()


def test_the_command_tells_what_was_sent(home: Home, webhook: Webhook) -> None:
    none = cli("notify", home=home)
    assert none.returncode == 3
    assert "[notify]" in none.stderr
    configure(home, f'[notify]\nurls = ["{webhook.url}", "desktop"]\n')
    done = cli("notify", "hello ✓", "--json", home=home, env={"PATH": "/nowhere"})
    rows = {row["kind"]: row for row in json.loads(done.stdout)}
    assert rows["json"]["sent"]
    assert "not installed" in rows["desktop"]["problem"]
    assert done.returncode == 1
    assert webhook.told[0]["message"] == "hello ✓"


@pytest.mark.parametrize(
    "url", ["s3cret", "s3cret:more", "slack//me:s3cret@there", "slack://s3cret", "://s3cret", "json://[::1/s3cret"]
)
def test_an_address_that_is_not_understood_is_told_nowhere(home: Home, url: str) -> None:
    pytest.importorskip("apprise")
    configure(home, f'[notify]\nurls = ["{url}"]\non = ["done"]\n')
    done = cli("notify", home=home)
    assert done.returncode == 1 and "not understood" in done.stdout
    cli("run", "--name", "fine", "--", "true", home=home)
    wait_until(lambda: home.notify_log.exists() and "not understood" in home.notify_log.read_text(), timeout_s=30, what="the log")
    assert "s3cret" not in done.stdout + done.stderr + home.notify_log.read_text()


@pytest.mark.parametrize("text", ["notify = 1", "[notify]\nurls = 'x'", "[notify]\non = ['sleepy']", "[notify]\nurls = [1]"])
def test_settings_that_cannot_be_meant_are_refused(home: Home, text: str) -> None:
    path = configure(home, text)
    with pytest.raises(InvalidInput) as refused:
        load_notify({"XDG_CONFIG_HOME": str(path.parent.parent)})
    assert str(path) in refused.value.message
    assert cli("notify", home=home).returncode == 2
    assert cli("run", "--", "true", home=home).returncode == 0, "a session does not fail for it"


def test_a_projects_file_has_no_say(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".crewkeep.toml").write_text('[notify]\nurls = ["json://elsewhere/"]\n')
    monkeypatch.chdir(tmp_path)
    assert load_notify() == Notify()
