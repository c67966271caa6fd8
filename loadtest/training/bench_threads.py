"""How threads wait for each other: rates of training and search alone, and beside a busy loop.

    python -m loadtest.training.bench_threads --data data --out docs/results

OpenMP's threads meet at a barrier after every parallel loop, and a thread that has to wait there
spins by default, for milliseconds. If another program uses a core, one thread of the team has to
wait for its turn, the others spin away the time of the core that it needs, and thousands of small
loops per training step become thousands of waits. How long a thread spins before it sleeps is read
from the environment when the library is loaded, so that every setting is a process of its own.

A fair rate beside one busy loop is the rate alone times the share of the cores that a fair
scheduler gives a setting's threads: on two cores two of three time slices for two threads, and
every one for one thread.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import Any

from loadtest.environment import environment
from loadtest.results import put_between_marks
from loadtest.stopping import stop_by_exit
from model.files import write_json
from model.libraries import SPINS

MARK = "training-threads"
SETTINGS: dict[str, dict[str, str]] = {
    "recgpt": SPINS,
    "the libraries' defaults": {},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    "100 spins": {"GOMP_SPINCOUNT": "100"},
    "10,000 spins": {"GOMP_SPINCOUNT": "10000"},
    "one thread": {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
}
"""Environment variables of a process by what the table calls it."""


def training(data: Path, width: int, batch_size: int, sampling: str) -> Callable[[], int]:
    """Returns a function that makes one training step and returns its samples."""
    import numpy as np
    import torch

    from model.data.dataset import Dataset, popularity
    from model.evaluation.protocols import splits
    from model.network.config import GPTConfig
    from model.network.gpt import GPT
    from model.training.batches import by_length, read_samples
    from model.training.config import PretrainConfig
    from model.training.loss import batch_loss, objective, products
    from model.training.optimizer import Optimizer
    from model.training.stages import pretraining

    dataset, cpu = splits(Dataset.load(data)).training(), torch.device("cpu")
    config = PretrainConfig.model_validate({"sampling": sampling, "batch_size": batch_size})
    stage, rng = pretraining(config, dataset, lambda _: {}), np.random.default_rng(0)
    network = GPTConfig.single(width)
    model = GPT(network, dataset.catalogue, dataset.users).train()
    optimizer, loss_of = Optimizer(model, 1e-3), objective(config, popularity(dataset), cpu)
    samples = stage.draw(model, rng)
    batches = by_length(samples, batch_size, rng)[:50]
    batch = cycle(list(read_samples(dataset, samples, batches)))
    draws, dtype = torch.Generator(), products(config, cpu)

    def step() -> int:
        read = next(batch)
        batch_loss(model, stage.batch(model, read), loss_of, draws, dtype).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return len(read.lengths_B)

    return step


def evaluation(data: Path) -> Callable[[], int]:
    """Returns a function that recalls for 256 users with the reference recall."""
    from model.data.dataset import Dataset
    from model.evaluation.metrics import case_batches
    from model.evaluation.protocols import splits
    from model.evaluation.reference import DenseRecall
    from model.network.config import GPTConfig, RecallConfig
    from model.network.gpt import GPT

    dataset = Dataset.load(data)
    model = GPT(GPTConfig.single(128), dataset.catalogue, dataset.users)
    recall = DenseRecall(model, RecallConfig())
    _, histories, users_B = next(case_batches(dataset, splits(dataset).test, 256))

    def step() -> int:
        recall(histories, users_B, (20, 100))
        return len(histories)

    return step


def faiss_search() -> Callable[[], int]:
    """Returns a function that searches 50,000 vectors exactly for 64 queries."""
    import faiss
    import numpy as np

    vectors = np.random.default_rng(0).standard_normal((50_000, 64), dtype=np.float32)
    index = faiss.IndexFlatIP(64)
    index.add(vectors)

    def step() -> int:
        index.search(vectors[:64], 100)
        return 64

    return step


WORKLOADS: dict[str, Callable[[Path], Callable[[], int]]] = {
    "train, demo": lambda data: training(data, 64, 16, "windows"),
    "train, default": lambda data: training(data, 128, 256, "prefixes"),
    "evaluate": evaluation,
    "Faiss": lambda _: faiss_search(),
}


def work(data: Path, seconds: float) -> None:
    """The child: measures the workload that each line of its input names, prints its rate."""
    steps = {name: make(data) for name, make in WORKLOADS.items()}
    for step in steps.values():
        step()
    print("ready", flush=True)
    for line in sys.stdin:
        step, done, started = steps[line.strip()], 0, time.perf_counter()
        while time.perf_counter() - started < seconds:
            done += step()
        print(done / (time.perf_counter() - started), flush=True)


class Child:
    """A process with one setting, that is asked for rates."""

    def __init__(self, options: argparse.Namespace, setting: dict[str, str]) -> None:
        free = {n: v for n, v in os.environ.items() if not n.startswith(("OMP", "GOMP", "KMP"))}
        words = ["--child", "--data", str(options.data), "--seconds", str(options.seconds)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "loadtest.training.bench_threads", *words],
            env=free | setting,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._read() == "ready"

    def rate(self, workload: str) -> float:
        """Samples, users or queries per second."""
        assert self._process.stdin
        self._process.stdin.write(f"{workload}\n")
        self._process.stdin.flush()
        return float(self._read())

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.communicate()

    def _read(self) -> str:
        assert self._process.stdout
        return self._process.stdout.readline().strip()


@contextmanager
def busy_loop() -> Iterator[None]:
    """Another program that uses a whole core."""
    stop_by_exit()
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Median rates by setting, workload, and "alone" or "loaded"."""
    rates: dict[str, Any] = {}
    children = {
        name: Child(options, SETTINGS[name]) for name in SETTINGS if name in options.settings
    }
    try:
        for _ in range(options.rounds):
            for name, child in children.items():
                for workload in WORKLOADS:
                    found = rates.setdefault(name, {}).setdefault(workload, {})
                    found.setdefault("alone", []).append(child.rate(workload))
                    with busy_loop():
                        found.setdefault("loaded", []).append(child.rate(workload))
    finally:
        for child in children.values():
            child.close()
    return {
        name: {
            workload: {load: median(found) for load, found in by_load.items()}
            for workload, by_load in by_workload.items()
        }
        for name, by_workload in rates.items()
    }


