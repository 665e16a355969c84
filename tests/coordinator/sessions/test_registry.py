"""The registry: records that appear whole, change only by right, and are never lost from sight."""

import dataclasses
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from session_support import change_session, end_session, make_launch, make_session

from coordinator import sealed
from coordinator.errors import Conflict, Damaged, InvalidInput, NotFound, Refused, StorageError, Superseded
from coordinator.paths import Home
from coordinator.sessions.journal import Journal
from coordinator.sessions.model import RECORD_FORMAT, RECORD_KIND, Hosting, Outcome, Phase, Restart
from coordinator.sessions.registry import Damage, Registry
from coordinator.system import failpoints
from coordinator.system.clock import ManualClock
from coordinator.system.processes import identify_self


@pytest.fixture
def registry(home: Home) -> Registry:
    return Registry(home)


def test_a_session_is_there_whole_before_anything_of_it_runs(home: Home, registry: Registry) -> None:
    record = make_session(home, "auth")
    assert registry.get(record.id) == record
    assert registry.get_launch(record.id) == make_launch()
    assert (record.epoch, record.version, record.phase) == (1, 1, Phase.STARTING)
    assert os.stat(home.session(record.id).path).st_mode & 0o777 == 0o700
    assert os.stat(home.session(record.id).record).st_mode & 0o777 == 0o600


@pytest.mark.parametrize("place", ["files.fsync", "files.rename", "files.write", "files.open", "journal.open", "registry.create"])
def test_a_creation_that_fails_leaves_no_session(home: Home, registry: Registry, place: str) -> None:
    make_session(home, "first")

    def fail(name: str) -> None:
        if name == place:
            raise OSError(28, "No space left on device")

    with failpoints.observe(fail), pytest.raises(StorageError) as caught:
        make_session(home, "second")
    assert caught.value.cause == "ENOSPC"
    assert [found.name for found in registry.list_all() if not isinstance(found, Damage)] == ["first"]
    assert make_session(home, "second").name == "second"


def test_names_are_made_from_the_command_and_kept_apart(home: Home, registry: Registry) -> None:
    def create(*argv: str) -> str:
        return registry.create(
            name=None, workspace="w", hosting=Hosting.KEEPER, launch=make_launch(*argv), restart=Restart.NEVER
        ).name

    assert create("/opt/bin/codex", "resume") == "codex"
    assert create("codex") == "codex-2"
    assert create("python3.11", "work/write tests.py") == "write-tests"
    assert create("python3", "-m", "x") == "python3"
    assert create("./…") == "session"
    end_session(registry, registry.find("codex"))
    assert create("codex") == "codex"


def test_a_name_is_held_until_its_session_has_ended(home: Home, registry: Registry) -> None:
    first = make_session(home, "auth")
    with pytest.raises(Refused) as caught:
        make_session(home, "auth")
    assert caught.value.holder == first.id
    assert "crewkeep attach auth" in caught.value.hint
    end_session(registry, first)
    assert make_session(home, "auth").id != first.id


def test_the_id_of_a_session_cannot_name_another(home: Home, registry: Registry) -> None:
    first = make_session(home, "auth")
    with pytest.raises(Refused):
        make_session(home, first.id)
    assert registry.find(first.id).name == "auth"
    assert len(registry.list_all()) == 1


@pytest.mark.parametrize("stand_in", [Path.mkdir, lambda path: path.symlink_to("/etc/passwd")], ids=["directory", "link"])
def test_a_session_whose_record_cannot_be_read_is_still_found_by_its_name(
    home: Home, registry: Registry, stand_in: Callable[[Path], None]
) -> None:
    first = make_session(home, "auth")
    record = home.session(first.id).record
    record.unlink()
    stand_in(record)
    with pytest.raises((StorageError, Refused)):
        registry.get(first.id)
    assert registry.find("auth") == registry.find(first.id) == first


def test_the_name_of_a_session_whose_record_is_damaged_is_still_held(home: Home, registry: Registry) -> None:
    first = make_session(home, "auth")
    home.session(first.id).record.write_bytes(b"")
    with pytest.raises(Refused):
        make_session(home, "auth")


def test_a_session_damaged_through_and_through_keeps_no_other_from_starting(home: Home) -> None:
    paths = home.session(make_session(home, "auth").id)
    paths.record.write_bytes(b"")
    paths.journal.unlink()
    paths.journal.symlink_to("/etc/passwd")
    assert make_session(home, "other").name == "other"


@pytest.mark.parametrize("name", ["", "..", "../x", "/x", "a/b", "a\nb", "CON", "-x", "x" * 65, "a\0b", "é"])
def test_a_bad_name_is_refused_before_any_file_is_touched(home: Home, name: str) -> None:
    with pytest.raises(InvalidInput):
        make_session(home, name)
    assert list(home.path.iterdir()) == []


