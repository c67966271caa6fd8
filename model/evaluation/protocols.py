"""Protocols of evaluation: the events that train a model, and those that it has to recall.

A case is a user at a moment: the history up to then is given, the targets come right behind it. The
first target is the next item. Leave-one-out is the next-set protocol with sets of one event.

Shapes: U users, n cases, S targets of a case.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.data.dataset import Dataset, IntArray, popularity
from model.data.event_sets import DAY, event_times, set_starts
from model.evaluation.config import ProtocolConfig

LEAVE_ONE_OUT = ProtocolConfig()

WEEK = 7 * DAY
"""Seconds of a week."""


@dataclass(frozen=True)
class Split:
    """Cases; the history of case i is dataset.history(users[i])[:lengths[i]]."""

    users: NDArray[np.int64]
    """User row of every case: n."""
    targets: NDArray[np.int32]
    """Item row of the first target: n."""
    lengths: NDArray[np.int64]
    """Number of the user's events before the targets: n."""
    sizes: NDArray[np.int64]
    """Number of targets, which follow each other in the user's history: n."""

    def at(self, cases: IntArray) -> "Split":
        """Returns some of the cases."""
        return Split(self.users[cases], self.targets[cases], self.lengths[cases], self.sizes[cases])

    def of_users(self, rows: NDArray[np.int64]) -> "Split":
        """Returns the cases of these users."""
        return self.at(np.flatnonzero(np.isin(self.users, rows)))


@dataclass(frozen=True)
class Splits:
    """The parts of a data set by a protocol."""

    dataset: Dataset
    training_lengths: NDArray[np.int64]
    """Events of each user, from the oldest, that training may see: U."""
    validation: Split
    test: Split
    test_start: int | None = None
    """The time of the first test event, if it is one for all users: seconds."""

    def training(self) -> Dataset:
        """Returns the data set without the events that training may not see."""
        return self.dataset.first_events(self.training_lengths)


def splits(dataset: Dataset, protocol: ProtocolConfig = LEAVE_ONE_OUT) -> Splits:
    """Splits a data set. Raises ValueError if the protocol needs times that the data lack."""
    if protocol.split == "temporal":
        return _temporal(dataset, protocol)
    return _next_set(dataset, protocol.targets)


def target_sets(dataset: Dataset, split: Split) -> NDArray[np.int64]:
    """Returns the distinct target rows of every case, n S, the first one first; -1: padding."""
    slots_S = np.arange(split.sizes.max(initial=1))
    real_nS = slots_S < split.sizes[:, None]
    first_n = np.asarray(dataset.offsets)[split.users] + split.lengths
    rows_nS = dataset.events[np.where(real_nS, first_n[:, None] + slots_S, 0)].astype(np.int64)
    return distinct(np.where(real_nS, rows_nS, -1))


def by_outcome(dataset: Dataset, split: Split, action: str) -> tuple[Split, Split]:
    """Returns the cases whose first target got this action, and those that got another one.

    Raises ValueError if the data set does not know the action.
    """
    code = dataset.action_code(action)
    assert dataset.actions is not None
    found_n = dataset.actions[np.asarray(dataset.offsets)[split.users] + split.lengths]
    return (
        split.at(np.flatnonzero(found_n == code)),
        split.at(np.flatnonzero((found_n != code) & (found_n >= 0))),
    )


def with_outcome(dataset: Dataset, split: Split, action: str | None) -> Split:
    """Returns the cases whose first target got this action; all if none is wanted."""
    return split if action is None else by_outcome(dataset, split, action)[0]


def distinct(rows_nS: NDArray[np.int64]) -> NDArray[np.int64]:
    """Returns the rows of each set with -1 in place of those that stand before in the set."""
    if rows_nS.shape[1] == 1:
        return rows_nS
    order_nS = np.argsort(rows_nS, axis=1, kind="stable")
    sorted_nS = np.take_along_axis(rows_nS, order_nS, axis=1)
    repeated_nS = np.zeros(rows_nS.shape, dtype=bool)
    again_nS = sorted_nS[:, 1:] == sorted_nS[:, :-1]
    np.put_along_axis(repeated_nS, order_nS[:, 1:], again_nS, axis=1)
    return np.where(repeated_nS, -1, rows_nS)


