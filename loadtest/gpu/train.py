"""An epoch of pre-training on a GPU in bfloat16 beside the same epoch on the CPU.

    python -m loadtest.gpu.train --device cuda --out train.json

Both start from the same weights and see the same samples in the same order, so the validation
figures should agree within the noise of dropout and rounding.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch

from loadtest.gpu.synthetic import dataset_of
from loadtest.results import say
from model.data.dataset import Dataset
from model.evaluation.metrics import evaluate
from model.evaluation.protocols import splits
from model.evaluation.reference import DenseRecall
from model.files import write_json
from model.network.config import GPTConfig, RecallConfig
from model.network.gpt import GPT
from model.training.config import PretrainConfig
from model.training.loop import RATE, fit
from model.training.stages import pretraining

METRICS = ("NDCG@20", "HR@10")


def main() -> None:
    """Writes the figures of each device as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--items", type=int, default=5000)
    parser.add_argument("--users", type=int, default=5000)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--threads", type=int, default=4, help="of the CPU")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        dataset = dataset_of(Path(folder) / "data", options.items, options.users)
        for device, products in ((options.device, "bfloat16"), ("cpu", "auto")):
            run = Path(folder) / f"{device}-{products}"
            found = epoch(dataset, device, products, run, options.width)
            rows.append({"device": device, "products": products} | found)
            say(str(rows[-1]))
            figures = {"items": options.items, "users": options.users, "rows": rows}
            write_json(options.out, figures)


def epoch(dataset: Dataset, device: str, products: Any, run: Path, width: int) -> dict[str, float]:
    """Trains one epoch; returns its rate, loss and validation figures, and those before it."""
    parts = splits(dataset)
    training, split = parts.training(), parts.validation

    def validate(model: GPT) -> dict[str, float]:
        recall = DenseRecall(model, RecallConfig(interests=1))
        figures = evaluate(recall, dataset, split, deep=())
        return {name: figures[name] for name in METRICS}

    torch.manual_seed(0)
    config = GPTConfig.single(width)
    model = GPT(config, dataset.catalogue, dataset.users).to(device)
    stage = pretraining(PretrainConfig(epochs=1, products=products), training, validate)
    before, after = fit(model, training, stage, run, seed=0, resume=False).curves
    wanted = (RATE, "loss", *METRICS)
    return {f"{name} before": before[name] for name in METRICS} | {
        name: after[name] for name in wanted
    }


if __name__ == "__main__":
    main()
