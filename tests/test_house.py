"""The house itself: import directions, documentation that is complete and runs, what each process may load."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import CREWKEEP, make_environment

ROOT = Path(__file__).parent.parent
PACKAGES = ("coordinator", "recovery", "crewkeep")
#: Third-party package -> the room (or rooms) in which it may be imported.
CORE: dict[str, str | tuple[str, ...]] = {
    "psutil": "coordinator/system",
    "filelock": "coordinator/system",
    "orjson": ("coordinator/context", "coordinator/sessions"),
    "tenacity": "coordinator/context",
    "typer": "crewkeep/cli",
}
#: The same for what is installed only with an extra.
EXTRAS = {
    "mcp": "crewkeep/mcp_server",
    "mcp_types": "crewkeep/mcp_server",
    "pydantic": "crewkeep/mcp_server",
    "textual": "crewkeep/cli/picker.py",
    "apprise": "crewkeep/notify",
}
#: What keepers, patrols and programs must not load: each costs memory in every one of them.
HEAVY = {
    "typer",
    "pydantic",
    "rich",
    "psutil",
    "tenacity",
    "filelock",
    "asyncio",
    "textual",
    "multiprocessing",
    "logging",
    "concurrent.futures",
}


#: What may make a directory with its parents. Nothing that writes below a session's directory is among them: one that was
#: moved away while its keeper lives must not come back as a husk, not even between a look and the making.
MAKES_PARENTS = {
    "coordinator/agents/transcript.py",
    "coordinator/context/aside.py",
    "coordinator/context/check.py",
    "coordinator/context/meta.py",
    "coordinator/services/breaker.py",
    "coordinator/services/features.py",
    "coordinator/sessions/aside.py",
    "coordinator/sessions/registry.py",
    "coordinator/system/home.py",
    "coordinator/system/sockets.py",
    "crewkeep/cli/edge.py",
    "crewkeep/patrol/__main__.py",
    "crewkeep/patrol_client.py",
    "crewkeep/setup/edits.py",
    "crewkeep/program.py",
    "crewkeep/service.py",
}


def list_sources() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_imports_point_only_where_the_contracts_let_them() -> None:
    done = subprocess.run(
        [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", list_sources(), ids=name_of)
def test_a_module_says_what_it_is(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(text)) or not text.strip(), f"{name_of(path)} has no docstring"


def test_no_module_outgrows_its_reader() -> None:
    long = {
        name_of(path): count for path in list_sources() if (count := len(path.read_text(encoding="utf-8").splitlines())) > 550
    }
    assert not long


def test_third_party_packages_stay_in_their_room() -> None:
    strangers = []
    for path in list_sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            for name in {name.partition(".")[0] for name in names}:
                if name in sys.stdlib_module_names or name in PACKAGES or name in ("_sha256", "_sha2"):  # one for each Python
                    continue
                if not name_of(path).startswith({**CORE, **EXTRAS}.get(name, "nowhere")):
                    strangers.append(f"{name_of(path)} imports {name}")
    assert not strangers


def test_directories_are_made_with_their_parents_only_where_none_of_them_is_a_sessions() -> None:
    found = set()
    for path in list_sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and makes_parents(node):
                found.add(name_of(path))
    assert found == MAKES_PARENTS


def makes_parents(call: ast.Call) -> bool:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    parents = next((word.value for word in call.keywords if word.arg == "parents"), None)
    if name == "make_directory":  # ours makes them unless it is told not to, pathlib's the other way round
        return not (isinstance(parents, ast.Constant) and parents.value is False)
    return name == "makedirs" or (name == "mkdir" and parents is not None)


def test_the_dependencies_are_those_of_the_core() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {re.split(r"[<>=~! ]", line)[0] for line in project["dependencies"]} == set(CORE)


def test_every_dependency_is_used() -> None:
    imported = set()
    for path in list_sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add((node.module or "").partition(".")[0])
    assert set(CORE) <= imported


def loaded_by(code: str, home: Path) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-P", "-c", f"{code}\nimport sys\nprint('LOADED', *sys.modules)"],
        env=make_environment(home),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rpartition("LOADED ")[2].split())


@pytest.mark.parametrize("module", ["crewkeep.keeper", "crewkeep.patrol", "crewkeep", "crewkeep.session", "coordinator.context"])
def test_what_runs_for_days_loads_no_heavy_module(module: str, tmp_path: Path) -> None:
    assert not loaded_by(f"import {module}", tmp_path / "home") & HEAVY


def test_ps_loads_no_heavy_module(tmp_path: Path) -> None:
    code = "import sys, crewkeep.cli as cli\nassert cli._run(['ps', '--json', '-a']) == 0"
    assert not loaded_by(code, tmp_path / "home") & (HEAVY - {"concurrent.futures"})


def test_one_command_does_not_load_the_others(tmp_path: Path) -> None:
    code = "import crewkeep.cli as cli\nassert cli._run(['breaker', 'status']) == 0"
    loaded = loaded_by(code, tmp_path / "home")
    assert "crewkeep.cli.breaker" in loaded
    assert not {"crewkeep.cli.run", "crewkeep.cli.recover", "crewkeep.demo", "crewkeep.doctor", "rich"} & loaded


def walk_commands(command: Any, path: tuple[str, ...] = ("crewkeep",)) -> Iterator[tuple[str, Any]]:
    inner = getattr(command, "commands", None)
    if inner is None or command.invoke_without_command:
        yield " ".join(path), command
    if inner is None:
        return
    for name, child in inner.items():
        yield from walk_commands(child, (*path, name))


def list_commands() -> dict[str, Any]:
    import typer.main

    from crewkeep.cli.app import build_app

    return dict(walk_commands(typer.main.get_command(build_app())))


def read_sections() -> dict[str, str]:
    """Return heading -> text of docs/cli.md's commands."""
    text = (ROOT / "docs/cli.md").read_text(encoding="utf-8")
    parts = re.split(r"^### (.*)$", text, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_every_command_and_option_is_documented() -> None:
    sections = read_sections()
    missing = []
    for path, command in list_commands().items():
        found = [heading + text for heading, text in sections.items() if re.search(rf"`{path}(?![\w-])", heading)]
        if not found:
            missing.append(path)
            continue
        for parameter in command.params:
            for option in getattr(parameter, "opts", []):
                if not option.startswith("-") or option in ("--help", "-h"):
                    continue
                shared = option in ("--workspace", "-w") and path.startswith("crewkeep context")
                if f"`{option}" not in found[0] and not shared:
                    missing.append(f"{path} {option}")
    assert not missing


def test_every_documented_command_exists() -> None:
    commands = list_commands()
    known = {*commands, *(path.rpartition(" ")[0] for path in commands)}  # a group may do something by itself
    for heading in read_sections():
        for path in re.findall(r"`(crewkeep [a-z]+(?: [a-z]+)?)", heading):
            words = path.split()
            assert path in known or " ".join(words[:2]) in known, heading


def test_every_setting_is_documented() -> None:
    from dataclasses import fields

    from coordinator.config import Settings

    text = (ROOT / "docs/cli.md").read_text(encoding="utf-8")
    assert not [item.name for item in fields(Settings) if f"`{item.name}`" not in text]


def test_help_is_short_and_says_something_for_every_parameter() -> None:
    silent = []
    for path, command in list_commands().items():
        assert command.help, path
        for parameter in command.params:
            if not getattr(parameter, "help", None):
                silent.append(f"{path} {parameter.name}")
        assert len(command.help) < 600, path
    assert not silent


def list_examples() -> list[tuple[str, str, str]]:
    """Return (document, language, text) of every fenced block that is an example to run."""
    found = []
    for document in ["README.md", *(f"docs/{name}.md" for name in ("context", "recovery", "guarantees", "history"))]:
        text = (ROOT / document).read_text(encoding="utf-8")
        found += [(document, *match) for match in re.findall(r"^```(console|python)\n(.*?)^```$", text, flags=re.M | re.S)]
    return found


@pytest.mark.parametrize(("document", "language", "text"), list_examples())
def test_the_examples_of_the_documents_run(document: str, language: str, text: str, home: Any, tmp_path: Path) -> None:
    work = tmp_path / "shop"
    work.mkdir()
    environment = make_environment(home, {"PATH": f"{CREWKEEP.parent}:/usr/local/bin:/usr/bin:/bin", "NO_COLOR": "1"})
    if language == "python":
        done = subprocess.run(
            [sys.executable, "-P", "-c", text], cwd=work, env=environment, capture_output=True, text=True, timeout=40, check=False
        )
        assert done.returncode == 0, f"{document}:\n{done.stderr}"
        return
    for command, expected in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", text, flags=re.M):
        done = subprocess.run(
            command,
            shell=True,
            cwd=work,
            env=environment,
            stdout=-1,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=40,
            check=False,
        )
        pattern = re.escape(expected.rstrip()).replace(r"\.\.\.", ".*?")
        # Columns are as wide as what is in them.
        pattern = re.sub(r"(\\ )+", r"\\s+", pattern)
        assert re.fullmatch(pattern, done.stdout.rstrip(), flags=re.S), (
            f"{document}: $ {command}\n{done.stdout}\n(expected)\n{expected}"
        )


def list_tracked() -> list[Path]:
    try:
        done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [ROOT / name for name in done.stdout.split("\0") if name]


def test_no_file_names_a_place_of_one_machine() -> None:
    places = re.compile(r"(?<![\w.~-])/(?:work|home|root|Users|opt/pypi|opt/wheels)/[\w.-]+")
    allowed = ("tests/",)  # a test may make up a path
    found = []
    for path in list_tracked():
        if name_of(path).startswith(allowed) or not path.is_file():
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += [f"{name_of(path)}: {match[0]}" for match in places.finditer(text)]
    assert not found


def test_the_table_of_agents_is_what_their_tests_show() -> None:
    import importlib.util

    spec = importlib.util.spec_from_file_location("capabilities", ROOT / "tests/agents/capabilities.py")
    assert spec is not None and spec.loader is not None
    capabilities = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(capabilities)
    assert capabilities.find_unshown() == []
    assert capabilities.read_page() == capabilities.make_table(), "python tests/agents/capabilities.py writes it anew"
