"""`recgpt data prepare`: interaction logs → the data set folder that `model.data.dataset` reads.

    logs → usable rows → coded.parquet (ids numbered) → kept.parquet (k-core) → events.npy (sorted)

Every arrow streams through a temporary folder beside the output, so the log may be larger than
memory. Memory must hold the ids of users and items, and `EVENTS_A_PASS` events for the final sort.
"""

import logging
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import BaseModel
from tqdm import tqdm

from model.data import parquet
from model.data.account import Malformed, count_lines, example_lines
from model.data.actions import action_codes, action_names
from model.data.arrays import new_array, passes
from model.data.clean import CleanLog, Columns, clean_logs
from model.data.column_kinds import describe
from model.data.config import Format, PrepareConfig
from model.data.dataset import FILES, FORMAT, offsets_of
from model.data.id_columns import odd_ids
from model.data.impressions import ImpressionReport, split_impressions, write_offers
from model.data.k_core import k_core, number_ids
from model.data.logs import log_files
from model.data.metadata import (
    MetadataColumns,
    MetadataFile,
    MetadataReport,
    add_metadata,
    open_metadata,
)
from model.data.times import whole_seconds
from model.files import OF_THE_FILE_SYSTEM, new_folder, write_json

log = logging.getLogger(__name__)

EVENTS_A_PASS = 4_000_000
"""Events and impressions that the final sort holds in memory at a time, about 100 bytes each."""


class Report(BaseModel, frozen=True):
    """The rows that were read, and the data set that they make."""

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
    times: list[str] | None = None
    """The first and the last time of the usable rows."""
    metadata: MetadataReport | None = None
    impressions: ImpressionReport | None = None
    hints: list[str] = []
    """Warnings about rows that look odd, in words."""

    def __str__(self) -> str:
        table = [("rows read", f"{self.rows:,}")]
        table += [(label, f"{n:,}") for label, n in count_lines(self.malformed).items()]
        table += [("usable", f"{self.usable:,}"), ("after the k-core", f"{self.events:,}")]
        table += [("users", f"{self.users:,}"), ("items", f"{self.items:,}")]
        spread = f"{self.shortest:,} to {self.longest:,}, mean {self.mean:.1f}"
        table.append(("events a user", spread))
        table += self.impressions.lines() if self.impressions else []
        if self.times:
            table.append(("times", " to ".join(self.times)))
        examples, hints = example_lines(self.malformed), [*self.hints]
        if about := self.metadata:
            table += [("metadata rows", f"{about.rows:,}"), ("  repeated", f"{about.repeated:,}")]
            table += [(label, f"{n:,}") for label, n in count_lines(about.malformed).items()]
            table.append(("items without metadata", f"{about.without:,}"))
            examples += example_lines(about.malformed, "malformed, metadata")
            hints += about.hints
        width = max(len(label) for label, _ in table)
        lines = [f"{label:<{width}}  {value:>12}" for label, value in table]
        if self.metadata and self.metadata.kinds:
            lines.append(f"attributes: {describe(self.metadata.kinds)}")
            lines.append("  (if a kind is wrong, say --item-kinds NAME=KIND)")
        return "\n".join([*lines, *examples, *(f"look again: {hint}" for hint in hints)])


def prepare(config: PrepareConfig, known_actions: Sequence[str] = ()) -> Report:
    """Writes the data set of `config` to its `out`.

    With `known_actions` the data set has these actions, in this order, whichever occur; any other
    one counts as not known. The old data set stays until the new one is complete. Raises ValueError
    for options that don't fit the files, logs without a usable row, and a k-core that leaves
    nothing.
    """
    files, metadata = _check(config)
    columns = Columns(
        config.user_column,
        config.item_column,
        config.time_column,
        config.in_order,
        config.action_column,
        config.like_from,
    )
    with new_folder(config.out, config.overwrite) as folder:
        scratch = folder / "scratch"
        scratch.mkdir()
        clean = clean_logs(files, columns, scratch)
        events, impressions = clean.events, None
        if config.offer_action is not None:
            events, impressions = split_impressions(events, config.offer_action, scratch)
        coded, user_ids, item_ids = number_ids(events, scratch)
        if not len(user_ids):
            raise ValueError(
                f"--offer-action {config.offer_action}: every row has this action, so none is an "
                "event"
            )
        log.info("usable: %s users, %s items", f"{len(user_ids):,}", f"{len(item_ids):,}")
        hints = clean.hints + odd_ids("user", user_ids) + odd_ids("item", item_ids)
        kept, users, items = k_core(coded, config.min_user_events, config.min_item_events)
        if not len(users):
            raise ValueError(
                f"{config.input}: no user is left who has {config.min_user_events} events with "
                f"items of {config.min_item_events} events: lower --min-user-events and "
                "--min-item-events (0: keep all)"
            )
        user_ids, item_ids = user_ids.gather(users), item_ids.gather(items)
        kept_path = scratch / "kept.parquet"
        kept.sink_parquet(kept_path, compression="lz4")
        timed = clean.times is not None or files[0][1] == "gaps"
        actions = _actions(config, kept_path, known_actions)
        lengths_U, counts_V = write_events(kept_path, folder, len(items), timed, actions)
        shown = None
        if impressions is not None:
            ids = user_ids, item_ids
            shown = write_offers(kept_path, impressions, ids, lengths_U, folder, EVENTS_A_PASS)
        catalogue = pl.DataFrame({"item_id": item_ids, "count": counts_V})
        about = None
        if metadata is not None:
            catalogue, about = add_metadata(catalogue, metadata, scratch)
        catalogue.write_parquet(folder / "items.parquet")
        pl.DataFrame({"user_id": user_ids}).write_parquet(folder / "users.parquet")
        shutil.rmtree(scratch)
        report = _report(clean, hints, lengths_U, counts_V, about, shown)
        times = ("clock" if clean.times else "relative") if timed else None
        about_events = {
            "times": times,
            "actions": actions,
            "offers": shown.offers if shown else None,
        }
        write_json(folder / "dataset.json", _description(config, report) | about_events)
    return report


