"""Which workspace one is in: a name, a repository with all its worktrees, or a directory."""

import os
import subprocess
from pathlib import Path

import pytest

from coordinator.errors import InvalidInput
from coordinator.sessions.workspace import resolve_workspace, workspace_id


def git(*arguments: str, cwd: Path) -> None:
    command = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "protocol.file.allow=always", *arguments]
    subprocess.run(command, cwd=cwd, check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    path = tmp_path / "shop"
    path.mkdir()
    git("init", cwd=path)
    git("commit", "--allow-empty", "-m", "first", cwd=path)
    return path


def test_what_is_named_wins_over_the_environment_and_that_over_the_directory(tmp_path: Path) -> None:
    assert resolve_workspace("shop", {"CREWKEEP_WORKSPACE": "other"}, tmp_path) == "shop"
    assert resolve_workspace(None, {"CREWKEEP_WORKSPACE": "other"}, tmp_path) == "other"
    assert resolve_workspace(None, {"CREWKEEP_WORKSPACE": ""}, tmp_path) == str(tmp_path)
    assert resolve_workspace(None, {}, tmp_path) == str(tmp_path)


def test_all_worktrees_and_directories_of_a_repository_are_one_workspace(repository: Path, tmp_path: Path) -> None:
    git("worktree", "add", str(tmp_path / "elsewhere"), cwd=repository)
    (repository / "src" / "deep").mkdir(parents=True)
    (tmp_path / "elsewhere" / "src").mkdir()
    (tmp_path / "link").symlink_to(repository / "src")
    for directory in (repository, repository / "src/deep", tmp_path / "elsewhere", tmp_path / "elsewhere/src", tmp_path / "link"):
        assert resolve_workspace(None, {}, directory) == str(repository)


def test_a_bare_repository_with_worktrees_is_one_workspace(repository: Path, tmp_path: Path) -> None:
    git("clone", "--bare", str(repository), str(tmp_path / "bare.git"), cwd=tmp_path)
    for name in ("one", "two"):
        git("worktree", "add", "-b", name, str(tmp_path / name), cwd=tmp_path / "bare.git")
    assert (
        resolve_workspace(None, {}, tmp_path / "one")
        == resolve_workspace(None, {}, tmp_path / "two")
        == str(tmp_path / "bare.git")
    )


def test_a_submodule_is_a_repository_of_its_own(repository: Path, tmp_path: Path) -> None:
    outer = tmp_path / "outer"
    outer.mkdir()
    git("init", cwd=outer)
    git("submodule", "add", str(repository), "inner", cwd=outer)
    assert resolve_workspace(None, {}, outer / "inner") == str(outer / "inner")
    assert resolve_workspace(None, {}, outer) == str(outer)


def test_a_directory_that_only_looks_like_git_is_none(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    assert resolve_workspace(None, {}, tmp_path) == str(tmp_path)
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / ".git").write_bytes(b"\xff\0 nonsense")
    assert resolve_workspace(None, {}, tmp_path / "x") == str(tmp_path / "x")


def test_a_path_is_a_directory_however_it_is_written(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    for written in ("./real", "real/", "link/", "real/../real", str(tmp_path / "link")):
        assert resolve_workspace(written, {}, tmp_path) == str(tmp_path / "real")


@pytest.mark.parametrize("name", ["", " ", ".", "..", "a\nb", "a\0b", "x" * 129, "\ud800", "a\x1b[2J"])
def test_what_cannot_be_a_workspace_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput):
        resolve_workspace(name, {}, tmp_path)


def test_one_name_in_two_unicode_forms_is_one_workspace(tmp_path: Path) -> None:
    assert resolve_workspace("café", {}, tmp_path) == resolve_workspace("cafe\u0301", {}, tmp_path)


def test_the_id_is_readable_safe_and_different_for_different_workspaces() -> None:
    workspaces = ["shop", "Shop", "/home/a/shop", "/home/b/shop", "/", "…", "a b", "a-b", "x" * 128, os.fsdecode(b"/\xff")]
    ids = [workspace_id(workspace) for workspace in workspaces]
    assert len(set(ids)) == len(ids)
    assert ids[0].startswith("shop-")
    assert all(set(found) <= set("abcdefghijklmnopqrstuvwxyz0123456789-") and len(found) < 64 for found in ids)
    assert len({found.lower() for found in ids}) == len(ids), "no two differ in case only"
