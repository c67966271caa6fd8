"""Our training beside a public PyTorch implementation of the same network, on the same file.

    python -m loadtest.bench_train --data data --peer-python peer/bin/python --out results

The peer is RecBole's SASRec (see `loadtest.recbole_peer`, which also says how to make its virtual
environment): post-norm, two layers, two heads, width 64, dropout .5, 50 items, cross-entropy over
the whole catalogue, batches of 256, learning rate 1e-3. Ours is `recgpt train --stages pretrain`
with what follows `--`. Both train at the same time for --minutes, on a core each. Quality is
NDCG@20 on the validation split, the whole catalogue ranked without the history, computed here by
the same functions; seconds are those of training alone. A target is what the peer reached.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from model.data import Dataset, Split, test_split, validation_split
from model.evaluate import RANKED_AT, ndcg, ranks

Curve = list[dict[str, float]]
"""epoch, seconds of training since the start, NDCG@20."""


def start(core: int, words: list[str], log: Path) -> subprocess.Popen[bytes]:
    """A program on one core with one thread."""
    with log.open("wb") as file:
        return subprocess.Popen(
            ["taskset", "-c", str(core), *words],
            stdout=file,
            stderr=subprocess.STDOUT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
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


def figures_of(file: Path, split: Split) -> dict[str, float]:
    """HR and NDCG of the peer's lists on the test split."""
    found = ranks(np.load(file), split.targets)
    hits = {f"HR@{k}": float(((found > 0) & (found <= k)).mean()) for k in RANKED_AT}
    return hits | {f"NDCG@{k}": ndcg(found, k) for k in RANKED_AT}


def main() -> None:
    """Run both; write the result after every minute, so that it may be stopped at any time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--peer-python", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="for bench_train.json and the runs")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--cores", type=int, nargs=2, default=(0, 1), help="ours, the peer's")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("ours", nargs="*", help="options of `recgpt train`, behind --")
    options = parser.parse_args()
    run, peer = options.out / "ours", options.out / "peer"
    if run.exists() or peer.exists():
        parser.error(f"{options.out} has a comparison already: choose another --out")
    peer.mkdir(parents=True)
    dataset = Dataset.load(options.data)
    given = ["--data", str(options.data), "--seed", str(options.seed)]
    train = [sys.executable, "-m", "cli", "train", "--stages", "pretrain", "--device", "cpu"]
    driver = [str(options.peer_python), str(Path(__file__).parent / "recbole_peer.py")]
    started = [
        start(
            options.cores[0],
            [*train, *given, "--out", str(run), *options.ours],
            options.out / "ours.log",
        ),
        start(options.cores[1], [*driver, *given, "--out", str(peer)], options.out / "peer.log"),
    ]
    end = time.monotonic() + options.minutes * 60
    result: dict[str, Any] = {}
    try:
        while time.monotonic() < end and started[1].poll() is None:
            time.sleep(min(60.0, max(0.0, end - time.monotonic())))
            result = compare(our_curve(run), peer_curve(peer, validation_split(dataset)))
            if (peer / "test.npy").exists():
                result["peer_test"] = figures_of(peer / "test.npy", test_split(dataset))
            (options.out / "bench_train.json").write_text(json.dumps(result, indent=1) + "\n")
    finally:
        for process in started:
            process.terminate()
            process.wait()
    print(json.dumps({key: value for key, value in result.items() if key != "curves"}, indent=1))


if __name__ == "__main__":
    main()
