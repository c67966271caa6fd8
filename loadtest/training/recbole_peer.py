"""RecBole's SASRec, trained epoch by epoch.

`loadtest.training.bench_train` runs it in a venv of its own.

Imports nothing of this project. Needs recbole 1.2.1 and versions of its time:

    python3.11 -m venv peer
    peer/bin/pip install torch==2.13.0 recbole==1.2.1 'numpy<2' 'pandas<2.2' 'scipy<1.13'

RecBole writes logs into its working folder. Writes OUT/<epoch>.npy, the 20 best unseen item rows of
each validation case, OUT/test.npy, the same of the test cases after the newest epoch, and
OUT/curve.json, the seconds of training so far.
Seconds are of training alone: neither the lists nor what RecBole does before the first epoch.
"""

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.model.sequential_recommender import SASRec
from recbole.trainer import Trainer
from recbole.utils import init_seed

SETTINGS = {
    "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
    "eval_args": {
        "split": {"LS": "valid_and_test"},
        "order": "TO",
        "group_by": "user",
        "mode": "full",
    },
    "MAX_ITEM_LIST_LENGTH": 50,
    "loss_type": "CE",
    "train_neg_sample_args": None,
    "n_layers": 2,
    "n_heads": 2,
    "hidden_size": 64,
    "inner_size": 256,
    "hidden_dropout_prob": 0.5,
    "attn_dropout_prob": 0.5,
    "train_batch_size": 256,
    "learning_rate": 1e-3,
    "use_gpu": False,
    "state": "WARNING",
    "show_progress": False,
}


def write_log(data: Path, out: Path) -> None:
    """The prepared data set as RecBole's atomic file; tokens are our row numbers."""
    events, offsets = np.load(data / "events.npy"), np.load(data / "offsets.npy")
    folder = out / "log"
    folder.mkdir(parents=True, exist_ok=True)
    users = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    lines = [f"{u}\t{i}\t{t}" for t, (u, i) in enumerate(zip(users, events, strict=True))]
    header = "user_id:token\titem_id:token\ttimestamp:float"
    (folder / "log.inter").write_text("\n".join([header, *lines]) + "\n")


@torch.no_grad()
def best_unseen(model: SASRec, ids_v: torch.Tensor, data: Path, left_out: int) -> np.ndarray:
    """The 20 best rows after every history without its newest `left_out` events, n x 20.

    `ids_v`: RecBole's id of every item row. The whole history is masked, its newest 50 are read.
    """
    events, offsets = np.load(data / "events.npy"), np.load(data / "offsets.npy")
    counts = np.diff(offsets)
    model.eval()
    found = []
    for users in np.array_split(np.flatnonzero(counts >= 3), 100):
        histories = [events[offsets[u] : offsets[u + 1] - left_out] for u in users]
        sequences = torch.zeros(len(users), 50, dtype=torch.long)
        for sequence, history in zip(sequences, histories, strict=True):
            newest = ids_v[torch.from_numpy(history[-50:].astype(np.int64))]
            sequence[: len(newest)] = newest
        lengths = torch.tensor([min(len(h), 50) for h in histories])
        given = {model.ITEM_SEQ: sequences, model.ITEM_SEQ_LEN: lengths}
        scores = model.full_sort_predict(given)[:, ids_v]
        for row, history in zip(scores, histories, strict=True):
            row[torch.from_numpy(history.astype(np.int64))] = -torch.inf
        found.append(scores.topk(20, dim=1).indices.numpy())
    return np.concatenate(found)


def save(path: Path, array: np.ndarray) -> None:
    """Writes beside its place, then renames: the benchmark reads while this runs."""
    beside = path.with_suffix(".part.npy")
    np.save(beside, array)
    os.replace(beside, path)


def main() -> None:
    """Trains `--epochs` epochs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=3)
    options = parser.parse_args()
    write_log(options.data, options.out)
    given = {"data_path": str(options.out), "checkpoint_dir": str(options.out)}
    config = Config("SASRec", "log", config_dict=SETTINGS | given | {"seed": options.seed})
    init_seed(options.seed, reproducibility=True)
    dataset = create_dataset(config)
    train_data, _, _ = data_preparation(config, dataset)
    model = SASRec(config, train_data.dataset)
    trainer = Trainer(config, model)
    rows = dataset.field2id_token["item_id"][1:].astype(np.int64)  # of RecBole's ids from 1 on
    ids_v = torch.empty(len(rows), dtype=torch.long)
    ids_v[torch.from_numpy(rows)] = torch.arange(1, len(rows) + 1)
    curve, seconds = [], 0.0
    for epoch in range(1, options.epochs + 1):
        started = time.perf_counter()
        loss = trainer._train_epoch(train_data, epoch - 1)
        seconds += time.perf_counter() - started
        save(options.out / f"{epoch}.npy", best_unseen(model, ids_v, options.data, left_out=2))
        save(options.out / "test.npy", best_unseen(model, ids_v, options.data, left_out=1))
        curve.append({"epoch": epoch, "seconds": seconds, "loss": float(loss)})
        beside = options.out / "curve.part"
        beside.write_text(json.dumps({"samples": len(train_data.dataset), "points": curve}))
        os.replace(beside, options.out / "curve.json")


if __name__ == "__main__":
    main()