@pytest.mark.parametrize("session_id", ["", "..", "../../etc", "x", "AAAAAAAAAAAA", "0" * 13, "0" * 12, "a\0b", "*"])
def test_an_id_that_is_none_is_not_found(registry: Registry, session_id: str) -> None:
    for call in (registry.get, registry.get_launch, registry.remove, registry.rebuild_record):
        with pytest.raises(NotFound):
            call(session_id)


def test_a_home_that_others_can_write_is_refused(home: Home) -> None:
    home.path.chmod(0o777)
    with pytest.raises(Refused):
        make_session(home)


def test_find_takes_names_ids_prefixes_and_the_dot(home: Home, registry: Registry) -> None:
    clock = ManualClock()
    registry = Registry(home, clock)
    old = end_session(registry, make_session(home, "auth", registry=registry))
    clock.advance(100)
    newer = end_session(registry, make_session(home, "auth", registry=registry))
    clock.advance(100)
    running = make_session(home, "auth", registry=registry)
    clock.advance(100)
    other = make_session(home, "other", registry=registry)
    assert registry.find("auth") == running
    end_session(registry, running)
    assert registry.find("auth").id == running.id
    registry.remove(running.id)
    assert registry.find("auth").id == newer.id
    assert registry.find(old.id) == old
    assert registry.find(other.id[:11]).id == other.id
    assert registry.find(".", {"CREWKEEP_SESSION": old.id}) == old
    with pytest.raises(InvalidInput, match="could be any of 3"):
        registry.find(old.id[:4])  # of the seconds since 1970, the same for a long time
    with pytest.raises(NotFound):
        registry.find("nobody")
    with pytest.raises(InvalidInput):
        registry.find(".", {})
    with pytest.raises(NotFound):
        registry.find("")


def test_every_change_counts_and_is_dated_when_the_phase_changes(home: Home) -> None:
    clock = ManualClock()
    registry = Registry(home, clock)
    record = make_session(home, registry=registry)
    clock.advance(5)
    record = change_session(registry, record, reason="busy")
    assert (record.version, record.phase_at) == (2, clock.wall_s() - 5)
    record = change_session(registry, record, phase=Phase.RUNNING)
    assert (record.version, record.phase_at) == (3, clock.wall_s())
    assert registry.get(record.id) == record
    assert change_session(registry, record, phase=Phase.RUNNING) == record, "what changes nothing is not written"


def test_phases_move_only_along_the_table(home: Home, registry: Registry) -> None:
    record = end_session(registry, make_session(home))
    with pytest.raises(Conflict) as caught:
        change_session(registry, record, phase=Phase.RUNNING)
    assert caught.value.phase == "ended"
    assert registry.get(record.id) == record


def test_an_older_epoch_cannot_change_the_record(home: Home, registry: Registry) -> None:
    record = make_session(home)
    raised = registry.raise_epoch(record.id, expected=1, reason="it died", by=identify_self())
    for act in (
        lambda: change_session(registry, record, reason="late"),
        lambda: registry.raise_epoch(record.id, expected=1, reason="late", by=identify_self()),
        lambda: registry.set_launch(record.id, make_launch("x"), epoch=1),
        lambda: Journal(home.session(record.id)).append("late", {}, epoch=1),
        lambda: registry.hold(record.id, epoch=1).__enter__(),
    ):
        with pytest.raises(Superseded) as caught:
            act()
        assert (caught.value.epoch, caught.value.current_epoch) == (1, 2)
    assert registry.get(record.id) == raised


def test_a_raised_epoch_keeps_what_must_still_be_reaped(home: Home, registry: Registry) -> None:
    record = make_session(home, phase=Phase.RUNNING, agent=identify_self(), started_at=1.0)
    raised = registry.raise_epoch(record.id, expected=1, reason="it died", by=identify_self())
    assert (raised.epoch, raised.phase, raised.recoverer) == (2, Phase.RECOVERING, identify_self())
    assert (raised.owner, raised.agent, raised.started_at) == (record.owner, record.agent, None)
    assert raised.unreaped_nonces == (record.nonce,)
    assert raised.nonce != record.nonce
    again = registry.raise_epoch(record.id, expected=2, reason="it died again", by=identify_self(), nonce="given")
    assert (again.nonce, again.unreaped_nonces) == ("given", (record.nonce, raised.nonce))


