"""A prepared data set, as `recgpt data prepare` writes it.

DIRECTORY/dataset.json     {"format": 2, "name", "users": U, "items": V, "events": N, "times",
                           "kinds", "report"}; "times" is null, "clock" (seconds since 1970) or
                           "relative" (seconds that can be compared within a user's history only);
                           "kinds" are those of the attributes (`model.kinds`)
DIRECTORY/items.parquet    item_id, count, then optional title and attributes; V rows, in row order
DIRECTORY/users.parquet    user_id; U rows, in row order
DIRECTORY/events.npy       int32 [N]: item rows, user after user, oldest first
DIRECTORY/offsets.npy      int64 [U + 1]: the events of user u are events[offsets[u]:offsets[u + 1]]
DIRECTORY/times.npy        int64 [N]: seconds of each event; missing if "times" is null
DIRECTORY/actions.npy      int8 [N]: what the user did, a number of "actions", -1: not known;
                           missing if "actions" is null

"actions" names what users did, such as like and dislike. Format 1 is read as well: it has no times.
Where "kinds" is missing, all attributes are text.
"""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from model.data import parquet
from model.kinds import KINDS, Kind

FORMAT = 2
"""Version of the directory's layout."""
FILES = (
    "dataset.json",
    "events.npy",
    "offsets.npy",
    "times.npy",
    "actions.npy",
    "items.parquet",
    "users.parquet",
)
"""Names of all files in the directory."""

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
    times: NDArray[np.int64] | None = None
    """Seconds of every event: N. Memory-mapped, read-only."""
    clock: bool = False
    """Whether the times of different users can be compared."""
    actions: NDArray[np.int8] | None = None
    """The action of every event, a number of `action_names`; -1: not known: N."""
    action_names: tuple[str, ...] = ()
    kinds: dict[str, Kind] = field(default_factory=dict)
    """The kind of each attribute; one that is missing here is text."""

    @classmethod
    def load(cls, directory: Path) -> "Dataset":
        """Opens a prepared directory.

        Raises ValueError, naming the file, if one is missing, damaged or of another data set.
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
        times = None
        if about.get("times"):
            times = _read_array(directory / "times.npy", np.int64)
            if len(times) != len(events):
                problem = f"has {len(times)} rows where dataset.json says {len(events)}"
                raise _unusable(directory / "times.npy", problem)
        actions = None
        if about.get("actions"):
            actions = _read_array(directory / "actions.npy", np.int8)
            if len(actions) != len(events):
                problem = f"has {len(actions)} rows where dataset.json says {len(events)}"
                raise _unusable(directory / "actions.npy", problem)
        return cls(
            name=about["name"],
            item_ids=items["item_id"].to_list(),
            user_ids=users["user_id"].to_list(),
            events=events,
            offsets=offsets,
            items=items,
            times=times,
            clock=about.get("times") == "clock",
            actions=actions,
            action_names=tuple(about.get("actions") or ()),
            kinds=about.get("kinds", {}),
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
        """Returns the item rows of user row `user`, oldest first: a view of `events`."""
        return self.events[self.offsets[user] : self.offsets[user + 1]]

    def action_code(self, name: str) -> int:
        """Returns the number of an action. Raises ValueError if no event has it."""
        if name not in self.action_names:
            known = ", ".join(self.action_names) or "no actions at all"
            raise ValueError(f"{self.name} has {known}, not {name!r}")
        return self.action_names.index(name)

    def of_users(self, rows: NDArray[np.int64]) -> "Dataset":
        """Returns the whole catalogue with these users only: `rows` become rows 0, 1, …

        Copies the events.
        """
        part = self._histories(np.asarray(self.offsets)[rows], np.diff(self.offsets)[rows])
        return replace(part, user_ids=[self.user_ids[row] for row in rows])

    def first_events(self, lengths_U: NDArray[np.int64]) -> "Dataset":
        """Returns the same users with their oldest events only; copies the events."""
        return self._histories(np.asarray(self.offsets)[:-1], lengths_U)

    def _histories(self, starts_U: IntArray, lengths_U: IntArray) -> "Dataset":
        """As many events from each start on, one history after another."""
        offsets = np.concatenate(([0], np.cumsum(lengths_U)))
        from_N = np.repeat(starts_U - offsets[:-1], lengths_U) + np.arange(offsets[-1])
        times = None if self.times is None else self.times[from_N]
        actions = None if self.actions is None else self.actions[from_N]
        events = self.events[from_N]
        return replace(self, events=events, offsets=offsets, times=times, actions=actions)


def popularity(dataset: Dataset) -> NDArray[np.int64]:
    """Returns the number of events of every item: V."""
    return np.bincount(dataset.events, minlength=dataset.catalogue)


def held_out_users(dataset: Dataset, share: float, seed: int) -> NDArray[np.int64]:
    """Returns the rows, ascending, of users that training never sees: a share drawn by `seed`."""
    rng = np.random.default_rng([seed, dataset.users])
    return np.sort(rng.choice(dataset.users, round(dataset.users * share), replace=False))


def training_view(dataset: Dataset, share: float, seed: int) -> Dataset:
    """Returns the data set without its held-out users; their items stay in the catalogue."""
    if not share:
        return dataset
    held_out = held_out_users(dataset, share, seed)
    return dataset.of_users(np.setdiff1d(np.arange(dataset.users), held_out))


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
    if not isinstance(about, dict) or about.get("format") not in (1, FORMAT):
        raise _unusable(path, f"is not of format {FORMAT}, which this version reads")
    for key, kind in (("name", str), ("users", int), ("items", int), ("events", int)):
        if not isinstance(about.get(key), kind):
            raise _unusable(path, f"is damaged ({key!r} is missing or of a wrong type)")
    kinds = about.get("kinds", {})
    if not isinstance(kinds, dict) or any(kind not in KINDS for kind in kinds.values()):
        raise _unusable(path, "is damaged ('kinds' are not those of attributes)")
    return about


def _read_table(path: Path, columns: dict[str, type[pl.DataType]]) -> pl.DataFrame:
    if not path.is_file():
        raise _unusable(path, "is missing")
    try:
        table = parquet.read(path)
    except parquet.UNREADABLE as error:
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
