"""The command line as scripts meet it: exact fields, exit codes, streams, and manners when something goes wrong."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import CREWKEEP, cli, cli_json, find_home_processes, make_environment, wait_until

from coordinator.paths import Home

PS_FIELDS = [
    "id",
    "name",
    "agent",
    "workspace",
    "state",
    "reason",
    "epoch",
    "restarts",
    "keeper_pid",
    "agent_pid",
    "started_at",
    "last_progress_at",
    "last_heartbeat_at",
    "resumes_at",
    "command",
    "cwd",
]


@pytest.fixture
def sleeper(home: Home) -> Iterator[str]:
    """A session that sleeps; returns its name."""
    cli_json("run", "-d", "--json", "--name", "sleeper", "--", "sleep", "300", home=home)
    yield "sleeper"
    cli("kill", "--all", home=home)


def start(*arguments: str, home: Home, env: dict[str, str] | None = None, stdout: int = subprocess.PIPE) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(CREWKEEP), *arguments],
        env=make_environment(home, env),
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_life_of_a_session_in_json(home: Home) -> None:
    begun = cli_json("run", "-d", "--json", "--name", "one", "--", "sleep", "300", home=home)
    assert list(begun) == ["id", "name", "epoch", "state"]
    assert (begun["name"], begun["epoch"]) == ("one", 1)
    (row,) = cli_json("ps", "--json", home=home)
    assert list(row) == PS_FIELDS
    assert row["command"] == "sleep 300"
    assert row["started_at"].endswith("Z")
    facts = cli_json("inspect", "--json", begun["id"][:9], home=home)
    assert set(PS_FIELDS) <= set(facts)
    assert facts["argv"] == ["sleep", "300"]
    why = cli_json("why", "one", "--json", home=home)
    assert list(why) == ["session", "verdict", "reason", "layers", "action"]
    assert [layer["layer"] for layer in why["layers"]] == ["pid", "heartbeat", "integrity", "disk", "orphan"]
    assert why["verdict"] in ("HEALTHY", "STARTING")
    saved = cli_json("checkpoint", "one", "--json", home=home)
    (listed,) = cli_json("checkpoints", "one", "--json", home=home)
    assert listed == saved
    assert {"number", "at", "epoch", "bytes", "whole", "parts"} <= set(listed)
    assert list(listed["parts"][0]) == ["name", "bytes", "digest"]
    (ended,) = cli_json("kill", "one", "--json", home=home)
    assert list(ended) == ["id", "name", "ended", "left"]
    assert row["agent_pid"] in ended["ended"]
    assert ended["left"] == []
    assert cli_json("ps", "--json", home=home) == []
    (row,) = cli_json("ps", "-a", "--json", home=home)
    assert (row["state"], row["keeper_pid"], row["agent_pid"]) == ("stopped", None, None)
    (back,) = cli_json("restore", "one", "--json", home=home)
    assert {"id", "name", "verdict", "actions", "outcome", "from_epoch", "to_epoch", "checkpoint", "duration_ms"} <= set(back)
    assert (back["outcome"], back["from_epoch"], back["to_epoch"]) == ("recovered", 1, 2)
    refused = cli("restore", "one", home=home)
    assert refused.returncode == 5, refused.stderr
    cli_json("stop", "one", "--json", home=home)
    assert cli_json("rm", "one", "--json", home=home) == [{"id": begun["id"], "name": "one"}]
    assert cli("inspect", "one", home=home).returncode == 3


def test_what_was_ended_by_a_signal_is_recovered_by_name_and_plan(home: Home, sleeper: str) -> None:
    (planned,) = cli_json("recover", sleeper, "--json", home=home)
    assert planned["outcome"] == "nothing to do"
    cli_json("kill", sleeper, "--json", home=home)
    (planned,) = cli_json("recover", sleeper, "--json", home=home)
    assert (planned["outcome"], planned["to_epoch"]) == ("planned", 2)
    assert planned["actions"][0].startswith("raise-epoch")
    assert cli_json("ps", "--json", home=home) == [], "a plan changes nothing"
    (done,) = cli_json("recover", sleeper, "--yes", "--json", home=home)
    assert done["outcome"] == "recovered"
    (row,) = cli_json("ps", "--json", home=home)
    assert row["epoch"] == 2


def test_watching_the_context_prints_each_change_as_a_line(home: Home, tmp_path: Path) -> None:
    watching = start("context", "watch", "a/", "--json", "-w", "w", home=home)
    try:
        wait_until(lambda: (home.path / "contexts").is_dir(), what="the watcher's context")
        for number in range(1, 4):
            cli("context", "put", f"a/{number}", str(number), "-w", "w", home=home)
            cli("context", "put", f"b/{number}", str(number), "-w", "w", home=home)
        assert watching.stdout is not None
        # The first write may have come before the watch began.
        last = ""
        while not last.startswith('{"key": "a/3"'):
            last = watching.stdout.readline()
            assert last, "the watcher ended"
        assert {"key", "value", "version", "author", "epoch", "at", "shard", "revision"} == set(json.loads(last))
    finally:
        watching.send_signal(signal.SIGINT)
        _, told = watching.communicate(timeout=10)
    assert (watching.returncode, told) == (130, "")
    change = json.loads(last)
    again = start("context", "watch", "--json", "-w", "w", "--from", f"{change['shard']}:{change['revision'] - 1}", home=home)
    try:
        assert again.stdout is not None
        assert json.loads(again.stdout.readline()) == change
    finally:
        again.kill()
        again.communicate()


def test_a_closed_pipe_ends_quietly(home: Home) -> None:
    cli("context", "put", "key", "1", "-w", "w", home=home)
    reader, writer = os.pipe()
    os.close(reader)
    process = start("context", "ls", "-w", "w", home=home, stdout=writer)
    os.close(writer)
    _, told = process.communicate(timeout=20)
    assert (process.returncode, told) == (141, "")


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("line", ["ps", "ps -a --json", "--help", "run -- true"])
def test_closed_streams_are_as_good_as_the_null_device(line: str, closed: str, home: Home) -> None:
    done = subprocess.run(
        ["bash", "-c", f'"$0" {line} {closed}', str(CREWKEEP)],
        env=make_environment(home),
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert (done.returncode, "Traceback" in done.stderr, "bug" in done.stderr) == (0, False, False), done.stderr


def test_output_that_cannot_be_written_is_a_failure_and_no_closed_pipe(home: Home) -> None:
    with open("/dev/full", "w") as full:
        process = start("ps", "--json", home=home, stdout=full.fileno())
        _, told = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "standard output" in told


@pytest.mark.parametrize("line", ["ps", "ps --json", "inspect x", "context ls", "context put a 1", "doctor", "recover --all"])
def test_a_home_that_cannot_be_used_gives_a_message_and_no_traceback(line: str, tmp_path: Path) -> None:
    place = tmp_path / "home"
    place.write_text("a file stands here")
    done = cli(*line.split(), home=place)
    assert "Traceback" not in done.stderr + done.stdout
    assert done.returncode in (0, 1, 3), done.stderr


@pytest.mark.parametrize("line", ["claim x.py -s", "release x.py -s", "tell --all", "mcp"])
def test_a_working_directory_that_is_gone_is_named_as_the_cause(line: str, home: Home, sleeper: str, tmp_path: Path) -> None:
    directory = tmp_path / "gone"
    directory.mkdir()
    words = shlex.join([str(CREWKEEP), *line.split(), *([sleeper] if line != "mcp" else [])])
    done = subprocess.run(
        ["sh", "-c", f"rmdir {directory} && {words}"],
        cwd=directory,
        env=make_environment(home),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert "the current directory does not exist any more" in done.stderr


def test_a_bug_leaves_its_traceback_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from crewkeep.cli import edge

    def fail(_: list[str]) -> int:
        raise ZeroDivisionError("oops")

    monkeypatch.setenv("CREWKEEP_HOME", str(tmp_path / "home"))
    assert edge.guard(fail, []) == 1
    log = tmp_path / "home" / "last-error.log"
    assert "ZeroDivisionError: oops" in log.read_text()
    assert log.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("line", ["ps", "run -- true", "--version", "--help"])
def test_on_windows_there_is_one_clear_error(line: str) -> None:
    """Also before anything is imported that Windows does not have."""
    code = """if True:
        import sys
        for name in ("fcntl", "pwd", "termios", "tty", "pty", "resource", "grp"):
            sys.modules[name] = None
        sys.platform = "win32"
        from crewkeep.cli import main
        main()"""
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, *line.split()], capture_output=True, text=True, timeout=20, check=False
    )
    assert done.returncode == 69, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("crewkeep: crewkeep does not run on Windows")
    assert "WSL" in done.stderr
    assert len(done.stderr.splitlines()) == 2


def test_a_damaged_record_is_listed_and_recovered(home: Home, sleeper: str) -> None:
    (row,) = cli_json("ps", "--json", home=home)
    cli_json("kill", sleeper, "--json", home=home)
    record = home.session(row["id"]).record
    wait_until(lambda: not find_home_processes(home), what="the patrol to leave; it would mend it")
    record.write_bytes(b"\0" * 100)
    (listed,) = cli_json("ps", "--json", home=home)
    assert (listed["id"], listed["name"], listed["state"]) == (row["id"], sleeper, "stopped")
    assert "its record is damaged" in listed["reason"]
    assert cli_json("why", row["id"], "--json", home=home)["verdict"] == "CORRUPT"
    assert cli("doctor", home=home).returncode == 1
    (done,) = cli_json("recover", row["id"], "--yes", "--json", home=home)
    assert done["outcome"] == "recovered", done
    assert list(home.quarantine.rglob("*record*")), "the damaged record was set aside"
    cli_json("kill", row["id"], "--json", home=home)
    wait_until(lambda: not find_home_processes(home), what="the patrol to leave; it would mend it")
    record.write_bytes(b"")
    assert cli("rm", row["id"], home=home).returncode == 5, "its processes are not known"
    assert cli_json("rm", row["id"], "--force", "--json", home=home) == [{"id": row["id"], "name": None}]


def test_names_of_sessions_are_completed(home: Home, sleeper: str) -> None:
    environment = {"_CREWKEEP_COMPLETE": "complete_bash", "COMP_WORDS": "crewkeep stop sl", "COMP_CWORD": "2"}
    done = cli(home=home, env=environment)
    assert done.stdout.split() == [sleeper]
    environment |= {"COMP_WORDS": "crewkeep checkp", "COMP_CWORD": "1"}
    assert cli(home=home, env=environment).stdout.split() == ["checkpoint", "checkpoints"]


def test_the_two_ways_into_ps_know_the_same_flags(home: Home) -> None:
    import inspect

    import typer.main

    from crewkeep.cli import _list_quickly, listing
    from crewkeep.cli.app import build_app

    (command,) = typer.main.get_command(build_app("ps")).commands.values()  # type: ignore[attr-defined]
    known = {option for parameter in command.params for option in parameter.opts}
    assert known - {"--help", "-h"} == set(listing.FLAGS)
    assert all(flag in inspect.getsource(_list_quickly) for flag in listing.FLAGS)
    assert cli("ps", "-aq", home=home).returncode == 0


def test_secrets_are_never_shown_nor_written(home: Home) -> None:
    secret = "sk-very-secret-value"
    cli_json("run", "-d", "--json", "--name", "s", "--", "sleep", "300", home=home, env={"MY_API_KEY": secret})
    facts = cli("inspect", "s", "--json", home=home).stdout
    assert "MY_API_KEY" in facts
    assert secret not in facts
    cli("checkpoint", "s", home=home)
    written = [path for path in home.path.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]
    assert not written
    # Everything dies; without the secret the session parks and names it, with it it runs.
    agent = json.loads(facts)
    cli("features", "recovery", "off", home=home)
    for pid in (agent["keeper_pid"], agent["agent_pid"]):
        os.kill(pid, signal.SIGKILL)
    cli("features", "recovery", "on", home=home)
    wait_until(lambda: cli_json("ps", "--json", home=home)[0]["state"] in ("parked", "working"), 20, "the session's recovery")
    cli("kill", "--all", home=home)
    parked = cli("recover", "s", "--yes", "--json", home=home)
    assert parked.returncode == 1, parked.stdout
    assert "MY_API_KEY" in parked.stdout
    (done,) = cli_json("recover", "s", "--yes", "--json", home=home, env={"MY_API_KEY": secret})
    assert done["outcome"] == "recovered"


def test_damage_to_claims_and_messages_is_told_by_doctor_and_mended_as_is_said(home: Home, sleeper: str) -> None:
    assert cli("claim", "plan", "-s", sleeper, home=home).returncode == 0
    assert cli("tell", sleeper, "kept", home=home).returncode == 0
    for log in sorted(home.crew.glob("*/log")):
        log.write_bytes(b"damaged!" + log.read_bytes()[8:])
        (bad,) = (check for check in json.loads(cli("doctor", "--json", home=home).stdout) if check["level"] == "bad")
        assert "crewkeep context check --repair" in bad["hint"]
        assert "repaired" in cli("context", "check", "--repair", home=home).stdout
        assert cli("doctor", home=home).returncode == 0
    assert [one["what"] for one in cli_json("claims", "--json", home=home)] == ["plan"]
    assert [one["text"] for one in cli_json("inbox", sleeper, "--json", home=home)] == ["kept"]


def test_doctor_tells_of_a_home_that_is_a_file_and_of_a_setting_that_is_none(home: Home, tmp_path: Path) -> None:
    place = tmp_path / "file"
    place.write_text("")
    told = json.loads(cli("doctor", "--json", home=place).stdout)
    assert {"name": "home", "level": "bad"}.items() <= told[1].items()
    assert "not a directory" in told[1]["message"]
    (tmp_path / ".crewkeep.toml").write_text("lease = 3\n")
    told = cli_json("doctor", "--json", home=home, cwd=tmp_path)
    assert [check["level"] for check in told if "no setting 'lease'" in check["message"]] == ["warn"]


ENTRY_FIELDS = ["key", "value", "version", "author", "epoch", "at"]


def test_every_json_shape_has_exactly_the_fields_promised_first(home: Home, sleeper: str) -> None:
    def fields(*line: str) -> list[str]:
        told = cli_json(*line, home=home)
        return list(told[0] if isinstance(told, list) else told)

    cli_json("context", "put", "key", '"text"', "--json", "-w", "w", home=home)
    assert fields("context", "get", "key", "--json", "-w", "w") == ENTRY_FIELDS
    assert fields("context", "ls", "--json", "-w", "w") == ENTRY_FIELDS
    assert fields("context", "history", "key", "--json", "-w", "w") == ENTRY_FIELDS
    refused = cli("context", "put", "key", "1", "--if-version", "7", "--json", "-w", "w", home=home)
    assert (refused.returncode, refused.stdout) == (4, "")
    conflict = json.loads(refused.stderr)
    assert list(conflict)[:4] == ["error", "key", "expected_version", "actual_version"]
    assert (conflict["error"], conflict["actual_version"]) == ("conflict", 1)
    cli_json("context", "rm", "key", "--json", "-w", "w", home=home)
    assert fields("context", "history", "key", "--json", "-w", "w") == [*ENTRY_FIELDS, "deleted"]
    assert fields("wait", sleeper, "--until", "working,idle", "--json") == [*PS_FIELDS, "exit_code", "exit_signal"]
    assert fields("inspect", sleeper, "--json")[: len(PS_FIELDS)] == PS_FIELDS
    checkpoint = cli_json("checkpoint", sleeper, "--json", home=home)
    assert list(checkpoint)[:6] == ["number", "at", "epoch", "bytes", "whole", "parts"]
    assert fields("stop", sleeper, "--json") == ["id", "name", "ended", "left"]
    promised = {"id", "name", "verdict", "actions", "outcome", "from_epoch", "to_epoch", "checkpoint", "duration_ms"}
    assert promised <= set(fields("recover", sleeper, "--json"))
    assert fields("rm", sleeper, "--json") == ["id", "name"]
    assert fields("doctor", "--json") == ["name", "level", "message", "hint"]


def test_a_checkpoint_of_a_stopped_keeper_is_refused_at_once(home: Home, sleeper: str) -> None:
    (row,) = cli_json("ps", "--json", home=home)
    os.kill(row["keeper_pid"], signal.SIGSTOP)
    try:
        refused = cli("checkpoint", sleeper, home=home, timeout_s=20)
    finally:
        os.kill(row["keeper_pid"], signal.SIGCONT)
    assert (refused.returncode, "is stopped" in refused.stderr) == (75, True)
