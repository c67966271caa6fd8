"""A prepared data set (written by `recgpt data prepare`) and its leave-one-out splits.

DIRECTORY/dataset.json     {"format": 1, "name", "users": U, "items": V, "events": N, "report"}
DIRECTORY/items.parquet    item_id, count, then optional title and attributes; V rows, in row order
DIRECTORY/users.parquet    user_id; U rows, in row order
DIRECTORY/events.npy       int32 [N]: item rows, user after user, oldest first
DIRECTORY/offsets.npy      int64 [U + 1]: the events of user u are events[offsets[u]:offsets[u + 1]]
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from model.data import parquet

FORMAT = 1
"""Version of the directory's layout."""

IntArray = NDArray[np.integer[Any]]
"""Rows, lengths or ranks: integers of any width."""


@dataclass(frozen=True)
class Dataset:
    """Histories of U users over a catalogue of V items; ids are the caller's own strings."""

    name: str
    item_ids: list[str]
    """External id of every item row: V."""
    user_ids: list[str]
    """External id of every user row: U."""
    events: NDArray[np.int32]
    """Item rows, user after user, oldest first: N. Memory-mapped, read-only."""
    offsets: NDArray[np.int64]
    """The start of each user's events, and the end of the last: U + 1. Memory-mapped, read-only."""
    items: pl.DataFrame
    """item_id, count, optional title and attributes: V rows."""

    @classmethod
    def load(cls, directory: Path) -> "Dataset":
        """Open a prepared directory.

        Raises ValueError, naming the file, where one is missing, damaged or of another data set.
        """
        about = _read_description(directory)
        items = _read_table(directory / "items.parquet", {"item_id": pl.String, "count": pl.UInt32})
        users = _read_table(directory / "users.parquet", {"user_id": pl.String})
        events = _read_array(directory / "events.npy", np.int32)
        offsets = _read_array(directory / "offsets.npy", np.int64)
        for file, found, wanted in (
            ("items.parquet", items.height, about["items"]),
            ("users.parquet", users.height, about["users"]),
            ("events.npy", len(events), about["events"]),
            ("offsets.npy", len(offsets), about["users"] + 1),
        ):
            if found != wanted:
                problem = f"has {found} rows where dataset.json says {wanted}"
                raise _unusable(directory / file, problem)
        _check_values(directory, items, users, events, offsets)
        return cls(
            name=about["name"],
            item_ids=items["item_id"].to_list(),
            user_ids=users["user_id"].to_list(),
            events=events,
            offsets=offsets,
            items=items,
        )

    @property
    def users(self) -> int:
        """The number of users: U."""
        return len(self.user_ids)

    @property
    def catalogue(self) -> int:
        """The number of items: V."""
        return len(self.item_ids)

    def history(self, user: int) -> NDArray[np.int32]:
        """All item rows of user row `user`, oldest first: a view of `events`."""
        return self.events[self.offsets[user] : self.offsets[user + 1]]

    def of_users(self, rows: NDArray[np.int64]) -> "Dataset":
        """The whole catalogue with these users' histories alone: `rows` become rows 0, 1, …

        Copies the events.
        """
        counts = np.diff(self.offsets)[rows]
        offsets = np.concatenate(([0], np.cumsum(counts)))
        from_N = np.repeat(np.asarray(self.offsets)[rows] - offsets[:-1], counts)
        return replace(
            self,
            user_ids=[self.user_ids[row] for row in rows],
            events=self.events[from_N + np.arange(offsets[-1])],
            offsets=offsets,
        )


@dataclass(frozen=True)
class Split:
    """Cases with one target each; case i's history is dataset.history(users[i])[:lengths[i]]."""

    users: NDArray[np.int64]
    """User row of every case: n."""
    targets: NDArray[np.int32]
    """Item row to be recalled: n."""
    lengths: NDArray[np.int64]
    """The number of the user's events before the target: n."""

    def of_users(self, rows: NDArray[np.int64]) -> "Split":
        """The cases of these users."""
        kept = np.isin(self.users, rows)
        return Split(self.users[kept], self.targets[kept], self.lengths[kept])


def test_split(dataset: Dataset) -> Split:
    """The last event of every user with at least three."""
    return _leave_out(dataset, after=0)


test_split.__test__ = False  # type: ignore[attr-defined]  # pytest: not a test, despite its name


def validation_split(dataset: Dataset) -> Split:
    """The last event but one of every user with at least three."""
    return _leave_out(dataset, after=1)


