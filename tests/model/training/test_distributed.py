import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file

from model.training.checkpoints import Progress
from model.training.config import PretrainConfig, TrainConfig, TuneConfig
from model.training.run import read_figures, train


def config(folder: Path, out: str, **changes: object) -> TrainConfig:
    """Batches of 61: of 62 windows one is left for two processes, and shares are never equal."""
    base = TrainConfig(
        data=folder / "data",
        out=folder / out,
        device="cpu",
        stages="both",
        model=tiny.CONFIG.model_copy(
            update={"dropout": 0.0, "attention_dropout": 0.0, "user_dropout": 0.0}
        ),
        pretrain=PretrainConfig(
            start="pairs", epochs=2, batch_size=61, sampling="windows", products="float32"
        ),
        tune=TuneConfig(epochs=1, batch_size=61, products="float32", loss="sampled"),
    )
    return base.model_copy(update=changes)


def in_two_processes(run: TrainConfig) -> None:
    """`torchrun … recgpt train`, its options in the environment."""
    options = {
        f"RECGPT_{name.upper()}": value if isinstance(value, str) else json.dumps(value)
        for name, value in run.model_dump(mode="json", exclude_none=True).items()
    }
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    recgpt = [sys.executable, "-m", "cli", "train"]
    found = subprocess.run(
        [*torchrun, "--nproc-per-node", "2", "--no-python", *recgpt],
        env=os.environ | options,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert found.returncode == 0, found.stderr


def assert_close(one: Path, two: Path, *more: str) -> None:
    """Adam divides tiny gradients by their size, so rounding shows a little."""
    for stage in ("pretrain", "tune", *more):
        wanted = load_file(one / stage / "last.safetensors")
        found = load_file(two / stage / "last.safetensors")
        for name, tensor in wanted.items():
            torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=2e-5, msg=name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process."""
    folder = tmp_path_factory.mktemp("processes")
    tiny.walks(folder, users=62)
    train(config(folder, "one"))
    return folder


def test_two_processes_give_the_same_weights_as_one(folder: Path) -> None:
    in_two_processes(config(folder, "two"))
    assert_close(folder / "one", folder / "two")
    expected = read_figures(folder / "one")
    for name, figures in read_figures(folder / "two").items():
        assert figures == pytest.approx(expected[name]), name


def test_two_processes_make_the_cross_fitted_offers_of_one(folder: Path) -> None:
    tune = TuneConfig(epochs=1, batch_size=61, products="float32", form="append", cross_fit=True)
    train(config(folder, "one-crossed", tune=tune))
    in_two_processes(config(folder, "two-crossed", tune=tune))
    assert_close(folder / "one-crossed", folder / "two-crossed", "half-0", "half-1")


def test_two_processes_resume_what_one_began(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as stopped:
        stopped.setattr(Progress, "finished", lambda self, *_: self.epoch == 1)
        train(config(folder, "resumed", stages="pretrain"))
    in_two_processes(config(folder, "resumed", resume=True))
    assert_close(folder / "one", folder / "resumed")
