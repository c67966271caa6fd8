"""`recgpt items add`: items that are new since training join a bundle without retraining.

The vector of a new item is the mean of known items' vectors. Those are taken from the first of
these sources that has any: the table's own `neighbours`, the items beside it in the events, items
with the same attributes or title words. An item with none of them is left out: a made-up vector
would be recalled at random.

The bundle is not changed: a new version beside it holds the additional rows behind the old ones.
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
from model.artifact.id_table import write_ids
from model.artifact.item_map import write_map
from model.artifact.manifest import seal
from model.artifact.neighbours import alike, as_vectors, beside, named
from model.artifact.versions import check_publishable
from model.data.account import Malformed, count_lines, example_lines
from model.data.clean import CleanLog, Columns, clean_logs
from model.data.column_kinds import as_kind, type_columns
from model.data.id_columns import odd_ids
from model.data.logs import log_files
from model.data.metadata import MetadataColumns, MetadataFile, as_list, open_metadata
from model.files import new_folder
from model.kinds import Kind


class Additions(BaseModel, frozen=True):
    """An account of the new items and of all rows that were read."""

    base: str
    """The version that was extended."""
    added: int
    by_neighbours: int
    by_events: int
    by_attributes: int
    known: int
    """Items left out because the bundle has them already."""
    rare: int
    """Ids of the events left out because they have too few."""
    repeated: int
    """Rows left out because an earlier row describes their item."""
    malformed: dict[str, Malformed]
    """Rows of the table of items that were left out."""
    no_evidence: list[str]
    """Ids left out because no neighbour, event or attribute ties them to a known item."""
    event_rows: int = 0
    """Rows of the events that were read."""
    malformed_events: dict[str, Malformed] = {}
    """Rows of the events that were left out."""
    hints: list[str] = []
    """Warnings about rows that look odd, in words."""

    def __str__(self) -> str:
        table = {"added": self.added, "  by their named neighbours": self.by_neighbours}
        table |= {"  by events beside known items": self.by_events}
        table |= {"  by attributes and title": self.by_attributes}
        table |= {"left out: known already": self.known, "left out: repeated rows": self.repeated}
        table |= {"left out: too few events": self.rare}
        table |= {"left out: nothing ties them to a known item": len(self.no_evidence)}
        counts = [*table.items(), *count_lines(self.malformed).items()]
        if self.event_rows:
            counts.append(("event rows read", self.event_rows))
            counts += count_lines(self.malformed_events).items()
        width = max(len(label) for label, _ in counts)
        lines = [f"{label:<{width}}  {count:>8,}" for label, count in counts]
        if self.no_evidence:
            more = ", …" if len(self.no_evidence) > 10 else ""
            lines.append(f"not tied to a known item: {', '.join(self.no_evidence[:10])}{more}")
        lines += example_lines(self.malformed)
        lines += example_lines(self.malformed_events, "malformed event")
        return "\n".join([*lines, *(f"look again: {hint}" for hint in self.hints)])


@dataclass(frozen=True)
class NewItems:
    """The rows to append to a bundle."""

    table: pl.DataFrame
    """item_id, count (in the given events), title and attributes: N."""
    vectors_ND: NDArray[np.float32]
    kinds: dict[str, Kind]
    """The kind of each attribute, of the bundle's and of the new ones."""
    report: Additions


def find_new_items(config: AddConfig, artifact: Artifact) -> NewItems:
    """Reads the files that `config` names and gives every new item a vector.

    Raises ValueError for unusable files, and if no item is left to add.
    """
    check_publishable(config.artifacts)
    file = _check(config)
    with tempfile.TemporaryDirectory() as scratch:
        events, log = _read_events(config, Path(scratch))
        table = file.read(Path(scratch)) if file else None
    catalogue = artifact.items.with_row_index("row")
    listed = table.items if table else events.select("item_id").unique(maintain_order=True)
    new = listed.join(catalogue, on="item_id", how="anti", maintain_order="left")
    known = listed.height - new.height if table else 0
    seen = events.group_by("item_id").agg(count=pl.len().cast(pl.UInt32))
    frequent = seen.filter(pl.col("count") >= config.min_item_events) if not table else new
    rare = new.height
    new = new.join(frequent, on="item_id", how="semi", maintain_order="left")
    rare -= new.height
    new, kinds, hints = _conform(new.with_row_index("new"), config, artifact)
    hints += table.hints if table else []
    hints += [*log.hints, *odd_ids("item", seen["item_id"])] if log else []
    evidence, counted = _evidence(new, catalogue, events)
    tied = new.join(evidence, on="new", how="semi", maintain_order="left")
    report = Additions(
        base=artifact.manifest.version,
        added=tied.height,
        known=known,
        rare=rare,
        repeated=table.repeated if table else 0,
        malformed=table.account.malformed if table else {},
        no_evidence=new.join(evidence, on="new", how="anti")["item_id"].to_list(),
        event_rows=log.account.rows if log else 0,
        malformed_events=log.account.malformed if log else {},
        hints=hints,
        **counted,
    )
    if not tied.height:
        raise ValueError(f"no item can be added\n{report}")
    vectors_ND = as_vectors(
        evidence, artifact.model.items.weight.numpy(), new.height, config.length
    )
    counted_items = tied.join(seen, on="item_id", how="left", maintain_order="left").with_columns(
        pl.col("count").fill_null(0)
    )
    rows = counted_items.drop("new", "neighbours", strict=False)
    return NewItems(rows, vectors_ND[tied["new"].to_numpy()], kinds, report)


