"""From item vectors to a Faiss index file: exact, or approximate with a measured recall.

Shapes: V catalogue, D width, B queries, K hits.
"""

import hashlib
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import faiss
import numpy as np
from numpy.typing import NDArray

from index.benchmark import (
    Rates,
    Vectors,
    exact_search,
    in_batches,
    lists_search,
    one_thread,
    rates,
    sufficient,
)
from index.formats import Kind, build
from index.index_json import INDEX_FILE, QUERIES_FILE, read_card, write_card
from index.ivf.layout import lists_of
from index.ivf.search import ListSearch
from index.search import ItemIndex

log = logging.getLogger(__name__)

Choice = Literal["auto", Kind]
Contest = Callable[[Vectors, ItemIndex, Vectors], tuple[Rates, Rates]]
"""Takes the item vectors, their index and queries; returns the rates of a service that scores the
whole catalogue itself, and of the same service with this index."""

LARGE = 100_000  # items from which on `auto` tries an approximate index: at 50,000 it lost
MOST_DENSE = 1_000_000  # items up to which whole scores are tried: 64 users' take 256 MB
HITS = 150  # what a recall of 100 with its over-fetch asks for
QUERIES = 512
DECIDING = "8"  # the size of a batch whose rate decides: a usual one on a busy CPU


def build_index(
    vectors_VD: Vectors,
    folder: Path,
    kind: Choice = "auto",
    target: float = 0.98,
    queries_BD: Vectors | None = None,
    contest: Contest | None = None,
) -> None:
    """Write `index.faiss` (inner product) and its card `index.json` into `folder`.

    `auto` takes exact search, unless an approximate index finds `target` of its hits and is faster;
    and `dense`, where the service is faster without either, as the `contest` tells. All are
    measured here, with `queries_BD` (kept as `index_queries.npy`) or else with perturbed item
    vectors. The card says what was found, and repeats the hash of the vectors, so that an index is
    never served with other ones. Raises ValueError where `ivf` is asked for and does not reach
    `target`.
    """
    if vectors_VD.dtype != np.float32 or not vectors_VD.flags.c_contiguous:
        vectors_VD = np.ascontiguousarray(vectors_VD, dtype=np.float32)
    if queries_BD is not None:
        queries_BD = np.ascontiguousarray(queries_BD, dtype=np.float32)
        np.save(folder / QUERIES_FILE, queries_BD)
    source = "given" if queries_BD is not None else "perturbed items"
    if queries_BD is None:
        queries_BD = _perturbed(vectors_VD)
    index, found = _by_faiss(vectors_VD, kind, target, queries_BD)
    about = {
        "asked": kind,
        "target": target,
        "queries": source,
        "metric": "inner_product",
        "items": vectors_VD.shape[0],
        "dim": vectors_VD.shape[1],
        "vectors_sha256": vectors_sha256(vectors_VD),
    }
    if kind == "auto" and contest and len(vectors_VD) <= MOST_DENSE:
        dense, by_index = contest(
            vectors_VD, ItemIndex(index, found | about, vectors_VD), queries_BD
        )
        about["contest"] = {"dense_per_second": dense, f"{found['kind']}_per_second": by_index}
        log.info("whole scores beside the index, recalls a second: %s", about["contest"])
        if dense[DECIDING] > by_index[DECIDING]:
            if found["kind"] == "ivf":
                index, found = build("flat", vectors_VD), {"tried": found}
            found |= {"kind": "dense", "parameters": {}}
    faiss.write_index(index, str(folder / INDEX_FILE))
    write_card(folder, found | about)


def build_index_like(
    vectors_VD: Vectors, folder: Path, other: Path, contest: Contest | None = None
) -> None:
    """An index as was asked for in the folder `other`: kind, recall, and the queries to measure."""
    card, file = read_card(other), other / QUERIES_FILE
    queries_BD = np.load(file, allow_pickle=False) if file.exists() else None
    build_index(vectors_VD, folder, card["asked"], card["target"], queries_BD, contest)


def vectors_sha256(vectors_VD: NDArray[Any]) -> str:
    """Hash of the vectors' bytes as float32, row after row."""
    data = np.ascontiguousarray(vectors_VD, dtype=np.float32)
    return hashlib.sha256(data.data).hexdigest()


def _by_faiss(
    vectors_VD: Vectors, kind: Choice, target: float, queries_BD: Vectors
) -> tuple[Any, dict[str, Any]]:
    """The index that is asked for, or the faster one; and what the card says of it."""
    if kind != "ivf" and (kind != "auto" or len(vectors_VD) < LARGE):
        kept: Kind = "dense" if kind == "dense" else "flat"
        return build(kept, vectors_VD), {"kind": kept, "parameters": {}}
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
        return index, {"kind": "ivf"} | found
    return build("flat", vectors_VD), {"kind": "flat", "parameters": {}, "tried": found}


def _measured(
    vectors_VD: Vectors, target: float, queries_BD: Vectors
) -> tuple[Any, dict[str, Any]]:
    """An approximate index, and what the card says of it."""
    hits = min(HITS, len(vectors_VD))
    exact = exact_search(vectors_VD, hits)
    exact_BK = in_batches(exact, queries_BD)
    started = time.perf_counter()
    index = build("ivf", vectors_VD)
    seconds = time.perf_counter() - started
    lists = ListSearch(lists_of(index, vectors_VD))
    with one_thread():
        parameters, recall = sufficient(lists, queries_BD, exact_BK, target)
        search = lists_search(lists, parameters["nprobe"], hits)
        rate, flat_rate = rates([search, exact], queries_BD, clock=time.process_time)
    return index, {
        "parameters": parameters,
        "recall": recall,
        "queries_per_second": rate,
        "flat_per_second": flat_rate,
        "measured_with": {"hits": hits, "threads": 1},
        "build_seconds": round(seconds, 1),
    }


def _perturbed(vectors_VD: Vectors) -> Vectors:
    """Queries near items."""
    rng = np.random.default_rng(0)
    near_BD: Vectors = vectors_VD[rng.integers(len(vectors_VD), size=QUERIES)]
    noise_BD = rng.standard_normal(near_BD.shape, dtype=np.float32)
    return near_BD + noise_BD * np.float32(0.5 * near_BD.std())
