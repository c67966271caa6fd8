from dataclasses import replace

import numpy as np
import pytest

from model.data.dataset import Dataset
from model.data.event_sets import DAY, SESSION_GAP, set_ends

EVENING = DAY - 600
TIMES = [0, EVENING, EVENING + 300, DAY + 5, DAY + 9, 3 * DAY]  # of each of two users


@pytest.fixture
def timed(dataset: Dataset) -> Dataset:
    """Three users, the one in the middle without events."""
    part = dataset.of_users(np.array([0, 1, 2])).first_events(np.array([6, 0, 6]))
    assert len(part.events) == 12
    return replace(part, times=np.array(TIMES * 2))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("next", [1, 2, 3, 4, 5, 6]),
        ("2", [2, 3, 4, 5, 6, 6]),
        ("9", [6] * 6),
        ("day", [3, 3, 3, 5, 5, 6]),
        ("session", [1, 5, 5, 5, 5, 6]),
    ],
)
def test_where_sets_end(timed: Dataset, kind: str, expected: list[int]) -> None:
    assert EVENING + 300 + SESSION_GAP > DAY + 5
    both = np.concatenate([expected, np.array(expected) + 6])
    assert set_ends(timed, kind).tolist() == both.tolist()


@pytest.mark.parametrize("kind", ["day", "session"])
def test_days_need_times(dataset: Dataset, kind: str) -> None:
    with pytest.raises(ValueError, match=f"'{kind}' needs the times of events, and walks has none"):
        set_ends(dataset, kind)