def fair_share(setting: str) -> float:
    """The share of the rate alone that is left beside a busy loop, if the scheduler is fair."""
    cores = os.cpu_count() or 1
    threads = int(SETTINGS[setting].get("OMP_NUM_THREADS", cores))
    return min(1.0, cores / (threads + 1))


def table(result: dict[str, Any]) -> str:
    """Markdown."""
    lines = [
        f"`{result['command']}`; {result['machine']}; {result['date']}; commit {result['commit']}. "
        "Samples, users or queries per second, alone → beside a busy loop (of a fair rate).",
        "",
        f"| | {' | '.join(WORKLOADS)} |",
        "|---" * (1 + len(WORKLOADS)) + "|",
    ]
    for name, by_workload in result["rates"].items():
        fair = fair_share(name)
        cells = [
            f"{r['alone']:,.0f} → {r['loaded']:,.0f} ({r['loaded'] / r['alone'] / fair:.0%})"
            for r in by_workload.values()
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Writes threads.json and the table in training.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="Beauty, prepared")
    parser.add_argument("--out", type=Path, help="folder for the figures")
    parser.add_argument("--seconds", type=float, default=1.5, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        work(options.data, options.seconds)
        return
    result = {"rates": measure(options)} | environment()
    if options.out:
        write_json(options.out / "training-threads.json", result)
        put_between_marks(options.out / "training.md", MARK, table(result))
    print(json.dumps(result, indent=1))
    print(table(result))


if __name__ == "__main__":
    main()
