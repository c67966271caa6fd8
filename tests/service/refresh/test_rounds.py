"""Rounds of a refresh: published, refused, nothing new, killed and continued."""

import fcntl
import json
import re
import shutil
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import refreshing
from refreshing import DAYS, START, Site, write_part

from cli.main import main
from model.artifact.bundle import load_artifact
from model.artifact.versions import find_bundle, publish, read_journal, served_version
from model.data.dataset import Dataset
from model.evaluation.metrics import CaseFigures
from model.evaluation.protocols import Split
from service.refresh import gate, rounds
from service.refresh.config import GateConfig, RefreshConfig
from service.refresh.gate import DEPTH, failed
from service.refresh.inputs import options_of
from service.refresh.rounds import RefreshLocked, refresh


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return refreshing.make(tmp_path / "site")


def test_a_better_version_is_published_once(site: Site, tmp_path: Path) -> None:
    before = served_version(site.artifacts)
    config = site.config(tmp_path / "work")
    outcome = refresh(config)
    assert outcome.result == "published", outcome.sentence
    assert (outcome.base, outcome.version) == (before, served_version(site.artifacts))
    assert outcome.version != before
    assert outcome.measured
    assert outcome.measured.cases == refreshing.USERS + 1  # of 24 hours, both ends included
    assert outcome.measured.only_organic
    assert outcome.measured.recall["new"] >= 0.98 * outcome.measured.recall["served"] > 0
    assert outcome.counts["events"] == refreshing.USERS * DAYS
    page = (config.work / "reports" / f"{outcome.round}.html").read_text()
    assert outcome.sentence in page
    assert "<script" not in page
    assert not (config.work / "round").exists()
    items = load_artifact(find_bundle(site.artifacts)).items
    assert items["colour"].null_count() == 0  # known of the version before
    again = refresh(config)
    assert again.result == "nothing new"
    assert "no new event" in again.sentence
    assert len(read_journal(site.artifacts)) == 2
    newest = START + timedelta(days=DAYS)
    more = pl.DataFrame({"user_id": ["u1", "u2"], "item_id": ["i1", "i2"], "at": [newest, newest]})
    write_part(site.events / "events", more)
    assert refresh(config).counts["events"] == refreshing.USERS * DAYS + 2


