"""The engine beside the machine's floor, for histories of several lengths and two widths.

    python -m loadtest.serving.bench_histories --out docs/results
    python -m loadtest.serving.bench_histories --pretend avx2

The networks are untrained, and items come in groups, a history from one of them: the candidates
mean nothing, but scores differ as those of a trained network do, and with them the cost of a
search. The floor is that of `loadtest.serving.bench_engine`, measured in the same run. `--pretend
avx2` keeps all compiled code and all libraries from using AVX-512, on a processor that has it.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch

from loadtest.environment import environment
from loadtest.gpu.synthetic import dataset_of
from loadtest.results import put_between_marks, say
from loadtest.serving.bench_engine import Rates, over_floor
from model.data.dataset import Dataset
from model.network.config import GPTConfig, RecallConfig
from model.network.gpt import GPT
from service.offline import export_bundle
from service.recall.recaller import Recaller
from service.recall.types import Query

LENGTHS, WIDTHS, BATCHES = (5, 20, 50, 200), (64, 128), (1, 16, 64)
ITEMS, GROUPS, QUERIES = 12_000, 100, 1024
SPREAD = 0.5
"""Length of an item's own part of its vector, relative to that of its group."""
PRETENDED = {
    "avx2": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "NUMBA_CPU_NAME": "haswell",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "OPENBLAS_CORETYPE": "Haswell",
    }
}
"""Environment variables by which libraries choose the instructions that they use."""


def main() -> None:
    """Measures, and prints or writes the table."""
    options = parse()
    if options.pretend and "BENCH_PRETENDS" not in os.environ:
        changed = os.environ | PRETENDED[options.pretend] | {"BENCH_PRETENDS": options.pretend}
        command = [sys.executable, "-m", "loadtest.serving.bench_histories", *sys.argv[1:]]
        raise SystemExit(subprocess.call(command, env=changed))
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        dataset = dataset_of(Path(folder, "data"), ITEMS, users=2000)
        for width in WIDTHS:
            artifacts = Path(folder, f"artifacts-{width}")
            export_grouped(artifacts, dataset, width)
            found[width] = figures(Recaller.load(artifacts, "cpu"), dataset.item_ids, options)
    report = {"widths": found, "pretend": options.pretend} | environment()
    text = table(report)
    print(text)
    if options.out:
        name = "-".join(["histories", options.pretend] if options.pretend else ["histories"])
        (options.out / f"{name}.json").write_text(json.dumps(report, indent=2) + "\n")
        put_between_marks(options.out / "bench.md", name, text)


def parse() -> argparse.Namespace:
    """Returns the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="folder of the results to write into")
    parser.add_argument("--pretend", choices=PRETENDED, help="instructions to restrict it to")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--interests", type=int, default=2)
    return parser.parse_args()


def export_grouped(artifacts: Path, dataset: Dataset, width: int) -> None:
    """Publishes a bundle with exact search; row r belongs to group r modulo GROUPS."""
    torch.manual_seed(0)
    config = GPTConfig.single(width, max_history=max(LENGTHS))
    model = GPT(config, dataset.catalogue, dataset.users).requires_grad_(False).eval()
    groups_GD = torch.nn.functional.normalize(torch.randn(GROUPS, width))
    own_VD = torch.nn.functional.normalize(torch.randn(dataset.catalogue, width))
    group_V = torch.arange(dataset.catalogue) % GROUPS
    model.items.weight.copy_(groups_GD[group_V] + SPREAD * own_VD)
    export_bundle(artifacts, dataset, model, RecallConfig(), {}, "exact")


def figures(
    recaller: Recaller, item_ids: list[str], options: argparse.Namespace
) -> dict[int, dict[int, dict[str, float]]]:
    """Returns the figures of a network by length of the histories and size of the batches."""
    rates, rng = Rates.measure(), np.random.default_rng(0)
    found: dict[int, dict[int, dict[str, float]]] = {}
    for length in LENGTHS:
        groups = rng.integers(GROUPS, size=(QUERIES, 1))
        rows = rng.integers(len(item_ids) // GROUPS, size=(QUERIES, length)) * GROUPS + groups
        queries = [
            Query("", [item_ids[row] for row in own], k=options.k, interests=options.interests)
            for own in rows.tolist()
        ]
        found[length] = {
            batch: over_floor(recaller, queries, batch, rates, options.seconds) for batch in BATCHES
        }
        ratios = ", ".join(f"{one['over_floor']:.2f}" for one in found[length].values())
        say(f"width {recaller.manifest.model.dim}, {length} items: {ratios} x the floor")
    return found


def table(report: dict[str, Any]) -> str:
    """Returns the figures as Markdown: time, floor, and their ratio."""
    lines = [
        f"`{report['command']}`",
        "",
        f"{report['machine']}, one thread; Python {report['python']}; {report['date']}; commit "
        f"{report['commit']}. µs a request / floor = ratio.",
        "",
        "| width | items | " + " | ".join(f"batch {batch}" for batch in BATCHES) + " |",
        "|---|---|" + "---|" * len(BATCHES),
    ]
    for width, lengths in report["widths"].items():
        for length, batches in lengths.items():
            cells = " | ".join(
                f"{one['us_per_request']:.0f} / {one['floor_us']:.0f} = {one['over_floor']:.2f}"
                for one in batches.values()
            )
            lines.append(f"| {width} | {length} | {cells} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
