"""`recgpt data prepare`: interaction logs → the data set directory that `model.data.dataset` reads.

    logs → usable rows → coded.parquet (ids numbered) → kept.parquet (k-core) → events.npy (sorted)

Every arrow streams through a temporary folder beside the output, so the log may be larger than
memory. What must fit: the ids of users and items, and `EVENTS_A_PASS` events for the final sort.
"""

import logging
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import BaseModel
from tqdm import tqdm

from model.data.clean import Account, Columns, Malformed, clean_logs
from model.data.config import Format, PrepareConfig
from model.data.dataset import FORMAT
from model.data.k_core import k_core, number_ids
from model.data.logs import log_files
from model.data.metadata import MetadataColumns, MetadataReport, add_metadata
from model.files import is_empty, new_folder, write_json

log = logging.getLogger(__name__)

EVENTS_A_PASS = 4_000_000
"""Events that the final ordering holds in memory at a time, about 100 bytes each while sorting."""


class Report(BaseModel, frozen=True):
    """What was read and what came of it."""

    rows: int
    malformed: dict[str, Malformed]
    usable: int
    """Rows that are not malformed, of all users and items, before the k-core."""
    users: int
    items: int
    events: int
    shortest: int
    """Events of the user with the fewest; likewise `longest`."""
    longest: int
    mean: float
    metadata: MetadataReport | None

    def __str__(self) -> str:
        table = {"rows read": f"{self.rows:,}"}
        table |= {f"  left out: {why}": f"{bad.count:,}" for why, bad in self.malformed.items()}
        table |= {"usable": f"{self.usable:,}", "after the k-core": f"{self.events:,}"}
        table |= {"users": f"{self.users:,}", "items": f"{self.items:,}"}
        table |= {"events a user": f"{self.shortest:,} to {self.longest:,}, mean {self.mean:.1f}"}
        malformed = dict(self.malformed)
        if about := self.metadata:
            table |= {"metadata rows": f"{about.rows:,}", "  repeated": f"{about.repeated:,}"}
            table |= {f"  left out: {w} ": f"{bad.count:,}" for w, bad in about.malformed.items()}
            table |= {"items without metadata": f"{about.without:,}"}
            malformed |= {f"metadata, {why}": bad for why, bad in about.malformed.items()}
        width = max(map(len, table))
        lines = [f"{label:<{width}}  {value:>12}" for label, value in table.items()]
        for why, bad in malformed.items():
            lines += [f"malformed, {why}:", *(f"  {example}" for example in bad.examples)]
        return "\n".join(lines)


def prepare(config: PrepareConfig) -> Report:
    """Write the data set of `config` to its `out`.

    Raises ValueError for options that don't fit the files, logs without a usable row, and a k-core
    that leaves nothing. What stood at `out` stays until the new data set is complete.
    """
    files = _check(config)
    columns = Columns(config.user_column, config.item_column, config.time_column, config.in_order)
    with new_folder(config.out, config.overwrite) as folder:
        scratch = folder / "scratch"
        scratch.mkdir()
        rows, account = clean_logs(files, columns, scratch)
        coded, user_ids, item_ids = number_ids(rows, scratch)
        log.info("usable: %s users, %s items", f"{len(user_ids):,}", f"{len(item_ids):,}")
        kept, users, items = k_core(coded, config.min_user_events, config.min_item_events)
        if not len(users):
            raise ValueError(
                f"{config.input}: no user is left who has {config.min_user_events} events with "
                f"items of {config.min_item_events} events: lower --min-user-events and "
                "--min-item-events (0: keep all)"
            )
        kept.sink_parquet(scratch / "kept.parquet", compression="lz4")
        lengths_U, counts_V = write_events(scratch / "kept.parquet", folder, len(users), len(items))
        catalogue = pl.DataFrame({"item_id": item_ids.gather(items), "count": counts_V})
        about = None
        if config.items is not None:
            names = MetadataColumns(
                config.item_id_column, config.title_column, config.genres_column
            )
            catalogue, about = add_metadata(catalogue, config.items, scratch, names)
        catalogue.write_parquet(folder / "items.parquet")
        pl.DataFrame({"user_id": user_ids.gather(users)}).write_parquet(folder / "users.parquet")
        shutil.rmtree(scratch)
        report = _report(account, lengths_U, counts_V, about)
        write_json(folder / "dataset.json", _description(config, report))
    return report


