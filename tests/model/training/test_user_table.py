"""The user table learns tastes that the newest items of a history do not show."""

import itertools

import numpy as np
import pytest
import tiny
import torch

from model.data.dataset import Dataset
from model.evaluation.metrics import measure_cases
from model.evaluation.protocols import splits
from model.evaluation.reference import DenseRecall
from model.network.config import GPTConfig, RecallConfig
from model.network.gpt import GPT
from model.reports.inputs import Variant
from model.training.config import PretrainConfig
from model.training.loop import fit
from model.training.stages import pretraining

TASTES, FAVOURITES = 4, 2
CONFIG = GPTConfig(
    dim=16,
    groups=1,
    heads=2,
    feed_forward=32,
    max_history=3,
    user_rank=4,
    dropout=0.1,
    attention_dropout=0.1,
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Two common items, a bell, one of the user's favourites, and so on.

    The three items before a favourite say nothing of the user.
    """
    rng = np.random.default_rng(0)
    lines = []
    for user in range(60):
        items: list[str] = []
        for _ in range(10):
            common, favourite = rng.integers(10), rng.integers(FAVOURITES)
            items += [f"common{common}", f"common{(common + 1) % 10}", "bell"]
            items += [f"taste{user % TASTES}-{favourite}"]
        lines.append(f"u{user} " + " ".join(items))
    return tiny.of_lines(tmp_path_factory.mktemp("tastes"), lines, "tastes")


@pytest.fixture(scope="module")
def model(world: Dataset, tmp_path_factory: pytest.TempPathFactory) -> GPT:
    """A network that was trained on it, with the table's own settings as they are by default."""
    training, epochs = splits(world).training(), itertools.count(1)
    config = PretrainConfig(epochs=10, batch_size=16, learning_rate=5e-3, sampling="windows")
    stage = pretraining(config, training, lambda model: {"NDCG@20": float(next(epochs))})
    torch.manual_seed(0)
    network = GPT(CONFIG, world.catalogue, world.users)
    fit(network, training, stage, tmp_path_factory.mktemp("run"), seed=0, resume=False)
    return network.eval()


def test_ones_own_row_finds_favourites_that_another_row_misses(world: Dataset, model: GPT) -> None:
    recall = DenseRecall(model, RecallConfig(interests=1), repeats=True)
    # Neighbours have different tastes.
    rows = {"own": lambda users_B: users_B, "another": lambda users_B: (users_B + 1) % world.users}
    rows["none"] = lambda users_B: np.full_like(users_B, -1)
    found = {}
    for name, change in rows.items():
        variant = Variant(recall, users=change)
        cases = measure_cases(variant, world, splits(world).test, (FAVOURITES,))
        found[name] = cases.set_recalls[FAVOURITES].mean()
    assert found["own"] > 0.9, found
    assert found["another"] < 0.1, found
    assert found["none"] < 0.5, found  # one taste of four, but for chance


def test_the_unknown_user_stays_at_zero(world: Dataset, model: GPT) -> None:
    assert not model.users.weight[0].any()
    assert model.users.weight[1:].any(dim=1).all()
