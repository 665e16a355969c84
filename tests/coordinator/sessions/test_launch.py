"""How an agent was launched: what is written down, what is only named, what it gets."""

import os
from pathlib import Path

import pytest
from session_support import make_session

from coordinator.errors import InvalidInput, Missing
from coordinator.paths import Home
from coordinator.sessions.launch import build_environment, build_launch, check_launch, find_missing_secrets
from coordinator.sessions.model import LaunchSpec

ENVIRONMENT = {
    "PATH": "/bin",
    "OPENAI_API_KEY": "s1",
    "Github_Token": "s2",
    "DB_PASSWORD": "s3",
    "CREWKEEP_HOME": "/elsewhere",
    "CREWKEEP_SESSION": "caller",
    "CREWKEEP_NONCE": "caller",
    "CREWKEEP_HANG_AFTER_S": "5",
    "CREWKEEP_DETACH_KEY": "ctrl-q",
    "CREWKEEP_FAILPOINTS": "x=kill",
}


def test_secrets_are_named_and_the_callers_own_marks_left_behind() -> None:
    launch = build_launch(["agent"], "/", ENVIRONMENT)
    assert launch.environment == {"PATH": "/bin", "CREWKEEP_HANG_AFTER_S": "5", "CREWKEEP_DETACH_KEY": "ctrl-q"}
    assert launch.secret_names == ("DB_PASSWORD", "Github_Token", "OPENAI_API_KEY")


def test_the_agent_gets_everything_back_and_who_it_is(home: Home) -> None:
    record = make_session(home)
    environment = build_environment(build_launch(["agent"], "/", ENVIRONMENT), ENVIRONMENT, record, home)
    assert environment["OPENAI_API_KEY"] == "s1"
    assert environment["CREWKEEP_HOME"] == str(home.path)
    assert environment["CREWKEEP_SESSION"] == record.id
    assert environment["CREWKEEP_EPOCH"] == "1"
    assert environment["CREWKEEP_NONCE"] == record.nonce
    assert environment["CREWKEEP_WORKSPACE"] == "shop"
    assert "CREWKEEP_FAILPOINTS" not in environment


def test_missing_secrets_are_named(home: Home) -> None:
    launch = build_launch(["agent"], "/", ENVIRONMENT)
    assert find_missing_secrets(launch, {"DB_PASSWORD": ""}) == ("Github_Token", "OPENAI_API_KEY")
    with pytest.raises(Missing, match="Github_Token, OPENAI_API_KEY") as caught:
        build_environment(launch, {"DB_PASSWORD": ""}, make_session(home), home)
    assert caught.value.exit_code == 69


def test_what_cannot_be_launched_is_refused(tmp_path: Path) -> None:
    for argv, cwd in (([], "/"), ([""], "/"), (["a\0b"], "/"), (["agent"], tmp_path / "nowhere")):
        with pytest.raises(InvalidInput):
            build_launch(argv, cwd, {})
    with pytest.raises(InvalidInput) as caught:
        build_launch(["agent"], "/", {"LARGE": "x" * (1 << 20), "SMALL": "x"})
    assert "LARGE" in caught.value.hint


def test_a_launch_that_holds_a_secret_is_refused() -> None:
    with pytest.raises(InvalidInput, match="MY_KEY"):
        check_launch(LaunchSpec(argv=("agent",), cwd="/", environment={"MY_KEY": "s"}))


def test_a_relative_directory_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    assert build_launch(["agent"], "here", {}).cwd == os.path.join(os.getcwd(), "here")
