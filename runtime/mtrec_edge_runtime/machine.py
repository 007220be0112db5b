"""Describe the machine a figure was measured on: CPU, flags, governor, cores, load, memory, versions, commit.

Reads /proc and /sys where they exist; elsewhere a field is empty, never invented. Knows nothing of bundles.
"""

import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypedDict

FLAGS = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx_vnni",
    "amx_int8",
    "amx_bf16",
    "asimd",
    "asimddp",
    "bf16",
    "i8mm",
    "sve",
)
PACKAGES = (
    "mtrec-edge",
    "mtrec-edge-runtime",
    "numpy",
    "onnxruntime",
    "torch",
    "transformers",
    "optimum-onnx",
    "onnx",
)


class Machine(TypedDict):
    """What decides a latency besides the code."""

    cpu: str
    flags: list[str]  # the instruction sets of FLAGS this CPU has
    cores: int  # cores this process may use
    governor: str  # frequency governor of the first core
    load: list[float]  # load averages over 1, 5 and 15 minutes
    memory_bytes: int
    system: str
    python: str
    versions: dict[str, str]


def describe_machine() -> Machine:
    """Return the machine, its load now, and the versions of the packages that matter."""
    info = _cpu_info()
    words = (info.get("flags") or info.get("Features") or "").split()
    return Machine(
        cpu=info.get("model name") or platform.processor() or platform.machine(),
        flags=[flag for flag in FLAGS if flag in words],
        cores=usable_cores(),
        governor=_read(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
        load=[round(value, 2) for value in os.getloadavg()] if hasattr(os, "getloadavg") else [],
        memory_bytes=_memory_bytes(),
        system=platform.platform(),
        python=sys.version.split()[0],
        versions={name: found for name in PACKAGES if (found := _version(name))},
    )


def in_words(machine: Mapping[str, Any]) -> str:
    """Return a machine as a report names it: CPU, cores and instruction sets."""
    return f"{machine['cpu']}, {machine['cores']} cores ({', '.join(machine['flags'])})"


def usable_cores() -> int:
    """Return how many cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def resident_bytes() -> dict[str, int]:
    """Return this process's memory: `peak`, and where /proc tells them apart `anonymous` and `file`.

    Peak is VmHWM: `getrusage` counts what the process held before it became Python, so it is only the fallback.
    """
    status = dict(line.split(":", 1) for line in _read(Path("/proc/self/status")).splitlines() if ":" in line)
    names = {"peak": "VmHWM", "anonymous": "RssAnon", "file": "RssFile"}
    found = {name: int(status[key].split()[0]) * 1024 for name, key in names.items() if key in status}
    return found or {"peak": _rusage_peak()}


@cache
def current_commit(folder: Path | None = None) -> str:
    """Return the git commit of the working folder, with `-dirty` when it has changes, or `unknown`.

    Asked once a process: of several result files the first one written does not make the tree of the next dirty.
    """
    command = ["git", "describe", "--always", "--abbrev=12", "--dirty"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip() or "unknown"


def utc_now() -> str:
    """Return the time as ISO 8601 to the second, in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _rusage_peak() -> int:
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _cpu_info() -> dict[str, str]:
    first = _read(Path("/proc/cpuinfo")).split("\n\n", 1)[0]
    pairs = (line.split(":", 1) for line in first.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def _memory_bytes() -> int:
    for line in _read(Path("/proc/meminfo")).splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return 0


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
