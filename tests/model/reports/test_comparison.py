from pathlib import Path

import pytest
import tiny

from cli.main import main
from model.evaluation.config import ProtocolConfig
from model.reports.comparison import compare_runs
from model.training.config import PretrainConfig, TrainConfig
from model.training.run import read_figures, train

SETS = ProtocolConfig(split="next-set", targets="2")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run of eight epochs and one of none, on the same data."""
    folder = tmp_path_factory.mktemp("comparison")
    tiny.walks(folder)
    for name, epochs in (("new", 8), ("old", 0)):
        train(
            TrainConfig(
                data=folder / "data",
                out=folder / name,
                device="cpu",
                stages="pretrain",
                protocol=SETS,
                model=tiny.CONFIG,
                pretrain=PretrainConfig(epochs=epochs, batch_size=16, learning_rate=1e-2),
            )
        )
    return folder / "new", folder / "old"


def test_figures_are_those_of_the_runs(runs: tuple[Path, Path]) -> None:
    found = compare_runs(*runs)
    for side, run in zip(("new", "old"), runs, strict=True):
        expected = read_figures(run)["recgpt"]
        for metric, row in found["figures"].items():
            assert row[side] == pytest.approx(expected[metric]), metric
    better = found["figures"]["recall@20"]
    assert 0 < better["low"] < better["relative"] < better["high"]
    alone = compare_runs(*runs, interests=1)
    expected = read_figures(runs[0])["pre-trained, one interest"]
    assert alone["figures"]["HR@10"]["new"] == pytest.approx(expected["HR@10"])


def test_the_command_prints_a_table(
    runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    main(["evaluate", "runs", "--new", str(runs[0]), "--old", str(runs[1])])
    table = capsys.readouterr().out
    assert "60 test cases" in table
    assert "recall@500" in table


def test_no_run_may_have_seen_the_test_events(runs: tuple[Path, Path]) -> None:
    with pytest.raises(ValueError, match="was trained on test events of this protocol"):
        compare_runs(*runs, ProtocolConfig(split="next-set", targets="5"))
    compare_runs(*runs, ProtocolConfig())  # leave-one-out leaves less out


def test_runs_must_be_of_the_same_data(runs: tuple[Path, Path], tmp_path: Path) -> None:
    tiny.walks(tmp_path, seed=1)
    other = TrainConfig(
        data=tmp_path / "data",
        out=tmp_path / "run",
        device="cpu",
        stages="pretrain",
        model=tiny.CONFIG,
        pretrain=PretrainConfig(epochs=0),
    )
    train(other)
    with pytest.raises(ValueError, match="were not trained on the same data"):
        compare_runs(runs[0], tmp_path / "run")
