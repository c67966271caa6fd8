"""Our training beside a public PyTorch implementation of the same network, on the same file.

    python -m loadtest.training.bench_train --peer-python peer/bin/python --out docs/results

The peer is RecBole's SASRec (see `loadtest.training.recbole_peer`, which also says how to make
its virtual environment; `make bench-train` makes it). Ours is `recgpt train` with the same network:
post-norm, two layers, two heads, width 64, a vector per position, dropout 0.5, 50 items,
cross-entropy over the whole catalogue, every prefix a sample, batches of 256, Adam with a constant
rate of 1e-3. Both train at the same time, one thread on a core each, for a number of epochs.

Quality is NDCG@20 on the validation split, the whole catalogue ranked without the history, by the
same functions for both. The targets are what the peer reached epoch by epoch. Seconds are those of
training alone. CPU seconds are what is compared, so that other programs' share of the two cores
does not count: an epoch's seconds times the share of its core that the program got between two
epochs' ends, sampled once a second.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from matplotlib.figure import Figure
from safetensors import safe_open

from loadtest.environment import environment
from loadtest.quality.bench_quality import FILES, published_data, recgpt
from loadtest.results import put_between_marks
from loadtest.stopping import stop_by_exit
from loadtest.training import ablate
from model.data.dataset import Dataset
from model.evaluation.metrics import ndcg, ranking_figures, ranks
from model.evaluation.protocols import Split, splits
from model.files import write_json
from model.training.run import read_figures

ROOT = Path(__file__).resolve().parents[2]
SAME_NETWORK = [
    *("--config", str(ROOT / "model" / "recipes" / "sasrec-ce.toml")),
    "--no-pretrain.decay",  # RecBole's rate does not fall
]
MARK = "training"
UNITS = ("cpu_seconds", "seconds")

Curve = list[dict[str, float]]
"""epoch, seconds and cpu_seconds of training since the start, NDCG@20."""


@dataclass
class Side:
    """One of the two programs, while it runs."""

    folder: Path  # where it works, and its log goes
    process: psutil.Popen
    points: Callable[[Path], Curve]  # what its files in there tell: epoch, seconds
    now: tuple[float, float]  # clock and CPU seconds when last looked at
    marks: list[tuple[float, float]]  # the same at the start and at the ends of epochs

    @classmethod
    def start(
        cls, folder: Path, core: int, words: list[str], points: Callable[[Path], Curve]
    ) -> "Side":
        """Runs it on one core with one thread."""
        stop_by_exit()
        folder.mkdir(parents=True)
        with (folder / "log.txt").open("wb") as file:
            process = psutil.Popen(
                ["taskset", "-c", str(core), *words],
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            )
        started = (time.monotonic(), 0.0)
        return cls(folder, process, points, started, [started])

    def look(self) -> bool:
        """Notes the clocks where epochs have ended; returns whether the program goes on."""
        runs = self.process.poll() is None
        if runs:
            used = self.process.cpu_times()
            self.now = (time.monotonic(), used.user + used.system)
        if len(self.points(self.folder)) >= len(self.marks):
            self.marks.append(self.now)
        return runs

    def curve(self) -> Curve:
        """Seconds and CPU seconds so far at the end of every epoch, without NDCG@20."""
        shares = [
            (cpu - cpu_before) / (clock - before)
            for (before, cpu_before), (clock, cpu) in pairwise(self.marks)
        ]
        points = self.points(self.folder)
        spent = np.diff([0.0, *(point["seconds"] for point in points)])
        cpu = np.cumsum(spent * shares)
        return [p | {"cpu_seconds": float(c)} for p, c in zip(points, cpu, strict=True)]


def our_points(folder: Path) -> Curve:
    """Out of the newest checkpoint."""
    file = folder / "run" / "pretrain" / "last.safetensors"
    if not file.exists():
        return []
    with safe_open(file, framework="np") as checkpoint:
        points = json.loads(checkpoint.metadata()["progress"])["curves"][1:]
    seconds = np.cumsum([point["seconds"] for point in points])
    return [
        {"epoch": p["epoch"], "seconds": float(s), "NDCG@20": p["NDCG@20"]}
        for p, s in zip(points, seconds, strict=True)
    ]


def peer_points(folder: Path) -> Curve:
    """Out of what the peer's driver writes after each epoch."""
    if not (folder / "curve.json").exists():
        return []
    points = json.loads((folder / "curve.json").read_text(encoding="utf-8"))["points"]
    return [{"epoch": p["epoch"], "seconds": p["seconds"]} for p in points]


