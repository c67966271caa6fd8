"""A bundle of a synthetic catalogue with an untrained network, and the service started on it.

It shows start-up time, memory and speed; the candidates mean nothing.
"""

import json
import time
import urllib.request
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import psutil
import torch
from torch import nn

from loadtest.serving.servers import process_tree, python_server, recgpt_serve
from model.artifact.bundle import new_bundle
from model.data.dataset import Dataset
from model.network.config import GPTConfig, RecallConfig
from model.network.gpt import GPT

MB = 1e6
RECALLS = 50  # of new users, before memory is looked at again
PATIENCE_S = 600.0


def bundle_of(
    artifacts: Path, vectors_VD: np.ndarray, users: int, *numbers: pl.Series
) -> AbstractContextManager[tuple[Path, str]]:
    """Opens a new bundle as `model.artifact.bundle.new_bundle` does; its index is not built yet.

    `numbers` are attributes of the items.
    """
    items, width = vectors_VD.shape
    config = GPTConfig.single(width, user_rank=8)  # with a table of users
    model = GPT(config, 1, 1)
    model.items = _table(torch.from_numpy(vectors_VD))
    model.users = _table(torch.zeros(users + 1, config.user_rank))
    model.requires_grad_(False)
    item_ids = [f"item-{row}" for row in range(items)]
    dataset = Dataset(
        name="synthetic",
        item_ids=item_ids,
        user_ids=[f"user-{row}" for row in range(users)],
        events=np.zeros(0, dtype=np.int32),
        offsets=np.zeros(users + 1, dtype=np.int64),
        items=pl.DataFrame(
            {"item_id": item_ids, "count": np.zeros(items, dtype=np.uint32)}
        ).with_columns(*numbers),
        kinds={column.name: "number" for column in numbers},
    )
    return new_bundle(artifacts, dataset, model, RecallConfig(), {}, "loadtest")


def serving(artifacts: Path, items: int) -> dict[str, Any]:
    """Returns the seconds until `recgpt serve` has answered a recall, and its memory."""
    store = f"embedded:{artifacts / 'histories'}"
    command = recgpt_serve(artifacts, store, "--deadline-ms", "60000")
    rng = np.random.default_rng(0)
    started = time.perf_counter()
    with python_server(command, PATIENCE_S) as (port, process):
        _recall(port, rng.integers(items, size=20))
        seconds = time.perf_counter() - started
        at_first = _memory(process)
        waited = time.perf_counter()
        for _ in range(RECALLS):
            _recall(port, rng.integers(items, size=20))
        return {
            "seconds_to_the_first_answer": seconds,
            "ms_a_lone_recall": (time.perf_counter() - waited) / RECALLS * 1000,
            "mb_at_first": at_first,
            f"mb_after_{RECALLS}_recalls": _memory(process),
        }


def _table(weight: torch.Tensor) -> nn.Embedding:
    return nn.Embedding(len(weight), weight.shape[1], _weight=weight)


def _recall(port: int, history: np.ndarray) -> None:
    body = {"user_id": "nobody", "history": [f"item-{row}" for row in history], "k": 100}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/recall",
        json.dumps(body).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
        assert len(json.load(answer)["items"]) == body["k"]


def _memory(process: psutil.Process) -> dict[str, dict[str, float]]:
    """Returns the memory of the engine, which is the largest process, and of all others."""
    engine, *others = sorted(
        map(_status_mb, process_tree(process)), key=lambda sizes: sizes["own"], reverse=True
    )
    summed = {name: sum(one[name] for one in others) for name in engine}
    return {"engine": engine, "other processes": summed}


def _status_mb(process: psutil.Process) -> dict[str, float]:
    """Returns the resident memory: of its own, and pages of files, which can be taken back."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    sizes = {name: rest for name, _, rest in (line.partition(":") for line in lines)}
    names = {"own": "RssAnon", "of files": "RssFile", "peak": "VmHWM"}
    return {name: int(sizes[key].split()[0]) * 1024 / MB for name, key in names.items()}
