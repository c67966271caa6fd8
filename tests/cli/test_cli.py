import json
import os
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import tiny
from recalling_stub import recalling_stub
from safetensors.torch import load_file

from cli import main as cli
from cli.demo import crowd, demo_training, invitation
from cli.main import COMMANDS
from model.artifact.versions import find_bundle
from model.data import fetch
from model.data.dataset import Dataset
from model.training import run
from model.training.config import TrainConfig
from service.http.filters import Filter
from service.settings import ServeSettings

RECIPES = Path(__file__).parents[2] / "model" / "recipes"
SMALL = [
    *("--model.dim", "16", "--model.feed-forward", "32", "--model.max-history", "8"),
    *("--model.user-rank", "4", "--device", "cpu"),
    *("--stages", "both", "--pretrain.epochs", "2", "--tune.epochs", "1"),
]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything from the log to the artifact, made by the commands themselves."""
    folder = tmp_path_factory.mktemp("cli")
    tiny.walks(folder)
    cli.main(["train", "--data", f"{folder}/data", "--out", f"{folder}/run", *SMALL])
    cli.main(["export", "--run-dir", f"{folder}/run", "--artifacts", f"{folder}/artifacts"])
    return folder


def fails(*words: str | Path) -> int:
    with pytest.raises(SystemExit) as stopped:
        cli.main([str(word) for word in words])
    return int(stopped.value.code or 0)


def test_evaluate_measures_the_service_and_equals_the_trainer(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "figures.json"
    command = ["evaluate", "--artifacts", f"{world}/artifacts", "--data", f"{world}/data"]
    cli.main([*command, "--run-dir", f"{world}/run", "--out", str(out)])
    measured = json.loads(out.read_text())["figures"]
    trained = json.loads((world / "run" / "metrics.json").read_text())
    assert measured.keys() == trained.keys()
    for name, figures in trained.items():
        assert measured[name] == pytest.approx(figures, abs=5e-5), name
    assert "equal to the trainer's figures" in capsys.readouterr().out


def test_train_resumes_with_its_values_from_a_file(world: Path, tmp_path: Path) -> None:
    """The command's own options, such as --config, are no part of what a run must keep."""
    values = tmp_path / "values.toml"
    values.write_text("[pretrain]\nepochs = 2\n", encoding="utf-8")
    again = ["train", "--data", f"{world}/data", "--out", f"{world}/run", "--resume"]
    cli.main([*again, *SMALL])
    cli.main([*again, *SMALL, "--config", str(values)])
    assert fails(*again, *SMALL, "--seed", "7") == 1


