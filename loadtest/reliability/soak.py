"""An hour at 70 % of the peak: does memory grow, and do answers become slower?

    python -m loadtest.reliability.soak --out docs/results
    python -m loadtest.reliability.soak --out build --minutes 2

Recalls and events of known users, at a constant rate. The resident memory of each kind of process
is noted every minute, or sixty times in a shorter run, and a line is fitted behind the first sixth,
in which caches fill. Writes soak.json and a part of reliability.md, and exits with 1 if a bar is
missed.
"""

import argparse
import json
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from loadtest.environment import environment
from loadtest.reliability.instance import (
    Instance,
    fill,
    make_bundle,
    running,
    users,
)
from loadtest.reliability.report import Bar, Figures, table
from loadtest.results import put_between_marks, say
from loadtest.serving.generator import Load, closed_loop, open_loop, post
from loadtest.serving.load_figures import posts
from loadtest.serving.servers import ENGINE, FRONT_END, redis_server
from model.files import write_json

SHARE = 0.7  # of the peak
PEAK_S, CLIENTS = 12.0, 64
RECALLS_PER_EVENT = 10
SAMPLES = 60
SKIPPED = 1 / 6
"""Share of the time at the start in which memory may grow."""
CONFIDENCE_Z = 1.96
MAX_GROWTH = 0.01
"""Growth during the run, as a share of the memory, that is no leak even if it is no noise."""
MAX_SLOWER = 1.5


class Slope(NamedTuple):
    """The growth of memory in MiB an hour, with its 95 % interval."""

    per_hour: float
    low: float
    high: float


def main() -> None:
    """Measures, prints the table, and writes the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=60.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make_bundle(Path(folder))
        figures = measure(Path(folder), options.minutes * 60)
    about: Figures = environment() | {"seconds": options.minutes * 60}
    found = list(bars(figures))
    text = table(about, "Soak", found)
    print(text)
    options.out.mkdir(parents=True, exist_ok=True)
    write_json(options.out / "soak.json", about | figures)
    put_between_marks(options.out / "reliability.md", "soak", text)
    sys.exit(not all(bar.holds for bar in found))


def measure(artifacts: Path, seconds: float) -> Figures:
    """Returns memory by minute, and the latencies at the beginning and at the end."""
    recalls = posts([{"user_id": user, "k": 10} for user in users()])
    with redis_server() as store:
        fill(store)
        with running(artifacts, store) as instance:
            closed_loop(instance.port, recalls, CLIENTS, min(3.0, seconds))
            peak = closed_loop(instance.port, recalls, CLIENTS, min(PEAK_S, seconds)).rate
            say(f"the peak is {peak:.0f}/s; {SHARE:.0%} of it for {seconds / 60:g} min")
            memory: dict[str, list[float]] = {ENGINE: [], FRONT_END: [], "hours": []}
            ended = threading.Event()
            noting = threading.Thread(target=note, args=(instance, seconds, memory, ended))
            noting.start()
            load = open_loop(instance.port, mixed(recalls), SHARE * peak, seconds)
            ended.set()
            noting.join()
    return {"peak_rps": peak, "offered_rps": SHARE * peak, "memory_mb": memory} | outcome(load)


def mixed(recalls: Sequence[bytes]) -> list[bytes]:
    """Returns the recalls, with an event of some user behind every few of them."""
    requests = list[bytes]()
    for number, recall in enumerate(recalls):
        requests.append(recall)
        if number % RECALLS_PER_EVENT == 0:
            event = {"user_id": users()[number], "item_id": f"item-{number}"}
            requests.append(post("/events", json.dumps({"events": [event]}).encode()))
    return requests


def note(
    instance: Instance, seconds: float, memory: dict[str, list[float]], ended: threading.Event
) -> None:
    """Notes the memory of the processes in MiB, and when, until the load has ended."""
    started = time.monotonic()
    while not ended.wait(min(60.0, seconds / SAMPLES)):
        for module in (ENGINE, FRONT_END):
            memory[module].append(instance.resident_mb(module))
        memory["hours"].append((time.monotonic() - started) / 3600)


def outcome(load: Load) -> Figures:
    """Returns the answers by status, and the p99 in ms of the first and of the last sixth."""
    part = max(1, len(load.latencies) // 6)
    first, last = load.latencies[:part], load.latencies[-part:]
    return {
        "statuses": {str(status): count for status, count in sorted(load.statuses.items())},
        "first_p99_ms": float(np.percentile(first, 99)) * 1000,
        "last_p99_ms": float(np.percentile(last, 99)) * 1000,
    }


def slope(hours: Sequence[float], memory_mb: Sequence[float]) -> Slope:
    """Returns the slope of the line of least squares behind the first samples."""
    skipped = int(len(hours) * SKIPPED)
    x, y = np.array(hours[skipped:]), np.array(memory_mb[skipped:])
    spread = np.square(x - x.mean()).sum()
    per_hour = float(((x - x.mean()) * (y - y.mean())).sum() / spread)
    residuals = y - y.mean() - per_hour * (x - x.mean())
    error = float(np.sqrt(np.square(residuals).sum() / (len(x) - 2) / spread))
    return Slope(per_hour, per_hour - CONFIDENCE_Z * error, per_hour + CONFIDENCE_Z * error)


def bars(figures: Figures) -> Iterator[Bar]:
    """Yields what a soak has to show."""
    memory = figures["memory_mb"]
    for name, module in (("the front end", FRONT_END), ("the engine", ENGINE)):
        found, last_mb = slope(memory["hours"], memory[module]), memory[module][-1]
        share = found.per_hour * memory["hours"][-1] / last_mb
        yield Bar(
            f"memory of {name}",
            f"{memory[module][0]:.0f} to {last_mb:.0f} MiB; {found.per_hour:+.1f} MiB an hour "
            f"({found.low:+.1f} to {found.high:+.1f})",
            f"no growth, or ≤ {MAX_GROWTH:.0%}",
            found.low <= 0 or share <= MAX_GROWTH,
        )
    first, last = figures["first_p99_ms"], figures["last_p99_ms"]
    text = f"{first:.0f} ms, then {last:.0f} ms"
    slower = f"≤ {MAX_SLOWER:g} x"
    yield Bar("p99 in the first and in the last sixth", text, slower, last <= MAX_SLOWER * first)
    statuses = ", ".join(f"{count:,} x {status}" for status, count in figures["statuses"].items())
    yield Bar(
        f"answers at {figures['offered_rps']:.0f}/s, {SHARE:.0%} of the peak",
        statuses,
        "all 200",
        set(figures["statuses"]) == {"200"},
    )


if __name__ == "__main__":
    main()
