"""The engine without HTTP against the floor that this machine's arithmetic sets.

    python -m loadtest.bench_engine --artifacts demo/artifacts --data demo/data

Floor: the multiplications that no implementation can leave out, at the measured rate of a matrix
product, or the bytes that must be read, at the measured bandwidth of a copy: the longer of the two.
Both with as many threads as the engine uses. Padding, softmax, top-k, merging and Python are over
the floor: that is what the ratio shows.
"""

import argparse
import json
import time
from pathlib import Path

import faiss
import numpy as np
import torch

from loadtest.pipeline import queries_of, run
from model.block import GPTConfig
from model.data import Dataset
from service.recall import Recaller


def matrix_rate(seconds: float = 1.0) -> float:
    """Multiplications and additions a second of a large float32 matrix product."""
    left, right = torch.rand(1024, 1024), torch.rand(1024, 1024)
    done, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        left @ right
        done += 1
    return done * 2 * 1024**3 / (time.perf_counter() - started)


def copy_bandwidth(seconds: float = 1.0) -> float:
    """Bytes read a second while copying what no cache holds."""
    source = torch.rand(64 << 20)
    target = torch.empty_like(source)
    done, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        target.copy_(source)
        done += 1
    return done * source.nbytes / (time.perf_counter() - started)


def flops(config: GPTConfig, lengths: np.ndarray, catalogue: int, interests: int) -> float:
    """Of one mean request: prefill, the further steps, and the searches."""
    width, fed = config.dim, config.feed_forward
    length = float(np.minimum(lengths, config.max_history).mean())
    square = float((np.minimum(lengths, config.max_history) ** 2).mean())
    token = 2 * (4 * width**2 + 2 * width * fed)  # projections and feed-forward of a token
    keys_values = 2 * 2 * width**2
    lower = length * token + 2 * width * square  # causal: half of the square, twice
    last = length * keys_values + token - keys_values + 4 * width * length
    step = config.layers * (token + 4 * width * length)
    search = 2 * catalogue * width
    return (config.layers - 1) * lower + last + (interests - 1) * step + interests * search


def main() -> None:
    """Print the ratio for several batch sizes."""
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
    rate, bandwidth = matrix_rate(), copy_bandwidth()
    recaller, dataset = Recaller.load(options.artifacts), Dataset.load(options.data)
    queries = queries_of(dataset, 4096, options.k, options.interests)
    config = recaller.manifest.model
    work = flops(
        config, np.array([len(q.history) for q in queries]), dataset.catalogue, options.interests
    )
    table = dataset.catalogue * config.dim * 4 * options.interests  # read once a step and batch
    print(f"matrix product {rate / 1e9:.0f} GFLOP/s, copy {bandwidth / 1e9:.1f} GB/s")
    print(f"{work / 1e6:.2f} MFLOP a request")
    found = {}
    for batch in (1, 8, 64, 256):
        floor = max(work * batch / rate, table / bandwidth) / batch
        measured = 1 / run(recaller, queries, batch, options.seconds)
        found[batch] = measured / floor
        print(
            f"batch {batch:4}: {measured * 1e6:8.0f} µs a request, floor {floor * 1e6:6.0f} µs, "
            f"ratio {measured / floor:.2f}"
        )
    print(json.dumps({"engine_over_floor": found}))


if __name__ == "__main__":
    main()
