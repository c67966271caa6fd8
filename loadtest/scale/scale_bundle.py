"""A bundle of a made-up catalogue and an untrained network, and the service that is started on it.

For start-up time and memory: what is recalled means nothing.
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

from loadtest.serving.bench import family, server
from model.artifact.bundle import new_bundle
from model.data.dataset import Dataset
from model.network.config import GPTConfig, RecallConfig
from model.network.gpt import GPT

MB = 1e6
RECALLS = 50  # of new users, before memory is looked at again
PATIENCE = 600.0


def bundle_of(
    artifacts: Path, vectors_VD: np.ndarray, users: int
) -> AbstractContextManager[tuple[Path, str]]:
    """See `model.artifact.bundle.new_bundle`: the index is still to be built."""
    items, width = vectors_VD.shape
    config = GPTConfig(dim=width, feed_forward=256, user_rank=8)  # with a table of users
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
        items=pl.DataFrame({"item_id": item_ids, "count": np.zeros(items, dtype=np.uint32)}),
    )
    return new_bundle(artifacts, dataset, model, RecallConfig(), {}, "loadtest")


def serving(artifacts: Path, items: int) -> dict[str, Any]:
    """Seconds until `recgpt serve` has answered a recall, and the memory of its processes."""
    command = ["-m", "cli", "serve", "--artifacts", str(artifacts), "--log-level", "warning"]
    command += ["--store", f"embedded:{artifacts / 'histories'}", "--deadline-ms", "60000"]
    rng = np.random.default_rng(0)
    started = time.perf_counter()
    with server(command, PATIENCE) as (port, process):
        _recall(port, rng.integers(items, size=20))
        seconds = time.perf_counter() - started
        at_first = [_memory(one) for one in family(process)]
        waited = time.perf_counter()
        for _ in range(RECALLS):
            _recall(port, rng.integers(items, size=20))
        return {
            "seconds_to_the_first_answer": seconds,
            "mb_then": dict(zip(("engine", "front end"), at_first, strict=True)),
            f"mb_after_{RECALLS}_recalls": dict(
                zip(("engine", "front end"), map(_memory, family(process)), strict=True)
            ),
            "ms_a_lone_recall": (time.perf_counter() - waited) / RECALLS * 1000,
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
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        assert len(json.load(answer)["items"]) == body["k"]


def _memory(process: psutil.Process) -> dict[str, float]:
    """Resident: of its own, and pages of files, which the system can take back."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    sizes = {name: rest for name, _, rest in (line.partition(":") for line in lines)}
    names = {"own": "RssAnon", "of files": "RssFile", "peak": "VmHWM"}
    return {name: int(sizes[key].split()[0]) * 1024 / MB for name, key in names.items()}
