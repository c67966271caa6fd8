"""How long a start takes, and how small the processes are that should be small.

    python -m loadtest.serving.bench_start --artifacts demo/artifacts --out docs/results

The first start of `recgpt serve` has an empty cache of compiled code, the second one has what the
first one left. A start ends with a true `/readyz`. The unit is `python -c "import torch, faiss"`
in the same run: no start can be faster than the libraries that it loads. Of `--rounds`
measurements the least counts, because other work on the machine can only add time. Exits with 1 if
a bar is missed.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from loadtest.environment import environment
from loadtest.results import put_between_marks, say
from loadtest.serving.servers import (
    ENGINE,
    FRONT_END,
    process_tree,
    python_server,
    recgpt_serve,
    runs,
)

MAX_START_RATIO = 2.5  # second start over the import of torch and Faiss
MAX_HELP_SECONDS, MAX_HELP_MB = 1.0, 80.0
MAX_FRONT_END_MB = 95.0
MIB = 2**20

PROCESSES = {
    "supervisor": "serve",
    "preloader": "service.processes.preloader",
    "engine": ENGINE,
    "front_end": FRONT_END,
}
"""A word of each process's command line."""


class Started(NamedTuple):
    """A start of the service."""

    seconds: float
    resident_mb: dict[str, float]  # by the names of `PROCESSES`, the largest of each


class Run(NamedTuple):
    """A command that ended."""

    seconds: float
    peak_mb: float


def main() -> None:
    """Measures, prints the table, and writes start.json and start.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--artifacts", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    figures = measure(options.artifacts, options.rounds) | environment()
    text = table(figures)
    print(text)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "start.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    put_between_marks(options.out / "start.md", "start", text)
    sys.exit(not all(holds for *_, holds in bars(figures)))


def measure(artifacts: Path, rounds: int) -> dict[str, Any]:
    """Returns the figures of all rounds together."""
    imports, helps, seconds = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["RECGPT_CACHE_DIR"] = f"{folder}/compiled"
        first = start(artifacts, Path(folder))
        say(f"first start: {first.seconds:.1f} s")
        for number in range(rounds):
            imports.append(run(["-c", "import torch, faiss"]).seconds)
            second = start(artifacts, Path(folder))
            seconds.append(second.seconds)
            helps.append(run(["-m", "cli", "--help"]))
            say(f"round {number + 1}: import {imports[-1]:.1f} s, start {seconds[-1]:.1f} s")
    return {
        "import_seconds": min(imports),
        "first_start_seconds": first.seconds,
        "second_start_seconds": min(seconds),
        "second_start_over_import": min(seconds) / min(imports),
        "help_seconds": min(one.seconds for one in helps),
        "help_peak_mb": min(one.peak_mb for one in helps),
        "resident_mb": second.resident_mb,
        "rounds": {"import_seconds": imports, "second_start_seconds": seconds},
    }


def start(artifacts: Path, folder: Path) -> Started:
    """Starts the service until it is ready, and ends it again."""
    begun = time.perf_counter()
    with python_server(recgpt_serve(artifacts, f"embedded:{folder}/histories")) as (_, process):
        seconds = time.perf_counter() - begun
        return Started(seconds, memory(process_tree(process)))


def memory(processes: Sequence[psutil.Process]) -> dict[str, float]:
    """Returns the resident memory of the processes in MiB, by their names in `PROCESSES`."""
    found: dict[str, float] = {}
    for process in processes:
        mb = process.memory_info().rss / MIB
        for name in (name for name, word in PROCESSES.items() if runs(process, word)):
            found[name] = max(mb, found.get(name, 0.0))
    return found


def run(arguments: Sequence[str]) -> Run:
    """Runs `python ARGUMENTS`. Exits if that fails.

    The kernel counts this process's memory as the child's until the child has replaced it; so the
    peak is never less than that of this process, which is small.
    """
    begun = time.perf_counter()
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{process.args!r} ended with code {process.returncode}")
    peak_bytes = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return Run(time.perf_counter() - begun, peak_bytes / MIB)


def bars(figures: dict[str, Any]) -> list[tuple[str, str, str, bool]]:
    """Returns name, value, bar and whether it holds, of each figure that has a bar."""
    ratio, front_end = figures["second_start_over_import"], figures["resident_mb"]["front_end"]
    seconds, peak = figures["help_seconds"], figures["help_peak_mb"]
    return [
        (
            "second start, to a true `/readyz`",
            f"{figures['second_start_seconds']:.1f} s, {ratio:.2f} x the import",
            f"≤ {MAX_START_RATIO} x",
            ratio <= MAX_START_RATIO,
        ),
        (
            "`recgpt --help`",
            f"{seconds:.2f} s, at most {peak:.0f} MiB",
            f"≤ {MAX_HELP_SECONDS:g} s, {MAX_HELP_MB:g} MiB",
            seconds <= MAX_HELP_SECONDS and peak <= MAX_HELP_MB,
        ),
        (
            "a front end's memory, ready",
            f"{front_end:.0f} MiB",
            f"≤ {MAX_FRONT_END_MB:g} MiB",
            front_end <= MAX_FRONT_END_MB,
        ),
    ]


def table(figures: dict[str, Any]) -> str:
    """Returns the part of the page that a run replaces."""
    resident, rounds = figures["resident_mb"], len(figures["rounds"]["import_seconds"])
    checked = [
        (name, value, bar if holds else f"{bar}: missed")
        for name, value, bar, holds in bars(figures)
    ]
    rows = [
        ('`python -c "import torch, faiss"`', f"{figures['import_seconds']:.1f} s", ""),
        ("first start, which compiles", f"{figures['first_start_seconds']:.1f} s", ""),
        *checked,
        ("the engine's memory, ready", f"{resident['engine']:.0f} MiB", ""),
        ("the supervisor's memory", f"{resident['supervisor']:.0f} MiB", ""),
    ]
    machine = f"{figures['machine']}; Python {figures['python']}"
    lines = [
        f"`{figures['command']}`",
        "",
        f"{machine}; {figures['date']}; commit {figures['commit']}. The least of {rounds} rounds.",
        "",
        "| | measured | bar |",
        "|---|---|---|",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
