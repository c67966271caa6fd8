"""The engine without HTTP beside the floor that this machine's arithmetic sets.

    python -m loadtest.serving.bench_engine --artifacts demo/artifacts --data demo/data

The floor of a request is the longer of two times: the multiplications that no implementation can
leave out, at the measured rate of a matrix product, and the bytes that must be read, at the
measured bandwidth of a copy; both with as many threads as the engine uses. Softmax, top-k, merging
and Python come on top of it: the ratio shows how much. A second, stricter floor counts the search's
products at the rate of 8-bit integers and a quarter of the bytes, as the engine's search has them.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import faiss
import numpy as np
import torch
from numpy.typing import NDArray

from index.kernels.int8_gemm import multiply, row_addresses
from index.kernels.int8_layout import Int8Blocks
from index.kernels.jit import compiled
from loadtest.serving.pipeline import queries_of, run
from model.data.dataset import Dataset
from model.network.config import GPTConfig
from service.recall.recaller import Recaller
from service.recall.types import Query


def best_seconds(work: Callable[[], object], seconds: float = 1.0) -> float:
    """Returns the least time of a call, so that page faults and interrupts do not count."""
    ends, best = time.perf_counter() + seconds, float("inf")
    while (started := time.perf_counter()) < ends:
        work()
        best = min(best, time.perf_counter() - started)
    return best


def matrix_rate() -> float:
    """Returns multiplications and additions per second of a large matrix product of floats."""
    left, right, out = torch.rand(3, 1024, 1024)
    return 2 * 1024**3 / best_seconds(lambda: torch.mm(left, right, out=out))


def integer_rate() -> float:
    """Returns the same for 8-bit integers."""
    steps = np.random.default_rng(0).integers(-127, 128, (1024, 1024), dtype=np.int8)
    blocks = Int8Blocks.of(steps)
    levels_BE = np.ones((1024, 1024), dtype=np.uint8)
    scores_BP = np.empty((1024, 1024), dtype=np.int16)
    return 2 * 1024**3 / best_seconds(lambda: _multiply(blocks, levels_BE, scores_BP))


@compiled
def _multiply(
    blocks: Int8Blocks, levels_BE: NDArray[np.uint8], scores_BP: NDArray[np.int16]
) -> None:
    multiply(blocks, row_addresses(levels_BE), row_addresses(scores_BP), 8)


def copy_bandwidth() -> float:
    """Returns bytes read per second by a copy that is larger than any cache."""
    source, target = torch.rand(2, 64 << 20)
    return float(source.nbytes) / best_seconds(lambda: target.copy_(source), 3.0)


def network_flops(config: GPTConfig, lengths: NDArray[np.integer], interests: int) -> float:
    """Returns the operations of one mean request: prefill, and the decode steps.

    A group multiplies its own part of the width only.
    """
    width, fed, groups = config.dim, config.feed_forward, config.groups
    kept = np.minimum(lengths, config.max_history)
    length, square = float(kept.mean()), float((kept.astype(np.float64) ** 2).mean())
    token = 2 * ((4 * width**2 + 2 * width * fed) / groups + config.local * width)
    keys_values = 2 * 2 * width**2 / groups
    lower = length * token + 2 * width * square  # half of the square (causal), twice
    last = length * keys_values + token - keys_values + 4 * width * length
    step = config.layers * (token + 4 * width * length)
    return (config.layers - 1) * lower + last + (interests - 1) * step


class Rates(NamedTuple):
    """The speed of the machine, with as many threads as torch uses."""

    flops: float
    """Operations per second of a matrix product of floats."""
    integer_ops: float
    copy_bytes: float

    @classmethod
    def measure(cls) -> "Rates":
        """Measures for some seconds."""
        return cls(matrix_rate(), integer_rate(), copy_bandwidth())


def over_floor(
    recaller: Recaller, queries: Sequence[Query], batch: int, rates: Rates, seconds: float
) -> dict[str, float]:
    """Returns the time of a request in batches of this size, and its ratio to the floor.

    All queries ask for the same number of interests.
    """
    config, interests = recaller.manifest.model, queries[0].interests
    assert interests is not None
    lengths = np.array([len(query.history) for query in queries])
    network = network_flops(config, lengths, interests)
    search = 2.0 * recaller.catalogue_size * config.dim * interests
    table = recaller.catalogue_size * config.dim * 4 * interests  # read once per step and batch
    measured = 1 / run(recaller, queries, batch, seconds)
    floor = max((network + search) / rates.flops, table / rates.copy_bytes / batch)
    strict = max(
        network / rates.flops + search / max(rates.flops, rates.integer_ops),
        table / 4 / rates.copy_bytes / batch,
    )
    return {
        "mflop_per_request": (network + search) / 1e6,
        "us_per_request": measured * 1e6,
        "floor_us": floor * 1e6,
        "over_floor": measured / floor,
        "over_integer_floor": measured / strict,
    }


def floors(options: argparse.Namespace) -> dict[str, Any]:
    """Returns the figures of a bundle and its users' histories, by batch size."""
    recaller, dataset = Recaller.load(options.artifacts), Dataset.load(options.data)
    queries = queries_of(dataset, 4096, options.k, options.interests)
    rates = Rates.measure()
    return {
        "gflop_per_second": rates.flops / 1e9,
        "integer_gop_per_second": rates.integer_ops / 1e9,
        "copy_gb_per_second": rates.copy_bytes / 1e9,
        "batches": {
            str(batch): over_floor(recaller, queries, batch, rates, options.seconds)
            for batch in (1, 8, 64, 256)
        },
    }


def main() -> None:
    """Prints the figures as one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--artifacts", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--interests", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    faiss.omp_set_num_threads(options.threads)
    print(json.dumps(floors(options), indent=2))


if __name__ == "__main__":
    main()
