import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file

from model.data.dataset import Dataset
from model.device import choose_device
from model.network.config import RecallConfig
from model.network.gpt import GPT
from model.training import loop
from model.training.checkpoints import load_checkpoint, load_weights, save_weights
from model.training.config import PretrainConfig, TrainConfig, TuneConfig
from model.training.optimizer import Optimizer
from model.training.run import load_run, read_figures, train


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("training")
    tiny.walks(folder)
    return folder / "data"


def config(data: Path, out: Path, **changes: object) -> TrainConfig:
    base = TrainConfig(
        data=data,
        out=out,
        device="cpu",
        stages="both",
        model=tiny.CONFIG,
        pretrain=PretrainConfig(epochs=3, batch_size=16),
        tune=TuneConfig(epochs=2, batch_size=16, loss="sampled"),  # tables by row
    )
    return base.model_copy(update=changes)


def weights(run: Path, stage: str = "tune") -> dict[str, torch.Tensor]:
    return load_file(run / stage / "last.safetensors")


def assert_same_weights(one: Path, two: Path) -> None:
    for stage in ("pretrain", "tune"):
        for name, tensor in weights(one, stage).items():
            assert torch.equal(tensor, weights(two, stage)[name]), f"{stage} {name}"


@pytest.fixture(scope="module")
def whole_run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "whole"
    train(config(data, run))
    return run


