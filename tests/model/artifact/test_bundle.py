import json
import os
import shutil
import stat
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from index.build import build_index
from model.artifact.bundle import load_artifact, new_bundle, read_item_vectors, read_user_ids
from model.artifact.id_table import PARTS
from model.artifact.manifest import ArtifactError, read_manifest
from model.artifact.versions import find_bundle, publish
from model.data.dataset import Dataset
from model.network.config import RecallConfig
from model.network.gpt import GPT


@pytest.fixture
def folder(dataset: Dataset, model: GPT, tmp_path: Path) -> Path:
    figures = {"recgpt": {"HR@10": 0.5}}
    with new_bundle(tmp_path, dataset, model, RecallConfig(), figures, "0.1") as (folder, version):
        build_index(read_item_vectors(folder), folder)
    publish(tmp_path, version)
    return tmp_path / version


def test_what_is_loaded_is_what_was_exported(dataset: Dataset, model: GPT, folder: Path) -> None:
    artifact = load_artifact(folder)
    assert artifact.manifest.metrics == {"recgpt": {"HR@10": 0.5}}
    assert artifact.manifest.version == folder.name
    assert artifact.user_rows
    assert [artifact.user_rows.get(user) for user in dataset.user_ids] == list(range(dataset.users))
    assert artifact.items.equals(dataset.items)
    loaded = artifact.model.state_dict()
    assert loaded.keys() == model.state_dict().keys()
    assert torch.equal(loaded.pop("items.weight"), model.item_vectors())  # unit vectors
    for name, tensor in loaded.items():
        assert torch.equal(model.state_dict()[name], tensor), name
    history, lengths, users = torch.tensor([[1, 2]]), torch.tensor([2]), torch.tensor([3])
    with torch.no_grad():
        expected, _ = model.prefill(history, lengths, users)
        torch.testing.assert_close(artifact.model.prefill(history, lengths, users)[0], expected)


def test_kinds_of_attributes_are_kept_and_may_be_missing(
    dataset: Dataset, model: GPT, tmp_path: Path
) -> None:
    typed = replace(dataset, kinds={"title": "text", "price": "number"})
    with new_bundle(tmp_path, typed, model, RecallConfig(), {}, "0.1") as (_, version):
        pass
    folder = tmp_path / version
    assert read_manifest(folder).item_kinds == typed.kinds
    content = json.loads((folder / "manifest.json").read_text())
    del content["item_kinds"]  # as in bundles of before
    (folder / "manifest.json").write_text(json.dumps(content))
    assert load_artifact(folder).manifest.item_kinds == {}


def test_a_bundle_that_is_older_than_groups_has_one_network(folder: Path) -> None:
    before = load_artifact(folder).model
    content = json.loads((folder / "manifest.json").read_text())
    del content["model"]["groups"]
    (folder / "manifest.json").write_text(json.dumps(content))
    loaded = load_artifact(folder).model
    assert loaded.config == before.config
    for name, weight in before.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight), name


def test_the_user_table_stays_on_disk_and_is_never_written(folder: Path) -> None:
    file = folder / "user_table.npy"
    before = file.read_bytes()
    table = load_artifact(folder).model.users.weight
    with torch.no_grad():
        table[0] += 1  # copy on write
    assert file.read_bytes() == before


def test_a_model_without_users_is_exported_too(dataset: Dataset, tmp_path: Path) -> None:
    config = tiny.CONFIG.model_copy(update={"user_rank": 0})
    model = tiny.gpt(config, dataset.catalogue, dataset.users)
    with new_bundle(tmp_path, dataset, model, RecallConfig(), {}, "0.1") as (_, version):
        pass
    assert load_artifact(tmp_path / version).model.config.user_rank == 0


FILES = [
    "model.safetensors",
    "item_vectors.npy",
    "user_table.npy",
    "popularity.npy",
    "item_map.npy",
    "items.parquet",
    "users.parquet",
    *(f"{kind}_{part}.npy" for kind in ("item", "user") for part in PARTS),
    "index.json",
]


def test_the_manifest_covers_every_file(folder: Path) -> None:
    assert sorted(file.name for file in folder.iterdir()) == sorted([*FILES, "manifest.json"])
    assert sorted(read_manifest(folder).files) == sorted(FILES)


@pytest.mark.parametrize("name", FILES)
def test_every_damage_is_found_and_named(folder: Path, name: str) -> None:
    file = folder / name
    whole = file.read_bytes()
    middle = len(whole) // 2
    file.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    with pytest.raises(ArtifactError, match=rf"{name} is damaged"):
        load_artifact(folder)
    file.write_bytes(whole[:-1])
    with pytest.raises(
        ArtifactError, match=rf"{name} has {len(whole) - 1} bytes, not {len(whole)}"
    ):
        load_artifact(folder)
    file.unlink()
    with pytest.raises(ArtifactError, match=rf"{name} is missing"):
        load_artifact(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "damaged"),
        ("[]", "damaged"),
        ('{"format": 4}', "has format 4, this version reads 3"),
        ('{"format": 3}', "damaged"),
    ],
)
def test_a_damaged_manifest_is_named(folder: Path, content: str, message: str) -> None:
    (folder / "manifest.json").write_text(content)
    with pytest.raises(ArtifactError, match=rf"manifest\.json.*{message}"):
        load_artifact(folder)