def with_quality(curve: Curve, folder: Path, split: Split) -> Curve:
    """NDCG@20 of the lists that the peer recalled after each epoch."""
    files = [folder / f"{int(point['epoch'])}.npy" for point in curve]
    return [
        point | {"NDCG@20": ndcg(ranks(np.load(file), split.targets), 20)}
        for point, file in zip(curve, files, strict=True)
    ]


def compare(ours: Curve, peer: Curve) -> dict[str, Any]:
    """Returns the time of an epoch, and to every figure that the peer reached as it got better."""
    targets, best = [], 0.0
    for point in peer:
        if point["NDCG@20"] > best:
            best = point["NDCG@20"]
            mine = next((p for p in ours if p["NDCG@20"] >= best), None)
            ratios = {f"x_{unit}": point[unit] / mine[unit] if mine else None for unit in UNITS}
            targets.append({"NDCG@20": best, "peer": point, "ours": mine, **ratios})
    epochs = {
        f"{unit}_an_epoch": {"ours": ours[-1][unit] / len(ours), "peer": peer[-1][unit] / len(peer)}
        for unit in UNITS
    }
    return epochs | {"to_target": targets, "curves": {"ours": ours, "peer": peer}}


def prepared(options: argparse.Namespace, folder: Path) -> Path:
    """Returns the folder of Beauty as a data set; prepares it under `folder` if none is given."""
    if options.data:
        return Path(options.data)
    source, data = options.source / FILES["Beauty"], folder / "data"
    recgpt("data prepare", "--input", source, "--format", "lines", "--out", data)
    return data


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Trains both at once, each in a folder under `folder`; returns the comparison."""
    data = prepared(options, folder)
    dataset = Dataset.load(data)
    parts = splits(dataset)
    given = ["--data", str(data.resolve()), "--seed", str(options.seed)]
    ours, peer = folder / "ours", folder / "peer"
    train = [sys.executable, "-m", "cli", "train", "--stages", "pretrain", "--device", "cpu"]
    train += [*given, "--out", str(ours / "run"), *SAME_NETWORK, "--pretrain.epochs"]
    driver = [
        str(options.peer_python.absolute()),
        str(ROOT / "loadtest" / "training" / "recbole_peer.py"),
    ]
    driver += [*given, "--out", str(peer), "--epochs"]
    sides = (
        Side.start(ours, options.cores[0], [*train, str(options.our_epochs)], our_points),
        Side.start(peer, options.cores[1], [*driver, str(options.peer_epochs)], peer_points),
    )
    try:
        while sum(side.look() for side in sides):
            time.sleep(1)
    finally:
        for side in sides:
            if side.process.poll() is None:
                side.process.kill()
    for side in sides:
        if side.process.returncode:
            raise SystemExit(f"failed:\n{(side.folder / 'log.txt').read_text()[-3000:]}")
    result = compare(sides[0].curve(), with_quality(sides[1].curve(), peer, parts.validation))
    (mine,) = (f for name, f in read_figures(ours / "run").items() if name != "popularity")
    theirs = ranking_figures(ranks(np.load(peer / "test.npy"), parts.test.targets))
    return result | {"test": {"ours": {name: mine[name] for name in theirs}, "peer": theirs}}


def table(result: dict[str, Any]) -> str:
    """Markdown."""
    epoch = result["cpu_seconds_an_epoch"]
    lines = [
        f"`{result['command']}`; {result['machine']}, one thread a side; Python "
        f"{result['python']}; {result['date']}; commit {result['commit']}.",
        "",
        f"An epoch: ours {epoch['ours']:.1f} CPU seconds, the peer's {epoch['peer']:.1f}, "
        f"**{epoch['peer'] / epoch['ours']:.1f} x**. To the same NDCG@20 (validation):",
        "",
        "| NDCG@20 | peer, CPU s (elapsed) | ours, CPU s (elapsed) | x, CPU s (elapsed) |",
        "|---|---|---|---|",
    ]
    for row in result["to_target"]:
        cells = [f"{row['NDCG@20']:.4f}"]
        for point in (row["peer"], row["ours"]):
            if point:
                cells.append(f"{point['cpu_seconds']:.0f} ({point['seconds']:.0f})")
        if row["ours"]:
            cells.append(f"{row['x_cpu_seconds']:.1f} ({row['x_seconds']:.1f})")
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", f"| test split | {' | '.join(result['test']['peer'])} |", "|---" * 7 + "|"]
    for name, label in (("peer", "RecBole, last epoch"), ("ours", "ours, best epoch")):
        figures = [f"{figure:.4f}" for figure in result["test"][name].values()]
        lines.append(f"| {label} | {' | '.join(figures)} |")
    return "\n".join([*lines, "", "![NDCG@20 against CPU seconds](training.png)"])


def draw(result: dict[str, Any], path: Path) -> None:
    """NDCG@20 against CPU seconds of training."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, label in (("ours", "recgpt train"), ("peer", "RecBole 1.2.1")):
        curve = [{"cpu_seconds": 0.0, "NDCG@20": 0.0}, *result["curves"][name]]
        points = [[p[key] for p in curve] for key in ("cpu_seconds", "NDCG@20")]
        axes.plot(*points, marker="o", label=label)
    axes.set(
        title="the same network on Beauty, one thread each",
        xlabel="CPU seconds of training",
        ylabel="validation NDCG@20",
    )
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=150)