@contextmanager
def extended_bundle(
    artifacts: Path, artifact: Artifact, new: NewItems
) -> Iterator[tuple[Path, str]]:
    """Writes a bundle with more items; yields its folder and version, to add the index."""
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
        write_map(folder, vectors_VD)
        counts_N = new.table["count"].to_numpy().astype(np.int64)
        np.save(folder / "popularity.npy", np.concatenate([artifact.popularity, counts_N]))
        items = pl.concat([artifact.items, new.table], how="diagonal_relaxed")
        items.write_parquet(folder / "items.parquet")
        write_ids(folder, "item", items["item_id"])
        yield folder, version
        changed = {
            "version": version,
            "created": created.isoformat(timespec="seconds"),
            "vectors_sha256": digest,
            "item_kinds": new.kinds,
            "metrics": {},  # measured over another catalogue
            "additions": [*artifact.manifest.additions, new.report.model_dump()],
        }
        seal(folder, artifact.manifest.model_copy(update=changed))


def _check(config: AddConfig) -> MetadataFile | None:
    """Returns the table of items. Raises ValueError, before any work, if options don't fit."""
    if config.items is None and config.events is None:
        raise ValueError("nothing says which items are new: name --items, --events or both")
    names = MetadataColumns(config.item_id_column, config.title_column, config.genres_column)
    if config.items is None and (names != MetadataColumns() or config.neighbours_column):
        raise ValueError("columns of a table of items are named, but no --items file")
    of_events = (config.user_column, config.item_column, config.time_column)
    if config.events is None and (any(of_events) or config.in_order):
        raise ValueError("columns of events are named, but no --events")
    if config.items is None:
        return None
    file = open_metadata(config.items, names)
    file.table.find("similar items", config.neighbours_column, ())
    return file


def _read_events(config: AddConfig, scratch: Path) -> tuple[pl.DataFrame, CleanLog | None]:
    """Returns user, item_id, each user's events together and in order of time, and an account."""
    if config.events is None:
        return pl.DataFrame(schema={"user": pl.String, "item_id": pl.String}), None
    columns = Columns(config.user_column, config.item_column, config.time_column, config.in_order)
    log = clean_logs(log_files(config.events, config.format), columns, scratch)
    ordered = log.events.sort("user", "time", "rest", "order")
    return ordered.select("user", item_id="item").collect(engine="streaming"), log


def _conform(
    new: pl.DataFrame, config: AddConfig, artifact: Artifact
) -> tuple[pl.DataFrame, dict[str, Kind], list[str]]:
    """Returns columns of the catalogue's kinds and types, and `neighbours` as lists; all kinds.

    Values that can't have the type are null; the hints count them. Attributes that the catalogue
    does not have get a kind of their own.
    """
    column = config.neighbours_column or "neighbours"
    if column in new.columns:
        new = new.rename({column: "neighbours"})
        new = new.with_columns(neighbours=as_list(new["neighbours"]))
    schema, kinds = artifact.items.schema, artifact.kinds
    hints = []
    for name in sorted(set(new.columns) & set(schema) - {"item_id"}):
        kind, dtype = kinds.get(name, "text"), schema[name]
        cast, lost = as_kind(new[name], kind)
        if kind == "text":
            series = as_list(new[name]) if isinstance(dtype, pl.List) else new[name]
            cast = series.cast(dtype, strict=False)
            lost = series.filter(series.is_not_null() & cast.is_null())
        elif kind != "number":  # integers and floats may become one column of floats
            cast = cast.cast(dtype)
        if len(lost):
            words = ", ".join(repr(value) for value in lost.head(3).to_list())
            hints.append(
                f"values of {name!r} such as {words} are not of its kind, {kind}: left out"
            )
        new = new.with_columns(cast.alias(name))
    typed = type_columns(new.select(pl.exclude("new", "neighbours", *schema)), {}, from_text=True)
    return new.with_columns(typed.items.get_columns()), kinds | typed.kinds, hints + typed.hints


def _evidence(
    new: pl.DataFrame, catalogue: pl.DataFrame, events: pl.DataFrame
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Returns the evidence of the first source that has any, and the number of items by source."""
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
