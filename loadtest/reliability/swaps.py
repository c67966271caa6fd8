"""Changes to another version under load: no request may notice, and no memory may leak.

    python -m loadtest.reliability.swaps --out docs/results
    python -m loadtest.reliability.swaps --out build --swaps 5 --seconds 10 --items 20000

An open loop sends recalls at half of the peak while two versions are published in turn; each swap
begins when the engine of the last one has ended. Every answer must be one that the version which it
names gives. A hundred swaps take about ten minutes on two idle cores; load generator and service
share the machine. Exits with 1 if a bar is missed.
"""

import argparse
import json
import random
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from loadtest.environment import environment
from loadtest.reliability.instance import ITEMS, Instance, make_bundle, running
from loadtest.reliability.report import Bar, Figures, table
from loadtest.results import put_between_marks, say
from loadtest.serving.generator import Load, closed_loop, open_loop
from loadtest.serving.load_figures import posts
from loadtest.serving.servers import ENGINE, process_tree, wait_until
from model.artifact.versions import publish
from model.files import write_json

QUESTIONS, HISTORY, K, INTERESTS = 50, 20, 10, 4
CLIENTS = 64  # that are enough for the peak
SETTLED = 10  # swaps after which memory has settled
ALIKE = 0.9
"""Share of an answer's items that its version gives; a near tie may fall either way in a batch of
another size, and two versions share next to none."""
LOOK_S = 1.0  # between two looks at the processes, which take milliseconds
SWAP_S = 600.0  # the longest swap, on a machine that does other work, too
MAX_S = 7200.0


class Answers:
    """Compares answers with those that each version gives alone."""

    def __init__(self) -> None:
        self.expected: dict[str, dict[bytes, set[str]]] = {}  # items by version and request
        self.versions: Counter[str] = Counter()
        self.wrong = 0

    def learn(self, request: bytes, body: bytes) -> None:
        """Takes an answer as the right one of its version."""
        version, items = _read(body)
        self.expected.setdefault(version, {})[request] = items

    def compare(self, request: bytes, body: bytes) -> None:
        """Counts an answer, and whether it is not one of the version that it names."""
        version, items = _read(body)
        self.versions[version] += 1
        right = self.expected.get(version, {}).get(request, set())
        self.wrong += len(items & right) < ALIKE * K


def measure(folder: Path, swaps: int, seconds: float, items: int) -> Figures:
    """Returns the figures of a number of swaps, and of a load of `seconds` without one."""
    versions = [make_bundle(folder, seed, items) for seed in (0, 1)]
    rng = random.Random(0)
    requests = posts(
        [
            {
                "history": [f"item-{rng.randrange(items)}" for _ in range(HISTORY)],
                "k": K,
                "interests": INTERESTS,
            }
            for _ in range(QUESTIONS)
        ]
    )
    answers = Answers()
    with running(folder, f"embedded:{folder / 'histories'}") as instance:
        for version in versions:  # ends with the one that is served at the start of the load
            swap(instance, folder, version)
            open_loop(instance.port, requests, 50, QUESTIONS / 50, 1, answers.learn)
        peak = closed_loop(instance.port, requests, CLIENTS, min(seconds, 12.0))
        rate = peak.rate / 2
        say(f"peak {peak.rate:.0f}/s; {seconds:g} s at half of it")
        quiet = open_loop(instance.port, requests, rate, seconds, read=answers.compare)
        swapping = Swapping(instance, folder, versions, swaps)
        swapping.start()
        over = swapping.is_over
        busy = open_loop(instance.port, requests, rate, MAX_S, read=answers.compare, is_over=over)
        swapping.join()
    if swapping.problem:
        raise swapping.problem
    return {
        "items": items,
        "swaps": swaps,
        "offered_rps": rate,
        "without": _latencies(quiet),
        "during": _latencies(busy),
        "versions": len(answers.versions),
        "wrong": answers.wrong,
        "swap_s": swapping.seconds,
        "memory_mb": swapping.memory_mb,
    }


def swap(instance: Instance, artifacts: Path, version: str) -> None:
    """Publishes a version, and waits until only its engine runs."""
    publish(artifacts, version)
    wait_until(
        lambda: serving(instance) == version and len(instance.children(ENGINE)) == 1,
        instance.popen,
        SWAP_S,
        LOOK_S,
    )


def serving(instance: Instance) -> str:
    """Returns the version that a service serves."""
    url = f"http://127.0.0.1:{instance.port}/versions"
    with urllib.request.urlopen(url, timeout=30) as answer:
        return str(json.load(answer)["serving"])


