"""The map of the catalogue: its places, and bundles with, without and of another one."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from model.artifact import item_map as module
from model.artifact.bundle import load_artifact
from model.artifact.item_map import MAP_FILE, item_map
from model.artifact.manifest import ArtifactError

RNG = np.random.default_rng(3)


def groups(width: int = 12, each: int = 50) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Items around three directions, one group after another."""
    centres = np.linalg.qr(RNG.normal(size=(width, 3))).Q.T
    noise = RNG.normal(scale=0.03, size=(3 * each, width))
    lengths = RNG.uniform(0.5, 3, size=(3 * each, 1))
    return (lengths * (np.repeat(centres, each, axis=0) + noise)).astype(np.float32)


def test_similar_items_lie_near_each_other_whatever_their_length() -> None:
    places = item_map(groups())
    assert places.dtype == np.float32
    assert np.abs(places).max() == 1
    centres = places.reshape(3, 50, 2).mean(axis=1)
    spread = np.abs(places.reshape(3, 50, 2) - centres[:, None]).max()
    apart = min(float(np.linalg.norm(centres[a] - centres[b])) for a, b in ((0, 1), (0, 2), (1, 2)))
    assert apart > 4 * spread


def test_the_map_is_the_same_every_time_and_in_any_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = groups()
    first = item_map(vectors)
    assert item_map(vectors).tobytes() == first.tobytes()
    monkeypatch.setattr(module, "CHUNK", 37)
    np.testing.assert_allclose(item_map(vectors), first, atol=1e-5)


def test_any_table_has_a_map() -> None:
    for vectors in (
        np.zeros((3, 4), np.float32),
        np.ones((1, 4), np.float32),
        np.ones((3, 1), np.float32),
    ):
        places = item_map(vectors)
        assert places.shape == (len(vectors), 2)
        assert np.isfinite(places).all()


@pytest.fixture
def bundle(artifacts: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree((artifacts / "current").resolve(), tmp_path / "bundle"))


def test_a_bundle_has_the_map_of_its_vectors(bundle: Path) -> None:
    artifact = load_artifact(bundle)
    assert artifact.item_map is not None
    np.testing.assert_array_equal(artifact.item_map, item_map(artifact.model.items.weight.numpy()))


def test_a_bundle_of_before_has_none(bundle: Path) -> None:
    (bundle / MAP_FILE).unlink()
    manifest = json.loads((bundle / "manifest.json").read_text())
    del manifest["files"][MAP_FILE]
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    assert load_artifact(bundle).item_map is None


def test_a_map_of_other_items_is_refused(bundle: Path) -> None:
    np.save(bundle / MAP_FILE, np.zeros((7, 2), np.float32))
    content = (bundle / MAP_FILE).read_bytes()
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"][MAP_FILE] = {
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match=MAP_FILE):
        load_artifact(bundle)
