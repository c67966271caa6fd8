"""Events that belong together: those of a day, of a session, or a number of them in a row.

Shapes: U users, N events, G sets.
"""

import numpy as np
from numpy.typing import NDArray

from model.data.dataset import Dataset

DAY = 86_400
"""Seconds of a day; days start at midnight UTC."""

SESSION_GAP = 1_800
"""Seconds without an event that end a session."""


def set_starts(dataset: Dataset, kind: str) -> NDArray[np.int64]:
    """Returns where the sets of days or sessions start in `Dataset.events`, ascending: G.

    Raises ValueError if the data set has no times.
    """
    times_N = event_times(dataset, kind)
    if kind == "day":
        starts_N = np.diff(times_N // DAY, prepend=0) != 0
    else:
        starts_N = np.diff(times_N, prepend=0) > SESSION_GAP
    offsets = np.asarray(dataset.offsets)
    starts_N[offsets[:-1][np.diff(offsets) > 0]] = True
    return np.flatnonzero(starts_N)


def set_ends(dataset: Dataset, kind: str) -> NDArray[np.int64]:
    """Returns for each event where the set ends that the event and those after it make up: N.

    `kind`: next, day, session or a number of events, at most up to the user's last one. Raises
    ValueError if it needs times and the data set has none.
    """
    offsets, events = np.asarray(dataset.offsets), np.arange(len(dataset.events))
    if kind in ("day", "session"):
        bounds = np.append(set_starts(dataset, kind), len(events))
        ends_N: NDArray[np.int64] = bounds[np.searchsorted(bounds, events, side="right")]
        return ends_N
    size = 1 if kind == "next" else int(kind)
    return np.minimum(events + size, np.repeat(offsets[1:], np.diff(offsets)))


def event_times(dataset: Dataset, purpose: str) -> NDArray[np.int64]:
    """Returns the seconds of each event: N. Raises ValueError, naming `purpose`, without times."""
    if dataset.times is None:
        raise ValueError(
            f"{purpose!r} needs the times of events, and {dataset.name} has none: write the data "
            "set anew from a log with times, or choose a number of events"
        )
    return np.asarray(dataset.times)
