"""Warm start: known rows are copied by id, new ones are fresh, and training goes on from there."""

from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch

from model.data.dataset import Dataset
from model.network.gpt import GPT
from model.training import run
from model.training.config import PretrainConfig, TrainConfig
from model.training.run import load_run, train
from model.training.warm_start import start_from
from service.offline import export_bundle


@pytest.fixture(scope="module")
def bundle(dataset: Dataset, model: GPT, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_bundle(tmp_path_factory.mktemp("served"), dataset, model, tiny.RECALL, {})


def renumbered(dataset: Dataset) -> Dataset:
    """The data set with its items in another order, two unknown ones, and one unknown user."""
    items = ["new-1", *reversed(dataset.item_ids), "new-2"]
    return replace(dataset, item_ids=items, user_ids=["new", *dataset.user_ids[1:]])


def test_known_rows_are_copied_by_id_and_new_rows_stay(
    bundle: Path, dataset: Dataset, model: GPT
) -> None:
    newer = renumbered(dataset)
    started = tiny.gpt(catalogue=newer.catalogue, users=newer.users, seed=7)
    fresh = {name: tensor.clone() for name, tensor in started.state_dict().items()}
    start_from(bundle, started, newer)
    items = started.items.weight
    torch.testing.assert_close(items[1:-1], model.item_vectors().flip(0))
    assert torch.equal(items[0], fresh["items.weight"][0])
    assert torch.equal(items[-1], fresh["items.weight"][-1])
    users = started.users.weight
    assert torch.equal(users[0], model.users.weight[0])  # the unknown user
    assert torch.equal(users[1], users[0])
    assert torch.equal(users[2:], model.users.weight[2:])
    assert torch.equal(started.segments.weight, model.segments.weight)


def test_another_form_of_network_is_refused(bundle: Path, dataset: Dataset) -> None:
    wider = tiny.CONFIG.model_copy(update={"dim": 32, "dropout": 0.3})
    other = GPT(wider, dataset.catalogue, dataset.users)
    with pytest.raises(ValueError, match=r"has model\.dim = 16: give the same values"):
        start_from(bundle, other, dataset)


def test_training_starts_from_the_bundle(bundle: Path, tmp_path: Path, model: GPT) -> None:
    """Without an epoch the run ends with the weights that it started from."""
    tiny.walks(tmp_path)
    config = TrainConfig(
        data=tmp_path / "data",
        out=tmp_path / "run",
        model=tiny.CONFIG,
        pretrain=PretrainConfig(epochs=0),
        warm_start=bundle,
    )
    train(config)
    _, _, started = load_run(tmp_path / "run")
    torch.testing.assert_close(started.items.weight, model.item_vectors())


def test_weights_are_copied_before_the_network_moves_to_its_device(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bundle is read to the CPU, and rows are not copied from one device to another."""
    tiny.walks(tmp_path)
    config = TrainConfig(
        data=tmp_path / "data", out=tmp_path / "run", model=tiny.CONFIG, warm_start=bundle
    )

    def stop(bundles: Path, model: GPT, dataset: Dataset) -> None:
        raise InterruptedError(model.items.weight.device.type)

    monkeypatch.setattr(run, "start_from", stop)
    with pytest.raises(InterruptedError, match="cpu"):
        run._train(config, torch.device("meta"))
