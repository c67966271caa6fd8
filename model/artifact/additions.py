"""`recgpt items add`: items that are new since training join a bundle without retraining.

A new item's vector is the mean of known items' vectors, found in the first of these that has any:
the table's own `neighbours`, the items beside it in the events, items with the same attributes or
title words. An item without any of these is left out: a made-up vector would be recalled at random.

The bundle is not touched: a new version beside it holds the additional rows behind the old ones.
Shapes: N new items, V catalogue, D width.
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import BaseModel

from model.artifact.bundle import Artifact, vectors_sha256
from model.artifact.config import AddConfig
from model.artifact.manifest import seal
from model.artifact.neighbours import alike, as_vectors, beside, named
from model.data.clean import Columns, Malformed, clean_logs
from model.data.logs import log_files
from model.data.metadata import MetadataColumns, as_list, read_metadata
from model.files import new_folder


class Additions(BaseModel, frozen=True):
    """What became of the new items."""

    base: str
    """The version that was extended."""
    added: int
    by_neighbours: int
    by_events: int
    by_attributes: int
    known: int
    """Left out: the artifact has them already."""
    repeated: int
    """Rows left out: an earlier row describes the item."""
    malformed: dict[str, Malformed]
    no_evidence: list[str]
    """Ids left out: no neighbour, event or attribute ties them to a known item."""

    def __str__(self) -> str:
        table = {"added": self.added, "  by their named neighbours": self.by_neighbours}
        table |= {"  by events beside known items": self.by_events}
        table |= {"  by attributes and title": self.by_attributes}
        table |= {"left out: known already": self.known, "left out: repeated rows": self.repeated}
        table |= {f"left out: {why}": bad.count for why, bad in self.malformed.items()}
        table |= {"left out: nothing ties them to a known item": len(self.no_evidence)}
        width = max(map(len, table))
        lines = [f"{label:<{width}}  {count:>8,}" for label, count in table.items()]
        if self.no_evidence:
            more = ", …" if len(self.no_evidence) > 10 else ""
            lines.append("  " + ", ".join(self.no_evidence[:10]) + more)
        return "\n".join(lines)


@dataclass(frozen=True)
class NewItems:
    """Rows to append to a bundle."""

    table: pl.DataFrame
    """item_id, count (in the given events), title and attributes: N."""
    vectors_ND: NDArray[np.float32]
    report: Additions


def find_new_items(config: AddConfig, artifact: Artifact) -> NewItems:
    """Read what `config` names and give every new item a vector.

    Raises ValueError for unusable files, and where no item is left to add.
    """
    if config.items is None and config.events is None:
        raise ValueError("nothing says which items are new: name --items, --events or both")
    with tempfile.TemporaryDirectory() as scratch:
        events = _read_events(config, Path(scratch))
        if config.items is not None:
            columns = (config.item_id_column, config.title_column, config.genres_column)
            listed, account, repeated = read_metadata(
                config.items, Path(scratch), MetadataColumns(*columns)
            )
            malformed = account.malformed
        else:
            counts = events.group_by("item_id", maintain_order=True).len()
            listed = counts.filter(pl.col("len") >= config.min_item_events).select("item_id")
            malformed, repeated = {}, 0
    catalogue = artifact.items.with_row_index("row")
    new = listed.join(catalogue, on="item_id", how="anti", maintain_order="left")
    new = _conform(new.with_row_index("new"), config, artifact.items)
    evidence, counted = _evidence(new, catalogue, events)
    tied = new.join(evidence, on="new", how="semi", maintain_order="left")
    report = Additions(
        base=artifact.manifest.version,
        added=tied.height,
        known=0 if config.items is None else listed.height - new.height,
        repeated=repeated,
        malformed=malformed,
        no_evidence=new.join(evidence, on="new", how="anti")["item_id"].to_list(),
        **counted,
    )
    if not tied.height:
        raise ValueError(f"no item can be added\n{report}")
    vectors_ND = as_vectors(
        evidence, artifact.model.items.weight.numpy(), new.height, config.length
    )
    seen = events.group_by("item_id").agg(count=pl.len().cast(pl.UInt32))
    table = tied.join(seen, on="item_id", how="left", maintain_order="left")
    table = table.with_columns(pl.col("count").fill_null(0))
    return NewItems(
        table.drop("new", "neighbours", strict=False), vectors_ND[tied["new"].to_numpy()], report
    )


@contextmanager
def extended_bundle(
    artifacts: Path, artifact: Artifact, new: NewItems
) -> Iterator[tuple[Path, str]]:
    """Write a bundle with more items; yields its folder and version, to add the index."""
    created = datetime.now(UTC)
    vectors_VD = np.concatenate([artifact.model.items.weight.numpy(), new.vectors_ND])
    name = artifact.manifest.dataset["name"]
    digest = vectors_sha256(vectors_VD)
    version = f"{name}-{created:%Y%m%d-%H%M%S}-{digest[:8]}"
    with new_folder(artifacts / version) as folder:
        for name in ("model.safetensors", "users.parquet", "user_*.npy"):
            for file in artifact.folder.glob(name):
                shutil.copyfile(file, folder / file.name)
        np.save(folder / "item_vectors.npy", vectors_VD)
        counts_N = new.table["count"].to_numpy().astype(np.int64)
        np.save(folder / "popularity.npy", np.concatenate([artifact.popularity, counts_N]))
        items = pl.concat([artifact.items, new.table], how="diagonal")
        items.write_parquet(folder / "items.parquet")
        yield folder, version
        changed = {
            "version": version,
            "created": created.isoformat(timespec="seconds"),
            "vectors_sha256": digest,
            "metrics": {},  # measured over another catalogue
            "additions": [*artifact.manifest.additions, new.report.model_dump()],
        }
        seal(folder, artifact.manifest.model_copy(update=changed))


def _read_events(config: AddConfig, scratch: Path) -> pl.DataFrame:
    """user, item_id: each user's events together and in order of time."""
    if config.events is None:
        return pl.DataFrame(schema={"user": pl.String, "item_id": pl.String})
    columns = Columns(config.user_column, config.item_column, config.time_column, config.in_order)
    rows, _ = clean_logs(log_files(config.events, config.format), columns, scratch)
    ordered = rows.sort("user", "time", "rest", "order")
    return ordered.select("user", item_id="item").collect(engine="streaming")


