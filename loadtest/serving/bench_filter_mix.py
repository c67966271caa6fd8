"""Latency of recalls with a mix of 64 filters, and memory with 10,000 of them, over HTTP.

    python -m loadtest.serving.bench_filter_mix --artifacts demo/artifacts --data demo/data

Starts the service on a Redis of its own, and measures how many plain recalls it answers per second
in a closed loop. Then plain recalls and a mix of filters take turns at half of that rate, in an
open loop. After that it asks with ever new filters. Prints the figures as JSON, and exits with 1 if
the 99th percentile with filters is above 1.5 times that without, or if the second half of the new
filters adds more than 64 MB. Run it on an idle machine.
"""

import argparse
import json
import random
from collections.abc import Sequence
from http.client import HTTPConnection
from pathlib import Path
from statistics import median
from typing import Any

from loadtest.serving.generator import closed_loop, open_loop, post
from loadtest.serving.servers import python_server, recgpt_serve, redis_server, resident_mb
from model.data.dataset import Dataset

Body = dict[str, Any]
FILTERS, NEW_FILTERS, OF_A_BATCH = 64, 10_000, 50
USERS, K, HISTORY = 512, 100, 20
CONNECTIONS = 32
MAX_RATIO, MAX_GROWN_MB = 1.5, 64.0


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--artifacts", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="data set of the bundle")
    parser.add_argument("--field", default="genres", help="an attribute of the kind categories")
    parser.add_argument("--seconds", type=float, default=5, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    dataset = Dataset.load(options.data)
    names = dataset.items[options.field].explode().drop_nulls().unique().sort().to_list()
    plain = recalls(dataset)
    with redis_server() as store:
        arguments = recgpt_serve(options.artifacts, store, "--deadline-ms", "10000")
        with python_server(arguments) as (port, process):
            filtered = mixed(plain, options.field, names)
            figures = latencies(port, plain, filtered, options.seconds, options.rounds)
            grown = []
            for half in range(2):
                ask_in_batches(port, new_filters(plain, options.field, names, half))
                grown.append(resident_mb(process))
    figures["mb_grown_by_second_half"] = round(grown[1] - grown[0], 1)
    print(json.dumps(figures, indent=2))
    too_slow = figures["p99_ratio"] > MAX_RATIO
    raise SystemExit(1 if too_slow or figures["mb_grown_by_second_half"] > MAX_GROWN_MB else 0)


def recalls(dataset: Dataset) -> list[Body]:
    """Returns plain recalls of the newest items of some users."""
    histories = [dataset.history(user)[-HISTORY:] for user in range(min(USERS, dataset.users))]
    return [{"history": [dataset.item_ids[row] for row in own], "k": K} for own in histories]


def mixed(plain: Sequence[Body], field: str, names: Sequence[str]) -> list[Body]:
    """Returns the recalls with a mix of filters, each of which asks for one to three values."""
    rng = random.Random(0)
    filters = [rng.sample(names, min(1 + at % 3, len(names))) for at in range(FILTERS)]
    return [with_filter(one, field, filters[at % FILTERS]) for at, one in enumerate(plain)]


def new_filters(plain: Sequence[Body], field: str, names: Sequence[str], half: int) -> list[Body]:
    """Returns a half of the recalls with different filters: by a value that no item has."""
    numbers = range(half * NEW_FILTERS // 2, (half + 1) * NEW_FILTERS // 2)
    return [
        with_filter(plain[n % len(plain)], field, [names[n % len(names)], f"no value {n}"])
        for n in numbers
    ]


def with_filter(body: Body, field: str, values: Sequence[str]) -> Body:
    """Returns a recall that asks for items with one of these values."""
    return body | {"filter": {"all": [{"field": field, "in": list(values)}]}}


def latencies(
    port: int, plain: Sequence[Body], filtered: Sequence[Body], seconds: float, rounds: int
) -> dict[str, Any]:
    """Returns the 99th percentiles at half load, which take turns, and their ratio."""
    loads = {
        name: [post("/recall", json.dumps(one).encode()) for one in bodies]
        for name, bodies in (("plain", plain), ("filtered", filtered))
    }
    for requests in loads.values():  # filters are applied once, before they are measured
        closed_loop(port, requests, CONNECTIONS, seconds)
    full = closed_loop(port, loads["plain"], CONNECTIONS, seconds).rate
    found: dict[str, list[float]] = {name: [] for name in loads}
    for _ in range(rounds):
        for name, requests in loads.items():
            load = open_loop(port, requests, full / 2, seconds)
            if load.failed:
                raise SystemExit(f"{load.failed} recalls were not answered: {load.statuses}")
            found[name].append(load.percentile_ms(99))
    ratios = [two / one for one, two in zip(found["plain"], found["filtered"], strict=True)]
    return {
        "recalls_per_second_at_full_load": round(full, 1),
        "plain_p99_ms": round(median(found["plain"]), 2),
        "filtered_p99_ms": round(median(found["filtered"]), 2),
        "p99_ratio": round(median(ratios), 2),
    }


def ask_in_batches(port: int, bodies: Sequence[Body]) -> None:
    """Asks for recalls in batches, one after the other."""
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    for first in range(0, len(bodies), OF_A_BATCH):
        content = json.dumps({"requests": bodies[first : first + OF_A_BATCH]})
        headers = {"content-type": "application/json"}
        connection.request("POST", "/recall/batch", content, headers)
        answer = connection.getresponse()
        text = answer.read()
        if answer.status != 200:
            raise SystemExit(f"/recall/batch answered {answer.status}: {text[:300]!r}")
    connection.close()


if __name__ == "__main__":
    main()
