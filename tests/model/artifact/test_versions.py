"""The versions of an artifact store, and what a crash may leave of a change."""

import os
import shutil
from pathlib import Path

import pytest
import tiny

from model.artifact import versions
from model.artifact.bundle import load_artifact, new_bundle
from model.artifact.manifest import ArtifactError
from model.artifact.versions import (
    JOURNAL,
    find_bundle,
    list_versions,
    previous_version,
    prune,
    publish,
    publish_bundle,
    read_journal,
    roll_back,
    served_version,
)
from model.data.dataset import Dataset
from model.network.config import RecallConfig


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return tiny.walks(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def bundles(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Four bundles that nothing serves."""
    folder = tmp_path_factory.mktemp("bundles")
    found = []
    for seed in range(4):
        model = tiny.gpt(catalogue=dataset.catalogue, users=dataset.users, seed=seed)
        with new_bundle(folder, dataset, model, RecallConfig(), {}, "0.1") as (_, version):
            pass
        found.append(folder / version)
    return found


@pytest.fixture
def store(bundles: list[Path], tmp_path: Path) -> Path:
    """An artifact store in which the first three bundles were published, one after another."""
    for bundle in bundles[:3]:
        publish_bundle(tmp_path / "store", bundle)
    return tmp_path / "store"


def names(bundles: list[Path]) -> list[str]:
    return [bundle.name for bundle in bundles]


def test_a_published_bundle_is_a_verified_copy(bundles: list[Path], tmp_path: Path) -> None:
    version = publish_bundle(tmp_path, bundles[0])
    assert find_bundle(tmp_path) == tmp_path / version
    assert load_artifact(find_bundle(tmp_path)).manifest.version == bundles[0].name == version
    assert bundles[0].exists()


def test_a_damaged_bundle_changes_nothing(store: Path, bundles: list[Path], tmp_path: Path) -> None:
    damaged = shutil.copytree(bundles[3], tmp_path / "damaged")
    content = bytearray((damaged / "item_vectors.npy").read_bytes())
    content[-1] ^= 1
    (damaged / "item_vectors.npy").write_bytes(content)
    before = sorted(store.iterdir()), served_version(store)
    with pytest.raises(ArtifactError, match=r"item_vectors\.npy is damaged"):
        publish_bundle(store, damaged)
    assert (sorted(store.iterdir()), served_version(store)) == before


def test_publishing_again_moves_the_link_only(store: Path, bundles: list[Path]) -> None:
    assert publish_bundle(store, bundles[0]) == bundles[0].name
    assert served_version(store) == bundles[0].name
    assert len(list_versions(store)) == 3


def test_another_bundle_of_the_same_version_is_refused(
    store: Path, bundles: list[Path], tmp_path: Path
) -> None:
    other = shutil.copytree(bundles[3], tmp_path / "other")
    manifest = (other / "manifest.json").read_text()
    (other / "manifest.json").write_text(manifest.replace(bundles[3].name, bundles[0].name))
    with pytest.raises(ValueError, match="another bundle of the same version"):
        publish_bundle(store, other)
    assert served_version(store) == bundles[2].name


def test_versions_are_listed_in_the_order_of_publication(store: Path, bundles: list[Path]) -> None:
    shutil.copytree(bundles[3], store / bundles[3].name)  # present, but never served
    (store / "notes").mkdir()  # not a bundle
    found = list_versions(store)
    assert [one.version for one in found if one.served] == [bundles[2].name]
    assert {one.version: bool(one.published) for one in found} == {
        **dict.fromkeys(names(bundles[:3]), True),
        bundles[3].name: False,
    }
    assert all(one.items == 40 and one.bytes > 1000 and not one.problem for one in found)


def test_a_version_that_cannot_be_read_is_listed_with_the_reason(
    store: Path, bundles: list[Path]
) -> None:
    (store / bundles[0].name / "manifest.json").write_text("{")
    (found,) = [one for one in list_versions(store) if one.version == bundles[0].name]
    assert found.problem
    assert "manifest.json" in found.problem


def test_rolling_back_goes_one_step_and_then_another(store: Path, bundles: list[Path]) -> None:
    first, second, third = names(bundles[:3])
    assert roll_back(store) == second
    assert served_version(store) == second
    # The one before the second one's latest publication is the third.
    assert previous_version(store) == third
    assert roll_back(store, first) == first
    assert served_version(store) == first


def test_rolling_back_needs_a_version_that_is_there_and_whole(
    store: Path, bundles: list[Path]
) -> None:
    with pytest.raises(ValueError, match="no version nothing: `recgpt versions` lists them"):
        roll_back(store, "nothing")
    (store / bundles[1].name / "model.safetensors").unlink()
    with pytest.raises(ArtifactError, match=r"model\.safetensors is missing"):
        roll_back(store)
    assert served_version(store) == bundles[2].name


def test_the_first_version_has_none_before_it(bundles: list[Path], tmp_path: Path) -> None:
    publish_bundle(tmp_path, bundles[0])
    with pytest.raises(ValueError, match="no earlier version"):
        roll_back(tmp_path)


def test_a_publication_that_a_crash_cut_short_is_passed_over(
    store: Path, bundles: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(versions.os, "replace", crash)
        with pytest.raises(KeyboardInterrupt):
            publish(store, bundles[0].name)
    assert read_journal(store)[-1].version == bundles[0].name  # written, but never served
    assert served_version(store) == bundles[2].name
    assert previous_version(store) == bundles[1].name


def test_a_line_that_a_crash_cut_off_is_left_out(store: Path, bundles: list[Path]) -> None:
    with (store / JOURNAL).open("ab") as journal:
        journal.write(b'{"version": "mov')
    assert [entry.version for entry in read_journal(store)] == names(bundles[:3])
    publish(store, bundles[0].name)
    assert [entry.version for entry in read_journal(store)] == names([*bundles[:3], bundles[0]])


@pytest.mark.parametrize("keep", [1, 2, 3, 10])
def test_pruning_keeps_the_latest_and_the_served_one(
    store: Path, bundles: list[Path], keep: int
) -> None:
    roll_back(store, bundles[0].name)
    by_publication = names([bundles[1], bundles[2], bundles[0]])
    kept = set(by_publication[-keep:])
    assert set(prune(store, keep)) == set(by_publication) - kept
    assert {one.version for one in list_versions(store)} == kept
    assert load_artifact(find_bundle(store)).manifest.version == bundles[0].name


def test_pruning_never_deletes_the_served_version(store: Path, bundles: list[Path]) -> None:
    (store / "current").unlink()
    os.symlink(bundles[0].name, store / "current")  # moved by hand, without the journal
    prune(store, 1)
    assert {one.version for one in list_versions(store)} == {bundles[0].name, bundles[2].name}


def test_what_a_killed_prune_left_is_deleted_by_the_next(store: Path, bundles: list[Path]) -> None:
    os.rename(store / bundles[0].name, store / f".deleted-{bundles[0].name}")
    assert {one.version for one in list_versions(store)} == set(names(bundles[1:3]))
    assert prune(store, 5) == []
    assert not list(store.glob(".deleted-*"))
