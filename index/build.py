"""From item vectors to a Faiss index file: exact, or approximate with a measured recall.

Shapes: V catalogue, D width, B queries, K hits.
"""

import hashlib
import json
import time
from pathlib import Path
from typing import Any, Literal

import faiss
import numpy as np
from numpy.typing import NDArray

INDEX_FILE, CARD_FILE = "index.faiss", "index.json"

Kind = Literal["auto", "flat", "ivf"]

LARGE = 100_000  # items from which on `auto` tries an approximate index at all
HITS = 150  # what a recall of 100 with its over-fetch asks for
QUERIES = 256
BATCH = 64
MATRIX_FROM_QUERIES = 4  # smaller batches are faster in Faiss's own loops

Vectors = NDArray[np.float32]


def build_index(
    vectors_VD: Vectors,
    folder: Path,
    kind: Kind = "auto",
    target: float = 0.98,
    queries_BD: Vectors | None = None,
) -> None:
    """Write `index.faiss` (inner product) and its card `index.json` into `folder`.

    `auto` takes exact search, unless an approximate index reaches `target` of its hits and is
    faster: both are measured here, with `queries_BD` or else with perturbed item vectors. The card
    says what was found, and repeats the hash of the vectors, so that an index is never served with
    other ones. Raises ValueError where `ivf` is asked for and does not reach `target`.
    """
    vectors_VD = np.ascontiguousarray(vectors_VD, dtype=np.float32)
    flat = faiss.IndexFlatIP(vectors_VD.shape[1])
    flat.add(vectors_VD)
    index: Any = flat
    chosen: dict[str, Any] = {"kind": "flat"}
    if kind == "ivf" or (kind == "auto" and len(vectors_VD) >= LARGE):
        built, found = _build_ivf(vectors_VD, flat, target, queries_BD)
        reached = found["recall"] >= target
        if kind == "ivf" and not reached:
            raise ValueError(
                f"the approximate index finds {found['recall']:.3f} of the exact hits, "
                f"not {target}: ask for less with --index-recall, or for --index flat"
            )
        if kind == "ivf" or (reached and found["queries_per_second"] > found["flat_per_second"]):
            index, chosen = built, {"kind": "ivf"} | found
        else:
            chosen = {"kind": "flat", "tried": found}
    faiss.write_index(index, str(folder / INDEX_FILE))
    card = chosen | {
        "metric": "inner_product",
        "items": vectors_VD.shape[0],
        "dim": vectors_VD.shape[1],
        "vectors_sha256": vectors_sha256(vectors_VD),
    }
    (folder / CARD_FILE).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")


def vectors_sha256(vectors_VD: NDArray[Any]) -> str:
    """Hash of the vectors' bytes as float32, row after row."""
    data = np.ascontiguousarray(vectors_VD, dtype=np.float32)
    return hashlib.sha256(data.data).hexdigest()


def search_parameters(nprobe: int, k_factor: float) -> Any:
    """What Faiss is told at a search of an `ivf` index: lists looked into, codes kept a hit."""
    refine: Any = faiss.IndexRefineSearchParameters  # its stub knows no arguments
    lists: Any = faiss.SearchParametersIVF
    return refine(k_factor=k_factor, base_index_params=lists(nprobe=nprobe))


def _build_ivf(
    vectors_VD: Vectors, flat: Any, target: float, queries_BD: Vectors | None
) -> tuple[Any, dict[str, Any]]:
    """Inverted lists of 4-bit codes, re-ranked by fp16 vectors; the cheapest search that reaches
    `target`, or the most thorough one tried."""
    started = time.perf_counter()
    count, width = vectors_VD.shape
    lists = max(1, 2 ** round(np.log2(4 * np.sqrt(count))))
    lists = min(lists, max(1, count // 39))  # Faiss wants 39 vectors to train a list
    index = faiss.index_factory(
        width, f"IVF{lists},PQ{width // 2}x4fs,Refine(SQfp16)", faiss.METRIC_INNER_PRODUCT
    )
    rng = np.random.default_rng(0)
    sample = np.sort(rng.permutation(count)[: max(50 * lists, 20_000)])
    index.train(vectors_VD[sample])
    index.add(vectors_VD)
    seconds = time.perf_counter() - started
    source = "given" if queries_BD is not None else "perturbed items"
    if queries_BD is None:
        near_BD = vectors_VD[rng.integers(count, size=QUERIES)]
        noise_BD = rng.normal(size=near_BD.shape).astype(np.float32)
        queries_BD = near_BD + noise_BD * (0.5 * near_BD.std())
    hits = min(HITS, count)
    faiss.cvar.distance_compute_blas_threshold = MATRIX_FROM_QUERIES * width
    exact_BK, flat_rate = _timed_search(flat, queries_BD, hits, None)
    found: dict[str, Any] = {}
    nprobe = 1
    while nprobe < 2 * lists and found.get("recall", 0.0) < target:
        for k_factor in (2, 4, 8):
            parameters = search_parameters(min(nprobe, lists), k_factor)
            rows_BK, rate = _timed_search(index, queries_BD, hits, parameters)
            recall = _recall(rows_BK, exact_BK)
            found = {
                "nprobe": min(nprobe, lists),
                "k_factor": k_factor,
                "recall": recall,
                "queries_per_second": rate,
            }
            if recall >= target:
                break
        nprobe *= 2
    return index, found | {
        "lists": lists,
        "flat_per_second": flat_rate,
        "build_seconds": seconds,
        "measured_hits": hits,
        "measured_batch": BATCH,
        "measured_queries": source,
    }


def _timed_search(
    index: Any, queries_BD: Vectors, hits: int, parameters: Any
) -> tuple[NDArray[np.int64], float]:
    """The rows, and queries a second in batches of `BATCH`."""
    started = time.perf_counter()
    rows = [
        index.search(queries_BD[i : i + BATCH], hits, params=parameters)[1]
        for i in range(0, len(queries_BD), BATCH)
    ]
    return np.concatenate(rows), len(queries_BD) / (time.perf_counter() - started)


def _recall(rows_BK: NDArray[np.int64], exact_BK: NDArray[np.int64]) -> float:
    """Share of the exact hits that were found."""
    both = [len(np.intersect1d(r, e)) for r, e in zip(rows_BK, exact_BK, strict=True)]
    return float(np.sum(both) / exact_BK.size)