def _conform(new: pl.DataFrame, config: AddConfig, items: pl.DataFrame) -> pl.DataFrame:
    """Columns of the types that the catalogue has, and `neighbours` as lists."""
    if config.neighbours_column in new.columns:
        new = new.rename({config.neighbours_column: "neighbours"})
        new = new.with_columns(neighbours=as_list(new["neighbours"]))
    for name in set(new.columns) & set(items.columns) - {"item_id"}:
        kind = items.schema[name]
        series = as_list(new[name]) if isinstance(kind, pl.List) else new[name]
        new = new.with_columns(series.cast(kind, strict=False).alias(name))
    return new


def _evidence(
    new: pl.DataFrame, catalogue: pl.DataFrame, events: pl.DataFrame
) -> tuple[pl.DataFrame, dict[str, int]]:
    """The first kind of evidence that an item has, and how many items had which first."""
    by_row = catalogue.select("row", "item_id")
    evidence = named(new, by_row)
    counted = {"by_neighbours": evidence["new"].n_unique()}
    rest = new.join(evidence, on="new", how="anti", maintain_order="left")
    evidence = pl.concat([evidence, found := beside(rest, by_row, events)])
    counted["by_events"] = found["new"].n_unique()
    rest = new.join(evidence, on="new", how="anti", maintain_order="left")
    evidence = pl.concat([evidence, found := alike(rest, catalogue)])
    counted["by_attributes"] = found["new"].n_unique()
    return evidence, counted