def write_ablation(result: dict[str, Any], out: Path) -> None:
    """Writes training-ablation.json and its table in training.md."""
    write_json(out / "training-ablation.json", result)
    put_between_marks(out / "training.md", ablate.MARK, ablate.table(result))
    print(ablate.table(result))


def main() -> None:
    """Writes training.json, training.png and a table in training.md; or those of the ablation."""
    parser = argparse.ArgumentParser(description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--peer-python", type=Path, help="interpreter that has RecBole")
    what.add_argument(
        "--ablate", action="store_true", help="time the hand-written parts against torch's own"
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--source", type=Path, default=published_data())
    parser.add_argument("--data", type=Path, help="Beauty, prepared already")
    parser.add_argument("--keep", type=Path, help="new folder for both runs (default: not kept)")
    parser.add_argument("--peer-epochs", type=int, default=3)
    parser.add_argument("--our-epochs", type=int, default=6)
    parser.add_argument("--cores", type=int, nargs=2, default=(0, 1), help="ours, the peer's")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=60, help="of each variant of the ablation")
    options = parser.parse_args()
    if not options.data and not (options.source / FILES["Beauty"]).exists():
        print(f"skipped: there is no {FILES['Beauty']} in {options.source} (S3-Rec's file)")
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = (options.keep or Path(scratch)).resolve()
        if options.ablate:
            found = ablate.measure(prepared(options, folder), folder, options.steps)
            write_ablation(found | environment(), options.out)
            return
        result = measure(options, folder) | environment()
    write_json(options.out / "training.json", result)
    draw(result, options.out / "training.png")
    put_between_marks(options.out / "training.md", MARK, table(result))
    print(table(result))


if __name__ == "__main__":
    main()