def _check(config: PrepareConfig) -> list[tuple[Path, Format]]:
    """The files to read; options that contradict each other are refused before any work."""
    files = log_files(config.input, config.format)
    if config.in_order and config.time_column is not None:
        raise ValueError("--in-order reads no time: leave out --time-column, or --in-order")
    _check_output(config)
    if config.items is None and (
        config.item_id_column or config.title_column or config.genres_column
    ):
        raise ValueError("columns of item metadata are named, but no --items file")
    return files


def _check_output(config: PrepareConfig) -> None:
    """Raises ValueError if the data set would be read, or would replace anything but a data set."""
    out = config.out.resolve()
    if out.is_relative_to(config.input.resolve()):
        raise ValueError(f"{config.out} lies in the input: choose a folder outside of it")
    for source in (config.input, config.items):
        if source is not None and source.resolve().is_relative_to(out):
            raise ValueError(f"{source} lies in {config.out}: choose another folder to write to")
    if out.is_dir() and not is_empty(out) and not (out / "dataset.json").exists():
        raise ValueError(f"{config.out} holds other files than a data set: choose another folder")


def _report(
    account: Account,
    lengths_U: NDArray[np.int64],
    counts_V: NDArray[np.uint32],
    metadata: MetadataReport | None,
) -> Report:
    return Report(
        rows=account.rows,
        malformed=account.malformed,
        usable=account.usable,
        users=len(lengths_U),
        items=len(counts_V),
        events=int(lengths_U.sum()),
        shortest=int(lengths_U.min()),
        longest=int(lengths_U.max()),
        mean=float(lengths_U.mean()),
        metadata=metadata,
    )


def _description(config: PrepareConfig, report: Report) -> dict[str, Any]:
    """What dataset.json says."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", config.input.resolve().stem).strip(".-_")
    return {
        "format": FORMAT,
        "name": config.name or stem or "dataset",
        "users": report.users,
        "items": report.items,
        "events": report.events,
        "report": report.model_dump(),
    }


def write_events(
    kept: Path, folder: Path, users: int, items: int
) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
    """Write events.npy and offsets.npy; events of each user U, oldest first, and of each item V."""
    events = pl.scan_parquet(kept)
    lengths = events.group_by("user").len().collect(engine="streaming").sort("user")
    lengths_U = lengths["len"].to_numpy().astype(np.int64)
    offsets = np.concatenate(([0], np.cumsum(lengths_U)))
    np.save(folder / "offsets.npy", offsets)
    counts_V = np.zeros(items, dtype=np.int64)
    out = np.lib.format.open_memmap(
        folder / "events.npy", mode="w+", dtype=np.int32, shape=(int(offsets[-1]),)
    )
    with tqdm(total=len(out), desc="order", unit=" events", leave=False, disable=None) as bar:
        first = 0
        while first < users:
            # as many users as fit one pass, and at least one
            last = int(np.searchsorted(offsets, offsets[first] + EVENTS_A_PASS, "right")) - 1
            last = max(last, first + 1)
            part = events.filter(pl.col("user").is_between(first, last, closed="left"))
            ordered = part.collect(engine="streaming").sort("user", "time", "rest", "order")
            rows = ordered["item"].to_numpy()
            out[offsets[first] : offsets[last]] = rows
            counts_V += np.bincount(rows, minlength=items)
            bar.update(len(rows))
            first = last
    out.flush()
    return lengths_U, counts_V.astype(np.uint32)
