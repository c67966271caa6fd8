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
DIRECTORY/offers.npy       int32 [O]: item rows that users were shown before an event and did not
                           take, event after event, the newest first; missing if "offers", which is
                           their number, is null
DIRECTORY/offer_offsets.npy  int64 [N + 1]: the offers before event n, at most `MAX_OFFERS`, are
                           offers[offer_offsets[n]:offer_offsets[n + 1]]

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
from model.network.config import MAX_OFFERS

FORMAT = 2
"""Version of the directory's layout."""
FILES = (
    "dataset.json",
    "events.npy",
    "offsets.npy",
    "times.npy",
    "actions.npy",
    "offers.npy",
    "offer_offsets.npy",
    "items.parquet",
    "users.parquet",
)
"""Names of all files in the directory."""

IntArray = NDArray[np.integer[Any]]
"""Rows, lengths or ranks: integers of any width."""


@dataclass(frozen=True)
class Offers:
    """Impressions that users did not take: those of N events, at most `MAX_OFFERS` each.

    Shapes: O offers of all events, B chosen events.
    """

    rows_O: NDArray[np.int32]
    """Item rows, event after event, the newest offer of each first. Memory-mapped, read-only."""
    offsets: NDArray[np.int64]
    """The start of each event's offers, and the end of the last: N + 1."""

    def before(self, events_B: IntArray) -> NDArray[np.int64]:
        """Returns the offers before events, B `MAX_OFFERS`, the newest first; -1: none.

        Before an event of -1 there is none.
        """
        starts_B = self.offsets[events_B]
        counts_B = np.where(events_B >= 0, self.offsets[events_B + 1] - starts_B, 0)
        slots_M = np.arange(MAX_OFFERS)
        real_BM = slots_M < counts_B[:, None]
        rows_BM = np.full(real_BM.shape, -1, dtype=np.int64)
        rows_BM[real_BM] = self.rows_O[(starts_B[:, None] + slots_M)[real_BM]]
        return rows_BM

    def of_events(self, events_B: IntArray) -> "Offers":
        """Returns the offers of these events only; copies them."""
        starts_B = self.offsets[events_B]
        offsets = offsets_of(self.offsets[events_B + 1] - starts_B)
        return Offers(self.rows_O[_slices(starts_B, offsets)], offsets)


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
    offers: Offers | None = None
    """The offers before every event; None: the log has no impressions."""
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
        times, actions = (
            _read_array(directory / f"{name}.npy", dtype, len(events)) if about.get(name) else None
            for name, dtype in (("times", np.int64), ("actions", np.int8))
        )
        offers = None
        if about["offers"] is not None:
            offers = _read_offers(directory, about["offers"], len(events), items.height)
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
            offers=offers,
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

    def without_offers(self) -> "Dataset":
        """Returns the same histories as if the log had no impressions."""
        return replace(self, offers=None)

    def _histories(self, starts_U: IntArray, lengths_U: IntArray) -> "Dataset":
        """As many events from each start on, one history after another."""
        offsets = offsets_of(lengths_U)
        from_N = _slices(starts_U, offsets)
        return replace(
            self,
            events=self.events[from_N],
            offsets=offsets,
            times=None if self.times is None else self.times[from_N],
            actions=None if self.actions is None else self.actions[from_N],
            offers=None if self.offers is None else self.offers.of_events(from_N),
        )


def offsets_of(lengths_B: IntArray) -> NDArray[np.int64]:
    """Returns the start of each of B slices that follow each other, and the end of the last."""
    return np.concatenate(([0], np.cumsum(lengths_B, dtype=np.int64)))


def _slices(starts_B: IntArray, offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """Returns the places of slices that begin at `starts_B`; in the result, at `offsets`."""
    places: NDArray[np.int64] = np.repeat(starts_B - offsets[:-1], np.diff(offsets))
    return places + np.arange(offsets[-1])


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
    about.setdefault("offers", None)
    for key, kind in (
        *(("name", str), ("users", int), ("items", int), ("events", int)),
        ("offers", int | None),
    ):
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


def _read_array(path: Path, dtype: type[np.generic], length: int | None = None) -> NDArray[Any]:
    if not path.is_file():
        raise _unusable(path, "is missing")
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise _unusable(path, f"is damaged ({error})") from error
    if array.dtype != dtype or array.ndim != 1:
        raise _unusable(path, f"is {array.dtype} {array.shape}, not a flat {dtype.__name__} array")
    if length is not None and len(array) != length:
        raise _unusable(path, f"has {len(array)} rows where dataset.json says {length}")
    return array


def _read_offers(directory: Path, count: int, events: int, items: int) -> Offers:
    rows_O = _read_array(directory / "offers.npy", np.int32, count)
    offsets = _read_array(directory / "offer_offsets.npy", np.int64, events + 1)
    counts_N = np.diff(offsets)
    fits = offsets[0] == 0 and offsets[-1] == count
    if not fits or ((counts_N < 0) | (counts_N > MAX_OFFERS)).any():
        raise _unusable(directory / "offer_offsets.npy", "does not fit offers.npy")
    _check_items(directory / "offers.npy", rows_O, items)
    return Offers(rows_O, offsets)


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
    _check_items(directory / "events.npy", events, items.height)


def _check_items(path: Path, rows: NDArray[np.int32], items: int) -> None:
    if len(rows) and (rows.min() < 0 or rows.max() >= items):
        raise _unusable(path, "points to items that are not in items.parquet")