def _actions(config: PrepareConfig, kept: Path, known: Sequence[str]) -> list[str] | None:
    """Returns the names of the events' actions; None if none is to be read, or impressions only."""
    if config.action_column is None:
        return None
    names = list(known) or action_names(parquet.scan(kept))
    if not names and config.offer_action is None:
        raise ValueError("--action-column has no value in any row: name another column")
    return names or None


def _check(config: PrepareConfig) -> tuple[list[tuple[Path, Format]], MetadataFile | None]:
    """Returns the files to read. Raises ValueError, before any work, if options don't fit them."""
    files = log_files(config.input, config.format)
    if config.in_order and config.time_column is not None:
        raise ValueError("--in-order reads no time: leave out --time-column, or --in-order")
    if config.like_from is not None and config.action_column is None:
        raise ValueError("--like-from reads ratings: name their column with --action-column")
    is_type = config.action_column is not None and config.like_from is None
    if config.offer_action is not None and not is_type:
        raise ValueError(
            "--offer-action is a value of --action-column, which then has types and not ratings: "
            "name the column, and leave out --like-from"
        )
    named = (config.user_column, config.item_column, config.time_column, config.action_column)
    if files[0][1] in ("lines", "gaps") and any(named):
        raise ValueError(
            f"{config.input} is read as lines, which have no columns: leave out --user-column, "
            "--item-column, --time-column and --action-column, or name another --format"
        )
    _check_output(config)
    names = MetadataColumns(
        config.item_id_column, config.title_column, config.genres_column, config.item_kinds
    )
    if config.items is not None:
        return files, open_metadata(config.items, names)
    if names != MetadataColumns():
        raise ValueError("columns or kinds of item metadata are given, but no --items file")
    return files, None


def _check_output(config: PrepareConfig) -> None:
    """Raises ValueError if the data set would be read, or would replace anything but a data set."""
    out = config.out.resolve()
    if out.is_relative_to(config.input.resolve()):
        raise ValueError(f"{config.out} lies in the input: choose a folder outside of it")
    for source in (config.input, config.items):
        if source is not None and source.resolve().is_relative_to(out):
            raise ValueError(f"{source} lies in {config.out}: choose another folder to write to")
    foreign = set(os.listdir(out)) - {*FILES, *OF_THE_FILE_SYSTEM} if out.is_dir() else set()
    if foreign:
        raise ValueError(
            f"{config.out} holds other files than a data set, such as {min(foreign)}: choose "
            "another folder"
        )


def _report(
    clean: CleanLog,
    hints: list[str],
    lengths_U: NDArray[np.int64],
    counts_V: NDArray[np.uint32],
    metadata: MetadataReport | None,
    impressions: ImpressionReport | None,
) -> Report:
    return Report(
        rows=clean.account.rows,
        malformed=clean.account.malformed,
        usable=clean.account.usable,
        users=len(lengths_U),
        items=len(counts_V),
        events=int(lengths_U.sum()),
        shortest=int(lengths_U.min()),
        longest=int(lengths_U.max()),
        mean=float(lengths_U.mean()),
        times=[clean.times.first, clean.times.last] if clean.times else None,
        metadata=metadata,
        impressions=impressions,
        hints=hints,
    )


def _description(config: PrepareConfig, report: Report) -> dict[str, Any]:
    """Returns the content of dataset.json, but for what is known of the events."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", config.input.resolve().stem).strip(".-_")
    return {
        "format": FORMAT,
        "name": config.name or stem or "dataset",
        "users": report.users,
        "items": report.items,
        "events": report.events,
        "kinds": report.metadata.kinds if report.metadata else {},
        "report": report.model_dump(),
    }


def write_events(
    kept: Path,
    folder: Path,
    items: int,
    timed: bool,
    actions: list[str] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
    """Writes events.npy, offsets.npy and, if the events have them, times.npy and actions.npy.

    Returns the number of events of users U and of items V.
    """
    events = parquet.scan(kept)
    lengths = events.group_by("user").len().collect(engine="streaming").sort("user")
    lengths_U = lengths["len"].to_numpy().astype(np.int64)
    offsets = offsets_of(lengths_U)
    np.save(folder / "offsets.npy", offsets)
    counts_V = np.zeros(items, dtype=np.int64)
    out = new_array(folder / "events.npy", np.int32, int(offsets[-1]))
    arrays = [(out, pl.col("item"))]
    if timed:
        times = new_array(folder / "times.npy", np.int64, len(out))
        arrays.append((times, whole_seconds(events)))
    if actions is not None:
        codes = new_array(folder / "actions.npy", np.int8, len(out))
        arrays.append((codes, action_codes(actions)))
    with tqdm(total=len(out), desc="order", unit=" events", leave=False, disable=None) as bar:
        for first, last in passes(lengths_U, EVENTS_A_PASS):
            part = events.filter(pl.col("user").is_between(first, last, closed="left"))
            ordered = part.collect(engine="streaming").sort("user", "time", "rest", "order")
            for array, values in arrays:
                array[offsets[first] : offsets[last]] = ordered.select(values).to_series()
            counts_V += np.bincount(out[offsets[first] : offsets[last]], minlength=items)
            bar.update(len(ordered))
    for array, _ in arrays:
        array.flush()
    return lengths_U, counts_V.astype(np.uint32)
