"""A large made-up catalogue: exact search beside what the export chooses.

    python -m loadtest.bench_scale --items 1000000 --out docs/results

See `loadtest.scale_data` for the vectors. Other queries choose the index's parameters than are
measured here. What a service would load is loaded in a process of its own, for its start-up time
and memory; the ids and the table of `--users` users are mapped.
"""

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from index.build import HITS, build_index, read_card
from index.measure import BATCHES, exact_search, in_batches, rates, recall_of
from index.search import ItemIndex
from loadtest.scale_data import catalogue, interests
from model.ids import IdTable, write_ids

Vectors = NDArray[np.float32]
HELD_OUT = 512
USER_RANK = 16


def main() -> None:
    """Print the figures, and write `scale.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--index", choices=("auto", "flat", "ivf"), default="auto")
    parser.add_argument("--index-recall", type=float, default=0.98)
    parser.add_argument("--isotropic", action="store_true", help="vectors without any structure")
    parser.add_argument("--out", type=Path, help="folder for scale.json")
    parser.add_argument("--load", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.load:
        print(json.dumps(_load(options.load)))
        return
    with tempfile.TemporaryDirectory() as folder:
        figures = _measure(options, Path(folder))
    text = json.dumps(figures, indent=2) + "\n"
    print(text)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "scale.json").write_text(text, encoding="utf-8")


def _measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    shape = (options.width, HELD_OUT)
    vectors_VD = catalogue(folder / "vectors.npy", options.items, options.width, options.isotropic)
    _users(folder, options.users)
    chosen_with_BD = interests(*shape, seed=1, isotropic=options.isotropic)
    started = time.perf_counter()
    build_index(vectors_VD, folder, options.index, options.index_recall, chosen_with_BD)
    figures: dict[str, Any] = {
        "items": options.items,
        "users": options.users,
        "width": options.width,
        "vectors": "isotropic" if options.isotropic else "like learned ones",
        "hits": HITS,
        "export_seconds": time.perf_counter() - started,
        "build_peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "file_mb": (folder / "index.faiss").stat().st_size / 1e6,
        "card": read_card(folder),
    }
    words = [sys.executable, "-m", "loadtest.bench_scale", "--load", str(folder)]
    figures["loaded"] = json.loads(subprocess.check_output(words))
    figures |= _compare(vectors_VD, folder, interests(*shape, seed=2, isotropic=options.isotropic))
    figures["machine"] = f"{platform.machine()}, faiss {faiss.__version__}"
    return figures


def _compare(vectors_VD: Vectors, folder: Path, queries_BD: Vectors) -> dict[str, Any]:
    """Held-out recall, and rates beside exact search's, by threads and size of a batch."""
    index, exact = ItemIndex.load(folder), exact_search(vectors_VD, HITS)

    def search(queries_BD: Vectors) -> NDArray[np.int64]:
        return index.search(queries_BD, HITS)[0]

    found: dict[str, Any] = {"per_second": {}, "exact_per_second": {}, "over_exact": {}}
    for threads in (1, 2):
        faiss.omp_set_num_threads(threads)
        ours, theirs = rates([search, exact], queries_BD)
        over = {str(batch): round(ours[str(batch)] / theirs[str(batch)], 2) for batch in BATCHES}
        found["per_second"][f"{threads} threads"] = ours
        found["exact_per_second"][f"{threads} threads"] = theirs
        found["over_exact"][f"{threads} threads"] = over
    rows_BK = in_batches(search, queries_BD)
    found["recall"] = recall_of(rows_BK, in_batches(exact, queries_BD))[0]
    return found


def _users(folder: Path, count: int) -> None:
    """Ids, and a table of vectors that is mostly a hole in the file."""
    write_ids(folder, "user", (f"user-{row}" for row in range(count)))
    shape = (count + 1, USER_RANK)
    np.lib.format.open_memmap(folder / "user_table.npy", "w+", np.float32, shape).flush()


def _load(folder: Path) -> dict[str, Any]:
    """What a service would load: seconds and memory."""
    before = _resident_mb()
    index_seconds, index = _timed(lambda: ItemIndex.load(folder))
    with_index = _resident_mb()
    users_seconds, users = _timed(lambda: IdTable(folder, "user"))
    table_UR = np.load(folder / "user_table.npy", mmap_mode="r", allow_pickle=False)
    asked = [f"user-{row}" for row in np.random.default_rng(0).integers(len(users), size=10_000)]
    lookup_seconds, rows = _timed(lambda: [users.get(user) for user in asked])
    table_UR[np.array(rows) + 1].sum()
    return {
        "items": index.items,
        "index_seconds": index_seconds,
        "index_mb": with_index - before,
        "users_seconds": users_seconds,
        "users_mb_after_10000_lookups": _resident_mb() - with_index,
        "lookup_us": lookup_seconds / len(asked) * 1e6,
    }


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    done = work()
    return time.perf_counter() - started, done


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * resource.getpagesize() / 1e6


if __name__ == "__main__":
    main()
