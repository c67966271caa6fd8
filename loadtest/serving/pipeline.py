"""The recall algorithm in a bare loop: full batches, histories in memory, no HTTP, no Redis.

python -m loadtest.serving.pipeline --artifacts demo/artifacts --data demo/data --seconds 5
"""

import argparse
import json
import time
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

import faiss
import numpy as np
import torch

from model.data.dataset import Dataset
from service.recall.recaller import Recaller
from service.recall.types import Query


def queries_of(dataset: Dataset, count: int, k: int, interests: int | None = None) -> list[Query]:
    """Returns queries of random users with their whole histories."""
    users = np.random.default_rng(0).integers(dataset.users, size=count)
    return [
        Query(
            dataset.user_ids[user],
            [dataset.item_ids[row] for row in dataset.history(int(user))],
            k=k,
            interests=interests,
        )
        for user in users
    ]


def run(recaller: Recaller, queries: Sequence[Query], batch: int, seconds: float) -> float:
    """Returns recalls per second in batches of this size."""
    batches = cycle([queries[i : i + batch] for i in range(0, len(queries), batch)])
    recaller.recall(next(batches))
    done, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        done += len(recaller.recall(next(batches))[0])
    return done / (time.perf_counter() - started)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--artifacts", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1, help="as `recgpt serve --threads`")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    faiss.omp_set_num_threads(options.threads)
    recaller = Recaller.load(options.artifacts)
    dataset = Dataset.load(options.data)
    rates = {
        name: run(
            recaller,
            queries_of(dataset, 2048, options.k, interests),
            options.batch,
            options.seconds,
        )
        for name, interests in (("pipeline_rps", 2), ("one_interest_rps", 1), ("four_rps", 4))
    }
    print(json.dumps(rates))