def cold_share(parts: Splits) -> float:
    """Returns the share of the test targets whose item no training event has."""
    known_V = popularity(parts.training()) > 0
    rows_nS = target_sets(parts.dataset, parts.test)
    return float(1 - known_V[rows_nS[rows_nS >= 0]].mean())


def popularity_before(dataset: Dataset, end: int, seconds: int = WEEK) -> NDArray[np.int64]:
    """Returns the number of events of every item in the period before `end`: V."""
    times_N = event_times(dataset, "recent popularity")
    recent_N = (times_N >= end - seconds) & (times_N < end)
    return np.bincount(dataset.events[recent_N], minlength=dataset.catalogue)


def _next_set(dataset: Dataset, kind: str) -> Splits:
    """The last set of every user is the test case, the one before it the validation case.

    Users without a third set are in no case, and all their events train.
    """
    ends_U = np.asarray(dataset.offsets)[1:]
    if kind in ("day", "session"):
        starts_G = set_starts(dataset, kind)
        behind_U = np.searchsorted(starts_G, ends_U)
        sets_U = np.diff(behind_U, prepend=0)
        users = np.flatnonzero(sets_U >= 3)
        test, validation = starts_G[behind_U[users] - 1], starts_G[behind_U[users] - 2]
    else:
        size = 1 if kind == "next" else int(kind)
        users = np.flatnonzero(np.diff(dataset.offsets) > 2 * size)
        test, validation = ends_U[users] - size, ends_U[users] - 2 * size
    lengths_U = np.diff(dataset.offsets)
    lengths_U[users] = validation - np.asarray(dataset.offsets)[users]
    return Splits(
        dataset,
        lengths_U,
        _cases(dataset, users, validation, test),
        _cases(dataset, users, test, ends_U[users]),
    )


def _temporal(dataset: Dataset, protocol: ProtocolConfig) -> Splits:
    """Two points in time for all users: training before the first, test from the second on.

    Every later event, or set of events, is predicted with the history up to it; the first event of
    a user is in no case. Targets may be items that no training event has.
    """
    if not dataset.clock:
        raise ValueError(
            f"the temporal protocol needs times of events that can be compared between users, and "
            f"{dataset.name} has none: choose another --protocol.split"
        )
    times_N = event_times(dataset, "temporal")
    periods = np.array([2, 1])
    if protocol.test_days is None:
        cuts = np.quantile(times_N, 1 - periods * protocol.test_share)
    else:
        cuts = times_N.max() - periods * protocol.test_days * DAY
    part_N = np.searchsorted(cuts, times_N, side="right")  # 0: training, 1: validation, 2: test
    user_N = np.repeat(np.arange(dataset.users), np.diff(dataset.offsets))
    lengths_U = np.bincount(user_N[part_N == 0], minlength=dataset.users)
    validation, test = (
        _cases_of_part(dataset, protocol.targets, user_N, part_N, part) for part in (1, 2)
    )
    return Splits(dataset, lengths_U, validation, test, int(np.ceil(cuts[1])))


def _cases_of_part(
    dataset: Dataset, kind: str, user_N: IntArray, part_N: IntArray, part: int
) -> Split:
    """The sets that the events of one part fall into, users' first events left out."""
    inside = np.flatnonzero(part_N == part)
    opens = np.ones(len(inside), dtype=bool)  # whether an event is the user's first of the part
    opens[1:] = user_N[inside[1:]] != user_N[inside[:-1]]
    if kind in ("day", "session"):
        starts = inside[opens | np.isin(inside, set_starts(dataset, kind))]
    else:
        size = 1 if kind == "next" else int(kind)
        first = np.maximum.accumulate(np.where(opens, np.arange(len(inside)), 0))
        starts = inside[(np.arange(len(inside)) - first) % size == 0]
    last = np.append(np.searchsorted(inside, starts), len(inside))[1:] - 1
    ends = inside[last] + 1
    known = starts > np.asarray(dataset.offsets)[user_N[starts]]
    return _cases(dataset, user_N[starts][known], starts[known], ends[known])


def _cases(dataset: Dataset, users: IntArray, starts: IntArray, ends: IntArray) -> Split:
    """Cases whose targets are the events from `starts` to `ends`."""
    return Split(
        np.asarray(users, dtype=np.int64),
        np.asarray(dataset.events[starts], dtype=np.int32),
        np.asarray(starts - np.asarray(dataset.offsets)[users], dtype=np.int64),
        np.asarray(ends - starts, dtype=np.int64),
    )
