"""A large synthetic catalogue: exact search beside what the export chooses.

    python -m loadtest.bench_scale --items 1000000 --out docs/results

The catalogue: items in 2,000 clusters of unequal, Zipf-like size; a cluster's centre and an item's
own part are normal with equal variance; the norm is log-normal (sigma 0.2), as popular items'
vectors are longer. Queries: an item's direction with a normal part of half its variance added,
drawn with another seed for the choice of parameters than for the figures here.
"""

import argparse
import json
import platform
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from index.build import HITS, build_index
from index.search import ItemIndex

Vectors = NDArray[np.float32]
CLUSTERS = 2000


def catalogue(items: int, width: int) -> Vectors:
    """Item vectors, see above: V D."""
    rng = np.random.default_rng(0)
    shares = 1 / np.arange(1, CLUSTERS + 1) ** 0.7
    vectors: Vectors = rng.standard_normal((items, width), dtype=np.float32)
    centres = rng.standard_normal((CLUSTERS, width), dtype=np.float32)
    vectors += centres[rng.choice(CLUSTERS, size=items, p=shares / shares.sum())]
    vectors *= rng.lognormal(sigma=0.2, size=(items, 1)).astype(np.float32)
    return vectors


def queries(vectors_VD: Vectors, count: int, seed: int) -> Vectors:
    """Interests near items: B D."""
    rng = np.random.default_rng(seed)
    near: Vectors = vectors_VD[rng.integers(len(vectors_VD), size=count)]
    near += rng.standard_normal(near.shape, dtype=np.float32) * near.std() * np.float32(0.7)
    return near


def rate(index: ItemIndex, queries_BD: Vectors, batch: int, seconds: float) -> float:
    """Queries a second."""
    done, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        first = done % (len(queries_BD) - batch + 1)
        index.search(queries_BD[first : first + batch], HITS)
        done += batch
    return done / (time.perf_counter() - started)


def measure(folder: Path, queries_BD: Vectors, seconds: float) -> tuple[dict[str, Any], Any]:
    """Start-up, rates by threads and batch; and the rows found."""
    started = time.perf_counter()
    index = ItemIndex.load(folder)
    found: dict[str, Any] = {"kind": index.kind, "load_seconds": time.perf_counter() - started}
    for threads in (1, 2):
        faiss.omp_set_num_threads(threads)
        for batch in (1, 64):
            found[f"rps_{threads}_threads_batch_{batch}"] = rate(index, queries_BD, batch, seconds)
    found["file_mb"] = (folder / "index.faiss").stat().st_size / 1e6
    return found, index.search(queries_BD, HITS)[0]


def main() -> None:
    """Print the figures, and write `scale.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    vectors_VD = catalogue(options.items, options.width)
    held_out_BD = queries(vectors_VD, 512, seed=2)
    figures: dict[str, Any] = {"items": options.items, "width": options.width, "hits": HITS}
    rows = {}
    for kind in ("flat", "auto"):
        with tempfile.TemporaryDirectory() as name:
            folder, started = Path(name), time.perf_counter()
            chosen_by_BD = queries(vectors_VD, 256, seed=1)
            build_index(
                vectors_VD, folder, "flat" if kind == "flat" else "auto", 0.98, chosen_by_BD
            )
            seconds = time.perf_counter() - started
            figures[kind], rows[kind] = measure(folder, held_out_BD, options.seconds)
            figures[kind]["export_seconds"] = seconds
            figures[kind]["card"] = json.loads((folder / "index.json").read_text())
    both = [len(np.intersect1d(r, e)) for r, e in zip(rows["auto"], rows["flat"], strict=True)]
    figures["recall"] = float(np.sum(both) / rows["flat"].size)
    figures["over_flat"] = {
        name: figures["auto"][name] / figures["flat"][name]
        for name in figures["flat"]
        if name.startswith("rps_")
    }
    figures["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    figures["machine"] = f"{platform.machine()}, faiss {faiss.__version__}"
    text = json.dumps(figures, indent=2) + "\n"
    print(text)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "scale.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
