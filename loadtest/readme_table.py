"""The table of results in README.md, from the figures in docs/results/*.json.

python -m loadtest.readme_table            write it between its marks
python -m loadtest.readme_table --check    exit with 1 if README.md differs from the figures
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from loadtest.quality.quality_table import METRICS, OWN, SINGLE_RUNS
from model.files import new_file

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results"
BEGIN = "<!-- begin: results -->"
END = "<!-- end: results -->"
SHOWN = ("HR@10", "NDCG@10")
CANDIDATES = {
    "A two-tower model, Toys, against sets and three interests": (
        "Toys: recall of the next day's items in 100 candidates"
    ),
    "A two-tower model, MovieLens 100K": "MovieLens: recall of the next ten in 100 candidates",
}
"""Comparisons of docs/results/quality-runs.json by their names, and what the table calls them."""

Row = tuple[str, str, str, str]
"""Name of the measurement, our figure, the others' figures, page with the details."""


def table() -> str:
    """Returns the table in Markdown."""
    rows = [*candidates(), *quality(), *serving(), *start(), *training(), *scale()]
    lines = ["| measured | RecGPT | compared with | details |", "|---|---|---|---|"]
    lines += [
        f"| {what} | {ours} | {others} | [{page}](docs/results/{page}.md) |"
        for what, ours, others, page in rows
    ]
    return "\n".join(lines)


def candidates() -> Iterator[Row]:
    """Recall of the candidates, beside that of a two-tower model of the same width."""
    figures = {run["what"]: run["figures"] for run in json.loads(text_of("quality-runs"))}
    for what, name in CANDIDATES.items():
        recall = figures[what]["recall@100"]
        yield name, f"{recall['new']:.3f}", f"two-tower model {recall['old']:.3f}", "quality"


def quality() -> Iterator[Row]:
    """Recommendation quality on the public data sets, means over the seeds.

    KERec's runs are the best published ones.
    """
    places = [METRICS.index(metric) for metric in SHOWN]
    for name, entries in read("quality").items():
        ours = ", ".join(f"{entries[OWN]['mean'][place]:.4f}" for place in places)
        published = ", ".join(f"{SINGLE_RUNS['KERec'][name][place]:.4f}" for place in places)
        yield f"{name}: {', '.join(SHOWN)}", ours, f"KERec {published}", "quality"


def serving() -> Iterator[Row]:
    """The service on two cores, with its load generator and Redis."""
    bench = read("bench")
    naive, ours, empty = (bench["details"][name] for name in ("naive", "ours", "empty_fastapi"))
    yield (
        "Serving Beauty on two cores: requests/s",
        f"{ours['rps']:,.0f}",
        f"naive service {naive['rps']:,.0f}, empty endpoint {empty['rps']:,.0f}",
        "bench",
    )
    yield (
        "… CPU ms per request",
        f"{ours['cpu_ms_per_request']:.2f}",
        f"{naive['cpu_ms_per_request']:.2f}, {empty['cpu_ms_per_request']:.2f}",
        "bench",
    )
    yield (
        "… p50 and p99 at half of the own peak, ms",
        half_load(ours),
        f"naive service {half_load(naive)}",
        "bench",
    )


def half_load(service: dict[str, Any]) -> str:
    """Latencies of a service at half of its peak rate."""
    measured = service["open"]["0.5"]
    return f"{measured['p50_ms']:.1f}, {measured['p99_ms']:.1f}"


def start() -> Iterator[Row]:
    """The second start of the service; no row before it has been measured."""
    if (RESULTS / "start.json").exists():
        measured = read("start")
        yield (
            "Start of `recgpt serve` to ready, loops compiled before: s",
            f"{measured['second_start_seconds']:.1f}",
            f"`import torch, faiss` {measured['import_seconds']:.1f}",
            "start",
        )


def training() -> Iterator[Row]:
    """Training of the same network by RecBole and by us."""
    last = read("training")["to_target"][-1]
    yield (
        f"Training SASRec to a validation NDCG@20 of {last['NDCG@20']:.3f}: CPU s",
        f"{last['ours']['cpu_seconds']:,.0f}",
        f"RecBole {last['peer']['cpu_seconds']:,.0f}",
        "training",
    )


def scale() -> Iterator[Row]:
    """Search of a large catalogue, one thread."""
    measured = read("scale")
    (rates,), (exact,) = measured["per_second"].values(), measured["exact_per_second"].values()
    yield (
        f"Search of {measured['items']:,} items: queries per CPU second, batch 64",
        f"{rates['64']:,.0f} at recall {measured['recall']:.2f}",
        f"Faiss exact {exact['64']:,.0f}",
        "scale",
    )


def read(name: str) -> dict[str, Any]:
    """Returns a results file."""
    content: dict[str, Any] = json.loads(text_of(name))
    return content


def text_of(name: str) -> str:
    """Returns the text of a results file."""
    return (RESULTS / f"{name}.json").read_text(encoding="utf-8")


def main() -> int:
    """Writes or checks the table; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    wanted = f"{before}{BEGIN}\n{table()}\n{END}{after}"
    if options.check:
        if text != wanted:
            print("README.md differs from docs/results: run `python -m loadtest.readme_table`")
        return int(text != wanted)
    with new_file(readme) as beside:
        beside.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
