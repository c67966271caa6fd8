"""A run chooses by the validation split, the list that is served, and its patience."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file

from model.evaluation.config import ProtocolConfig
from model.evaluation.metrics import evaluate
from model.evaluation.protocols import splits
from model.evaluation.reference import DenseRecall
from model.network.config import RecallConfig
from model.network.gpt import GPT
from model.reports.interests import compare_interests
from model.reports.report import write_report
from model.training.checkpoints import Progress, load_checkpoint
from model.training.config import PretrainConfig, TrainConfig, TuneConfig
from model.training.optimizer import Optimizer
from model.training.run import ONE_INTEREST, load_run, read_figures, train

RATE = 1e-3


def config(data: Path, out: Path, **changes: object) -> TrainConfig:
    base = TrainConfig(
        data=data,
        out=out,
        device="cpu",
        stages="both",
        model=tiny.CONFIG,
        recall=RecallConfig(interests=3, first_share=0.3),
        pretrain=PretrainConfig(start="random", epochs=6, batch_size=16, learning_rate=1e-2),
        tune=TuneConfig(epochs=2, batch_size=16),
    )
    return base.model_copy(update=changes)


def progress(run: Path, stage: str) -> Progress:
    _, dataset, _ = load_run(run)
    model = GPT(tiny.CONFIG, dataset.catalogue, dataset.users)
    return load_checkpoint(run / stage / "last.safetensors", model, Optimizer(model, RATE))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two runs on data sets that differ in nothing but who got which test item."""
    folder = tmp_path_factory.mktemp("choices")
    dataset = tiny.walks(folder)
    other = folder / "other"
    shutil.copytree(folder / "data", other)
    events, last = np.array(dataset.events), np.asarray(dataset.offsets[1:]) - 1
    events[last] = np.random.default_rng(0).permutation(events[last])
    np.save(other / "events.npy", events)
    for data in (folder / "data", other):
        train(config(data, folder / f"run-{data.name}"))
    return folder / "run-data", folder / "run-other"


@pytest.mark.parametrize("stage", ["pretrain", "tune"])
def test_the_test_split_chooses_no_epoch(runs: tuple[Path, Path], stage: str) -> None:
    one, other = runs
    assert read_figures(one) != read_figures(other)
    for name, found in load_file(one / stage / "best.safetensors").items():
        assert torch.equal(found, load_file(other / stage / "best.safetensors")[name]), name
    assert progress(one, stage).best_epoch == progress(other, stage).best_epoch
    assert progress(one, stage).best == progress(other, stage).best


def test_the_test_split_chooses_no_share(runs: tuple[Path, Path]) -> None:
    one, other = (compare_interests(run, interests=3)["chosen"] for run in runs)
    assert [entry["test"] for entry in one] != [entry["test"] for entry in other]
    for key in ("interests", "k", "first_share", "validation"):
        assert [entry[key] for entry in one] == [entry[key] for entry in other], key


def test_each_stage_is_judged_by_the_list_that_it_is_for(runs: tuple[Path, Path]) -> None:
    run = runs[0]
    trained, dataset, model = load_run(run, "pretrain")
    split = splits(dataset).validation
    one, served = (
        evaluate(DenseRecall(model, recall), dataset, split, deep=())["NDCG@20"]
        for recall in (ONE_INTEREST, trained.recall)
    )
    assert one != served
    assert progress(run, "pretrain").best == pytest.approx(one)
    assert progress(run, "tune").curves[0]["NDCG@20"] == pytest.approx(served)


def test_another_metric_can_choose_the_epoch(tmp_path: Path) -> None:
    tiny.walks(tmp_path)
    stage = PretrainConfig(epochs=3, batch_size=16, choose_by="recall@7")
    protocol = ProtocolConfig(split="next-set", targets="2")
    run = config(
        tmp_path / "data", tmp_path / "run", stages="pretrain", pretrain=stage, protocol=protocol
    )
    train(run)
    found = progress(tmp_path / "run", "pretrain")
    assert found.metric == "recall@7"
    assert found.best == max(point["recall@7"] for point in found.curves)
    _, dataset, model = load_run(tmp_path / "run")
    split = splits(dataset, protocol).validation
    figures = evaluate(DenseRecall(model, ONE_INTEREST), dataset, split, deep=(7,))
    assert figures["recall@7"] == pytest.approx(found.best)
    write_report(tmp_path / "run", tmp_path / "page.html")
    assert "Validation recall@7" in (tmp_path / "page.html").read_text()


def test_patience_ends_a_stage(tmp_path: Path) -> None:
    tiny.walks(tmp_path)
    ruinous = TuneConfig(epochs=6, patience=2, learning_rate=10.0, batch_size=16, user_decay=0)
    train(config(tmp_path / "data", tmp_path / "run", tune=ruinous))
    found = progress(tmp_path / "run", "tune")
    assert found.best_epoch == 0
    assert found.epoch == 2


def test_a_better_epoch_renews_the_patience() -> None:
    found = Progress()
    for epoch, figure in enumerate([0.1, 0.05, 0.2, 0.2, 0.1]):
        found.epoch = epoch
        assert found.keep({"NDCG@20": figure}) == (epoch in (0, 2))
        assert found.finished(epochs=9, patience=2) == (epoch == 4)
    assert not found.finished(epochs=9, patience=3)
    assert found.finished(epochs=4, patience=9)


