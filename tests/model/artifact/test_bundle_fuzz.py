"""Damaged bundles: each is refused by name, or it is the bundle that was exported."""

import contextlib
import hashlib
import json
import random
from pathlib import Path

import pytest
from mutations import EXAMPLES, MUTATIONS, Mutation, Record

from model.artifact.bundle import load_artifact
from model.artifact.manifest import ArtifactError

NPY_HEAD = 128
"""Bytes before the numbers in a small .npy file."""


@pytest.fixture(scope="module")
def contents(artifacts: Path) -> dict[str, bytes]:
    bundle = artifacts / "current"
    return {file.name: file.read_bytes() for file in sorted(bundle.iterdir())}


def write(folder: Path, contents: dict[str, bytes]) -> None:
    for name, content in contents.items():
        (folder / name).write_bytes(content)


@pytest.mark.parametrize("mutate", MUTATIONS)
def test_no_damage_is_served(
    tmp_path: Path, contents: dict[str, bytes], mutate: Mutation, record_property: Record
) -> None:
    record_property("cases", EXAMPLES)
    chance = random.Random(mutate.__name__)
    write(tmp_path, contents)
    for _ in range(EXAMPLES):
        name = chance.choice(sorted(contents))
        damaged = mutate(chance, contents[name])
        (tmp_path / name).write_bytes(damaged)
        if name == "manifest.json":  # it has no checksum: a figure in it may have changed
            with contextlib.suppress(ArtifactError):
                load_artifact(tmp_path)
        elif damaged != contents[name]:
            with pytest.raises(ArtifactError, match=name):
                load_artifact(tmp_path)
        (tmp_path / name).write_bytes(contents[name])
    load_artifact(tmp_path)


@pytest.mark.filterwarnings("ignore")  # of the readers
@pytest.mark.parametrize("mutate", MUTATIONS)
def test_damage_under_a_sound_checksum_is_refused_or_loaded(
    tmp_path: Path, contents: dict[str, bytes], mutate: Mutation, record_property: Record
) -> None:
    """As from a faulty exporter: whatever the loader finds in a file, it says so in its words."""
    record_property("cases", EXAMPLES)
    chance = random.Random(f"sealed {mutate.__name__}")
    write(tmp_path, contents)
    names = sorted(contents.keys() - {"manifest.json"})
    for _ in range(EXAMPLES):
        name = chance.choice(names)
        damaged = mutate(chance, contents[name])
        manifest = json.loads(contents["manifest.json"])
        digest = hashlib.sha256(damaged).hexdigest()
        manifest["files"][name] = {"bytes": len(damaged), "sha256": digest}
        if name == "item_vectors.npy":
            vectors = damaged[NPY_HEAD:]
            manifest["vectors_sha256"] = hashlib.sha256(vectors).hexdigest()
        (tmp_path / "manifest.json").write_text(json.dumps(manifest))
        (tmp_path / name).write_bytes(damaged)
        with contextlib.suppress(ArtifactError):
            load_artifact(tmp_path)
        (tmp_path / name).write_bytes(contents[name])
