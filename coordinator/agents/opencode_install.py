"""Where npm put OpenCode's native program, for those installations whose ``opencode`` is a script."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from coordinator.agents.program import find_file, is_executable
from coordinator.sessions.model import LaunchSpec

_PACKAGE = "opencode-ai"
_MACHINES = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64", "arm64": "arm64"}


def find_native(program: Sequence[str], launch: LaunchSpec) -> str | None:
    """Return the native program for the script of npm's package that ``program`` starts, ``None`` if it starts no such script
    or this machine's is not installed.
    """
    found = find_file(program, launch)
    if found is None:
        return None
    wrapper = Path(os.path.realpath(found))
    if wrapper.parent.name != "bin" or wrapper.parent.parent.name != _PACKAGE or not _is_script(wrapper):
        return None
    package = wrapper.parent.parent
    for name in _iter_names():
        for root in (package.parent / name, package / "node_modules" / name):
            native = root / "bin" / "opencode"
            if is_executable(native):
                return str(native)
    return None


def _iter_names() -> Iterator[str]:
    """Yield the packages whose program runs on this machine, the best first."""
    machine = _MACHINES.get(os.uname().machine)
    if machine is None or sys.platform not in ("linux", "darwin"):
        return
    name = f"opencode-{sys.platform}-{machine}"
    ends = ["", "-baseline"] if machine == "x64" else [""]
    if machine == "x64" and not _has_avx2():
        ends = ["-baseline"]  # the other would die of an instruction that is not there
    if os.path.exists("/etc/alpine-release"):
        ends = [f"{end}-musl" for end in ends]
    yield from (name + end for end in ends)


def _has_avx2() -> bool:
    if sys.platform != "linux":
        return False
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            return any(line.startswith("flags") and " avx2 " in f"{line.strip()} " for line in file)
    except OSError:
        return False


def _is_script(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(2) == b"#!"
    except OSError:
        return False
