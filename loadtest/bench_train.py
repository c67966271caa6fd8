"""Our training beside a public PyTorch implementation of the same network, on the same file.

    python -m loadtest.bench_train --peer-python peer/bin/python --out docs/results

The peer is RecBole's SASRec (see `loadtest.recbole_peer`, which also says how to make its virtual
environment; `make bench-train` makes it). Ours is `recgpt train` with the same network: post-norm,
two layers, two heads, width 64, a vector a position, dropout .5, 50 items, cross-entropy over the
whole catalogue, every prefix a sample, batches of 256, Adam with a constant rate of 1e-3. Both
train at the same time, one thread on a core each, for a number of epochs.

Quality is NDCG@20 on the validation split, the whole catalogue ranked without the history, by the
same functions for both. Seconds are those of training alone. The targets are what the peer reached
epoch by epoch. `core_share` says how much of its core each side got: where other programs took some
of it, the ratio is as doubtful as the two shares are unequal.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from matplotlib.figure import Figure
from safetensors import safe_open

from loadtest.bench_quality import FILES, recgpt
from loadtest.circumstances import circumstances
from loadtest.quality_table import put_between_marks
from model.data import Dataset, Split, test_split, validation_split
from model.evaluate import ndcg, ranking_figures, ranks
from model.files import write_json

ROOT = Path(__file__).resolve().parent.parent
SAME_NETWORK = [
    *("--config", str(ROOT / "model" / "recipes" / "sasrec-ce.toml")),
    *("--pretrain.sampling", "prefixes"),
]
MARK = "loadtest.bench_train"

Curve = list[dict[str, float]]
"""epoch, seconds of training since the start, NDCG@20."""


def start(core: int, words: list[str], folder: Path) -> psutil.Popen:
    """A program on one core with one thread; `folder` is where it works and its log goes."""
    folder.mkdir(parents=True)
    with (folder / "log.txt").open("wb") as file:
        return psutil.Popen(
            ["taskset", "-c", str(core), *words],
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        )


def our_curve(run: Path) -> Curve:
    """Out of the newest checkpoint."""
    file = run / "pretrain" / "last.safetensors"
    if not file.exists():
        return []
    with safe_open(file, framework="np") as checkpoint:
        points = json.loads(checkpoint.metadata()["progress"])["curves"][1:]
    seconds = np.cumsum([point["seconds"] for point in points])
    return [
        {"epoch": p["epoch"], "seconds": float(s), "NDCG@20": p["NDCG@20"]}
        for p, s in zip(points, seconds, strict=True)
    ]


def peer_curve(folder: Path, split: Split) -> Curve:
    """Out of the lists that the peer recalled after each epoch."""
    if not (folder / "curve.json").exists():
        return []
    points = json.loads((folder / "curve.json").read_text(encoding="utf-8"))["points"]
    return [
        {
            "epoch": p["epoch"],
            "seconds": p["seconds"],
            "NDCG@20": ndcg(ranks(np.load(folder / f"{p['epoch']}.npy"), split.targets), 20),
        }
        for p in points
    ]


def seconds_to(curve: Curve, target: float) -> float | None:
    """When the curve first reaches the target."""
    return next((p["seconds"] for p in curve if p["NDCG@20"] >= target), None)


def compare(ours: Curve, peer: Curve) -> dict[str, Any]:
    """Seconds an epoch, and to every figure that the peer reached as it got better."""
    targets, best = [], 0.0
    for point in peer:
        if point["NDCG@20"] > best:
            best = point["NDCG@20"]
            mine = seconds_to(ours, best)
            ratio = point["seconds"] / mine if mine else None
            targets.append({"NDCG@20": best, "peer": point["seconds"], "ours": mine, "x": ratio})
    return {
        "seconds_an_epoch": {
            name: curve[-1]["seconds"] / curve[-1]["epoch"] if curve else None
            for name, curve in (("ours", ours), ("peer", peer))
        },
        "to_target": targets,
        "curves": {"ours": ours, "peer": peer},
    }


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Train both at once, each in a folder of its own under `folder`; the comparison."""
    data = options.data or folder / "data"
    if not options.data:
        source = options.source / FILES["Beauty"]
        recgpt("data prepare", "--input", source, "--format", "lines", "--out", data)
    dataset = Dataset.load(data)
    split = validation_split(dataset)
    given = ["--data", str(data.resolve()), "--seed", str(options.seed)]
    ours, peer = folder / "ours", folder / "peer"
    train = [sys.executable, "-m", "cli", "train", "--stages", "pretrain", "--device", "cpu"]
    train += [*given, "--out", str(ours / "run"), *SAME_NETWORK, "--pretrain.epochs"]
    driver = [str(options.peer_python.absolute()), str(ROOT / "loadtest" / "recbole_peer.py")]
    driver += [*given, "--out", str(peer), "--epochs"]
    running = {
        "ours": start(options.cores[0], [*train, str(options.our_epochs)], ours),
        "peer": start(options.cores[1], [*driver, str(options.peer_epochs)], peer),
    }
    try:
        shares = core_shares(running)
    finally:
        for process in running.values():
            if process.poll() is None:
                process.kill()
    for name, process in running.items():
        if process.returncode:
            raise SystemExit(f"{name} failed:\n{(folder / name / 'log.txt').read_text()[-3000:]}")
    result = compare(our_curve(ours / "run"), peer_curve(peer, split))
    test = test_split(dataset)
    result["peer_test"] = ranking_figures(ranks(np.load(peer / "test.npy"), test.targets))
    return result | {"core_share": shares}


