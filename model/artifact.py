"""The artifact: one immutable, versioned, checksummed bundle of everything the service loads.

ARTIFACTS/<version>/
    manifest.json        format, configuration, figures, and the sha256 of every other file
    model.safetensors    the network without its two tables
    item_vectors.npy     the item table, V D float32: tied input and output embedding
    user_table.npy       the user table, U+1 R float32, memory-mapped; row 0: unknown user
    popularity.npy       training events of every item, V int64
    items.parquet        item_id, count, optional title and attributes; row order
    users.parquet        user_id; row order
    index.faiss …        what `index.build` adds
ARTIFACTS/current        link to the version that is served, moved atomically
"""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, StringConstraints, ValidationError
from safetensors.torch import load_file, save_file

from model.data import Dataset
from model.evaluate import popularity
from model.files import new_folder, write_json
from model.gpt import GPT, GPTConfig
from model.rollout import RecallConfig

FORMAT = 1
TABLES = {"items.weight": "item_vectors.npy", "users.weight": "user_table.npy"}


class ArtifactError(ValueError):
    """A bundle that is missing, damaged or of another format; the message names the file."""


FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$")]
"""Of a file within the bundle: a manifest may not point outside."""


class FileEntry(BaseModel, frozen=True):
    """What the manifest says of a file."""

    bytes: int
    sha256: str


class Manifest(BaseModel, frozen=True):
    """The bundle's description of itself."""

    format: Literal[1]
    version: str
    created: str
    code_version: str
    dataset: dict[str, Any]
    model: GPTConfig
    recall: RecallConfig
    metrics: dict[str, dict[str, float]]
    vectors_sha256: str
    files: dict[FileName, FileEntry]


@dataclass(frozen=True)
class Artifact:
    """A loaded bundle, every checksum verified."""

    manifest: Manifest
    folder: Path
    model: GPT
    popularity: NDArray[np.int64]
    items: pl.DataFrame
    user_ids: list[str]


@contextmanager
def new_bundle(
    artifacts: Path,
    dataset: Dataset,
    model: GPT,
    recall: RecallConfig,
    metrics: dict[str, dict[str, float]],
    code_version: str,
) -> Iterator[tuple[Path, str]]:
    """Write a bundle; yields its folder and version, to add the index before it is sealed.

    On success it stands at `artifacts/<version>`, sealed by its manifest.
    """
    created = datetime.now(UTC)
    version = f"{dataset.name}-{created:%Y%m%d-%H%M%S}-{_weights_hash(model)[:8]}"
    with new_folder(artifacts / version) as folder:
        _write_tensors(model, folder)
        np.save(folder / "popularity.npy", popularity(dataset))
        dataset.items.write_parquet(folder / "items.parquet")
        pl.DataFrame({"user_id": dataset.user_ids}).write_parquet(folder / "users.parquet")
        yield folder, version
        files = {file.name: _entry(file) for file in sorted(folder.iterdir())}
        manifest = Manifest(
            format=FORMAT,
            version=version,
            created=created.isoformat(timespec="seconds"),
            code_version=code_version,
            dataset={
                "name": dataset.name,
                "users": dataset.users,
                "items": dataset.catalogue,
                "events": len(dataset.events),
            },
            model=model.config,
            recall=recall,
            metrics=metrics,
            vectors_sha256=hashlib.sha256(read_item_vectors(folder).data).hexdigest(),
            files=files,
        )
        write_json(folder / "manifest.json", manifest.model_dump(mode="json"))


def publish(artifacts: Path, version: str) -> None:
    """Make `version` the one that is served: `current` moves in one step."""
    link = artifacts / f".current.{os.getpid()}.part"
    link.unlink(missing_ok=True)
    link.symlink_to(version)
    os.replace(link, artifacts / "current")


def find_bundle(artifacts: Path) -> Path:
    """The folder of the served version, or `artifacts` itself where it is a bundle."""
    if (artifacts / "manifest.json").exists():
        return artifacts
    current = artifacts / "current"
    if not current.exists():
        raise ArtifactError(
            f"{artifacts} holds no artifact (no manifest.json, no `current`): "
            "make one with `recgpt export`"
        )
    return current.resolve()


