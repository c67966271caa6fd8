"""The bundle: one immutable, versioned, checksummed folder of all that the service loads.

ARTIFACTS/<version>/
    manifest.json        format, configuration, figures, and the sha256 of every other file
    model.safetensors    the network without its two tables
    item_vectors.npy     the item table, V D float32: tied input and output embedding
    user_table.npy       the user table, U+1 R float32, memory-mapped; row 0: unknown user
    popularity.npy       training events of every item, V int64
    item_map.npy         the items as a map, V 2 float32 (`model.artifact.item_map`); optional
    items.parquet        item_id, count, optional title and attributes; row order
    users.parquet        user_id; row order
    item_{hashes,rows,ends,ids}.npy   the rows of item ids, mapped (see `model.artifact.id_table`)
    user_{hashes,rows,ends,ids}.npy   the rows of user ids, likewise
    index.faiss …        what `index.build` adds
A bundle without the user module has no user table and no rows of user ids.
`model.artifact.versions` says which version is served.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch.overrides import TorchFunctionMode

from model.artifact.id_table import IdTable, write_ids
from model.artifact.item_map import MAP_FILE, read_map, write_map
from model.artifact.manifest import FORMAT, ArtifactError, Manifest, seal
from model.artifact.versions import check_publishable, verified_manifest
from model.data import parquet
from model.data.column_kinds import OWN_COLUMNS, guess_kind
from model.data.dataset import Dataset, popularity
from model.evaluation.config import ProtocolConfig
from model.evaluation.protocols import LEAVE_ONE_OUT, splits
from model.files import new_folder
from model.kinds import Kind
from model.network.config import RecallConfig
from model.network.gpt import GPT
from model.tensor_files import write_tensors

UNREADABLE = (
    *(EOFError, RuntimeError, ValueError, KeyError, TypeError, SyntaxError, TokenError),
    *(SafetensorError, *parquet.UNREADABLE),
)
"""The errors of the readers of a bundle's files if a file holds something else."""

TABLES = {"items.weight": "item_vectors.npy", "users.weight": "user_table.npy"}


@dataclass(frozen=True)
class Artifact:
    """A loaded bundle, every checksum verified."""

    manifest: Manifest
    folder: Path
    model: GPT
    popularity: NDArray[np.int64]
    items: pl.DataFrame
    user_rows: IdTable | None
    """None without the user module."""
    item_map: NDArray[np.float32] | None
    """Two coordinates of each item, V 2; None in bundles of before."""

    @property
    def kinds(self) -> dict[str, Kind]:
        """The kind of each attribute; bundles of before do not say it, but types of columns do."""
        columns = self.items.drop(OWN_COLUMNS, strict=False)
        known = self.manifest.item_kinds
        return {c.name: known.get(c.name) or guess_kind(c, from_text=False) for c in columns}


@contextmanager
def new_bundle(
    artifacts: Path,
    dataset: Dataset,
    model: GPT,
    recall: RecallConfig,
    metrics: dict[str, dict[str, float]],
    code_version: str,
    protocol: ProtocolConfig = LEAVE_ONE_OUT,
) -> Iterator[tuple[Path, str]]:
    """Writes a bundle; yields its folder and version, to add the index before it is sealed.

    On success it stands at `artifacts/<version>`, sealed by its manifest. Raises ValueError, before
    any work, if it could not be published.
    """
    check_publishable(artifacts)
    created = datetime.now(UTC)
    version = f"{dataset.name}-{created:%Y%m%d-%H%M%S}-{_weights_hash(model)[:8]}"
    with new_folder(artifacts / version) as folder:
        _write_tensors(model, folder)
        training = splits(dataset, protocol).training()
        write_map(folder, read_item_vectors(folder))
        np.save(folder / "popularity.npy", popularity(training))
        dataset.items.write_parquet(folder / "items.parquet")
        pl.DataFrame({"user_id": dataset.user_ids}).write_parquet(folder / "users.parquet")
        write_ids(folder, "item", dataset.item_ids)
        if model.config.user_rank:
            write_ids(folder, "user", dataset.user_ids)
        yield folder, version
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
            actions=list(dataset.action_names) if model.config.feedback != "none" else [],
            recall=recall,
            protocol=protocol,
            metrics=metrics,
            vectors_sha256=vectors_sha256(read_item_vectors(folder)),
            item_kinds=dataset.kinds,
            files={},
        )
        seal(folder, manifest)


