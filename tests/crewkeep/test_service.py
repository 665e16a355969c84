"""The unit that recovers everything at login: written, enabled and removed through the service manager, or not at all."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from coordinator.errors import CrewkeepError, Missing
from coordinator.paths import Home
from crewkeep import service


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for systemctl that writes down what it was asked and keeps whether the unit is enabled."""
    monkeypatch.setattr("sys.platform", "linux")
    directory = tmp_path / "bin"
    directory.mkdir()
    asked = tmp_path / "asked"
    tool = directory / "systemctl"
    tool.write_text(
        "#!/bin/sh\n"
        f'echo "$*" >> {asked}\n'
        f'case "$2" in is-system-running) echo running;; enable) touch {asked}.enabled;; disable) rm -f {asked}.enabled;;\n'
        f"is-enabled) test -e {asked}.enabled && echo enabled || {{ echo disabled; exit 1; }};; esac\n"
    )
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{directory}:/usr/bin:/bin")
    return asked


def test_the_unit_is_installed_enabled_and_removed(manager: Path, tmp_path: Path) -> None:
    home = Home.at(tmp_path / 'a home with "quotes" and 100% $HOME')
    assert not service.read_status(home).installed
    status = service.install(home)
    assert (status.installed, status.current, status.enabled) == (True, True, True)
    text = Path(status.path).read_text()
    assert "KillMode=process" in text
    assert '"recover" "--all" "--yes"' in text
    assert 'with \\"quotes\\" and 100%% $$HOME"' in text
    assert service.install(home).current
    other = service.read_status(Home.at(tmp_path / "other"))
    assert (other.installed, other.current) == (True, False)
    removed = service.remove(home)
    assert (removed.installed, removed.enabled) == (False, False)
    assert not Path(status.path).exists()
    assert "--user daemon-reload" in manager.read_text()


def test_without_a_service_manager_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Missing) as caught:
        service.install(Home.at(tmp_path / "home"))
    assert "crewkeep recover --all --yes" in caught.value.hint
    assert not service.find_path().exists()
    assert service.read_status(Home.at(tmp_path / "home")).enabled is None


def test_a_unit_that_cannot_be_enabled_is_taken_back(manager: Path, tmp_path: Path) -> None:
    tool = tmp_path / "bin" / "systemctl"
    tool.write_text('#!/bin/sh\ncase "$2" in is-system-running) echo running;; enable) echo "no: broken" >&2; exit 1;; esac\n')
    with pytest.raises(CrewkeepError, match="broken"):
        service.install(Home.at(tmp_path / "home"))
    assert not service.find_path().exists()


def test_the_property_list_of_macos_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import plistlib

    monkeypatch.setattr("sys.platform", "darwin")
    found = plistlib.loads(service.build_unit(Home.at(tmp_path / "a & b")).encode())
    assert found["ProgramArguments"][-3:] == ["recover", "--all", "--yes"]
    assert found["EnvironmentVariables"]["CREWKEEP_HOME"].endswith("a & b")
    assert found["AbandonProcessGroup"] is True
