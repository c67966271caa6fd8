"""Compiles the loops of the service before it is needed: `python -m service.precompile`.

Recalls over a small made-up bundle compile everything that any bundle uses on a CPU: machine code
depends on the types of arrays, not on their sizes. An image that is built with this step starts
without compiling on processors like the one that built it; on others the first start compiles.
"""

import logging
import tempfile
from pathlib import Path
from typing import get_args

import numpy as np
import polars as pl

from index.formats import Kind
from index.kernels.code_cache import log_compiled
from model.data.dataset import Dataset
from model.network.config import GPTConfig, RecallConfig
from model.network.gpt import GPT
from service.offline import export_bundle
from service.recall.recaller import Recaller

ITEMS = 3000  # enough for an index of several lists


def precompile() -> None:
    """Answers recalls by every kind of index, so that each loop is compiled and kept on disk."""
    item_ids = [str(row) for row in range(ITEMS)]
    dataset = Dataset(
        name="precompile",
        item_ids=item_ids,
        user_ids=["user"],
        events=np.arange(ITEMS, dtype=np.int32),
        offsets=np.array([0, ITEMS]),
        items=pl.DataFrame({"item_id": item_ids, "count": np.ones(ITEMS, dtype=np.uint32)}),
    )
    model = GPT(GPTConfig(dim=16, feed_forward=16), ITEMS, 1).eval()
    for kind in get_args(Kind):
        with tempfile.TemporaryDirectory() as folder:
            bundle = export_bundle(
                Path(folder), dataset, model, RecallConfig(), {}, kind, index_recall=0.01
            )
            recaller = Recaller.load(bundle, "cpu")
            recaller.warm_up()
            if recaller.trials:
                recaller.trials.warm_up()
    log_compiled()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    precompile()
