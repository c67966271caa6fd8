"""Faiss's GPU index beside the matrix product: time and recall by size of catalogue and batch.

    python -m loadtest.gpu.search --device cuda --items 12000 100000 1000000 --out search.json

The vectors have the structure of learned ones (`loadtest.scale.scale_data`). Inverted lists are
built only for the sizes of `--lists`, last, because to build them takes longest.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from index.build import build_index
from loadtest.results import say
from loadtest.scale.scale_data import catalogue, interests
from model.files import write_json
from service.recall.gpu.search import Searcher, searcher

HITS, EXCLUDED = 128, 64  # of a usual batch
TARGET = 0.95  # share of the exact hits that the lists' export aims at


def main() -> None:
    """Writes the figures after each search, so that a time limit keeps the earlier ones."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--items", type=int, nargs="+", default=[12_000, 100_000, 1_000_000])
    parser.add_argument("--lists", type=int, nargs="*", default=[100_000, 1_000_000])
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16, 64, 256])
    parser.add_argument("--seconds", type=float, default=0.5, help="for each figure")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    figures: dict[str, Any] = {"hits": HITS, "width": options.width, "rows": []}
    sizes = [("exact", items) for items in options.items]
    for kind, items in [*sizes, *(("ivf", items) for items in options.lists)]:
        with tempfile.TemporaryDirectory() as folder:
            for found in compared(Path(folder), kind, items, options):
                say(str(found))
                figures["rows"].append(found)
                write_json(options.out, figures)


def compared(
    folder: Path, kind: Any, items: int, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Returns the figures of Faiss's index of that kind; beside the exact one, the product's."""
    vectors_VD = catalogue(folder / "vectors.npy", items, options.width)
    queries_BD = interests(options.width, max(options.batches), 1)
    build_index(vectors_VD, folder, kind, TARGET, queries_BD)
    there_VD, asked_BD = (
        torch.from_numpy(array).to(options.device) for array in (vectors_VD, queries_BD)
    )
    exact_BF = (asked_BD @ there_VD.t()).topk(min(HITS, items)).indices
    found = []
    for setting in ("product", "faiss") if kind == "exact" else ("faiss",):
        about = {"items": items, "search": setting if kind == "exact" else "faiss, inverted lists"}
        try:
            search = searcher(setting, there_VD, folder)
        except ValueError as error:
            found.append(about | {"skipped": str(error)})
            continue
        found.append(about | measured(search, asked_BD, exact_BF, options))
    return found


def measured(
    search: Searcher, asked_BD: Tensor, exact_BF: Tensor, options: argparse.Namespace
) -> dict[str, Any]:
    """Returns the recall, and the milliseconds of a search by size of batch."""
    excluded_BC = torch.full((len(asked_BD), EXCLUDED), -1, device=asked_BD.device)
    _, rows_BF = search.search(asked_BD, excluded_BC, HITS)
    found_BF = (rows_BF[..., None] == exact_BF[:, None]).any(dim=2)
    return {
        "recall": float(found_BF.float().mean()),
    } | {
        f"ms, batch {batch}": milliseconds(
            search, asked_BD[:batch], excluded_BC[:batch], options.seconds
        )
        for batch in options.batches
    }


def milliseconds(search: Searcher, asked_BD: Tensor, excluded_BC: Tensor, seconds: float) -> float:
    """Returns the mean time of a search that is waited for, after two that do not count."""
    for _ in range(2):
        search.search(asked_BD, excluded_BC, HITS)[0].cpu()
    done, started = 0, time.perf_counter()
    while not done or time.perf_counter() - started < seconds:
        search.search(asked_BD, excluded_BC, HITS)[0].cpu()
        done += 1
    return (time.perf_counter() - started) / done * 1000


if __name__ == "__main__":
    main()