def load_artifact(folder: Path) -> Artifact:
    """Read and verify a bundle. Raises ArtifactError that names the file at fault."""
    manifest = read_manifest(folder)
    for name, entry in manifest.files.items():
        _verify(folder / name, entry)
    try:
        artifact = Artifact(
            manifest=manifest,
            folder=folder,
            model=_read_model(folder, manifest),
            popularity=np.load(folder / "popularity.npy", allow_pickle=False),
            items=pl.read_parquet(folder / "items.parquet"),
            user_ids=read_user_ids(folder),
        )
    except (OSError, RuntimeError, ValueError, KeyError, pl.exceptions.PolarsError) as error:
        raise ArtifactError(f"{folder}: its files do not fit each other: {error}") from error
    _check_sizes(artifact)
    return artifact


def read_item_vectors(folder: Path) -> NDArray[np.float32]:
    """The item table of a bundle, V D."""
    vectors: NDArray[np.float32] = np.load(folder / "item_vectors.npy", allow_pickle=False)
    return vectors


def read_user_ids(folder: Path) -> list[str]:
    """The users of a bundle, in row order: U."""
    ids: list[str] = pl.read_parquet(folder / "users.parquet")["user_id"].to_list()
    return ids


def read_manifest(folder: Path) -> Manifest:
    """The manifest alone. Raises ArtifactError where it cannot be read or has another format."""
    file = folder / "manifest.json"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(content, dict) and content.get("format") != FORMAT:
            raise ArtifactError(
                f"{file} has format {content.get('format')}, this version reads {FORMAT}: "
                "export the artifact again"
            )
        return Manifest.model_validate(content)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, ValidationError) as error:
        raise ArtifactError(f"{file} is missing or damaged: {error}") from error


def _write_tensors(model: GPT, folder: Path) -> None:
    weights = {name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()}
    for name, file in TABLES.items():
        if name in weights:
            np.save(folder / file, weights.pop(name).numpy())
    save_file(weights, folder / "model.safetensors")


def _read_model(folder: Path, manifest: Manifest) -> GPT:
    """The network around the tables; the user table stays on disk until its rows are read."""
    weights = load_file(folder / "model.safetensors")
    weights["items.weight"] = torch.from_numpy(read_item_vectors(folder))
    users = 0
    if manifest.model.user_rank:
        table = np.load(
            folder / "user_table.npy", mmap_mode="c", allow_pickle=False
        )  # copy on write: never written
        weights["users.weight"] = torch.from_numpy(table)
        users = len(table) - 1
    with torch.device("meta"):
        model = GPT(manifest.model, len(weights["items.weight"]), users)
    model.load_state_dict(weights, assign=True)
    return model.eval().requires_grad_(False)


def _verify(file: Path, entry: FileEntry) -> None:
    if not file.exists():
        raise ArtifactError(f"{file} is missing")
    if file.stat().st_size != entry.bytes:
        raise ArtifactError(f"{file} has {file.stat().st_size} bytes, not {entry.bytes}")
    if _entry(file).sha256 != entry.sha256:
        raise ArtifactError(f"{file} is damaged: its checksum is not the manifest's")


def _check_sizes(artifact: Artifact) -> None:
    """The tables count the same items and users, and the vectors are the index's."""
    vectors_VD = artifact.model.items.weight.numpy()
    if hashlib.sha256(vectors_VD.data).hexdigest() != artifact.manifest.vectors_sha256:
        raise ArtifactError(f"{artifact.folder / 'item_vectors.npy'} is of another export")
    for file, rows in (
        ("items.parquet", artifact.items.height),
        ("popularity.npy", len(artifact.popularity)),
    ):
        if rows != len(vectors_VD):
            raise ArtifactError(f"{artifact.folder / file} has {rows} rows, not {len(vectors_VD)}")
    if artifact.manifest.model.user_rank:
        rows = len(artifact.model.users.weight) - 1
        if rows != len(artifact.user_ids):
            table = artifact.folder / "user_table.npy"
            raise ArtifactError(f"{table} is of {rows} users, not {len(artifact.user_ids)}")


def _entry(file: Path) -> FileEntry:
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return FileEntry(bytes=file.stat().st_size, sha256=digest)


def _weights_hash(model: GPT) -> str:
    digest = hashlib.sha256()
    for tensor in model.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().numpy())
    return digest.hexdigest()
