"""Filtered recalls beside unfiltered ones, of the engine without HTTP, in one run.

    python -m loadtest.scale.bench_filters --out docs/results

Synthetic catalogues (`loadtest.scale.scale_data`) of 12,000 and 1,000,000 items have an attribute
with a random number from 0 to 1, so that a range of numbers allows any share of the items. Queries
of a batch take turns among eight such filters. Recalls take turns with unfiltered ones, and rates
are recalls per CPU second with one thread. `--short` measures the small catalogue for a moment.

Shapes: V catalogue, B queries, D width, K hits.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import psutil
import torch
from threadpoolctl import threadpool_limits

from index.benchmark import one_thread
from index.build import build_index
from index.formats import read_index_json
from index.search import load_index
from loadtest.environment import environment
from loadtest.results import number, put_between_marks, say
from loadtest.scale.scale_bundle import bundle_of
from loadtest.scale.scale_data import catalogue, interests
from model.artifact.bundle import read_item_vectors
from model.artifact.manifest import read_manifest
from service.recall.cpu.filtered_search import FilteredSearcher
from service.recall.filters.form import canonical_form
from service.recall.recaller import Recaller
from service.recall.types import Query

WIDTH, USERS, HISTORY, K, HITS = 64, 1000, 20, 100, 150
SHARES = (1.0, 0.5, 0.1, 0.05, 0.01, 0.001)
BATCHES = (1, 16, 64)
FILTERS = 8
MANY, MANY_OF_LARGE = 10_000, 2_000  # different filters, which take longer to apply to more items
LARGE = 100_000
JUDGED = 48  # queries whose hits are compared with the exact ones


def main() -> None:
    """Prints the figures, and writes filters.json and the table in filters.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, nargs="+", default=[12_000, 1_000_000])
    parser.add_argument("--seconds", type=float, default=0.8, help="of each measurement")
    parser.add_argument("--short", action="store_true", help="12,000 items, 0.1 s each")
    parser.add_argument("--out", type=Path, help="folder of filters.json and filters.md")
    options = parser.parse_args()
    if options.short:
        options.items, options.seconds = [12_000], 0.1
    torch.set_num_threads(1)
    with one_thread(), threadpool_limits(1):
        figures: dict[str, Any] = {str(n): measure(n, options.seconds) for n in options.items}
    figures |= environment()
    text = json.dumps(figures, indent=2) + "\n"
    print(text)
    if options.out:
        (options.out / "filters.json").write_text(text, encoding="utf-8")
        put_between_marks(options.out / "filters.md", "filters", page(figures))


def measure(items: int, seconds: float) -> dict[str, Any]:
    """Returns the figures of a catalogue of this size."""
    with tempfile.TemporaryDirectory() as folder:
        bundle = _bundle(Path(folder), items)
        kind = read_index_json(bundle)["kind"]
        say(f"{items:,} items: {kind}")
        recaller = Recaller.load(bundle, "cpu")
        recaller.warm_up()
        figures: dict[str, Any] = {"index": kind, "over_unfiltered": {}, "unfiltered": {}}
        queries = _queries(items, 1024)
        for batch in BATCHES:
            ratios: dict[str, float] = {}
            for share in SHARES:
                plain, filtered = _rates(recaller, queries, _filters(share), batch, seconds)
                ratios[str(share)] = round(filtered / plain, 2)
            figures["over_unfiltered"][str(batch)] = ratios
            figures["unfiltered"][str(batch)] = round(plain)
            say(f"batch {batch}: {ratios}")
        figures["recall"] = _recalls(bundle)
        figures |= _mixed(recaller, queries, seconds) | _many(
            recaller, queries, MANY if items <= LARGE else MANY_OF_LARGE
        )
        return figures


def _bundle(folder: Path, items: int) -> Path:
    vectors_VD = catalogue(folder / "vectors.npy", items, WIDTH)
    numbers = pl.Series("number", np.random.default_rng(0).random(items))
    with bundle_of(folder / "artifacts", vectors_VD, USERS, numbers) as (bundle, version):
        build_index(read_item_vectors(bundle), bundle, "auto", 0.98, interests(WIDTH, 512, 1))
    return folder / "artifacts" / version


def _queries(items: int, count: int) -> list[Query]:
    rows = np.random.default_rng(1).integers(items, size=(count, HISTORY))
    return [Query("nobody", [f"item-{row}" for row in own], k=K) for own in rows]


def _filters(share: float, count: int = FILTERS) -> list[bytes]:
    """Returns different filters that each allow this share of the items."""
    starts = np.random.default_rng(2).uniform(0, 1 - share, count)
    return [_between(start, start + share) for start in starts]


def _between(low: float, high: float) -> bytes:
    return canonical_form({"all": [{"field": "number", "gte": float(low), "lt": float(high)}]})


def _with(queries: Sequence[Query], forms: Sequence[bytes]) -> list[Query]:
    turns = zip(queries, cycle(forms), strict=False)
    return [Query(query.user_id, query.history, k=query.k, filter=form) for query, form in turns]


