"""The tools behind docs/results/quality.json, on made-up figures and on a tiny run."""

import json
import sys
from pathlib import Path

import pytest
import tiny

from loadtest.quality import bench_quality, quality
from loadtest.quality.quality_table import BSAREC, METRICS, Entry
from model.training.config import PretrainConfig, TrainConfig

OTHERS = {"HR@50": 0.5}


def write_run(folder: Path, name: str, figures: dict[str, float], **changes: object) -> Path:
    """A finished run's folder: what of it is read. `figures`: a model's, for every metric."""
    run = folder / name
    run.mkdir(parents=True)
    config = TrainConfig(data=Path("data"), out=run, model=tiny.CONFIG).model_copy(update=changes)
    (run / "config.json").write_text(config.model_dump_json())
    metrics = {name: dict.fromkeys(METRICS, value) | OTHERS for name, value in figures.items()}
    (run / "metrics.json").write_text(json.dumps(metrics))
    return run


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Two seeds of ours and one of a peer on Toys, one of ours on Yelp, one unfinished."""
    folder = tmp_path / "runs"
    popular = {"popularity": 0.01}
    ours = {**popular, "pre-trained, one interest": 0.06}
    unfinished = write_run(folder, "toys-recgpt-s9", ours, seed=9)
    (unfinished / "metrics.json").unlink()
    return [
        unfinished,
        write_run(folder, "yelp-recgpt-s1", {**ours, "recgpt": 0.03}, seed=1),
        write_run(folder, "toys-recgpt-s2", {**ours, "recgpt": 0.08}, seed=2),
        write_run(folder, "toys-recgpt-s1", {**ours, "recgpt": 0.07}, seed=1),
        write_run(
            folder, "Toys_and_Games-bce-s1", {**popular, "SASRec": 0.05}, seed=1, peer="SASRec"
        ),
    ]


def gather(runs: list[Path], out: Path, monkeypatch: pytest.MonkeyPatch, *more: str) -> None:
    words = ["quality", "--runs", *map(str, runs), "--out", str(out), *more]
    monkeypatch.setattr(sys, "argv", words)
    quality.main()


def test_gathers_means_and_spreads_by_set_and_model(
    runs: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    gather(runs, tmp_path / "out", monkeypatch)
    found = json.loads((tmp_path / "out" / "quality.json").read_text())
    assert list(found) == ["Toys", "Yelp"]
    first, *_ = found["Toys"]
    assert first == "recgpt"
    assert found["Toys"]["recgpt"]["seeds"] == [1, 2]
    assert found["Toys"]["recgpt"]["mean"] == pytest.approx([0.075] * 6)
    assert found["Toys"]["recgpt"]["sd"] == pytest.approx([0.005 * 2**0.5] * 6, abs=1e-6)
    assert found["Toys"]["SASRec"] == {"seeds": [1], "mean": [0.05] * 6, "sd": [0.0] * 6}
    assert found["Toys"]["popularity"]["mean"] == pytest.approx([0.01] * 6)
    assert found["Toys"]["recgpt, pre-trained only, one interest"]["mean"][0] == 0.06
    assert found["Yelp"]["recgpt"]["mean"] == [0.03] * 6
    assert "toys-recgpt-s9" in capsys.readouterr().err


def test_the_table_marks_what_is_above_the_published_figures(
    runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    begin, end = "<!-- begin: quality -->", "<!-- end: quality -->"
    (out / "quality.md").write_text(f"# Mine\n\nbefore\n\n{begin}\nstale\n{end}\n\nafter\n")
    other = "- Toys, older, seed 1: `recgpt train`"
    (out / "quality-commands.md").write_text(f"{begin}\n{other}\n{end}\n")
    for _ in range(2):  # a second time replaces, and adds nothing
        gather(runs, out, monkeypatch)
    text = (out / "quality.md").read_text()
    assert text.startswith("# Mine\n\nbefore\n\n")
    assert text.endswith("\n\nafter\n")
    assert "stale" not in text
    (ours,) = [line for line in text.splitlines() if line.startswith("| recgpt | 2")]
    assert ours == (
        "| recgpt | 2 | 0.0750 ± 0.0071 | 0.0750 ± 0.0071 | 0.0750 ± 0.0071 "
        "| **0.0750 ± 0.0071†** | **0.0750 ± 0.0071†** | **0.0750 ± 0.0071** |"
    )
    assert "| SASRec | 1 | 0.0500 |" in text
    assert "above BSARec's published means in 7 of 12 cells" in text
    assert "Toys HR@5 (-0.0023)" in text
    assert "above the best single figures published before KERec in 4 of 12 cells" in text
    assert "above KERec's single published runs in 4 of 12 cells" in text
    assert "| *KERec, one published run, width 64* | | 0.0845 |" in text
    assert text.count("| *FICLRec, one published run, width 64* |") == 1  # Yelp's
    commands = (out / "quality-commands.md").read_text()
    assert "--model.dim 16" in commands
    assert commands.count(other) == 1
    assert "seed 1, 2: `recgpt train --data Toys --out runs/toys-recgpt-s$SEED" in commands


def test_figures_that_were_measured_elsewhere_can_be_added(
    runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    also = tmp_path / "also.json"
    entry = {"seeds": [1], "mean": [0.02] * 6, "sd": [0.0] * 6}
    also.write_text(json.dumps({"Toys": {"public": entry}}))
    gather(runs, tmp_path / "out", monkeypatch, "--also", str(also))
    found = json.loads((tmp_path / "out" / "quality.json").read_text())
    assert found["Toys"]["public"] == entry
    also.write_text(json.dumps({"Toys": {"recgpt": entry}}))
    with pytest.raises(ValueError, match="recgpt is measured twice"):
        gather(runs, tmp_path / "out", monkeypatch, "--also", str(also))


def test_folders_that_mislead_are_refused(tmp_path: Path) -> None:
    figures = {"popularity": 0.01, "recgpt": 0.03}
    with pytest.raises(ValueError, match="is named <set>-<model>-s<seed>"):
        quality.gather([write_run(tmp_path, "books-recgpt-s1", figures)])
    with pytest.raises(ValueError, match="trained with seed 1"):
        quality.gather([write_run(tmp_path, "toys-recgpt-s2", figures, seed=1)])
    twice = [write_run(tmp_path / f, "toys-recgpt-s1", figures, seed=1) for f in ("a", "b")]
    with pytest.raises(ValueError, match="is there already"):
        quality.gather(twice)


def test_options_are_those_that_differ_from_the_defaults() -> None:
    config = TrainConfig(
        data=Path("d"), out=Path("o"), seed=4, pretrain=PretrainConfig(epochs=7, batch_size=512)
    )
    assert quality.train_options(config) == ["--pretrain.epochs 7", "--pretrain.batch-size 512"]
    flag = config.model_copy(
        update={"tune": config.tune.model_copy(update={"offer_targets": False})}
    )
    assert quality.train_options(flag)[-1] == "--no-tune.offer-targets"


def bench(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["bench_quality", *words])
    bench_quality.main()


def test_the_bench_is_skipped_where_the_file_is_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bench(monkeypatch, "--source", str(tmp_path))
    assert capsys.readouterr().out.startswith(f"skipped: there is no {tmp_path}/Toys")


def test_the_bench_runs_from_the_file_to_the_comparison(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    tiny.walks(tmp_path)
    (tmp_path / "walks.txt").rename(tmp_path / "Toys_and_Games.txt")
    (tmp_path / "toys.toml").write_text(
        "[model]\ndim = 16\nfeed_forward = 32\nuser_rank = 4\n"
        "[pretrain]\nepochs = 1\n[tune]\nepochs = 1\n"
    )
    recorded, out = tmp_path / "quality.json", tmp_path / "out"
    words = ["--source", str(tmp_path), "--recipes", str(tmp_path), "--out", str(out)]
    words += ["--recorded", str(recorded), "--seed", "3", "--device", "cpu"]
    bench(monkeypatch, *words)
    assert "has no figures of Toys" in capfd.readouterr().out
    assert json.loads((out / "run" / "config.json").read_text())["seed"] == 3
    figures = json.loads((out / "run" / "metrics.json").read_text())["recgpt"]
    entry = Entry(seeds=[3], mean=[figures[m] for m in METRICS], sd=[0.0] * 6)
    recorded.write_text(json.dumps({"Toys": {"recgpt": entry}}))
    monkeypatch.setattr(bench_quality, "recgpt", lambda *words: None)  # all is there already
    bench(monkeypatch, *words)
    assert "+0.0000" in capfd.readouterr().out
    entry["mean"][1] *= 1.1
    recorded.write_text(json.dumps({"Toys": {"recgpt": entry}}))
    with pytest.raises(SystemExit, match=r"lower than recorded by more than the tolerance: HR@10$"):
        bench(monkeypatch, *words)


@pytest.mark.parametrize(
    ("mean", "sd", "found", "low"),
    [
        (0.100, 0.0000, 0.0981, False),  # one seed: within 2 %
        (0.100, 0.0000, 0.0979, True),
        (0.010, 0.0000, 0.0097, True),  # a small figure that an absolute tolerance would let pass
        (0.100, 0.0030, 0.0911, False),  # within three standard deviations, which are more
        (0.100, 0.0030, 0.0909, True),
    ],
)
def test_the_tolerance_is_three_deviations_or_two_per_cent(
    mean: float, sd: float, found: float, low: bool
) -> None:
    entry = Entry(seeds=[1, 2], mean=[mean] * 6, sd=[sd] * 6)
    figures = [found, *[mean] * 5]
    assert bench_quality.too_low(figures, entry) == (["HR@5"] if low else [])


def test_the_comparison_stands_beside_the_published_figures() -> None:
    entry = Entry(seeds=[1, 2], mean=[0.07] * 6, sd=[0.001] * 6)
    head, first, *_ = bench_quality.compare("Toys", [0.08] * 6, entry)
    assert head.split() == ["Toys", "here", "recorded", "sd", "difference", "BSARec"]
    assert first.split() == ["HR@5", "0.0800", "0.0700", "0.0010", "+0.0100", "0.0773"]
    assert BSAREC["Toys"][0] == 0.0773
    assert bench_quality.compare("Toys", [0.08] * 6, None)[1].split()[2:5] == ["-", "-", "-"]
