from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
from pydantic import ValidationError

from model.data.dataset import Dataset
from model.data.event_sets import DAY
from model.evaluation.config import ProtocolConfig
from model.evaluation.protocols import (
    Split,
    cold_share,
    popularity_before,
    splits,
    target_sets,
)


def cases_of(dataset: Dataset, split: Split) -> list[tuple[int, list[int], list[int]]]:
    """(user, history, targets) of every case, in order."""
    found = []
    for user, length, size in zip(split.users, split.lengths, split.sizes, strict=True):
        history = dataset.history(int(user))
        found.append((int(user), history[:length].tolist(), history[length:][:size].tolist()))
    return sorted(found)


def protocol(split: str, **settings: object) -> ProtocolConfig:
    return ProtocolConfig.model_validate({"split": split, **settings})


@pytest.mark.parametrize("chosen", [ProtocolConfig(), protocol("next-set", targets="next")])
def test_leave_one_out(dataset: Dataset, chosen: ProtocolConfig) -> None:
    lengths = np.arange(dataset.users) % 5
    short = dataset.first_events(lengths)
    parts = splits(short, chosen)
    histories = [short.history(user).tolist() for user in range(short.users)]
    long = [user for user, length in enumerate(lengths) if length >= 3]
    for split, back in ((parts.test, 1), (parts.validation, 2)):
        assert cases_of(short, split) == [
            (user, histories[user][:-back], histories[user][-back:][:1]) for user in long
        ]
        assert split.targets.tolist() == [histories[user][-back] for user in long]
    training = parts.training()
    for user, history in enumerate(histories):
        kept = history[:-2] if user in long else history
        assert training.history(user).tolist() == kept
    for split in (parts.test, parts.validation):
        assert split.users.dtype == split.lengths.dtype == split.sizes.dtype == np.int64
        assert split.targets.dtype == np.int32


def test_the_next_events_as_a_set(dataset: Dataset) -> None:
    parts = splits(dataset, protocol("next-set", targets="2"))
    histories = [dataset.history(user).tolist() for user in range(dataset.users)]
    assert cases_of(dataset, parts.test) == [
        (user, history[:-2], history[-2:]) for user, history in enumerate(histories)
    ]
    assert cases_of(dataset, parts.validation) == [
        (user, history[:-4], history[-4:-2]) for user, history in enumerate(histories)
    ]
    training = parts.training()
    assert [training.history(u).tolist() for u in range(dataset.users)] == [
        history[:-4] for history in histories
    ]


@pytest.fixture
def timed(dataset: Dataset) -> Dataset:
    """Times at which users have one to three events a day, all in the same months."""
    rng = np.random.default_rng(0)
    times = [
        np.sort(rng.integers(0, 5, size=length)) * DAY + np.arange(length) * 60 + DAY * 20_000
        for length in np.diff(dataset.offsets)
    ]
    return replace(dataset, times=np.concatenate(times), clock=True)


