"""A large synthetic catalogue: exact search beside the index that the export chooses.

    python -m loadtest.scale.bench_scale --items 1000000 --out docs/results

`loadtest.scale.scale_data` describes the vectors. The index's parameters are chosen with other
queries than those measured here. Then `recgpt serve` is started on the bundle, for its start-up
time and memory. OUT/scale.json has the figures, OUT/scale.md gets the table between its marks.
"""

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path
from typing import Any, get_args

import faiss
import numpy as np
from numpy.typing import NDArray

from index.benchmark import BATCHES, faiss_exact_search, in_batches, rates, recall_of
from index.build import HITS, build_index
from index.formats import Kind, read_index_json
from index.search import load_index
from loadtest.environment import environment
from loadtest.results import number, put_between_marks, say
from loadtest.scale.scale_bundle import RECALLS, bundle_of, serving
from loadtest.scale.scale_data import BASE, catalogue, interests
from model.artifact.bundle import read_item_vectors
from model.artifact.manifest import read_manifest
from model.artifact.versions import publish

Vectors = NDArray[np.float32]


def main() -> None:
    """Prints the figures, and writes scale.json and the table in scale.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--index", choices=("auto", *get_args(Kind)), default="auto")
    parser.add_argument("--index-recall", type=float, default=0.98)
    parser.add_argument(
        "--base-items",
        type=int,
        default=BASE,
        help="items with neighbours of their own; all others lie near one of them",
    )
    parser.add_argument("--isotropic", action="store_true", help="random vectors without structure")
    parser.add_argument("--out", type=Path, help="folder for scale.json and scale.md")
    parser.add_argument(
        "--queries",
        type=int,
        default=512,
        help="to choose the parameters, and as many others to measure",
    )
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = _measure(options, Path(folder))
    text = json.dumps(figures, indent=2) + "\n"
    print(text)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "scale.json").write_text(text, encoding="utf-8")
        put_between_marks(options.out / "scale.md", f"scale-{options.items}", table(figures))


def _measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    artifacts, file = folder / "artifacts", folder / "vectors.npy"
    structure = (options.isotropic, options.base_items)
    vectors_VD = catalogue(file, options.items, options.width, *structure)
    chosen_with_BD = interests(options.width, options.queries, 1, *structure)
    started = time.perf_counter()
    with bundle_of(artifacts, vectors_VD, options.users) as (bundle, version):
        file.unlink()
        say("building the index")
        vectors_VD = read_item_vectors(bundle)
        build_index(vectors_VD, bundle, options.index, options.index_recall, chosen_with_BD)
        say(f"index built after {time.perf_counter() - started:.0f} s")
    publish(artifacts, version)
    bundle = artifacts / version
    figures: dict[str, Any] = {
        "items": options.items,
        "users": options.users,
        "width": options.width,
        "vectors": "isotropic" if options.isotropic else f"near {options.base_items} learned ones",
        "hits": HITS,
        "export_seconds": time.perf_counter() - started,
        "build_peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "file_mb": {file.name: file.stat().st_size / 1e6 for file in bundle.iterdir()},
        "index": read_index_json(bundle),
    }
    queries_BD = interests(options.width, options.queries, 2, *structure)
    figures |= _compare(bundle, queries_BD, options)
    say(json.dumps(figures))
    return figures | {"service": serving(artifacts, options.items)} | environment()


def _compare(bundle: Path, queries_BD: Vectors, options: argparse.Namespace) -> dict[str, Any]:
    """Returns held-out recall, and rates beside exact search's by threads and size of batch.

    Rates of one thread are per CPU second, others per second.
    """
    vectors_VD = read_item_vectors(bundle)
    index = load_index(bundle, vectors_VD, read_manifest(bundle).vectors_sha256)
    exact = faiss_exact_search(vectors_VD, HITS)

    def search(queries_BD: Vectors) -> NDArray[np.int64]:
        return index.search(queries_BD, HITS)[1]

    found: dict[str, Any] = {"per_second": {}, "exact_per_second": {}, "over_exact": {}}
    for threads in options.threads:
        faiss.omp_set_num_threads(threads)
        clock = time.process_time if threads == 1 else time.perf_counter
        ours, theirs = rates([search, exact], queries_BD, clock=clock)
        over = {str(batch): round(ours[str(batch)] / theirs[str(batch)], 2) for batch in BATCHES}
        found["per_second"][f"{threads} threads"] = ours
        found["exact_per_second"][f"{threads} threads"] = theirs
        found["over_exact"][f"{threads} threads"] = over
    rows_BK = in_batches(search, queries_BD)
    found["recall"] = recall_of(rows_BK, in_batches(exact, queries_BD))[0]
    return found


def table(figures: dict[str, Any]) -> str:
    """Returns the figures as Markdown."""
    index, service = figures["index"], figures["service"]
    parameters = "".join(f", {name} {value:,}" for name, value in index["parameters"].items())
    lines = [
        f"`{figures['command']}`",
        "",
        f"{figures['machine']}; Python {figures['python']}; {figures['date']}; commit "
        f"{figures['commit']}. {figures['items']:,} items and {figures['users']:,} users, width "
        f"{figures['width']}, vectors {figures['vectors']}. The export chose {index['kind']}"
        f"{parameters}; held-out recall@{figures['hits']} {figures['recall']:.4f}.",
        "",
        "| threads | search | " + " | ".join(f"batch {batch}" for batch in BATCHES) + " |",
        "|---" * (2 + len(BATCHES)) + "|",
    ]
    rows = {"Faiss exact": "exact_per_second", "chosen": "per_second", "ratio": "over_exact"}
    for threads in figures["over_exact"]:
        for name, key in rows.items():
            cells = (number(figures[key][threads][str(batch)]) for batch in BATCHES)
            lines.append(f"| {threads.split()[0]} | {name} | " + " | ".join(cells) + " |")
    engine = service[f"mb_after_{RECALLS}_recalls"]["engine"]
    lines += [
        "",
        "Rates are queries per CPU second with one thread, per second with more. The export took "
        f"{figures['export_seconds']:.0f} s and {figures['build_peak_mb'] / 1024:.1f} GB. "
        f"`recgpt serve` answered after {service['seconds_to_the_first_answer']:.0f} s; its engine "
        f"has {engine['own']:,.0f} MB of its own and {engine['of files']:,.0f} MB of files. A lone "
        f"recall takes {service['ms_a_lone_recall']:.1f} ms.",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