def test_a_refused_version_is_not_served(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = served_version(site.artifacts)
    monkeypatch.setattr(gate, "_figures", _worse)
    config = site.config(tmp_path / "work", gate=GateConfig(min_cases=20))
    outcome = refresh(config)
    assert outcome.result == "refused"
    assert f"{before} stays the served version: coverage@100 is 0.5000" in outcome.sentence
    assert served_version(site.artifacts) == before
    monkeypatch.setattr(rounds, "train", _must_not_be_called)
    assert refresh(config) == outcome  # the same input gives the same answer, without training


def test_data_of_another_site_are_refused_before_the_training(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "train", _must_not_be_called)
    log = tmp_path / "other.csv"
    text = re.sub(r",i(\d)", r",x\1", site.log.read_text())
    log.write_text(text)
    outcome = refresh(site.config(tmp_path / "work", log=log, events=None))
    assert outcome.result == "refused"
    assert outcome.version is None
    assert [check.name for check in failed(outcome.checks)] == ["known items", "kept items"]


@pytest.mark.parametrize("step", ["train", "export_bundle", "publish_bundle", "_record"])
def test_a_killed_round_goes_on(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """No finished step is repeated, and the version is published once."""
    config, before = site.config(tmp_path / "work"), served_version(site.artifacts)
    half = config.work / ".round.0a1b2c3d.part"
    half.mkdir(parents=True)
    with monkeypatch.context() as patch:
        patch.setattr(rounds, step, _killed)
        with pytest.raises(KeyboardInterrupt):
            refresh(config)
    if step in ("export_bundle", "publish_bundle", "_record"):
        monkeypatch.setattr(rounds, "train", _must_not_be_called)
    outcome = refresh(config)
    assert outcome.result == "published", outcome.sentence
    assert outcome.base == before
    assert not half.exists()
    assert served_version(site.artifacts) == outcome.version
    assert len(read_journal(site.artifacts)) == 2


def test_the_options_of_a_round_are_told_apart_and_not_told(tmp_path: Path) -> None:
    store = "redis://user:secret@127.0.0.1/0"
    config = RefreshConfig(artifacts=tmp_path, work=tmp_path, store=store)
    assert "secret" not in options_of(config)
    assert options_of(config) == options_of(config.model_copy(update={"device": "cpu"}))
    assert options_of(config) != options_of(config.model_copy(update={"store": f"{store}?x=1"}))


def test_a_round_with_other_options_begins_anew(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(rounds, "export_bundle", _killed)
        with pytest.raises(KeyboardInterrupt):
            refresh(site.config(tmp_path / "work"))
    outcome = refresh(site.config(tmp_path / "work", seed=2, full=True))
    assert outcome.result == "published", outcome.sentence


def test_a_version_that_was_published_meanwhile_stays(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new version was not compared with it; the next call is, and does so."""
    config = site.config(tmp_path / "work")
    base, measured = load_artifact(find_bundle(site.artifacts)), rounds.measure
    other = site.artifacts / "other"

    def while_another_is_published(*about: Any) -> Any:
        shutil.copytree(base.folder, other)
        manifest = json.loads((other / "manifest.json").read_text())
        (other / "manifest.json").write_text(json.dumps(manifest | {"version": "other"}))
        publish(site.artifacts, "other")
        return measured(*about)

    with monkeypatch.context() as patch:
        patch.setattr(rounds, "measure", while_another_is_published)
        with pytest.raises(ValueError, match="other has been published since this round began"):
            refresh(config)
    assert served_version(site.artifacts) == "other"
    outcome = refresh(config)
    assert (outcome.result, outcome.base) == ("published", "other"), outcome.sentence


def test_without_the_registry_no_training_begins(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    monkeypatch.setattr(rounds, "train", _must_not_be_called)
    with pytest.raises(ValueError, match="--registry needs MLflow"):
        refresh(site.config(tmp_path / "work", registry="mlflow"))


def test_a_round_is_finished_without_the_registry(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no input of the training, so another one, or none, begins nothing anew."""

    def unreachable(*_: object) -> None:
        raise ValueError("the registry can't be used")

    work = tmp_path / "work"
    with monkeypatch.context() as patch:
        patch.setattr(rounds, "publisher", lambda config: unreachable)
        with pytest.raises(ValueError, match="the registry can't be used"):
            refresh(site.config(work, registry="mlflow"))
    monkeypatch.setattr(rounds, "train", _must_not_be_called)
    assert refresh(site.config(work)).result == "published"


def test_a_single_bundle_is_refused_before_the_training(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "train", _must_not_be_called)
    bundle = find_bundle(site.artifacts)
    with pytest.raises(ValueError, match="is one bundle: name the folder of the bundles"):
        refresh(site.config(tmp_path / "work", artifacts=bundle))


def test_two_refreshes_do_not_run_at_once(site: Site, tmp_path: Path) -> None:
    config = site.config(tmp_path / "work")
    config.work.mkdir()
    with (config.work / ".lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RefreshLocked, match="another refresh runs"):
            refresh(config)
        words = ["--artifacts", site.artifacts, "--work", config.work, "--log", site.log]
        with pytest.raises(SystemExit) as ended:
            main(["refresh", *map(str, words)])
        assert ended.value.code == 5


def test_the_command_exits_with_the_code_of_the_outcome(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["refresh", "--artifacts", str(site.artifacts), "--work", str(tmp_path / "work")]
    words += ["--log", str(site.log), "--pretrain.epochs", "0", "--gate.min-cases", "1000000"]
    words += ["--min-user-events", "0", "--min-item-events", "0"]
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 3
    assert "stays the served version" in capsys.readouterr().out
    found = json.loads((tmp_path / "work" / "last.json").read_text())
    assert found["result"] == "refused"


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"log": None, "events": None}, "name --log, --store or --events"),
        ({"store": "redis://127.0.0.1:1"}, "name one of them"),
        ({"log": Path("nothing.csv")}, "does not exist"),
    ],
)
def test_unusable_input_is_told(
    site: Site, tmp_path: Path, options: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ValueError, match=problem):
        refresh(site.config(tmp_path / "work", **options))
    assert not (tmp_path / "work" / "round").exists()


def _worse(bundle: Path, dataset: Dataset, split: Split) -> CaseFigures:
    """Figures of a new version that recalls as well as the served one, from half of the items."""
    covered = np.arange(dataset.catalogue) % (2 if bundle.parent.name == "bundles" else 1) == 0
    hits = np.ones(len(split.users))
    return CaseFigures(np.zeros(0, int), {DEPTH: hits}, {DEPTH: covered})


def _killed(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def _must_not_be_called(*_: object, **__: object) -> None:
    raise AssertionError
