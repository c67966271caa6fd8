"""The memory that another engine needs, beside the memory that is available."""

from contextlib import suppress
from pathlib import Path

LOADED_BYTES = 2
"""Bytes of memory that an engine takes for each byte of a bundle, at most."""
BASE_BYTES = 300 << 20
"""Bytes of memory that an engine takes besides: libraries and compiled code."""


def memory_problem(bundle: Path) -> str:
    """Returns why memory does not suffice for another engine; empty if it does or nobody knows."""
    needed = BASE_BYTES + LOADED_BYTES * sum(
        file.stat().st_size for file in bundle.iterdir() if file.is_file()
    )
    available = _available_bytes()
    if available is None or needed <= available:
        return ""
    return (
        f"it may need {needed / 1e9:.1f} GB of memory beside the engines that run, and "
        f"{available / 1e9:.1f} GB are available: give the service more, or have it serve fewer "
        "versions at the same time"
    )


def _available_bytes() -> int | None:
    """Returns the memory that is free on the machine, or in this container if that is less."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        line = next(line for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return None
    found = [int(line.split()[1]) * 1024]
    group = Path("/sys/fs/cgroup")
    with suppress(OSError, ValueError):  # no container, or one without a limit
        limit = int((group / "memory.max").read_text())
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        reclaimable = int(stat["active_file"]) + int(stat["inactive_file"])
        found.append(limit - int((group / "memory.current").read_text()) + reclaimable)
    return max(min(found), 0)
