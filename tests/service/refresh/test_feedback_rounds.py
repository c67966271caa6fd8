"""Refreshes of networks that read what users did, and of those that read users' means."""

from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import refreshing
import tiny
from refreshing import DAYS, START, USERS, Site, write_part

from model.artifact.bundle import load_artifact
from model.artifact.versions import find_bundle, served_version
from model.data.dataset import Dataset
from model.network.config import RecallConfig
from model.training.config import TrainConfig
from model.training.run import train
from service.refresh import rounds
from service.refresh.config import GateConfig
from service.refresh.rounds import refresh

CONFIG = tiny.CONFIG.model_copy(update={"user_rank": 0})
LENIENT = GateConfig(min_cases=20, recall_loss=0.9, coverage_loss=0.9)
LIKES = RecallConfig(interests=3, first_share=0.6, outcome="like")


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Dataset]:
    """The data sets that refreshes train on."""
    found: list[Dataset] = []

    def note(config: TrainConfig) -> object:
        found.append(Dataset.load(config.data))
        return train(config)

    monkeypatch.setattr(rounds, "train", note)
    return found


def site_of(folder: Path, feedback: str, recall: RecallConfig = LIKES) -> Site:
    config = CONFIG.model_copy(update={"feedback": feedback})
    return refreshing.make(folder / "site", config, recall)


@pytest.mark.parametrize("feedback", ["actions", "outcome"])
def test_a_network_that_reads_feedback_is_refreshed(
    tmp_path: Path, trained: list[Dataset], feedback: str
) -> None:
    site = site_of(tmp_path, feedback)
    newest = START + timedelta(days=DAYS - 1)
    seen = pl.DataFrame({"user_id": ["u1"], "item_id": ["i1"], "at": [newest], "type": ["view"]})
    write_part(site.events / "events", seen)  # a type that the network was not trained with
    outcome = refresh(site.config(tmp_path / "work", action_column="action", gate=LENIENT))
    assert outcome.result == "published", outcome.sentence
    assert outcome.version == served_version(site.artifacts)
    (dataset,) = trained
    assert dataset.action_names == ("dislike", "like")
    assert dataset.actions is not None
    counts = np.unique(dataset.actions, return_counts=True)
    assert dict(zip(*(part.tolist() for part in counts), strict=True)) == {
        -1: 1,
        0: USERS * DAYS // 3,
        1: USERS * DAYS * 2 // 3,
    }
    manifest = load_artifact(find_bundle(site.artifacts)).manifest
    assert (manifest.actions, manifest.model.feedback) == (["dislike", "like"], feedback)
    assert manifest.recall.outcome == "like"
    assert outcome.measured
    liked = sum((user + DAYS - 1) % 3 > 0 for user in range(USERS))
    assert liked <= outcome.measured.cases <= liked + 1  # the items that users liked


def test_training_from_random_weights_takes_up_new_actions(
    tmp_path: Path, trained: list[Dataset]
) -> None:
    site = site_of(tmp_path, "actions")
    newest = START + timedelta(days=DAYS - 1)
    seen = pl.DataFrame({"user_id": ["u1"], "item_id": ["i1"], "at": [newest], "type": ["view"]})
    write_part(site.events / "events", seen)
    refresh(site.config(tmp_path / "work", action_column="action", full=True))
    assert trained[0].action_names == ("dislike", "like", "view")


def test_recalls_for_an_outcome_are_measured_by_it(tmp_path: Path) -> None:
    """The network itself reads no feedback."""
    site = refreshing.make(tmp_path / "site", CONFIG, LIKES)
    outcome = refresh(site.config(tmp_path / "work", action_column="action", gate=LENIENT))
    assert outcome.result == "published", outcome.sentence
    assert outcome.measured
    assert outcome.measured.cases < USERS


def test_a_network_that_reads_means_of_users_is_refreshed(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"user_mean": True})
    site = refreshing.make(tmp_path / "site", config)
    outcome = refresh(site.config(tmp_path / "work", gate=LENIENT))
    assert outcome.result == "published", outcome.sentence
    assert load_artifact(find_bundle(site.artifacts)).manifest.model.user_mean


def test_a_log_must_tell_what_users_did(tmp_path: Path) -> None:
    site = site_of(tmp_path, "outcome")
    with pytest.raises(ValueError, match="its column with --action-column"):
        refresh(site.config(tmp_path / "work"))
    assert not (tmp_path / "work" / "round").exists()