def training_lengths(dataset: Dataset) -> NDArray[np.int64]:
    """Returns the number of each user's events, from the oldest, that training may see: U.

    All but the last two; all of a user who has fewer than three and so is in no other split.
    """
    counts_U = np.asarray(dataset.offsets[1:] - dataset.offsets[:-1])
    return np.where(counts_U >= 3, counts_U - 2, counts_U)


def popularity(dataset: Dataset) -> NDArray[np.int64]:
    """Events of every item in the training part: V."""
    ends_U = np.asarray(dataset.offsets)[:-1] + training_lengths(dataset)
    bounds = np.zeros(len(dataset.events) + 1, dtype=np.int64)
    np.add.at(bounds, np.asarray(dataset.offsets)[:-1], 1)
    np.add.at(bounds, ends_U, -1)
    in_training_N = np.cumsum(bounds[:-1]) > 0
    return np.bincount(dataset.events[in_training_N], minlength=dataset.catalogue)


def held_out_users(dataset: Dataset, share: float, seed: int) -> NDArray[np.int64]:
    """Rows, ascending, of the users whom training never sees: `share` of all, drawn by `seed`."""
    rng = np.random.default_rng([seed, dataset.users])
    return np.sort(rng.choice(dataset.users, round(dataset.users * share), replace=False))


def training_view(dataset: Dataset, share: float, seed: int) -> Dataset:
    """The data set without its held-out users; their items stay in the catalogue."""
    if not share:
        return dataset
    held_out = held_out_users(dataset, share, seed)
    return dataset.of_users(np.setdiff1d(np.arange(dataset.users), held_out))


def _leave_out(dataset: Dataset, after: int) -> Split:
    """The target is the event that `after` others follow."""
    counts_U = np.asarray(dataset.offsets[1:] - dataset.offsets[:-1])
    users = np.flatnonzero(counts_U >= 3)
    lengths = counts_U[users] - 1 - after
    targets = np.asarray(dataset.events[dataset.offsets[users] + lengths])
    return Split(users, targets, lengths)


def _unusable(path: Path, problem: str) -> ValueError:
    return ValueError(f"{path} {problem}: write the data set anew with `recgpt data prepare`")


def _read_description(directory: Path) -> dict[str, Any]:
    path = directory / "dataset.json"
    if not path.is_file():
        raise ValueError(
            f"{directory} is not a prepared data set (it has no dataset.json): "
            "write one with `recgpt data prepare`"
        )
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _unusable(path, f"is damaged ({error})") from error
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise _unusable(path, f"is not of format {FORMAT}, the one that this version reads")
    for key, kind in (("name", str), ("users", int), ("items", int), ("events", int)):
        if not isinstance(about.get(key), kind):
            raise _unusable(path, f"is damaged ({key!r} is missing or of a wrong type)")
    return about


def _read_table(path: Path, columns: dict[str, type[pl.DataType]]) -> pl.DataFrame:
    if not path.is_file():
        raise _unusable(path, "is missing")
    try:
        table = parquet.read(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise _unusable(path, f"is damaged ({error})") from error
    for name, kind in columns.items():
        if table.schema.get(name) != kind:
            raise _unusable(path, f"has no column {name!r} of type {kind.__name__}")
    return table


def _read_array(path: Path, dtype: type[np.generic]) -> NDArray[Any]:
    if not path.is_file():
        raise _unusable(path, "is missing")
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise _unusable(path, f"is damaged ({error})") from error
    if array.dtype != dtype or array.ndim != 1:
        raise _unusable(path, f"is {array.dtype} {array.shape}, not a flat {dtype.__name__} array")
    return array


def _check_values(
    directory: Path,
    items: pl.DataFrame,
    users: pl.DataFrame,
    events: NDArray[np.int32],
    offsets: NDArray[np.int64],
) -> None:
    """The tables and arrays fit each other: every row that is pointed to exists."""
    for file, ids in (("items.parquet", items["item_id"]), ("users.parquet", users["user_id"])):
        if ids.null_count() or ids.n_unique() != len(ids):
            raise _unusable(directory / file, "has missing or repeated ids")
    if offsets[0] != 0 or offsets[-1] != len(events) or (np.diff(offsets) < 0).any():
        raise _unusable(directory / "offsets.npy", "does not fit events.npy")
    if len(events) and (events.min() < 0 or events.max() >= items.height):
        raise _unusable(directory / "events.npy", "points to items that are not in items.parquet")