class Swapping(threading.Thread):
    """Swaps two versions, and notes time and memory of each swap."""

    def __init__(self, instance: Instance, artifacts: Path, versions: list[str], swaps: int):
        super().__init__(daemon=True)
        self.seconds: list[float] = []
        self.memory_mb: list[float] = []
        """Resident memory of all processes of the service after each swap."""
        self.problem: BaseException | None = None
        self._instance, self._artifacts = instance, artifacts
        self._versions, self._swaps = versions, swaps

    def run(self) -> None:
        """Makes all swaps; `problem` says why it could not."""
        try:
            for number in range(self._swaps):
                started = time.perf_counter()
                swap(self._instance, self._artifacts, self._versions[number % 2])
                self.seconds.append(time.perf_counter() - started)
                self.memory_mb.append(memory_mb(self._instance))
                say(
                    f"swap {number + 1} of {self._swaps}: {self.seconds[-1]:.1f} s, "
                    f"{self.memory_mb[-1]:.0f} MiB"
                )
        except BaseException as error:  # SystemExit, too: the load must end
            self.problem = error

    def is_over(self) -> bool:
        """Returns whether no swap follows."""
        return not self.is_alive()


def memory_mb(instance: Instance) -> float:
    """Returns the resident memory of all processes of a service."""
    rss_bytes = 0
    for one in process_tree(instance.process):
        with suppress(psutil.NoSuchProcess):  # it has just ended
            rss_bytes += one.memory_info().rss
    return rss_bytes / 2**20


def bars(figures: Figures) -> Iterator[Bar]:
    """Yields what swaps have to show."""
    during, without = figures["during"], figures["without"]
    name = f"{figures['swaps']} swaps"
    count = f"{during['answers']:,} answers"
    others = [f"{n:,} x {status}" for status, n in during["statuses"].items() if status != "200"]
    told = f"{during['failed']:,}" + (f" ({', '.join(others)})" if others else "")
    yield Bar(f"{name}: failed of {count}", told, "0", not during["failed"])
    right = not figures["wrong"] and figures["versions"] == 2
    yield Bar(f"{name}: answers of neither version", f"{figures['wrong']}", "0", right)
    ratio = during["p99_ms"] / without["p99_ms"]
    told = f"{during['p99_ms']:.1f} ms, {ratio:.2f} x the {without['p99_ms']:.1f} ms without"
    yield Bar(f"{name}: p99", told, "≤ 2 x", ratio <= 2)
    memory = figures["memory_mb"]
    settled = memory[min(SETTLED, len(memory)) - 1]
    change = memory[-1] / settled - 1
    told = f"{memory[-1]:.0f} MiB, {change:+.1%} to that after swap {min(SETTLED, len(memory))}"
    yield Bar(f"{name}: memory after the last", told, "≤ 5 % more", change <= 0.05)
    seconds = sorted(figures["swap_s"])
    told = f"{seconds[len(seconds) // 2]:.1f} s in the median, {seconds[-1]:.1f} s at most"
    yield Bar(f"{name}: time", told, "none", True)


def _latencies(load: Load) -> Figures:
    return {
        "seconds": load.seconds,
        "answers": len(load.latencies),
        "failed": load.failed,
        "statuses": {str(status): count for status, count in sorted(load.statuses.items())},
        "p50_ms": load.percentile_ms(50),
        "p99_ms": load.percentile_ms(99),
        "p99.9_ms": load.percentile_ms(99.9),
    }


def _read(body: bytes) -> tuple[str, set[str]]:
    """Returns the version and the items of an answer."""
    answer: dict[str, Any] = json.loads(body)
    return answer["version"], {item["item_id"] for item in answer["items"]}


def main() -> None:
    """Measures, prints the table, and writes swaps.json and a part of reliability.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--swaps", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=60.0, help="of the load without swaps")
    parser.add_argument("--items", type=int, default=ITEMS, help="of the synthetic catalogue")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), options.swaps, options.seconds, options.items)
    about: Figures = environment() | {"seconds": options.seconds}
    found = list(bars(figures))
    text = table(about, "Changes of version", found)
    print(text)
    options.out.mkdir(parents=True, exist_ok=True)
    write_json(options.out / "swaps.json", about | figures)
    put_between_marks(options.out / "reliability.md", "swaps", text)
    sys.exit(not all(bar.holds for bar in found))


if __name__ == "__main__":
    main()
