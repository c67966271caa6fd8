"""Training on a synthetic log of a million items: rate, memory, and that it learns.

    python -m loadtest.training.bench_train_scale --items 1000000 --events 10000000 \
        --out docs/results

The log: half of a user's events start anew, at an item drawn by a power law (density as rank^-2/3);
the others go on to the item's successor. So nobody can be right much more often than half of the
time, and popularity alone is right almost never. Parts of an epoch (`--steps` each) train with
`loss = "sampled"`; after each, the newest event but one of some users is validated on. CPU seconds
of a part include its checkpoint.
"""

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from loadtest.environment import environment
from loadtest.results import put_between_marks
from model.data.dataset import FORMAT, Dataset
from model.evaluation.metrics import evaluate
from model.evaluation.protocols import splits
from model.evaluation.reference import DenseRecall
from model.files import write_json
from model.network.config import GPTConfig
from model.network.gpt import GPT
from model.training.config import PretrainConfig
from model.training.loop import RATE, fit
from model.training.run import ONE_INTEREST
from model.training.stages import pretraining

MARK = "training-scale"


def write_log(folder: Path, items: int, events: int) -> None:
    """A prepared data set, see above; users have 5 to 35 events."""
    rng = np.random.default_rng(0)
    lengths_U = rng.integers(5, 36, size=events // 20)
    offsets = np.concatenate(([0], np.cumsum(lengths_U)))
    count = int(offsets[-1])
    starts_N = rng.random(count) < 0.5
    starts_N[offsets[:-1]] = True
    drawn_N = (items * rng.random(count) ** 3).astype(np.int64)
    slots_N = np.arange(count)
    newest_N = np.maximum.accumulate(np.where(starts_N, slots_N, 0))
    rows_N = ((drawn_N[newest_N] + slots_N - newest_N) % items).astype(np.int32)
    counts_V = np.bincount(rows_N, minlength=items).astype(np.uint32)
    np.save(folder / "events.npy", rows_N)
    np.save(folder / "offsets.npy", offsets)
    item_ids = [f"i{row}" for row in range(items)]
    pl.DataFrame({"item_id": item_ids, "count": counts_V}).write_parquet(folder / "items.parquet")
    user_ids = [f"u{row}" for row in range(len(lengths_U))]
    pl.DataFrame({"user_id": user_ids}).write_parquet(folder / "users.parquet")
    sizes = {"users": len(lengths_U), "items": items, "events": count}
    write_json(folder / "dataset.json", {"format": FORMAT, "name": "synthetic", **sizes})


def measure(dataset: Dataset, run: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Trains in `--parts` parts of `--steps` steps."""
    parts = splits(dataset)
    training, split = parts.training(), parts.validation
    rng = np.random.default_rng(0)
    asked = min(options.validation_users, len(split.users))
    cases = split.of_users(rng.choice(split.users, asked, replace=False))
    config = PretrainConfig(
        loss="sampled",
        negatives=options.negatives,
        epochs=options.parts,
        epoch_steps=options.steps,
        decay=False,
    )
    marks: list[float] = []  # CPU seconds where validations begin and end, in turn

    def validate(model: GPT) -> dict[str, float]:
        marks.append(time.process_time())
        found = evaluate(DenseRecall(model, ONE_INTEREST), dataset, cases, deep=())
        marks.append(time.process_time())
        return {name: found[name] for name in ("NDCG@20", "HR@10")}

    torch.manual_seed(0)
    model = GPT(GPTConfig.single(64, user_rank=8), dataset.catalogue, dataset.users)
    progress = fit(model, training, pretraining(config, training, validate), run, 0, resume=False)
    spent = np.diff(marks).tolist()
    return {
        "items": dataset.catalogue,
        "users": dataset.users,
        "events": len(dataset.events),
        "batch_size": config.batch_size,
        "negatives": options.negatives,
        "steps_a_part": options.steps,
        "before": progress.curves[0],
        "parts": [
            point | {"cpu_seconds": cpu}
            for point, cpu in zip(progress.curves[1:], spent[1::2], strict=True)
        ],
        "validation_users": asked,
        "validation_cpu_seconds": spent[::2],
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def table(result: dict[str, Any]) -> str:
    """Markdown."""
    steps, users = result["steps_a_part"], result["validation_users"]
    lines = [
        f"`{result['command']}`; {result['machine']}, {result['threads']} thread; "
        f"{result['date']}; commit {result['commit']}.",
        "",
        f"{result['items']:,} items, {result['events']:,} events of {result['users']:,} users; "
        f"batches of {result['batch_size']} samples, {result['negatives']:,} negatives. "
        f"**Peak memory {result['peak_memory_mb'] / 1024:.1f} GB**. A validation of {users:,} "
        f"users takes {min(result['validation_cpu_seconds']):.0f} CPU seconds.",
        "",
        "| steps | loss | samples/s elapsed | CPU ms a step | validation NDCG@20 | HR@10 |",
        "|---|---|---|---|---|---|",
        f"| 0 | | | | {result['before']['NDCG@20']:.4f} | {result['before']['HR@10']:.4f} |",
    ]
    for number, part in enumerate(result["parts"], start=1):
        lines.append(
            f"| {number * steps:,} | {part['loss']:.3f} | {part[RATE]:,.0f} "
            f"| {part['cpu_seconds'] / steps * 1000:.0f} "
            f"| {part['NDCG@20']:.4f} | {part['HR@10']:.4f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Writes training-scale.json and the table in training.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--parts", type=int, default=4)
    parser.add_argument("--negatives", type=int, default=8192)
    parser.add_argument("--validation-users", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "data"
        data.mkdir()
        write_log(data, options.items, options.events)
        result = measure(Dataset.load(data), Path(scratch) / "run", options)
    result |= {"threads": options.threads} | environment()
    write_json(options.out / "training-scale.json", result)
    put_between_marks(options.out / "training.md", MARK, table(result))
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
