"""A synthetic data set and a bundle of an untrained network, made on the spot.

The candidates mean nothing; what they cost, and whether two devices agree on them, does.
"""

from pathlib import Path

import torch

from loadtest.training.bench_train_scale import write_log
from model.data.dataset import Dataset
from model.network.config import GPTConfig, RecallConfig
from model.network.gpt import GPT
from service.offline import export_bundle


def dataset_of(folder: Path, items: int, users: int) -> Dataset:
    """Writes a data set of users with about 20 events each, and loads it."""
    folder.mkdir(parents=True)
    write_log(folder, items, events=20 * users)
    return Dataset.load(folder)


def export_untrained(artifacts: Path, dataset: Dataset, width: int) -> None:
    """Writes and publishes a bundle with exact search for that data set."""
    torch.manual_seed(0)
    model = GPT(GPTConfig.single(width), dataset.catalogue, dataset.users)
    model.requires_grad_(False)
    export_bundle(artifacts, dataset, model.eval(), RecallConfig(), {}, "exact")