def test_new_users_are_compared_and_an_artifact_without_them_is_evaluated(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, run, out = world / "data", tmp_path / "run", tmp_path / "new-users.json"
    cli.main(["train", "--data", f"{data}", "--out", f"{run}", "--hold-out-users", "0.2", *SMALL])
    pair = ["--held-out", f"{run}", "--full", f"{world}/run"]
    cli.main(["evaluate", "new-users", *pair, "--out", str(out)])
    assert "12 test cases of 12 held-out users" in capsys.readouterr().out
    assert json.loads(out.read_text())["figures"].keys() >= {"new: history only"}
    artifacts = ["--artifacts", f"{tmp_path}/artifacts"]
    cli.main(["export", "--run-dir", f"{run}", *artifacts])
    cli.main(["evaluate", *artifacts, "--data", f"{data}", "--run-dir", f"{run}"])
    assert "equal to the trainer's figures" in capsys.readouterr().out


def test_evaluate_refuses_figures_that_are_not_the_trainers(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same items and users, but another order of events: not what was trained on."""
    dataset = Dataset.load(world / "data")
    other = tmp_path / "data"
    other.mkdir()
    for file in (world / "data").iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    np.save(other / "events.npy", np.asarray(dataset.events)[::-1].copy())
    assert fails("evaluate", "--artifacts", world / "artifacts", "--data", other) == 1
    assert "in training" in capsys.readouterr().err


def test_fetch_names_the_data_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fetched: list[Path] = []
    monkeypatch.setattr(fetch, "fetch_ml_100k", fetched.append)
    cli.main(["data", "fetch", "ml-100k", "--out", str(tmp_path)])
    assert fetched == [tmp_path]
    assert fails("data", "fetch", "ml-25m", "--out", tmp_path) == 2
    assert "ml-100k" in capsys.readouterr().err


def test_history_load_keeps_what_is_there(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = f"embedded:{tmp_path / 'histories'}"
    cli.main(["history", "load", "--data", f"{world}/data", "--store", store])
    assert "60 stored, 0 kept" in capsys.readouterr().out
    cli.main(["history", "load", "--data", f"{world}/data", "--store", store])
    assert "0 stored, 60 kept" in capsys.readouterr().out
    cli.main(["history", "load", "--data", f"{world}/data", "--store", store, "--overwrite"])
    assert "60 stored, 0 kept" in capsys.readouterr().out


def test_an_absent_redis_is_said(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["history", "load", "--data", f"{world}/data", "--store", "redis://127.0.0.1:1/0"]
    assert fails(*command) == 1
    err = capsys.readouterr().err
    assert "127.0.0.1:1" in err
    assert "Traceback" not in err


def test_values_come_from_flags_then_environment_then_file(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "train.toml"
    file.write_text(
        f'data = "{world}/data"\nseed = 5\n[model]\ndim = 24\nlayers = 1\ngroups = 1\nheads = 3\n'
        "[pretrain]\nepochs = 0\n[tune]\nepochs = 0\n"
    )
    monkeypatch.setenv("RECGPT_MODEL__DIM", "36")
    monkeypatch.setenv("RECGPT_SEED", "6")
    cli.main(["train", "--config", str(file), "--out", f"{tmp_path}/run", "--seed", "7"])
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["seed"] == 7
    assert (config["model"]["dim"], config["model"]["heads"]) == (36, 3)
    assert config["pretrain"]["epochs"] == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "--data", "d", "--out", "o", "--pretrain.epochs", "-1"], "--pretrain.epochs: "),
        (["train", "--data", "d", "--out", "o", "--model.heads", "5"], "heads = 5 does not divide"),
        (["train"], "--data: Field required"),
        (["train", "--data", "d", "--out", "o", "--seed", "many"], "--seed: "),
        (["train", "--no-such-option", "1"], "--no-such-option"),
        (["bake"], "recgpt COMMAND --help"),
        ([], "recgpt COMMAND --help"),
    ],
)
def test_a_wrong_command_line_is_explained(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fails(*words) == 2
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "--data", "nowhere", "--out", "o"], "is not a prepared data set"),
        (["train", "--config", "nowhere.toml"], "there is no file nowhere.toml"),
        (["export", "--run-dir", "nowhere", "--artifacts", "a"], "is not a run"),
        (["evaluate", "--artifacts", "a", "--data", "nowhere"], "is not a prepared data set"),
        (["serve", "--artifacts", "nowhere", "--store", "embedded:s"], "holds no artifact"),
        (["data", "prepare", "--input", "no.csv", "--out", "o"], "no.csv"),
        (
            ["serve", "--artifacts", "a", "--store", "embedded:s", "--host", "no.invalid"],
            "choose another --host",
        ),
        (["history", "load", "--data", "nowhere", "--store", "ftp://x"], "nowhere"),
    ],
)
def test_what_cannot_be_done_is_explained(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert fails(*words) == 1
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fails(*name.split(), "--help") == 0
    out = capsys.readouterr().out
    assert out.count(f"recgpt {name} ") > 1  # usage, and an example
    assert "example" in out


def test_output_whose_reader_has_gone_is_no_traceback() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "cli", "--help"]
    found = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (found.returncode, found.stderr) == (141, b"")


@pytest.mark.parametrize(
    ("output", "status", "told"),
    [
        (">&-", 0, ""),
        ("> /dev/full", 1, "recgpt: standard output can't be written: No space left on device\n"),
    ],
)
def test_output_that_cannot_be_written_is_no_traceback(output: str, status: int, told: str) -> None:
    line = f"exec {sys.executable} -m cli --help {output}"
    found = subprocess.run(["bash", "-c", line], stderr=subprocess.PIPE)
    assert (found.returncode, found.stderr.decode()) == (status, told)


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["--version"])
    assert capsys.readouterr().out == f"recgpt {version('recgpt')}\n"


def test_help_lists_the_commands() -> None:
    command = [sys.executable, "-m", "cli", "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
    for name in COMMANDS:
        assert f"recgpt {name}" in shown.stdout


HEAVY = ("torch", "numba", "llvmlite", "faiss", "scipy", "numpy", "polars", "matplotlib", "fastapi")
LOADED = """
import re, sys
from cli.main import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    assert end.code == 0
modules = {name.partition(".")[0] for name in sys.modules}
status = open("/proc/self/status").read()
print(*modules, int(re.search("VmHWM:(.*)kB", status)[1]) // 1024, file=sys.stderr)
"""


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_loads_settings_only(name: str) -> None:
    """A fresh process: what this one has loaded says nothing."""
    command = [sys.executable, "-c", LOADED, *name.split(), "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
    *modules, megabytes = shown.stderr.split()
    assert not set(HEAVY) & set(modules)
    assert int(megabytes) <= 80


def test_the_demo_reuses_what_is_there(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With every result in place, nothing is fetched or trained again."""
    demo = tmp_path / "demo"
    demo.mkdir()
    for part in ("data", "run", "artifacts"):
        (demo / part).symlink_to(world / part)
    (demo / "raw").mkdir()
    (demo / "raw" / "ml-100k.item").touch()
    monkeypatch.setattr(run, "train", lambda config: pytest.fail("trained again"))
    for stored, kept in ((60, 0), (0, 60)):
        cli.main(["demo", "--dir", str(demo), "--no-serve"])
        out = capsys.readouterr().out
        assert f"{stored} stored, {kept} kept" in out
        assert "pre-trained, one interest" in out
        assert f"recgpt serve --artifacts {demo}/artifacts" in out
    assert find_bundle(demo / "artifacts").exists()
    served: list[ServeSettings] = []
    monkeypatch.setattr("service.server.serve", served.append)
    cli.main(["demo", "--dir", str(demo), "--port", "9000"])
    assert [settings.explorer for settings in served] == [True]
    assert "http://127.0.0.1:9000/explorer#user=196" in capsys.readouterr().out


def test_the_demo_lets_simulated_users_visit(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with recalling_stub(["i0"], ["e"]) as stub, crowd(stub.url, world / "data", rate=1000):
        assert stub.visited.wait(timeout=300)
    with pytest.raises(SystemExit):
        cli.main(["demo", "--dir", str(tmp_path), "--crowd", "5"])
    assert "name a file with --experiments" in capsys.readouterr().err


def test_the_filter_that_the_demo_suggests_is_one() -> None:
    (line,) = [line for line in invitation("http://host").splitlines() if '"all"' in line]
    assert Filter.model_validate_json(line).all


def test_the_demo_trains_by_the_defaults_but_for_width_and_samples(tmp_path: Path) -> None:
    demo = demo_training(tmp_path, tmp_path).model_dump()
    usual = TrainConfig(data=tmp_path, out=tmp_path).model_dump()
    differs = {
        (part, name)
        for part in ("model", "recall", "pretrain", "protocol")
        for name, value in demo[part].items()
        if value != usual[part][name]
    }
    smaller = {("model", name) for name in ("dim", "groups", "heads", "feed_forward")}
    assert differs == smaller | {("pretrain", n) for n in ("sampling", "batch_size", "epochs")}
    assert demo["stages"] == usual["stages"] == "pretrain"


@pytest.mark.parametrize("name", ["beauty", "sports", "toys", "yelp"])
def test_the_recipes_of_the_tables_are_the_defaults(name: str, tmp_path: Path) -> None:
    recipe = tomllib.loads((RECIPES / f"{name}.toml").read_text())
    if name == "yelp":
        assert recipe["pretrain"].pop("epochs") == 6
    given = TrainConfig.model_validate({"data": tmp_path, "out": tmp_path, **recipe})
    assert given == TrainConfig(data=tmp_path, out=tmp_path)


def test_the_recipe_for_candidates_trains_interests_that_differ(tmp_path: Path) -> None:
    """By sets of the next items, for a data set without times."""
    tiny.walks(tmp_path, users=30)
    words = ["train", "--config", str(RECIPES / "candidates.toml"), "--data", f"{tmp_path}/data"]
    words += ["--out", f"{tmp_path}/run", "--device", "cpu", "--model.dim", "16"]
    for stage in ("pretrain", "tune"):
        words += [
            f"--{stage}.targets",
            "2",
            f"--{stage}.epochs",
            "1",
            f"--{stage}.batch-size",
            "16",
        ]
    words += ["--protocol.targets", "2", "--tune.epoch-steps", "2"]
    cli.main(words)
    config, _, _ = run.load_run(tmp_path / "run")
    assert (config.recall.interests, config.recall.merge) == (3, "probability")
    last = load_file(tmp_path / "run" / "tune" / "last.safetensors")
    assert last["model.adapters.1.up.weight"].any()