def test_resuming_an_ended_session_clears_how_it_ended_but_not_if_its_name_was_given_away(home: Home, registry: Registry) -> None:
    record = make_session(home, "auth")
    change_session(registry, record, phase=Phase.ENDED, outcome=Outcome.FAILED, exit_code=3)
    second = make_session(home, "auth")
    with pytest.raises(Refused):
        registry.raise_epoch(record.id, expected=1, reason="again", by=identify_self())
    end_session(registry, second)
    raised = registry.raise_epoch(record.id, expected=1, reason="again", by=identify_self())
    assert (raised.outcome, raised.exit_code, raised.epoch) == (None, None, 2)


def test_what_a_newer_program_added_to_a_record_is_kept(home: Home, registry: Registry) -> None:
    record = make_session(home)
    paths = home.session(record.id)
    body = sealed.read_sealed(paths.record, RECORD_KIND, RECORD_FORMAT)
    sealed.write_sealed(paths.record, RECORD_KIND, RECORD_FORMAT, {**body, "mood": "cheerful"})
    change_session(registry, record, reason="busy")
    registry.raise_epoch(record.id, expected=1, reason="x", by=identify_self())
    assert sealed.read_sealed(paths.record, RECORD_KIND, RECORD_FORMAT)["mood"] == "cheerful"


def test_a_newer_format_is_left_alone(home: Home, registry: Registry) -> None:
    record = make_session(home)
    paths = home.session(record.id)
    body = sealed.read_sealed(paths.record, RECORD_KIND, RECORD_FORMAT)
    sealed.write_sealed(paths.record, RECORD_KIND, RECORD_FORMAT + 1, body)
    before = paths.record.read_bytes()
    for act in (
        lambda: change_session(registry, record, reason="x"),
        lambda: registry.rebuild_record(record.id),
        lambda: registry.raise_epoch(record.id, expected=1, reason="x", by=identify_self()),
    ):
        with pytest.raises(Exception, match="format 2"):
            act()
    assert paths.record.read_bytes() == before
    assert [found.id for found in registry.list_all() if isinstance(found, Damage)] == [record.id]


@pytest.mark.parametrize("place", ["registry.journal", "journal.append", "registry.record", "files.rename", "files.fsync"])
def test_a_change_that_fails_changes_nothing_and_can_be_made_again(home: Home, registry: Registry, place: str) -> None:
    record = make_session(home)

    def fail(name: str) -> None:
        if name == place:
            raise OSError(5, "Input/output error")

    with failpoints.observe(fail), pytest.raises(OSError):
        change_session(registry, record, reason="busy")
    assert registry.get(record.id) == record
    changed = change_session(registry, record, reason="busy")
    assert registry.get(record.id) == changed
    assert registry.find_rollback(record.id) is None
    assert not Journal(home.session(record.id)).read().damage


def test_a_record_replaced_by_an_older_one_is_noticed_and_mended(home: Home, registry: Registry) -> None:
    record = make_session(home)
    paths = home.session(record.id)
    old = paths.record.read_bytes()
    for reason in ("one", "two", "three"):
        record = change_session(registry, record, reason=reason)
    paths.record.write_bytes(old)
    found = registry.find_rollback(record.id)
    assert found is not None
    assert found.reason == "rolled-back"
    rebuilt = registry.rebuild_record(record.id)
    assert rebuilt is not None
    assert (rebuilt.reason, rebuilt.epoch) == ("three", 1)
    assert rebuilt.version > record.version
    assert registry.get(record.id) == rebuilt


def test_the_record_of_another_session_is_not_believed(home: Home, registry: Registry) -> None:
    one, other = make_session(home), make_session(home)
    home.session(one.id).record.write_bytes(home.session(other.id).record.read_bytes())
    with pytest.raises(Damaged) as caught:
        registry.get(one.id)
    assert caught.value.reason == "wrong-shape"


@pytest.mark.parametrize(
    "fields",
    [
        {"epoch": 0},
        {"epoch": "2"},
        {"epoch": True},
        {"version": None},
        {"phase": "dancing"},
        {"owner": []},
        {"owner": {"pid": 0}},
        {"command": "agent"},
        {"starts": [1]},
        {"starts": 3},
        {"created_at": "now"},
        {"name": None},
        {"exit_code": "x"},
    ],
)
def test_a_record_of_the_wrong_shape_is_damage_and_no_other_error(home: Home, registry: Registry, fields: dict) -> None:
    record = make_session(home)
    paths = home.session(record.id)
    body = sealed.read_sealed(paths.record, RECORD_KIND, RECORD_FORMAT)
    sealed.write_sealed(paths.record, RECORD_KIND, RECORD_FORMAT, {**body, **fields})
    with pytest.raises(Damaged) as caught:
        registry.get(record.id)
    assert caught.value.reason == "wrong-shape"
    assert isinstance(registry.list_all()[0], Damage)


