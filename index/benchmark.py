"""How much an approximate search finds, and how fast it is beside the exact one.

Shapes: V catalogue, D width, B queries, K hits.
"""

import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from index.formats import Parameters
from index.ivf.search import ListSearch

Vectors = NDArray[np.float32]
Rows = NDArray[np.int64]
Search = Callable[[Vectors], Rows]
"""B D → B K."""
Clock = Callable[[], float]
Rates = dict[str, float]
"""Queries a second, by the size of a batch."""

BATCHES = (1, 8, 64)
ROUNDS = 3
MOST_SECONDS = 2.0  # for a rate, where the catalogue is large
MATRIX_FROM_QUERIES = 4  # smaller batches are faster in Faiss's own loops


def prefer_products(width: int) -> None:
    """Let Faiss multiply matrices from a few queries on, two to four times faster at 64 of them;
    its default leaves that to 1,000. This is for the whole process."""
    faiss.cvar.distance_compute_blas_threshold = MATRIX_FROM_QUERIES * width


@contextmanager
def one_thread(
    threads: Callable[[], int] = faiss.omp_get_max_threads,
    use: Callable[[int], object] = faiss.omp_set_num_threads,
) -> Iterator[None]:
    """Faiss, or another library, with one thread for a while, as the service runs it by default."""
    before = threads()
    use(1)
    try:
        yield
    finally:
        use(before)


def exact_search(vectors_VD: Vectors, hits: int) -> Search:
    """The search to compare with; takes the table as it is, mapped or not."""
    prefer_products(vectors_VD.shape[1])

    def search(queries_BD: Vectors) -> Rows:
        found: Any = faiss.knn(queries_BD, vectors_VD, hits, metric=faiss.METRIC_INNER_PRODUCT)
        rows_BK: Rows = found[1]
        return rows_BK

    return search


def lists_search(lists: ListSearch, probed: int, hits: int) -> Search:
    """The search of so many lists."""

    def search(queries_BD: Vectors) -> Rows:
        return lists.search(queries_BD, hits, probed)[1]

    return search


def in_batches(search: Search, queries_BD: Vectors) -> Rows:
    """The hits of many queries, in batches of the largest size."""
    largest = BATCHES[-1]
    starts = range(0, len(queries_BD), largest)
    return np.concatenate([search(queries_BD[s : s + largest]) for s in starts])


def rates(
    searches: Sequence[Callable[[Vectors], object]],
    queries_BD: Vectors,
    seconds: float = MOST_SECONDS,
    clock: Clock = time.perf_counter,
) -> list[Rates]:
    """The rates of each search, where a batch's are measured for so many seconds at most.

    They take turns and the best of several rounds counts: a machine that is busy with other work
    slows them all, but not all at once. With one thread `time.process_time` is the better clock.
    """
    best: list[Rates] = [{} for _ in searches]
    for batch in BATCHES:
        for _ in range(ROUNDS):
            for search, found in zip(searches, best, strict=True):
                rate = _rate(search, queries_BD, min(batch, len(queries_BD)), seconds, clock)
                found[str(batch)] = round(max(found.get(str(batch), 0.0), rate), 1)
    return best


def recall_of(rows_BK: Rows, exact_BK: Rows) -> tuple[float, float]:
    """Share of the exact hits that were found, and what it surely is: two standard errors less."""
    shares_B = np.array(
        [len(np.intersect1d(r, e)) / len(e) for r, e in zip(rows_BK, exact_BK, strict=True)]
    )
    mean = float(shares_B.mean())
    return mean, mean - 2 * float(shares_B.std()) / len(shares_B) ** 0.5


def sufficient(
    lists: ListSearch, queries_BD: Vectors, exact_BK: Rows, target: float
) -> tuple[Parameters, float]:
    """The fewest lists that surely hold `target` of the hits, and their recall.

    Where none do, all of them.
    """

    def recall(probed: int) -> tuple[float, float]:
        search = lists_search(lists, probed, exact_BK.shape[1])
        return recall_of(in_batches(search, queries_BD), exact_BK)

    def enough(probed: int) -> bool:
        return recall(probed)[1] >= target

    # The recall grows with the lists.
    least = 1 + bisect_left(range(1, lists.count), True, key=enough)
    return {"lists": lists.count, "nprobe": least}, recall(least)[0]


def _rate(
    search: Callable[[Vectors], object],
    queries_BD: Vectors,
    batch: int,
    seconds: float,
    clock: Clock,
) -> float:
    """Queries a second over all of them, or as many as the time allows."""
    done, started = 0, clock()
    while done + batch <= len(queries_BD) and clock() - started < seconds:
        search(queries_BD[done : done + batch])
        done += batch
    return done / (clock() - started)
