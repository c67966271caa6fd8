"""The engine without HTTP on a synthetic catalogue beside a naive loop, for machines with a GPU.

    python -m loadtest.gpu.bench_gpu   # 1 M items, width 128, 4 interests, k = 200
    python -m loadtest.gpu.bench_gpu --items 20000 --device cpu

The naive loop answers one request at a time: torch without changes on the same device, and Faiss's
exact search on the CPU. The network is untrained and the vectors are random, so the candidates mean
nothing, but their cost does. First the hits of some users are compared with those of sorting all
scores.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from torch.nn import functional as F

from index.build import build_index
from loadtest.environment import environment
from loadtest.scale.scale_bundle import bundle_of
from loadtest.serving.pipeline import run
from model.artifact.bundle import load_artifact, read_item_vectors
from model.device import choose_device
from model.files import write_json
from model.network.rollout import rollout
from service.recall.recaller import Recaller
from service.recall.types import Query, pack_ids

HISTORY = 50


def main() -> None:
    """Prints the figures as one JSON object, and writes them with `--out`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--interests", type=int, default=4)
    parser.add_argument("--k", type=int, default=200)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16, 64, 256])
    parser.add_argument("--seconds", type=float, default=5, help="for each figure")
    parser.add_argument("--device", default="auto", help="as `recgpt serve --device`")
    parser.add_argument("--gpu-search", default="product", help="as `recgpt serve --gpu-search`")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = measured(Path(folder), options) | environment()
    print(json.dumps(figures, indent=2))
    if options.out:
        write_json(options.out, figures)


def measured(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Returns requests per second of both, and ours by size of batch."""
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    vectors_VD = F.normalize(torch.randn(options.items, options.width), dim=1).numpy()
    with bundle_of(folder, vectors_VD, users=1) as (bundle, version):
        build_index(read_item_vectors(bundle), bundle, "exact")
    recaller = Recaller.load(folder / version, options.device, options.gpu_search)
    recaller.warm_up()
    rows_QL = rng.integers(options.items, size=(2048, HISTORY)).tolist()
    queries = [  # packed, as front ends send them
        Query(
            "", pack_ids([f"item-{row}" for row in rows]), k=options.k, interests=options.interests
        )
        for rows in rows_QL
    ]
    right = share_of_right_hits(recaller, folder / version, queries[:64], rows_QL[:64])
    rates = {batch: run(recaller, queries, batch, options.seconds) for batch in options.batches}
    naive_rate = naive(folder / version, rows_QL, options)
    return {
        "device": options.device,
        "items": options.items,
        "width": options.width,
        "interests": options.interests,
        "k": options.k,
        "first interests with the right hits": right,
        "naive requests/s": naive_rate,
        "over naive": max(rates.values()) / naive_rate,
        "rows": [
            {"batch": batch, "requests/s": rate, "ms a batch": 1000 * batch / rate}
            for batch, rate in rates.items()
        ],
    }


def share_of_right_hits(
    recaller: Recaller, bundle: Path, queries: list[Query], rows_QL: list[list[int]]
) -> float:
    """Returns the share of queries whose first interest has the hits of sorting all scores."""
    model = load_artifact(bundle).model
    rows_BL = torch.tensor(rows_QL)
    lengths_B = torch.full((len(queries),), HISTORY)
    with torch.inference_mode():
        interest_BD, _ = model.prefill(rows_BL, lengths_B, torch.full_like(lengths_B, -1))
        scores_BV = (interest_BD @ model.items.weight.t()).scatter(1, rows_BL, -torch.inf)
    right = 0
    for scores_V, found in zip(scores_BV, recaller.recall(queries)[0], strict=True):
        rows = found.rows[found.interests == 0]
        right += set(rows.tolist()) == set(scores_V.topk(len(rows)).indices.tolist())
    return right / len(queries)


def naive(bundle: Path, rows_QL: list[list[int]], options: argparse.Namespace) -> float:
    """Returns requests per second, one at a time."""
    device = choose_device(options.device)
    model = load_artifact(bundle).model.to(device)
    index = faiss.IndexFlatIP(options.width)
    index.add(np.ascontiguousarray(read_item_vectors(bundle)))
    one_B, unknown_B = torch.tensor([HISTORY], device=device), torch.tensor([-1], device=device)

    def answer(rows: list[int]) -> None:
        seen = set(rows)

        def search(interest_BD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            scores, hits = index.search(interest_BD.cpu().numpy(), options.k + HISTORY)
            kept = [at for at, row in enumerate(hits[0].tolist()) if row not in seen][: options.k]
            return (
                torch.from_numpy(scores[:, kept]).to(device),
                torch.from_numpy(hits[:, kept]).to(device),
            )

        history_BL = torch.tensor([rows], device=device)
        rollout(model, history_BL, one_B, unknown_B, options.interests, search)

    answer(rows_QL[0])
    started, done = time.perf_counter(), 0
    while done < len(rows_QL) and time.perf_counter() - started < options.seconds:
        answer(rows_QL[done])
        done += 1
    return done / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