def test_a_run_leaves_its_curves_figures_and_weights(whole_run: Path) -> None:
    figures = read_figures(whole_run)
    assert set(figures) == {"popularity", "pre-trained, one interest", "recgpt"}
    assert (whole_run / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert list((whole_run / "tensorboard" / "pretrain").glob("events.*"))
    settings, dataset, model = load_run(whole_run)
    assert settings.model == model.config == tiny.CONFIG
    assert model.items.num_embeddings == dataset.catalogue
    assert not model.training


def test_learns_what_can_be_learnt(data: Path, tmp_path: Path) -> None:
    """Nine of ten steps lead to the next item; popularity can't know that."""
    longer = PretrainConfig(epochs=30, batch_size=16, learning_rate=1e-2, patience=30)
    run = config(
        data, tmp_path / "run", pretrain=longer, recall=RecallConfig(interests=2, first_share=0.8)
    )
    figures = train(run)
    assert figures["recgpt"]["HR@5"] > 0.6
    assert figures["recgpt"]["HR@5"] > 2 * figures["popularity"]["HR@5"]


def test_the_same_seed_gives_the_same_weights(whole_run: Path, data: Path, tmp_path: Path) -> None:
    train(config(data, tmp_path / "again"))
    assert_same_weights(whole_run, tmp_path / "again")
    train(config(data, tmp_path / "other", seed=2))
    assert not torch.equal(
        weights(whole_run)["model.items.weight"], weights(tmp_path / "other")["model.items.weight"]
    )


KILLED = """
import os, signal, sys
import model.training.loop
from model.training.config import TrainConfig
from model.training.run import train

steps, true_loss = 0, model.training.loop.batch_loss

def batch_loss(*args):
    global steps
    steps += 1
    if steps == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    return true_loss(*args)

model.training.loop.batch_loss = batch_loss
train(TrainConfig.model_validate_json(sys.argv[1]))
"""


@pytest.mark.parametrize("epochs_before", [1.5, 4.5])
def test_resumes_after_kill_9_to_the_same_result(
    whole_run: Path, data: Path, tmp_path: Path, epochs_before: float
) -> None:
    interrupted = config(data, tmp_path / "run")
    samples = int(np.maximum(np.diff(Dataset.load(data).offsets) - 3, 0).sum())
    step = int(-(-samples // 16) * epochs_before)
    command = [sys.executable, "-c", KILLED, interrupted.model_dump_json(), str(step)]
    killed = subprocess.run(command, capture_output=True, timeout=120, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert not (tmp_path / "run" / "metrics.json").exists()
    figures = train(interrupted.model_copy(update={"resume": True}))
    assert_same_weights(whole_run, tmp_path / "run")
    assert figures == read_figures(whole_run)


def test_resuming_a_finished_run_changes_nothing(
    whole_run: Path, data: Path, tmp_path: Path
) -> None:
    run = config(data, tmp_path / "run")
    first = train(run)
    assert train(run.model_copy(update={"resume": True})) == first
    assert_same_weights(whole_run, tmp_path / "run")


def test_stages_alone_equal_both(whole_run: Path, data: Path, tmp_path: Path) -> None:
    train(config(data, tmp_path / "run", stages="pretrain"))
    assert not (tmp_path / "run" / "tune").exists()
    train(config(data, tmp_path / "run", stages="tune"))
    assert_same_weights(whole_run, tmp_path / "run")


@pytest.mark.parametrize("form", ["tail", "interleaved"])
@pytest.mark.parametrize("sampling", ["prefixes", "windows"])
def test_both_prompt_forms_lower_the_loss(
    data: Path, tmp_path: Path, form: str, sampling: str
) -> None:
    tune = TuneConfig.model_validate(
        {"form": form, "sampling": sampling, "epochs": 4, "learning_rate": 3e-3, "batch_size": 16}
    )
    run = config(data, tmp_path / "run", tune=tune)
    train(run)
    losses = [
        point["loss"]
        for point in load_progress(tmp_path / "run" / "tune" / "last.safetensors", run)
    ]
    assert losses[-1] < losses[0]


def load_progress(file: Path, run: TrainConfig) -> list[dict[str, float]]:
    dataset = Dataset.load(run.data)
    model = GPT(run.model, dataset.catalogue, dataset.users)
    progress = load_checkpoint(
        file, model, Optimizer(model, 1e-3, by_row=run.tune.loss == "sampled")
    )
    return progress.curves[1:]


def test_a_stage_never_ends_worse_than_it_began(data: Path, tmp_path: Path) -> None:
    """The first weights take part in the choice, so a ruinous learning rate ruins nothing."""
    ruinous = TuneConfig(epochs=2, learning_rate=10.0, batch_size=16, user_decay=0)
    train(config(data, tmp_path / "run", tune=ruinous))
    kept = load_file(tmp_path / "run" / "tune" / "best.safetensors")
    start = load_file(tmp_path / "run" / "pretrain" / "best.safetensors")
    assert all(torch.equal(kept[name], start[name]) for name in start)


def test_a_training_that_diverges_is_ended(data: Path, tmp_path: Path) -> None:
    diverging = PretrainConfig(epochs=2, learning_rate=1e38, batch_size=16)
    with pytest.raises(ValueError, match="has diverged: lower the learning rate"):
        train(config(data, tmp_path / "run", pretrain=diverging, stages="pretrain"))


def test_refuses_to_mix_runs(whole_run: Path, data: Path) -> None:
    with pytest.raises(ValueError, match="say --resume, or choose another --out"):
        train(config(data, whole_run))
    with pytest.raises(ValueError, match="was started with another seed"):
        train(config(data, whole_run, seed=7, resume=True))


def test_a_damaged_checkpoint_is_named(whole_run: Path, data: Path, tmp_path: Path) -> None:
    run = config(data, tmp_path / "run")
    train(run)
    file = tmp_path / "run" / "tune" / "last.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"tune/last\.safetensors cannot be resumed from"):
        train(run.model_copy(update={"resume": True}))


def test_missing_and_foreign_weights_are_named(tmp_path: Path) -> None:
    model = tiny.gpt()
    with pytest.raises(ValueError, match="is missing"):
        load_weights(tmp_path / "no.safetensors", model)
    save_weights(tmp_path / "other.safetensors", tiny.gpt(catalogue=7))
    with pytest.raises(ValueError, match="cannot be loaded into this model"):
        load_weights(tmp_path / "other.safetensors", model)


def test_no_gpu_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name in ("cuda", "cuda:1"):
        with pytest.raises(ValueError, match=f"torch sees no {name} "):
            choose_device(name)
    assert choose_device("auto").type == "cpu"


def test_not_a_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a run"):
        load_run(tmp_path)
    with pytest.raises(ValueError, match="is not finished"):
        read_figures(tmp_path)


@pytest.mark.parametrize(("small_step", "threads"), [(loop.SMALL_STEP, 1), (0, 2)])
def test_small_steps_take_one_thread(
    data: Path, tmp_path: Path, small_step: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "SMALL_STEP", small_step)
    used: set[int] = set()
    make_step = loop.batch_loss

    def recorded(*arguments: Any) -> torch.Tensor:
        used.add(torch.get_num_threads())
        return make_step(*arguments)

    monkeypatch.setattr(loop, "batch_loss", recorded)
    with loop._threads(2):
        train(config(data, tmp_path / "run", stages="pretrain"))
        assert torch.get_num_threads() == 2
    assert used == {threads}


def test_a_run_that_is_older_than_groups_is_read_as_it_was_trained(
    whole_run: Path, tmp_path: Path
) -> None:
    old = tmp_path / "old"
    shutil.copytree(whole_run, old)
    file = old / "config.json"
    content = json.loads(file.read_text())
    del content["model"]["groups"], content["pretrain"]["start"]
    file.write_text(json.dumps(content))
    found, _, network = load_run(old)
    assert (found.model.groups, found.pretrain.start) == (1, "random")
    assert torch.equal(network.items.weight, load_run(whole_run)[2].items.weight)