def core_shares(running: dict[str, psutil.Popen]) -> dict[str, float]:
    """Wait for all; CPU seconds over seconds of each, as long as it ran."""
    started, shares = time.monotonic(), {}
    while any(process.poll() is None for process in running.values()):
        time.sleep(1)
        for name, process in running.items():
            if process.poll() is None:
                used = process.cpu_times()
                shares[name] = (used.user + used.system) / (time.monotonic() - started)
    return shares


def table(result: dict[str, Any]) -> str:
    """Markdown."""
    epoch, share = result["seconds_an_epoch"], result["core_share"]
    lines = [
        f"`{result['command']}`; {result['machine']}, one thread a side; Python "
        f"{result['python']}; {result['date']}; commit {result['commit']}.",
        f"Each side got {share['ours']:.0%} (ours), {share['peer']:.0%} (peer) of its core.",
        "",
        f"An epoch: ours {epoch['ours']:.0f} s, peer {epoch['peer']:.0f} s, "
        f"**{epoch['peer'] / epoch['ours']:.1f} x**. To the same NDCG@20 (validation):",
        "",
        "| NDCG@20 | peer, s | ours, s | x |",
        "|---|---|---|---|",
    ]
    for row in result["to_target"]:
        ours = f"{row['ours']:.0f} | {row['x']:.1f}" if row["x"] else "not reached | -"
        lines.append(f"| {row['NDCG@20']:.4f} | {row['peer']:.0f} | {ours} |")
    return "\n".join([*lines, "", "![NDCG@20 against seconds](training.png)"])


def draw(result: dict[str, Any], path: Path) -> None:
    """NDCG@20 against seconds of training."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, label in (("ours", "recgpt train"), ("peer", "RecBole 1.2.1")):
        curve = [{"seconds": 0.0, "NDCG@20": 0.0}, *result["curves"][name]]
        points = [[p[key] for p in curve] for key in ("seconds", "NDCG@20")]
        axes.plot(*points, marker="o", label=label)
    axes.set(
        title="the same network on Beauty, one thread each",
        xlabel="seconds of training",
        ylabel="validation NDCG@20",
    )
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=150)


def main() -> None:
    """Run both, then write training.json, training.png and the table in training.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer-python", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--source", type=Path, default=Path("../shared/data"))
    parser.add_argument("--data", type=Path, help="Beauty, prepared already")
    parser.add_argument("--keep", type=Path, help="new folder for both runs (default: not kept)")
    parser.add_argument("--peer-epochs", type=int, default=3)
    parser.add_argument("--our-epochs", type=int, default=12)
    parser.add_argument("--cores", type=int, nargs=2, default=(0, 1), help="ours, the peer's")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if not options.data and not (options.source / FILES["Beauty"]).exists():
        print(f"skipped: there is no {FILES['Beauty']} in {options.source} (S3-Rec's file)")
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = (options.keep or Path(scratch)).resolve()
        result = measure(options, folder) | circumstances()
    write_json(options.out / "training.json", result)
    draw(result, options.out / "training.png")
    put_between_marks(options.out / "training.md", MARK, table(result))
    print(table(result))


if __name__ == "__main__":
    main()