def by_day(dataset: Dataset, user: int) -> list[list[int]]:
    assert dataset.times is not None
    days: dict[int, list[int]] = {}
    times = dataset.times[dataset.offsets[user] : dataset.offsets[user + 1]]
    for item, time in zip(dataset.history(user).tolist(), times.tolist(), strict=True):
        days.setdefault(time // DAY, []).append(item)
    return list(days.values())


def test_the_last_day_as_a_set(timed: Dataset) -> None:
    parts = splits(timed, protocol("next-set", targets="day"))
    test, validation = [], []
    for user in range(timed.users):
        days = by_day(timed, user)
        if len(days) >= 3:
            test.append((user, list(chain(*days[:-1])), days[-1]))
            validation.append((user, list(chain(*days[:-2])), days[-2]))
    assert len(test) > 10
    assert max(len(targets) for _, _, targets in test) > 1
    assert cases_of(timed, parts.test) == test
    assert cases_of(timed, parts.validation) == validation
    trained = {user: history for user, history, _ in validation}
    for user in range(timed.users):
        expected = trained.get(user, timed.history(user).tolist())
        assert parts.training().history(user).tolist() == expected


@pytest.mark.parametrize("targets", ["next", "2", "day"])
def test_one_cut_in_time_for_all_users(timed: Dataset, targets: str) -> None:
    assert timed.times is not None
    parts = splits(timed, protocol("temporal", targets=targets, test_share=0.25))
    training = parts.training()
    cut = training.times.max() if training.times is not None else 0
    tested = {"validation": 0, "test": 0}
    for user in range(timed.users):
        times = timed.times[timed.offsets[user] : timed.offsets[user + 1]]
        assert len(training.history(user)) == (times <= cut).sum()
    for name, split in (("validation", parts.validation), ("test", parts.test)):
        for user, length, size in zip(split.users, split.lengths, split.sizes, strict=True):
            assert length > 0
            assert 1 <= size <= {"next": 1, "2": 2, "day": 99}[targets]
            targeted = timed.times[timed.offsets[user] + length :][:size]
            assert (targeted > cut).all()
            if targets == "day":
                assert len(set(targeted // DAY)) == 1
            tested[name] += int(size)
    newest = max(
        timed.times[timed.offsets[user] + length :][:size].max()
        for user, length, size in zip(
            parts.validation.users, parts.validation.lengths, parts.validation.sizes, strict=True
        )
    )
    oldest = min(
        timed.times[timed.offsets[user] + length]
        for user, length in zip(parts.test.users, parts.test.lengths, strict=True)
    )
    assert newest < oldest
    starts = timed.offsets[:-1]
    for name, inside in (
        ("validation", (timed.times > cut) & (timed.times < oldest)),
        ("test", timed.times >= oldest),
    ):
        if targets == "next":  # all events but users' first ones
            assert tested[name] == inside.sum() - inside[starts].sum()
        else:
            assert tested[name] <= inside.sum()
        assert tested[name] > 50


def test_the_newest_days_can_be_the_test(timed: Dataset) -> None:
    assert timed.times is not None
    parts = splits(timed, protocol("temporal", test_days=2.0))
    cuts = timed.times.max() - np.array([4, 2]) * DAY
    assert parts.test_start == cuts[1]
    assert (parts.training().times < cuts[0]).all()  # type: ignore[operator]
    for split, (start, end) in (
        (parts.validation, (cuts[0], cuts[1])),
        (parts.test, (cuts[1], timed.times.max() + 1)),
    ):
        targeted = timed.times[np.asarray(timed.offsets)[split.users] + split.lengths]
        assert len(targeted)
        assert ((start <= targeted) & (targeted < end)).all()


def test_a_cut_in_time_needs_a_clock(timed: Dataset) -> None:
    for lacking in (replace(timed, clock=False), replace(timed, times=None, clock=False)):
        with pytest.raises(ValueError, match="times of events that can be compared"):
            splits(lacking, protocol("temporal"))


def test_leave_one_out_has_one_target() -> None:
    with pytest.raises(ValidationError, match=r"targets = day: choose split = next-set"):
        ProtocolConfig(targets="day")
    with pytest.raises(ValidationError, match="targets"):
        protocol("next-set", targets="week")


def test_sets_hold_an_item_once(dataset: Dataset) -> None:
    events = np.array([4, 1, 1, 2, 1, 0, 0, 3], dtype=np.int32)
    repeating = replace(
        dataset.of_users(np.array([0, 1])), events=events, offsets=np.array([0, 5, 8])
    )
    two = np.array([1, 1])
    split = Split(np.array([0, 1]), np.array([1, 0], dtype=np.int32), two, np.array([4, 2]))
    assert target_sets(repeating, split).tolist() == [[1, -1, 2, -1], [0, 3, -1, -1]]
    assert target_sets(repeating, split.of_users(np.array([1]))).tolist() == [[0, 3]]


def test_recent_popularity_and_cold_targets(timed: Dataset) -> None:
    assert timed.times is not None
    parts = splits(timed, protocol("temporal", test_share=0.25))
    assert parts.test_start is not None
    tested = [targets for _, _, targets in cases_of(timed, parts.test)]
    recent = (timed.times < parts.test_start) & (timed.times >= parts.test_start - 2 * DAY)
    counts = popularity_before(timed, parts.test_start, 2 * DAY)
    assert counts.tolist() == [
        (timed.events[recent] == row).sum() for row in range(timed.catalogue)
    ]
    assert 0 < counts.sum() < (timed.times < parts.test_start).sum()
    trained = set(parts.training().events.tolist())
    cold = [row not in trained for targets in tested for row in targets]
    assert cold_share(parts) == pytest.approx(np.mean(cold))
    few = replace(timed, events=np.arange(len(timed.events), dtype=np.int32) % timed.catalogue)
    assert 0 <= cold_share(splits(few, protocol("temporal", test_share=0.45))) < 1