def test_a_damaged_record_is_rebuilt_and_the_damaged_file_kept(home: Home, registry: Registry) -> None:
    record = change_session(registry, make_session(home), reason="busy")
    path = home.session(record.id).record
    path.write_bytes(b"\0" * 100)
    rebuilt = registry.rebuild_record(record.id)
    assert rebuilt is not None
    assert dataclasses.replace(rebuilt, version=record.version) == record
    assert registry.get(record.id) == rebuilt
    [aside] = [file for file in (home.quarantine / record.id).iterdir() if not file.name.endswith(".reason")]
    assert aside.read_bytes() == b"\0" * 100
    assert "zero-filled" in aside.with_name(aside.name + ".reason").read_text()
    assert registry.rebuild_record(record.id) == rebuilt, "a second repair finds nothing to do"


def test_a_rebuilt_record_never_goes_back_behind_an_epoch_that_may_have_existed(home: Home, registry: Registry) -> None:
    record = make_session(home)
    registry.raise_epoch(record.id, expected=1, reason="x", by=identify_self())
    paths = home.session(record.id)
    lines = paths.journal.read_bytes().splitlines(keepends=True)
    paths.journal.write_bytes(b"".join(lines[:-1]) + lines[-1][:-20])
    paths.record.write_bytes(b"")
    rebuilt = registry.rebuild_record(record.id)
    assert rebuilt is not None
    assert rebuilt.epoch == 2


def test_without_a_journal_a_damaged_record_stays_as_it_is(home: Home, registry: Registry) -> None:
    record = make_session(home)
    paths = home.session(record.id)
    paths.journal.unlink()
    paths.record.write_bytes(b"{}\n")
    assert registry.rebuild_record(record.id) is None
    assert paths.record.read_bytes() == b"{}\n"


def test_a_damaged_launch_is_rebuilt(home: Home, registry: Registry) -> None:
    record = make_session(home)
    path = home.session(record.id).launch
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(Damaged):
        registry.get_launch(record.id)
    assert registry.rebuild_launch(record.id) == make_launch()
    assert registry.get_launch(record.id) == make_launch()


def test_only_an_ended_session_can_be_removed(home: Home, registry: Registry) -> None:
    record = make_session(home)
    with pytest.raises(Refused):
        registry.remove(record.id)
    with pytest.raises(Refused):
        registry.remove(record.id, force=True)
    end_session(registry, record)
    registry.remove(record.id)
    assert list(home.sessions.iterdir()) == []
    with pytest.raises(NotFound):
        registry.get(record.id)


def test_a_session_with_a_damaged_record_is_removed_by_force_only(home: Home, registry: Registry) -> None:
    record = make_session(home)
    home.session(record.id).record.write_bytes(b"")
    with pytest.raises(Refused):
        registry.remove(record.id)
    registry.remove(record.id, force=True)
    assert registry.list_all() == []


def test_two_creators_of_one_name_one_starts_one_is_refused(home: Home) -> None:
    outcomes = []
    gate = threading.Barrier(8)

    def create() -> None:
        gate.wait()
        try:
            outcomes.append(make_session(home, "auth").id)
        except Refused:
            outcomes.append(None)

    threads = [threading.Thread(target=create) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcome is None for outcome in outcomes) == [False] + [True] * 7


def test_secrets_are_on_no_file_of_the_session(home: Home, registry: Registry) -> None:
    launch = make_launch(environment={"API_KEY": "hunter2", "my_token": "hunter2", "LANG": "C"})
    record = registry.create(name=None, workspace="w", hosting=Hosting.KEEPER, launch=launch, restart=Restart.NEVER)
    for file in home.session(record.id).path.iterdir():
        assert b"hunter2" not in file.read_bytes()
    assert registry.get_launch(record.id).secret_names == ("API_KEY", "my_token")


def test_undecodable_arguments_survive(home: Home, registry: Registry) -> None:
    launch = make_launch("agent", os.fsdecode(b"caf\xe9"), environment={"X": os.fsdecode(b"\xff")})
    record = registry.create(name=None, workspace="w", hosting=Hosting.KEEPER, launch=launch, restart=Restart.NEVER)
    assert registry.get_launch(record.id) == launch
    assert json.loads(home.session(record.id).record.read_bytes())["body"]["command"] == list(launch.argv)


def test_a_new_session_is_durable_before_it_appears(home: Home) -> None:
    passed: list[str] = []
    with failpoints.observe(passed.append):
        make_session(home, "planner")
    before = passed[: passed.index("registry.create")]
    last_write = max(index for index, name in enumerate(before) if name in ("files.write", "files.rename", "journal.append"))
    assert before[last_write:].count("files.fsync") >= 3, "its journal, its launch and its record"
