"""A few kills of each kind; `make crash` makes more, and those of training and serving, too."""

import random
from pathlib import Path

import pytest
from two_versions import two_versions

from loadtest.reliability.crash_versions import (
    check_store,
    kill_events_export,
    kill_prune,
    kill_publish,
    kill_swaps,
)
from model.artifact.versions import list_versions
from model.data.dataset import Dataset

TIMES = 1


@pytest.fixture(scope="module")
def bundles(
    artifacts: Path, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> list[Path]:
    store = two_versions(artifacts, dataset, tmp_path_factory.mktemp("bundles") / "artifacts")
    return [store / one.version for one in list_versions(store)]


def test_a_killed_publication_leaves_whole_versions(bundles: list[Path], tmp_path: Path) -> None:
    assert "whole" in kill_publish(tmp_path, bundles, random.Random(0), TIMES)


def test_a_killed_prune_leaves_whole_versions(bundles: list[Path], tmp_path: Path) -> None:
    assert "whole" in kill_prune(tmp_path, bundles[0], random.Random(0), TIMES)


def test_a_killed_export_has_every_event_once_in_the_end(tmp_path: Path) -> None:
    assert "40,000 events" in kill_events_export(tmp_path, random.Random(0), TIMES)


def test_kills_during_a_change_of_version_leave_one_of_the_two(
    bundles: list[Path], tmp_path: Path
) -> None:
    assert "answers" in kill_swaps(tmp_path, bundles, random.Random(0), TIMES)


def test_a_version_that_is_not_whole_is_found(bundles: list[Path], tmp_path: Path) -> None:
    kill_publish(tmp_path, bundles, random.Random(0), 0)
    artifacts = tmp_path / "published"
    with pytest.raises(AssertionError, match="is served, and not one of"):
        check_store(artifacts, {"another"})
    (artifacts / bundles[1].name / "item_vectors.npy").write_bytes(b"")
    with pytest.raises(ValueError, match="item_vectors"):
        check_store(artifacts, {bundles[0].name})