@pytest.mark.parametrize("decay", [True, False])
def test_the_rate_falls_to_zero_in_equal_steps(
    decay: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []
    monkeypatch.setattr(
        Optimizer,
        "step",
        lambda optimizer: rates.append(optimizer._parts["adam"].param_groups[0]["lr"]),
    )
    dataset = tiny.walks(tmp_path, users=20)
    stage = PretrainConfig(epochs=2, batch_size=16, learning_rate=RATE, decay=decay)
    train(config(tmp_path / "data", tmp_path / "run", stages="pretrain", pretrain=stage))
    samples = int(np.maximum(np.diff(dataset.offsets) - 3, 0).sum())
    steps = 2 * -(-samples // 16)
    expected = RATE * (1 - np.arange(1, steps + 1) / steps) if decay else [RATE] * steps
    np.testing.assert_allclose(rates, expected, atol=1e-12)


def test_more_interests_than_the_network_can_generate_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"recall\.interests = 5 .* model\.max_interests = 4"):
        TrainConfig(data=tmp_path, out=tmp_path, recall=RecallConfig(interests=5))


@pytest.mark.parametrize("loss", ["softmax", "sampled", "bce"])
@pytest.mark.parametrize("sampling", ["prefixes", "windows"])
def test_a_network_can_be_trained_on_sets(tmp_path: Path, loss: str, sampling: str) -> None:
    """The next two items are what it recalls; a third step on is learnt, too."""
    tiny.walks(tmp_path)
    stage = PretrainConfig.model_validate(
        {"epochs": 8, "batch_size": 16, "learning_rate": 1e-2, "targets": "2"}
        | {"loss": loss, "sampling": sampling, "products": "float32"}
    )
    protocol = ProtocolConfig(split="next-set", targets="2")
    run = config(
        tmp_path / "data", tmp_path / "run", stages="pretrain", pretrain=stage, protocol=protocol
    )
    figures = train(run)["pre-trained, one interest"]
    losses = [point["loss"] for point in progress(tmp_path / "run", "pretrain").curves[1:]]
    assert losses[-1] < losses[0]
    assert figures["recall@20"] > 0.6


def test_days_need_a_data_set_with_times(tmp_path: Path) -> None:
    tiny.walks(tmp_path)
    run = config(tmp_path / "data", tmp_path / "run", pretrain=PretrainConfig(targets="day"))
    with pytest.raises(ValueError, match="'day' needs the times of events"):
        train(run)


def test_pre_training_gives_offers_the_segment_of_the_history(tmp_path: Path) -> None:
    tiny.walks(tmp_path)
    train(config(tmp_path / "data", tmp_path / "run", stages="pretrain"))
    weights = load_file(tmp_path / "run" / "pretrain" / "best.safetensors")
    history, offer = weights["segments.weight"]
    assert torch.equal(history, offer)
    assert history.any()


@pytest.mark.parametrize("option", ["cross_fit", "assign"])
def test_an_option_of_the_append_form_needs_it(tmp_path: Path, option: str) -> None:
    tune = TuneConfig.model_validate({option: True, "form": "tail"})
    with pytest.raises(ValueError, match=f"tune.{option} needs the form append"):
        TrainConfig(data=tmp_path, out=tmp_path / "run", tune=tune)


@pytest.mark.parametrize("assign", [False, True])
def test_adapters_tune_later_interests_and_leave_the_first(assign: bool, tmp_path: Path) -> None:
    """Tuning by the append form with cross-fitted offers, from two networks of half the users."""
    tiny.walks(tmp_path)
    tune = TuneConfig(
        form="append",
        assign=assign,
        cross_fit=True,
        offers=2,
        targets="3",
        epochs=2,
        learning_rate=1e-2,
    ).model_copy(update={"choose_by": "recall@5", "batch_size": 16})
    model = tiny.CONFIG.model_copy(update={"adapter_rank": 2})
    settings = config(tmp_path / "data", tmp_path / "run", tune=tune, model=model)
    train(settings)
    folder = tmp_path / "run"
    before, after = (
        load_file(folder / stage / f"{which}.safetensors")
        for stage, which in (("pretrain", "best"), ("tune", "last"))
    )
    moved = {n for n, t in before.items() if not torch.equal(t, after[f"model.{n}"])}
    assert moved
    assert all(name.startswith("adapters.") for name in moved)
    halves = [load_file(folder / f"half-{half}" / "best.safetensors") for half in (0, 1)]
    assert not torch.equal(*(weights["items.weight"] for weights in halves))


def test_plain_tuning_is_the_control_without_offers(tmp_path: Path) -> None:
    """It makes the updates of pre-training on the same samples at the rate of tuning."""
    tiny.walks(tmp_path)
    tune = TuneConfig(form="plain", targets="2", epochs=1, batch_size=16)
    model = tiny.CONFIG.model_copy(update={"adapter_rank": 2})  # of which it makes no use
    train(config(tmp_path / "data", tmp_path / "run", tune=tune, model=model))
    before, after = (
        load_file(tmp_path / "run" / stage / f"{which}.safetensors")
        for stage, which in (("pretrain", "best"), ("tune", "last"))
    )
    assert not torch.equal(before["items.weight"], after["model.items.weight"])
    offer = before["segments.weight"][1]
    assert torch.equal(offer, after["model.segments.weight"][1])  # no offer was read
