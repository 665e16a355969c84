"""Errors, ids, settings and paths."""

import os
import pickle

import pytest

from coordinator import errors
from coordinator.config import Settings, find_origins, is_secret, load_settings
from coordinator.errors import InvalidInput, StorageError, VersionConflict
from coordinator.ids import ID_PATTERN, check_name, new_id
from coordinator.paths import Home


def test_errors_survive_pickling_with_their_facts() -> None:
    error = pickle.loads(pickle.dumps(VersionConflict("tasks/a", 3, 5)))
    assert (error.key, error.expected_version, error.actual_version, error.exit_code) == ("tasks/a", 3, 5, 4)
    assert error.hint and "tasks/a" in str(error)


def test_a_storage_error_names_the_operation_the_path_and_the_errno() -> None:
    error = StorageError.from_os(OSError(28, "No space left on device"), "write", "/x/y")
    assert isinstance(error, OSError) and (error.errno, error.cause, error.operation) == (28, "ENOSPC", "write")
    assert "/x/y" in str(error) and "ENOSPC" in str(error) and "space" in error.hint
    again = pickle.loads(pickle.dumps(error))
    assert (again.cause, str(again)) == ("ENOSPC", str(error))


def test_exit_codes_are_those_promised() -> None:
    promised = {"InvalidInput": 2, "NotFound": 3, "Conflict": 4, "Refused": 5, "Missing": 69, "Busy": 75, "TimedOut": 124}
    assert {name: getattr(errors, name).exit_code for name in promised} == promised


def test_ids_sort_by_time_and_differ_within_one_second() -> None:
    ids = [new_id(1_800_000_000 + second) for second in range(100)]
    assert ids == sorted(ids) and all(ID_PATTERN.fullmatch(one) for one in ids)
    assert len({new_id(1_800_000_000) for _ in range(1000)}) == 1000


@pytest.mark.parametrize(
    "name", ["../../x", "/abs", "", ".", "..", "a" * 300, "a\0b", "a\nb", "CON", "com1", "-x", " a", "a/b", "é", "\ud800", "a b"]
)
def test_names_that_could_be_anything_but_a_name_are_refused(name: str) -> None:
    with pytest.raises(InvalidInput):
        check_name(name)


@pytest.mark.parametrize("name", ["auth", "a.b-c_d", "7up", "A" * 64])
def test_plain_names_are_taken(name: str) -> None:
    assert check_name(name) == name


def test_environment_wins_over_project_over_user_over_default(tmp_path) -> None:
    (tmp_path / "crewkeep").mkdir()
    (tmp_path / "crewkeep" / "config.toml").write_text("grace_s = 7\nlease_s = 9\nstart_limit = 6\n")
    project = tmp_path / "project"
    project.mkdir()
    (project / ".crewkeep.toml").write_text("grace_s = 8\nlease_s = 11\n")
    environment = {"XDG_CONFIG_HOME": str(tmp_path), "CREWKEEP_GRACE_S": "2.5"}
    settings = load_settings(environment, project)
    assert (settings.grace_s, settings.lease_s, settings.start_limit, settings.hang_after_s) == (2.5, 11, 6, 30)
    origins = find_origins(environment, project)
    assert origins["grace_s"].origin == "CREWKEEP_GRACE_S" and origins["lease_s"].origin.endswith(".crewkeep.toml")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GRACE_S", "soon"),
        ("GRACE_S", "-1"),
        ("GRACE_S", "nan"),
        ("HANG_POLICY", "kill"),
        ("USE_CGROUP", "maybe"),
        ("LEASE_S", "0.5"),
    ],
)
def test_a_bad_setting_is_refused_with_its_source(name: str, value: str, tmp_path) -> None:
    with pytest.raises(InvalidInput) as caught:
        load_settings({f"CREWKEEP_{name}": value, "XDG_CONFIG_HOME": str(tmp_path)})
    assert name.lower() in str(caught.value)


def test_a_heartbeat_fits_three_times_into_the_lease() -> None:
    with pytest.raises(InvalidInput):
        Settings(heartbeat_interval_s=2, lease_s=5)


def test_names_of_secrets_are_recognised() -> None:
    secret = ["OPENAI_API_KEY", "github_token", "DB_PASSWORD", "MY_SECRET", "AWS_CREDENTIALS"]
    assert all(map(is_secret, secret)) and not any(map(is_secret, ["PATH", "HOME", "LANG"]))


def test_a_home_is_the_same_place_however_it_is_spelled(tmp_path, monkeypatch) -> None:
    real = tmp_path / "real [x]* \u00e9\U0001f600"
    real.mkdir()
    (tmp_path / "link").symlink_to(real)
    monkeypatch.chdir(tmp_path)
    spellings = [str(real), str(real) + "/", "link", "./link/../link", os.path.relpath(real), str(tmp_path / "link")]
    assert {Home.at(one) for one in spellings} == {Home(real)}
    assert Home.find({"CREWKEEP_HOME": "link"}) == Home(real)
    assert Home.find({"XDG_STATE_HOME": str(tmp_path)}) == Home(tmp_path / "crewkeep")
