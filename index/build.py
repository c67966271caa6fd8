"""From item vectors to a Faiss index file: exact, or approximate with a measured recall.

Shapes: V catalogue, D width, B queries, K hits.
"""

import hashlib
import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

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
KINDS: tuple[Kind, ...] = get_args(Kind)

LARGE = 20_000  # items from which on an approximate index is tried where there is a choice
LARGEST_GRAPH = 2_000_000  # items up to which a graph is tried: it takes minutes a million
HITS = 150  # what a recall of 100 with its over-fetch asks for
QUERIES = 512
DECIDING = "64"  # the size of a batch whose rate decides


def build_index(
    vectors_VD: Vectors,
    folder: Path,
    kinds: Sequence[Kind] = KINDS,
    target: float = 0.98,
    queries_BD: Vectors | None = None,
) -> None:
    """Write `index.faiss` (inner product) and its card `index.json` into `folder`.

    Of `kinds`, the fastest that finds `target` of the exact hits is taken; where there is a choice,
    approximate ones are tried for catalogues from `LARGE` items on. All are measured here, with
    `queries_BD` (kept as `index_queries.npy`) or else with perturbed item vectors. The card says
    what was found, and repeats the hash of the vectors, so that an index is never served with other
    ones. Raises ValueError where no kind that is allowed reaches `target`.
    """
    if vectors_VD.dtype != np.float32 or not vectors_VD.flags.c_contiguous:
        vectors_VD = np.ascontiguousarray(vectors_VD, dtype=np.float32)
    if queries_BD is not None:
        np.save(folder / QUERIES_FILE, queries_BD)
    tried = [kind for kind in kinds if kinds == (kind,) or _worth_trying(kind, len(vectors_VD))]
    card: dict[str, Any] = {"kind": "flat", "parameters": {}}
    index: Any = None
    if tried != ["flat"]:
        card, index = _fastest(vectors_VD, tried, target, queries_BD)
    if index is None:
        index = build("flat", vectors_VD)
    faiss.write_index(index, str(folder / INDEX_FILE))
    card |= {
        "asked": list(kinds),
        "target": target,
        "metric": "inner_product",
        "items": vectors_VD.shape[0],
        "dim": vectors_VD.shape[1],
        "vectors_sha256": vectors_sha256(vectors_VD),
    }
    (folder / CARD_FILE).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")


def build_index_like(vectors_VD: Vectors, folder: Path, other: Path) -> None:
    """The same kind of index as in the folder `other`, or an exact one where a choice was left.

    Measured with the queries that the other was measured with.
    """
    card = read_card(other)
    asked, kind = tuple(card["asked"]), card["kind"]
    kinds = asked if len(asked) == 1 else tuple(dict.fromkeys(("flat", kind)))
    file = other / QUERIES_FILE
    queries_BD = np.load(file, allow_pickle=False) if file.exists() else None
    build_index(vectors_VD, folder, kinds, card["target"], queries_BD)


def read_card(folder: Path) -> dict[str, Any]:
    """What `build_index` found. Raises OSError, ValueError where there is none."""
    card: dict[str, Any] = json.loads((folder / CARD_FILE).read_text(encoding="utf-8"))
    return card


def vectors_sha256(vectors_VD: NDArray[Any]) -> str:
    """Hash of the vectors' bytes as float32, row after row."""
    data = np.ascontiguousarray(vectors_VD, dtype=np.float32)
    return hashlib.sha256(data.data).hexdigest()


def _worth_trying(kind: Kind, items: int) -> bool:
    return kind == "flat" or items >= LARGE and (kind != "hnsw" or items <= LARGEST_GRAPH)


def _fastest(
    vectors_VD: Vectors, kinds: Sequence[Kind], target: float, queries_BD: Vectors | None
) -> tuple[dict[str, Any], Any]:
    """The card and the index of the fastest kind; no index for exact search."""
    source = "given" if queries_BD is not None else "perturbed items"
    if queries_BD is None:
        queries_BD = _perturbed(vectors_VD)
    hits = min(HITS, len(vectors_VD))
    exact_BK = in_batches(exact_search(vectors_VD, hits), queries_BD)
    best: tuple[dict[str, Any], Any] | None = None
    measured: dict[str, dict[str, Any]] = {}
    for kind in [kind for kind in kinds if kind != "flat"]:
        found, index = _measured(kind, vectors_VD, queries_BD, exact_BK, target)
        log.info("%s: %s", kind, found)
        measured[kind] = found
        rate, flat_rate = found["queries_per_second"], found["flat_per_second"]
        reached = found["recall"] >= target
        if reached and ("flat" not in kinds or rate[DECIDING] > flat_rate[DECIDING]):
            if best is None or rate[DECIDING] > best[0]["queries_per_second"][DECIDING]:
                best = {"kind": kind} | found, index
    if best is None and "flat" not in kinds:
        recalls = ", ".join(f"{kind} {found['recall']:.3f}" for kind, found in measured.items())
        raise ValueError(
            f"of the exact hits, {target} were to be found, not: {recalls}. "
            "Ask for less with --index-recall, or for --index flat"
        )
    card, index = best or ({"kind": "flat", "parameters": {}}, None)
    about = {"hits": hits, "queries": source, "threads": 1}
    return card | {"measured_with": about, "tried": measured}, index


def _measured(
    kind: Kind, vectors_VD: Vectors, queries_BD: Vectors, exact_BK: Rows, target: float
) -> tuple[dict[str, Any], Any]:
    """What the card says of a kind of index, and the index."""
    started = time.perf_counter()
    index = build(kind, vectors_VD)
    seconds = time.perf_counter() - started
    hits = exact_BK.shape[1]
    with one_thread():
        parameters, recall = cheapest(index, kind, queries_BD, exact_BK, target)
        searches = [index_search(index, kind, parameters, hits), exact_search(vectors_VD, hits)]
        rate, flat_rate = rates(searches, queries_BD)
    return {
        "parameters": parameters,
        "recall": recall,
        "queries_per_second": rate,
        "flat_per_second": flat_rate,
        "build_seconds": round(seconds, 1),
    }, index


def _perturbed(vectors_VD: Vectors) -> Vectors:
    """Queries near items."""
    rng = np.random.default_rng(0)
    near_BD: Vectors = vectors_VD[rng.integers(len(vectors_VD), size=QUERIES)]
    noise_BD = rng.standard_normal(near_BD.shape, dtype=np.float32)
    return near_BD + noise_BD * np.float32(0.5 * near_BD.std())
