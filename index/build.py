"""From item vectors to a Faiss index file: exact, or approximate with a measured recall.

Shapes: V catalogue, D width, B queries, K hits.
"""

import hashlib
import json
import logging
import time
from pathlib import Path
from typing import Any, Literal

import faiss
import numpy as np
from numpy.typing import NDArray

from index.kinds import Kind, build
from index.measure import (
    Vectors,
    cheapest,
    exact_search,
    in_batches,
    index_search,
    one_thread,
    rates,
)

log = logging.getLogger(__name__)

INDEX_FILE, CARD_FILE, QUERIES_FILE = "index.faiss", "index.json", "index_queries.npy"

Choice = Literal["auto"] | Kind

LARGE = 100_000  # items from which on `auto` tries an approximate index: at 50,000 it lost
HITS = 150  # what a recall of 100 with its over-fetch asks for
QUERIES = 512
DECIDING = "64"  # the size of a batch whose rate decides


def build_index(
    vectors_VD: Vectors,
    folder: Path,
    kind: Choice = "auto",
    target: float = 0.98,
    queries_BD: Vectors | None = None,
) -> None:
    """Write `index.faiss` (inner product) and its card `index.json` into `folder`.

    `auto` takes exact search, unless an approximate index finds `target` of its hits and is faster:
    both are measured here, with `queries_BD` (kept as `index_queries.npy`) or else with perturbed
    item vectors. The card says what was found, and repeats the hash of the vectors, so that an
    index is never served with other ones. Raises ValueError where `ivf` is asked for and does not
    reach `target`.
    """
    if vectors_VD.dtype != np.float32 or not vectors_VD.flags.c_contiguous:
        vectors_VD = np.ascontiguousarray(vectors_VD, dtype=np.float32)
    if queries_BD is not None:
        np.save(folder / QUERIES_FILE, queries_BD)
    chosen: dict[str, Any] = {"kind": "flat", "parameters": {}}
    index: Any = None
    if kind == "ivf" or (kind == "auto" and len(vectors_VD) >= LARGE):
        index, found = _measured(vectors_VD, target, queries_BD)
        log.info("approximate search: %s", found)
        reached = found["recall"] >= target
        if kind == "ivf" and not reached:
            raise ValueError(
                f"the approximate index finds {found['recall']:.3f} of the exact hits, "
                f"not {target}: ask for less with --index-recall, or for --index flat"
            )
        pays = found["queries_per_second"][DECIDING] > found["flat_per_second"][DECIDING]
        if kind == "ivf" or (reached and pays):
            chosen = {"kind": "ivf"} | found
        else:
            index, chosen["tried"] = None, found
    if index is None:
        index = build("flat", vectors_VD)
    faiss.write_index(index, str(folder / INDEX_FILE))
    card = chosen | {
        "asked": kind,
        "target": target,
        "metric": "inner_product",
        "items": vectors_VD.shape[0],
        "dim": vectors_VD.shape[1],
        "vectors_sha256": vectors_sha256(vectors_VD),
    }
    (folder / CARD_FILE).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")


def build_index_like(vectors_VD: Vectors, folder: Path, other: Path) -> None:
    """An index as was asked for in the folder `other`: kind, recall, and the queries to measure."""
    card, file = read_card(other), other / QUERIES_FILE
    queries_BD = np.load(file, allow_pickle=False) if file.exists() else None
    build_index(vectors_VD, folder, card["asked"], card["target"], queries_BD)


def read_card(folder: Path) -> dict[str, Any]:
    """What `build_index` found. Raises OSError, ValueError where there is none."""
    card: dict[str, Any] = json.loads((folder / CARD_FILE).read_text(encoding="utf-8"))
    return card


def vectors_sha256(vectors_VD: NDArray[Any]) -> str:
    """Hash of the vectors' bytes as float32, row after row."""
    data = np.ascontiguousarray(vectors_VD, dtype=np.float32)
    return hashlib.sha256(data.data).hexdigest()


def _measured(
    vectors_VD: Vectors, target: float, queries_BD: Vectors | None
) -> tuple[Any, dict[str, Any]]:
    """An approximate index, and what the card says of it."""
    source = "given" if queries_BD is not None else "perturbed items"
    if queries_BD is None:
        queries_BD = _perturbed(vectors_VD)
    hits = min(HITS, len(vectors_VD))
    exact = exact_search(vectors_VD, hits)
    exact_BK = in_batches(exact, queries_BD)
    started = time.perf_counter()
    index = build("ivf", vectors_VD)
    seconds = time.perf_counter() - started
    with one_thread():
        parameters, recall = cheapest(index, queries_BD, exact_BK, target)
        rate, flat_rate = rates([index_search(index, parameters, hits), exact], queries_BD)
    return index, {
        "parameters": parameters,
        "recall": recall,
        "queries_per_second": rate,
        "flat_per_second": flat_rate,
        "measured_with": {"queries": source, "hits": hits, "threads": 1},
        "build_seconds": round(seconds, 1),
    }


def _perturbed(vectors_VD: Vectors) -> Vectors:
    """Queries near items."""
    rng = np.random.default_rng(0)
    near_BD: Vectors = vectors_VD[rng.integers(len(vectors_VD), size=QUERIES)]
    noise_BD = rng.standard_normal(near_BD.shape, dtype=np.float32)
    return near_BD + noise_BD * np.float32(0.5 * near_BD.std())