def test_a_manifest_may_not_point_outside(folder: Path) -> None:
    file = folder / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["files"]["../other"] = manifest["files"]["items.parquet"]
    file.write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match=r"manifest\.json"):
        load_artifact(folder)


def test_files_that_do_not_fit_each_other_are_refused(folder: Path) -> None:
    """Sound checksums over wrong content: as if somebody had mixed two exports."""
    other = np.zeros((3, tiny.CONFIG.dim), dtype=np.float32)
    np.save(folder / "item_vectors.npy", other)
    file = folder / "manifest.json"
    manifest = json.loads(file.read_text())
    content = (folder / "item_vectors.npy").read_bytes()
    manifest["files"]["item_vectors.npy"] = {
        "bytes": len(content),
        "sha256": sha256(content).hexdigest(),
    }
    file.write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match=r"item_vectors\.npy"):
        load_artifact(folder)


def test_finds_the_served_version(folder: Path) -> None:
    assert find_bundle(folder) == folder
    assert find_bundle(folder.parent) == folder.resolve()
    with pytest.raises(ArtifactError, match="make one with `recgpt export`"):
        find_bundle(folder.parent.parent)


def test_publishing_moves_current(dataset: Dataset, folder: Path) -> None:
    other = tiny.gpt(catalogue=dataset.catalogue, users=dataset.users, seed=1)
    artifacts = folder.parent
    with new_bundle(artifacts, dataset, other, RecallConfig(), {}, "0.1") as (_, version):
        pass
    assert find_bundle(artifacts) == folder.resolve()
    publish(artifacts, version)
    assert find_bundle(artifacts).name == version != folder.name


def exported(artifacts: Path, dataset: Dataset, model: GPT) -> Path:
    with new_bundle(artifacts, dataset, model, RecallConfig(), {}, "0.1") as (_, version):
        pass
    publish(artifacts, version)
    return artifacts / version


def test_a_bundle_can_be_read_by_whom_the_umask_allows(
    dataset: Dataset, model: GPT, tmp_path: Path
) -> None:
    umask = os.umask(0o022)
    try:
        folder = exported(tmp_path, dataset, model)
    finally:
        os.umask(umask)
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()}
    assert modes == dict.fromkeys(modes, 0o644)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_current_that_is_no_link_is_refused_before_any_work(
    folder: Path, dataset: Dataset, model: GPT, kind: str
) -> None:
    """As copies without links and object storage leave it."""
    artifacts = folder.parent
    current = artifacts / "current"
    current.unlink()
    if kind == "folder":
        shutil.copytree(folder, current)
    else:
        current.write_text(folder.name)
    before = sorted(artifacts.iterdir())
    with pytest.raises(ValueError, match="current is no link"):
        exported(artifacts, dataset, model)
    with pytest.raises(ValueError, match="current is no link"):
        publish(artifacts, folder.name)
    assert sorted(artifacts.iterdir()) == before
    if kind == "folder":
        assert load_artifact(find_bundle(artifacts)).manifest.version == folder.name


def test_a_place_without_links_and_a_bundle_are_refused_before_any_work(
    folder: Path, dataset: Dataset, model: GPT, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="is one bundle: name the folder of the bundles"):
        exported(folder, dataset, model)

    def no_link(path: Path, target: str) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "symlink_to", no_link)
    with pytest.raises(ValueError, match=r"no link can be made in .*Operation not permitted"):
        exported(folder.parent, dataset, model)


@pytest.mark.parametrize("name", ["[v1]", "*", "a=b", "~", "with space", "ü"])
def test_a_path_is_taken_as_it_stands(
    dataset: Dataset, model: GPT, tmp_path: Path, name: str
) -> None:
    folder = exported(tmp_path / name, dataset, model)
    artifact = load_artifact(find_bundle(tmp_path / name))
    assert artifact.items.equals(dataset.items)
    assert read_user_ids(folder) == dataset.user_ids


def test_a_failed_export_leaves_nothing(dataset: Dataset, model: GPT, tmp_path: Path) -> None:
    with (
        pytest.raises(RuntimeError, match="index"),
        new_bundle(tmp_path, dataset, model, RecallConfig(), {}, "0.1"),
    ):
        raise RuntimeError("no index today")
    assert list(tmp_path.iterdir()) == []
