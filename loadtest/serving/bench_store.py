"""The time until the embedded store acknowledges an event, at a million users.

    python -m loadtest.serving.bench_store                          needs about 4 GB and 2 minutes
    python -m loadtest.serving.bench_store --users 20000 --rate 200

Events come at a fixed rate, each in a call of its own, whether or not the ones before have been
acknowledged (an open loop). The first ones come while the store writes the snapshot of what was
loaded, which is the worst time. Exits with 1 if the store does not keep up, or if events are
missing after it is opened again.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loadtest.environment import environment
from loadtest.results import say
from service.history.events import HistoryEvent
from service.history.store import HistoryStore

MIN_KEPT_UP = 0.95
"""Share of the events' rate at which they must be acknowledged."""


def main() -> None:
    """Measures, and prints the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--items", type=int, default=10, help="items in each history")
    parser.add_argument("--rate", type=int, default=1000, help="events a second")
    parser.add_argument("--seconds", type=int, default=15)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = asyncio.run(measure(Path(folder), options))
    print(json.dumps(figures | environment(), indent=2))
    sys.exit(figures["acknowledged_per_s"] < MIN_KEPT_UP * options.rate)


async def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Returns the figures. Raises AssertionError if an acknowledged event is missing."""
    url = f"embedded:{folder / 'histories'}"
    store = HistoryStore.open(url)
    items = [f"item{number}" for number in range(options.items)]
    started = time.perf_counter()
    await store.load((f"user{number}", items) for number in range(options.users))
    loaded = time.perf_counter() - started
    say(f"loaded in {loaded:.0f} s")
    started = time.perf_counter()
    milliseconds = await send(store, options)
    seconds = time.perf_counter() - started
    await store.close()
    started = time.perf_counter()
    store = HistoryStore.open(url)
    opened = time.perf_counter() - started
    await check(store, options)
    await store.close()
    return {
        "users": options.users,
        "load_s": round(loaded, 1),
        "acknowledged_per_s": round(len(milliseconds) / seconds),
        "p50_ms": percentile(milliseconds, 0.5),
        "p99_ms": percentile(milliseconds, 0.99),
        "max_ms": percentile(milliseconds, 1.0),
        "open_s": round(opened, 1),
    }


async def send(store: HistoryStore, options: argparse.Namespace) -> list[float]:
    """Sends events in an open loop, and returns the milliseconds until each was acknowledged."""
    milliseconds = []

    async def append(number: int, due: float) -> None:
        event = HistoryEvent(_user(number, options.users), f"new{number}", timestamp=float(number))
        assert await store.append([event]) == [None]
        milliseconds.append((time.perf_counter() - due) * 1000)

    began = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        for number in range(options.rate * options.seconds):
            due = began + number / options.rate
            if (wait := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            tasks.create_task(append(number, due))
    return milliseconds


async def check(store: HistoryStore, options: argparse.Namespace) -> None:
    """Raises AssertionError if the latest event of a user is missing."""
    for number in range(options.rate * options.seconds):
        (history,) = await store.read([_user(number, options.users)])
        assert isinstance(history, list)
        assert f"new{number}" in history


def percentile(values: Sequence[float], share: float) -> float:
    """Returns the value below which that share of the values lies, to 0.1."""
    return round(sorted(values)[max(0, round(share * len(values)) - 1)], 1)


def _user(number: int, users: int) -> str:
    return f"user{number * 7919 % users}"


if __name__ == "__main__":
    main()