def load_artifact(folder: Path) -> Artifact:
    """Reads and verifies a bundle. Raises ArtifactError that names the file at fault."""
    manifest = verified_manifest(folder)
    try:
        artifact = Artifact(
            manifest=manifest,
            folder=folder,
            model=_read_model(folder, manifest),
            popularity=np.load(folder / "popularity.npy", allow_pickle=False),
            items=parquet.read(folder / "items.parquet"),
            user_rows=IdTable(folder, "user") if manifest.model.user_rank else None,
            item_map=read_map(folder),
        )
    except UNREADABLE as error:
        raise ArtifactError(f"{folder}: its files do not fit each other: {error}") from error
    _check_sizes(artifact)
    return artifact


def read_item_vectors(folder: Path) -> NDArray[np.float32]:
    """Returns the item table of a bundle, V D: memory-mapped, and never written."""
    file = folder / "item_vectors.npy"
    vectors: NDArray[np.float32] = np.load(file, mmap_mode="c", allow_pickle=False)
    return vectors


def vectors_sha256(vectors_VD: NDArray[np.float32]) -> str:
    """Returns the hash by which manifest and index name the item vectors."""
    return hashlib.sha256(vectors_VD.data).hexdigest()


def read_user_ids(folder: Path) -> list[str]:
    """Returns the users of a bundle, in row order: U."""
    ids: list[str] = parquet.read(folder / "users.parquet")["user_id"].to_list()
    return ids


def _write_tensors(model: GPT, folder: Path) -> None:
    weights = {name: t.detach().cpu() for name, t in model.state_dict().items()}
    weights["items.weight"] = model.item_vectors().detach().cpu()
    for name, file in TABLES.items():
        if name in weights:
            np.save(folder / file, weights.pop(name).numpy())
    write_tensors(weights, folder / "model.safetensors")


class _Uninitialised(TorchFunctionMode):
    """Leaves out the initialisation of parameters that are replaced anyway.

    On the device "meta" it would import torch's compiler, which takes more than a second.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", "") == "torch.nn.init":
            return kwargs["tensor"]
        return func(*args, **kwargs)


def _read_model(folder: Path, manifest: Manifest) -> GPT:
    """Returns the network; its tables stay on disk until their rows are read."""
    weights = load_file(folder / "model.safetensors")
    weights["items.weight"] = torch.from_numpy(read_item_vectors(folder))
    users = 0
    if manifest.model.user_rank:
        table = np.load(
            folder / "user_table.npy", mmap_mode="c", allow_pickle=False
        )  # copy on write: never written
        weights["users.weight"] = torch.from_numpy(table)
        users = len(table) - 1
    with torch.device("meta"), _Uninitialised():
        actions = len(manifest.actions)
        model = GPT(manifest.model, len(weights["items.weight"]), users, actions)
    model.load_state_dict(weights, assign=True)
    return model.eval().requires_grad_(False)


def _check_sizes(artifact: Artifact) -> None:
    """Raises ArtifactError if the tables differ in size."""
    vectors_VD = artifact.model.items.weight.numpy()
    for file, rows in (
        ("items.parquet", artifact.items.height),
        ("popularity.npy", len(artifact.popularity)),
    ):
        if rows != len(vectors_VD):
            items = f"item_vectors.npy has {len(vectors_VD)}"
            raise ArtifactError(f"{artifact.folder / file} has {rows} rows, and {items}")
    places, expected = artifact.item_map, ((len(vectors_VD), 2), np.dtype(np.float32))
    if places is not None and (places.shape, places.dtype) != expected:
        raise ArtifactError(f"{artifact.folder / MAP_FILE} is not of {len(vectors_VD)} items")
    if artifact.user_rows is not None:
        rows = len(artifact.model.users.weight) - 1
        if rows != len(artifact.user_rows):
            table = artifact.folder / "user_table.npy"
            raise ArtifactError(f"{table} is of {rows} users, not {len(artifact.user_rows)}")


def _weights_hash(model: GPT) -> str:
    digest = hashlib.sha256()
    for tensor in model.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().numpy())
    return digest.hexdigest()
