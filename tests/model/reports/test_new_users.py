from pathlib import Path

import numpy as np
import pytest
import tiny

from model.data.dataset import Dataset, held_out_users
from model.evaluation.metrics import evaluate
from model.evaluation.protocols import splits
from model.evaluation.reference import DenseRecall
from model.reports.new_users import compare_new_users
from model.training.config import PretrainConfig, TrainConfig
from model.training.run import load_run, train


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set and two runs on it: `full` with all users, `held-out` without a fifth."""
    folder = tmp_path_factory.mktemp("new-users")
    tiny.walks(folder)
    for name, share in (("full", 0.0), ("held-out", 0.2)):
        train(
            TrainConfig(
                data=folder / "data",
                out=folder / name,
                hold_out_users=share,
                device="cpu",
                model=tiny.CONFIG,
                pretrain=PretrainConfig(epochs=2, batch_size=16),
            )
        )
    return folder


def test_a_run_knows_nothing_of_the_users_it_held_out(folder: Path) -> None:
    config, view, model = load_run(folder / "held-out")
    dataset = Dataset.load(folder / "data")
    held_out = held_out_users(dataset, config.hold_out_users, config.seed)
    assert len(held_out) == 12
    assert not {dataset.user_ids[u] for u in held_out} & set(view.user_ids)
    assert model.users.num_embeddings == 1 + 48


def test_the_same_cases_are_measured_in_both_runs(folder: Path) -> None:
    found = compare_new_users(folder / "held-out", folder / "full")
    dataset = Dataset.load(folder / "data")
    split = splits(dataset).test.of_users(held_out_users(dataset, 0.2, seed=1))
    assert found["cases"] == len(split.users) == 12
    for run, name, known in (
        ("held-out", "new: history only", False),
        ("full", "trained: own row", True),
        ("full", "trained: history only", False),
    ):
        config, _, model = load_run(folder / run)
        recall = DenseRecall(model, config.recall)
        expected = evaluate(recall, dataset, split, deep=(), known_users=known)
        assert found["figures"][name] == pytest.approx(expected)
    assert found["by_history"]["all"] == found["figures"]["new: history only"]
    assert list(found["by_history"]) == ["1", "2", "3", "5", "all"]
    new, own = (found["figures"][n]["HR@20"] for n in ("new: history only", "trained: own row"))
    assert found["difference"]["HR@20"]["relative"] == pytest.approx(new / own - 1)
    assert np.isfinite(found["difference"]["HR@20"]["standard_error"])


def test_runs_that_cannot_be_compared_are_refused(folder: Path) -> None:
    for held_out, full in (("full", "held-out"), ("full", "full"), ("held-out", "held-out")):
        with pytest.raises(ValueError, match="must have held users out"):
            compare_new_users(folder / held_out, folder / full)
