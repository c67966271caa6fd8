"""Makes the faults that a service on call is feared for, and checks what its clients see.

    python -m loadtest.reliability.chaos --out docs/results
    python -m loadtest.reliability.chaos --out build --quick --parts overload redis

Overload at 5 and 20 times the peak, the cost of a refusal, an engine that is killed and one that
hangs, instances that are replaced behind a slow balancer, and a Redis that is gone, slow or cut. It
takes ten minutes on two idle cores, and needs a redis-server (and wrk for one of the loads) on
PATH. Load generator and service share the machine. Exits with 1 if a bar is missed. The report
keeps the other parts of earlier runs, each with its commit.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from loadtest.environment import environment
from loadtest.reliability import engine_faults, overload, redis_faults, refusals, shutdown
from loadtest.reliability.instance import make_bundle
from loadtest.reliability.report import Bar, Figures, table
from loadtest.results import put_between_marks, say
from model.files import write_json

LOAD_S, REFUSALS_S, FAULT_S, ROUNDS = 60.0, 5.0, 20.0, 20
QUICK_LOAD_S, QUICK_REFUSALS_S, QUICK_FAULT_S, QUICK_ROUNDS = 4.0, 2.0, 4.0, 2


class Part(NamedTuple):
    """A kind of fault."""

    title: str
    measure: Callable[[Path, bool], Figures]  # of a folder of bundles; whether to be quick
    bars: Callable[[Figures], Iterator[Bar]]


PARTS = {
    "overload": Part(
        "Overload",
        lambda folder, quick: overload.measure(folder, QUICK_LOAD_S if quick else LOAD_S),
        overload.bars,
    ),
    "refusals": Part(
        "The cost of a refusal",
        lambda folder, quick: refusals.measure(folder, QUICK_REFUSALS_S if quick else REFUSALS_S),
        refusals.bars,
    ),
    "engine": Part(
        "An engine that dies or hangs",
        lambda folder, quick: engine_faults.measure(folder),
        engine_faults.bars,
    ),
    "shutdown": Part(
        "Going down",
        lambda folder, quick: shutdown.measure(folder, QUICK_ROUNDS if quick else ROUNDS),
        shutdown.bars,
    ),
    "redis": Part(
        "Redis",
        lambda folder, quick: redis_faults.measure(folder, QUICK_FAULT_S if quick else FAULT_S),
        redis_faults.bars,
    ),
}


def main() -> None:
    """Measures, prints the tables, and writes reliability.json and reliability.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--quick", action="store_true", help="a few seconds each, to try it")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    record = options.out / "reliability.json"
    runs = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
    about = environment() | {"seconds": QUICK_LOAD_S if options.quick else LOAD_S}
    with tempfile.TemporaryDirectory() as folder:
        make_bundle(Path(folder))
        for name in options.parts:
            say(f"part {name}")
            figures = PARTS[name].measure(Path(folder), options.quick)
            runs[name] = {"about": about, "figures": figures}
    write_json(record, runs)
    bars = {name: list(PARTS[name].bars(runs[name]["figures"])) for name in PARTS if name in runs}
    text = "\n\n".join(
        table(runs[name]["about"], PARTS[name].title, found) for name, found in bars.items()
    )
    print(text)
    put_between_marks(options.out / "reliability.md", "chaos", text)
    sys.exit(not all(bar.holds for name in options.parts for bar in bars[name]))


if __name__ == "__main__":
    main()
