"""The engine without HTTP on a made-up catalogue, beside a naive loop: for machines with a GPU.

    python -m loadtest.serving.bench_gpu   # 1 M items, width 128, 4 interests, k = 200
    python -m loadtest.serving.bench_gpu --items 20000 --device cpu

Naive: one request at a time, torch as it comes on the same device, Faiss's exact search on the CPU.
The network is untrained and the vectors are random: what is recalled means nothing, what it costs
does. Before anything is timed, hits of some users are compared with those of sorting all scores.
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
from model.network.rollout import rollout
from service.recall.recaller import Recaller
from service.recall.types import Query, pack_ids

HISTORY = 50


def main() -> None:
    """Print the figures, one JSON object; with `--out`, write them too."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--interests", type=int, default=4)
    parser.add_argument("--k", type=int, default=200)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16, 64, 256])
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--device", default="auto", help="as `recgpt serve --device`")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = measured(Path(folder), options) | environment()
    print(json.dumps(figures, indent=2))
    if options.out:
        options.out.write_text(json.dumps(figures, indent=2) + "\n")


def measured(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Requests a second of both, and milliseconds a batch of ours."""
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    vectors_VD = F.normalize(torch.randn(options.items, options.width), dim=1).numpy()
    with bundle_of(folder, vectors_VD, users=1) as (bundle, version):
        build_index(read_item_vectors(bundle), bundle, "flat")
    recaller = Recaller.load(folder / version, options.device)
    recaller.warm_up()
    rows_QL = rng.integers(options.items, size=(2048, HISTORY)).tolist()
    queries = [  # packed, as front ends send them
        Query(
            "", pack_ids([f"item-{row}" for row in rows]), k=options.k, interests=options.interests
        )
        for rows in rows_QL
    ]
    figures: dict[str, Any] = {
        "device": options.device,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "items": options.items,
        "width": options.width,
        "interests": options.interests,
        "k": options.k,
        "first_hit_right": first_hits(recaller, folder / version, queries[:64], rows_QL[:64]),
        "batches": {},
    }
    for batch in options.batches:
        rate = run(recaller, queries, batch, options.seconds)
        figures["batches"][str(batch)] = {"per_second": rate, "ms": 1000 * batch / rate}
    figures["naive_per_second"] = naive(folder / version, rows_QL, options)
    best = max(one["per_second"] for one in figures["batches"].values())
    return figures | {"over_naive": best / figures["naive_per_second"]}


def first_hits(
    recaller: Recaller, bundle: Path, queries: list[Query], rows_QL: list[list[int]]
) -> float:
    """Share of the users whose first interest's hits are those of sorting all scores."""
    model = load_artifact(bundle).model
    rows_BL = torch.tensor(rows_QL)
    lengths_B = torch.full((len(queries),), HISTORY)
    with torch.inference_mode():
        interest_BD, _ = model.prefill(rows_BL, lengths_B, torch.full_like(lengths_B, -1), 0)
        scores_BV = (interest_BD @ model.items.weight.t()).scatter(1, rows_BL, -torch.inf)
    right = 0
    for scores_V, found in zip(scores_BV, recaller.recall(queries)[0], strict=True):
        rows = found.rows[found.interests == 0]
        right += set(rows.tolist()) == set(scores_V.topk(len(rows)).indices.tolist())
    return right / len(queries)


def naive(bundle: Path, rows_QL: list[list[int]], options: argparse.Namespace) -> float:
    """Requests a second, one at a time."""
    device = choose_device(options.device.split(",")[0])
    model = load_artifact(bundle).model.to(device)
    index = faiss.read_index(str(bundle / "index.faiss"))
    one_B, nobody_B = torch.tensor([HISTORY], device=device), torch.tensor([-1], device=device)

    def answer(rows: list[int]) -> None:
        seen, lists = set(rows), list[list[int]]()

        def search(interest_BD: torch.Tensor) -> torch.Tensor:
            _, hits = index.search(interest_BD.cpu().numpy(), options.k + HISTORY)
            lists.append([row for row in hits[0].tolist() if row not in seen])
            seen.add(lists[-1][0])
            return torch.tensor(lists[-1][:1], device=device)

        history_BL = torch.tensor([rows], device=device)
        rollout(model, history_BL, one_B, nobody_B, options.interests, search)

    answer(rows_QL[0])
    started, done = time.perf_counter(), 0
    while done < len(rows_QL) and time.perf_counter() - started < options.seconds:
        answer(rows_QL[done])
        done += 1
    return done / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
