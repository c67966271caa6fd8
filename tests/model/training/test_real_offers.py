"""Impressions that users did not take, as the offers of training and evaluation."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import shown

from cli.main import main
from model.data.dataset import Dataset
from model.evaluation.metrics import evaluate, histories_of
from model.evaluation.protocols import splits
from model.network.config import MAX_OFFERS
from model.reports.comparison import compare_runs
from model.reports.inputs import measure_inputs
from model.training.batches import by_length, prefixes, read_samples, windows
from model.training.config import TrainConfig
from model.training.run import load_run, read_figures, reference_recall, train


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was tuned with the real offers of the small world."""
    folder = tmp_path_factory.mktemp("shown")
    shown.world(folder)
    size = {"dim": 16, "feed_forward": 32, "layers": 1, "dropout": 0.1, "max_history": 8}
    fit = {"batch_size": 64, "learning_rate": 1e-2}
    config = TrainConfig.model_validate(
        {
            "data": folder / "data",
            "out": folder / "run",
            "device": "cpu",
            "stages": "both",
            "model": size | {"attention_dropout": 0.1},
            "recall": {"interests": 2, "first_share": 0.05},
            "pretrain": fit | {"epochs": 10},
            "tune": fit | {"epochs": 25, "form": "append", "choose_by": "recall@20"},
        }
    )
    train(config)
    return folder / "run"


def test_a_refused_impression_tells_what_the_user_wants(run: Path) -> None:
    config, dataset, model = load_run(run)
    recall, split = reference_recall(config, dataset, model), splits(dataset).test
    real = evaluate(recall, dataset, split, deep=(20,))["recall@20"]
    generated = evaluate(recall, dataset.without_offers(), split, deep=(20,))["recall@20"]
    assert read_figures(run)["recgpt"]["recall@20"] == pytest.approx(real)
    assert real > 0.9
    assert generated < 0.75  # half of the items are of the wrong group


def test_the_worth_of_real_offers_is_measured(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    variants = measure_inputs(run)["all"]["variants"]
    own = variants["as it is"]["recall@20"]["value"]
    for name in ("another user's real offers", "generated offers only"):
        assert variants[name]["recall@20"]["value"] < own - 0.2
        assert variants[name]["recall@20"]["high"] < 0
    artifacts = run.parent / "artifacts"
    main(["export", "--run-dir", str(run), "--artifacts", str(artifacts)])
    command = ["evaluate", "--artifacts", str(artifacts), "--data", str(run.parent / "data")]
    main(command)
    told = capsys.readouterr().out
    assert "equal to the trainer's figures" in told
    main([*command, "--offers", "generated"])
    untold = capsys.readouterr().out
    assert "equal to the trainer's figures" not in untold
    figures = [
        float(line.split()[-1])
        for text in (told, untold)
        for line in text.splitlines()
        if line.startswith("recall@20 ")
    ]
    assert figures[0] == pytest.approx(own, abs=1e-4)
    assert figures[1] < own - 0.2


def test_runs_are_compared_with_the_real_offers_of_their_own_data(run: Path) -> None:
    data, untold = run.parent / "data", run.parent / "untold"
    shutil.copytree(run, untold)
    without = shutil.copytree(data, run.parent / "without")
    about = json.loads((without / "dataset.json").read_text())
    (without / "dataset.json").write_text(json.dumps(about | {"offers": None}))
    config = (untold / "config.json").read_text().replace(str(data), str(without))
    (untold / "config.json").write_text(config)
    found = compare_runs(run, untold)["figures"]["recall@20"]
    assert found["new"] > found["old"] + 0.2
    assert compare_runs(untold, run)["figures"]["recall@20"]["new"] == found["old"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return shown.world(tmp_path_factory.mktemp("world"))


def offers_before(dataset: Dataset, event: int) -> list[int]:
    assert dataset.offers is not None
    first, end = dataset.offers.offsets[event : event + 2]
    rows = dataset.offers.rows_O[first:end].tolist()
    return rows + [-1] * (MAX_OFFERS - len(rows))


@pytest.mark.parametrize("sampling", ["prefixes", "windows"])
def test_a_sample_has_the_offers_before_its_last_target(world: Dataset, sampling: str) -> None:
    rng = np.random.default_rng(0)
    samples = prefixes(world, 5) if sampling == "prefixes" else windows(world, 5, rng)
    batches = by_length(samples, 64, rng)
    for numbers, batch in zip(
        batches, read_samples(world, samples, batches, real_offers=True), strict=True
    ):
        assert batch.real_BM is not None
        ends = samples.starts_N[numbers] + samples.lengths_N[numbers]
        assert batch.real_BM.tolist() == [offers_before(world, int(end)) for end in ends]
    assert next(read_samples(world, samples, batches)).real_BM is None
    without = world.without_offers()
    assert next(read_samples(without, samples, batches, real_offers=True)).real_BM is None


def test_a_history_has_the_offers_behind_it(world: Dataset) -> None:
    users, lengths = np.array([3, 3, 7, shown.USERS - 1]), np.array([2, 8, 8, 8])
    found = histories_of(world, users, lengths)
    assert found.offers_BM is not None
    start = int(world.offsets[3])
    nothing = [-1] * MAX_OFFERS  # behind a whole history, and not those of the next user
    assert found.offers_BM.tolist() == [offers_before(world, start + 2), *[nothing] * 3]
    assert found.offers_BM[0, 0] >= 0
    assert histories_of(replace(world, offers=None), users, lengths).offers_BM is None
