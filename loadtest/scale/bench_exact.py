"""The two exact searches: 8-bit scores with a re-score (`index.exact`), and Faiss's.

    python -m loadtest.scale.bench_exact --out docs/results

The service has the former only, and this is the measurement behind that. Vectors are those of
`loadtest.scale.scale_data`; k is 150, what a recall of 100 candidates fetches from an index. Each
search has one thread, and rates are queries per CPU second.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from index.benchmark import BATCHES, Rates, Rows, Vectors, faiss_exact_search, one_thread, rates
from index.build import HITS
from index.exact import ExactIndex
from loadtest.environment import environment
from loadtest.results import number, put_between_marks, say
from loadtest.scale.scale_data import catalogue, interests

QUERIES = 128


def main() -> None:
    """Measures, prints the table, and writes it into scale.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, nargs="+", default=[12_000, 100_000, 1_000_000])
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    parser.add_argument("--out", type=Path, required=True, help="folder of scale.md")
    options = parser.parse_args()
    with one_thread(), threadpool_limits(1):
        rows = [
            (items, width, *measure(items, width, options.seconds))
            for items in options.items
            for width in options.widths
        ]
    text = "\n".join(page(rows))
    print(text)
    put_between_marks(options.out / "scale.md", "exact", text)


def measure(items: int, width: int, seconds: float) -> tuple[Rates, Rates]:
    """Returns the rates of our search and of Faiss's. Exits if they find different items."""
    with tempfile.TemporaryDirectory() as folder:
        vectors_VD = np.array(catalogue(Path(folder) / "vectors.npy", items, width))
    queries_BD = interests(width, QUERIES, seed=1)
    index, by_faiss = ExactIndex(vectors_VD), faiss_exact_search(vectors_VD, HITS)

    def ours(queries_BD: Vectors) -> Rows:
        return index.search(queries_BD, HITS)[1]

    found = zip(ours(queries_BD), by_faiss(queries_BD), strict=True)
    if (share := np.mean([np.isin(a, b).mean() for a, b in found])) < 0.9999:  # ties may differ
        raise SystemExit(f"the two searches find the same items in {share:.2%} of all places")
    our_rates, their_rates = rates([ours, by_faiss], queries_BD, seconds, time.process_time)
    say(f"{items:,} items of width {width}: {our_rates} and {their_rates}")
    return our_rates, their_rates


def page(rows: list[tuple[int, int, Rates, Rates]]) -> Iterator[str]:
    """Yields the lines of the table and of what describes it."""
    about = environment()
    yield f"`{about['command']}`"
    yield ""
    yield f"{about['machine']}; {about['date']}; commit {about['commit']}."
    yield ""
    yield f"| items | width |{'|'.join(f' batch {batch}: ours, Faiss ' for batch in BATCHES)}|"
    yield "|---|---|" + "---|" * len(BATCHES)
    for items, width, ours, theirs in rows:
        pairs = [f"{number(ours[b])}, {number(theirs[b])}" for b in map(str, BATCHES)]
        yield f"| {items:,} | {width} | {' | '.join(pairs)} |"


if __name__ == "__main__":
    main()