def _rates(
    recaller: Recaller, queries: list[Query], forms: list[bytes], batch: int, seconds: float
) -> tuple[float, float]:
    """Returns unfiltered and filtered recalls per CPU second, which take turns."""
    both = queries, _with(queries, forms)
    recaller.recall(both[1][:64])  # filters are applied before they are measured
    spent, done = [0.0, 0.0], [0, 0]
    for first in cycle(range(0, len(queries) - batch + 1, batch)):
        for which, some in enumerate(both):
            started = time.process_time()
            recaller.recall(some[first : first + batch])
            spent[which] += time.process_time() - started
            done[which] += batch
        if sum(spent) > 2 * seconds:
            return done[0] / spent[0], done[1] / spent[1]
    raise AssertionError


def _recalls(bundle: Path) -> dict[str, dict[str, float]]:
    """Returns the share of the exact hits that the search finds, by kind of filter and share."""
    vectors_VD = np.asarray(read_item_vectors(bundle))
    index = load_index(bundle, vectors_VD, read_manifest(bundle).vectors_sha256)
    search, queries_BD = FilteredSearcher(index), interests(WIDTH, JUDGED, 2)
    scores_BV = queries_BD @ vectors_VD.T
    numbers_V, order_BV = np.random.default_rng(3).random(len(vectors_VD)), np.sort(scores_BV)
    found: dict[str, dict[str, float]] = {"random": {}, "farthest": {}}
    for share in SHARES:
        last = max(HITS, int(share * len(vectors_VD))) - 1
        for kind, shares in found.items():
            parts = []
            for query, scores_V in enumerate(scores_BV):
                allowed_V = numbers_V < share
                if kind == "farthest":
                    allowed_V = scores_V <= order_BV[query, last]
                selection = search.selections.select(allowed_V)
                hits = search.hits([selection], queries_BD[query : query + 1], HITS)[1][0]
                left_V = np.where(allowed_V, scores_V, -np.inf)
                count = min(HITS, selection.items)
                best = np.argpartition(-left_V, count - 1)[:count]
                parts.append(np.isin(best, hits).mean())
            shares[str(share)] = round(float(np.mean(parts)), 4)
    say(f"recall: {found}")
    return found


def _mixed(recaller: Recaller, queries: list[Query], seconds: float) -> dict[str, Any]:
    """Returns 99th percentiles of lone recalls in ms, unfiltered and with 64 unlike filters."""
    forms = [form for share in SHARES[1:] for form in _filters(share, 13)][:64]
    times: dict[str, list[float]] = {"unfiltered": [], "64 filters": []}
    both = dict(zip(times, (queries, _with(queries, forms)), strict=True))
    recaller.recall(both["64 filters"][:64])
    ends = time.perf_counter() + 4 * seconds
    for at in cycle(range(len(queries))):
        for name, some in both.items():
            started = time.process_time()
            recaller.recall(some[at : at + 1])
            times[name].append(time.process_time() - started)
        if time.perf_counter() > ends:
            break
    return {
        "p99_ms": {name: round(float(np.quantile(t, 0.99)) * 1000, 3) for name, t in times.items()}
    }


def _many(recaller: Recaller, queries: list[Query], filters: int) -> dict[str, Any]:
    """Returns the growth of memory over the second half of many different filters, in MB."""
    grown = []
    process = psutil.Process()
    for at in range(filters // 8):
        lows = np.arange(8) / 8 * 0.9 + at / filters * 0.01
        recaller.recall(_with(queries[:8], [_between(low, low + 0.01) for low in lows]))
        grown.append(process.memory_info().rss / 1e6)
    growth = round(grown[-1] - grown[len(grown) // 2], 1)
    return {"many": {"filters": filters, "mb_grown_by_second_half": growth}}


def page(figures: dict[str, Any]) -> str:
    """Returns the figures as Markdown."""
    lines = [
        f"`{figures['command']}`",
        "",
        f"{figures['machine']}; Python {figures['python']}; {figures['date']}; commit "
        f"{figures['commit']}. Width {WIDTH}, k = {K}, histories of {HISTORY} items.",
        "",
        f"| items | batch | unfiltered /s | {' | '.join(f'{share:.1%}' for share in SHARES)} |",
        "|---" * (3 + len(SHARES)) + "|",
    ]
    sizes = {size: own for size, own in figures.items() if size.isdigit()}
    for size, own in sizes.items():
        for batch, ratios in own["over_unfiltered"].items():
            cells = " | ".join(number(ratio) for ratio in ratios.values())
            rate = number(own["unfiltered"][batch])
            lines.append(f"| {int(size):,} ({own['index']}) | {batch} | {rate} | {cells} |")
    for size, own in sizes.items():
        for kind, shares in own["recall"].items():
            cells = " | ".join(f"{share:.4f}" for share in shares.values())
            lines.append(f"| {int(size):,} | recall, {kind} | | {cells} |")
    for size, own in sizes.items():
        p99 = ", ".join(f"{name} {value:.3g}" for name, value in own["p99_ms"].items())
        lines += [
            "",
            f"{int(size):,} items: 99th percentile of lone recalls in ms of CPU time: {p99}. "
            f"Memory grew by {own['many']['mb_grown_by_second_half']:.0f} MB over the second half "
            f"of {own['many']['filters']:,} different filters.",
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
