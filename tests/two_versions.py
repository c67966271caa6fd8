"""An artifact store with two versions."""

import shutil
from pathlib import Path

import tiny

from model.artifact.versions import publish, served_version
from model.data.dataset import Dataset
from service.offline import export_bundle


def two_versions(artifacts: Path, dataset: Dataset, folder: Path) -> Path:
    """Copies a store, adds a version to it, and returns it; the older version is served."""
    shutil.copytree(artifacts, folder, symlinks=True)
    first = served_version(folder)
    assert first
    other = tiny.gpt(catalogue=dataset.catalogue, users=dataset.users, seed=1)
    export_bundle(folder, dataset, other, tiny.RECALL, {})
    publish(folder, first)
    return folder
