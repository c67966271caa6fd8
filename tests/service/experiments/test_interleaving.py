"""Interleaving: fair drafts, credit by team, and one vote a user."""

import json
import random
from collections import Counter
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.experiments.interleaving import InterleavingReport, analyse_interleaving
from service.experiments.team_draft import Pick, team_draft

START = datetime(2026, 3, 1, tzinfo=UTC)
ROWS = st.lists(st.integers(0, 30), unique=True, max_size=20)


def test_a_draft_takes_turns_and_no_item_twice() -> None:
    assert team_draft(([1, 2, 3], [2, 4, 5]), 4, lambda: False) == [
        Pick(0, 0),
        Pick(1, 0),
        Pick(0, 2),  # 2 is taken
        Pick(1, 1),
    ]
    assert team_draft(([1, 2], [3]), 9, lambda: True) == [Pick(1, 0), Pick(0, 0), Pick(0, 1)]
    assert team_draft(([], []), 9, lambda: True) == []


@given(ROWS, ROWS, st.integers(0, 40), st.integers(0, 99))
def test_a_draft_is_of_both_lists(one: list[int], two: list[int], length: int, seed: int) -> None:
    flips = random.Random(seed)
    picks = team_draft((one, two), length, lambda: flips.random() < 0.5)
    items = [(one, two)[team][at] for team, at in picks]
    assert len(set(items)) == len(items) == min(length, len({*one, *two}))
    for team in (0, 1):  # each team picks in the order of its list
        positions = [pick.position for pick in picks if pick.team == team]
        assert positions == sorted(positions)


def test_equal_lists_have_equal_chances_at_the_top() -> None:
    flips = random.Random(0)
    first = Counter(
        team_draft(([1, 2], [1, 2]), 2, lambda: flips.random() < 0.5)[0].team for _ in range(4000)
    )
    assert 0.45 < first[0] / 4000 < 0.55


def logs(votes: dict[str, tuple[int, int]]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Exposures and events of users who take these numbers of items of a and of b."""
    exposures, events = [], []
    for user, counts in votes.items():
        teams = {arm: [f"{arm}{item}" for item in range(5)] for arm in "ab"}
        exposures.append((user, f"r-{user}", START, json.dumps(teams)))
        for arm, count in zip("ab", counts, strict=True):
            at = START + timedelta(minutes=1)
            events += [(user, f"r-{user}", f"{arm}{item}", "click", at) for item in range(count)]
    moment = pl.Datetime("us", "UTC")
    return (
        pl.DataFrame(
            exposures,
            {"user_id": pl.String, "request_id": pl.String, "at": moment, "teams": pl.String},
            orient="row",
        ),
        pl.DataFrame(
            events,
            {
                **dict.fromkeys(("user_id", "request_id", "item_id", "type"), pl.String),
                "at": moment,
            },
            orient="row",
        ),
    )


def report(exposures: pl.DataFrame, events: pl.DataFrame) -> InterleavingReport:
    return analyse_interleaving("e", ("a", "b"), exposures, events)


def test_each_user_has_one_vote() -> None:
    votes = {"much": (5, 0), "even": (2, 2), "none": (0, 0)} | {
        f"u{number}": (0, 1) for number in range(20)
    }
    found = report(*logs(votes))
    assert (found.users, found.votes, found.events) == (23, (1, 20), (7, 22))
    assert found.share == pytest.approx(20 / 21)
    assert found.p_value < 0.001
    assert found.verdict.startswith("Users prefer b in click (20 users to 1, p = ")


def test_arms_may_have_the_name_of_any_column() -> None:
    exposures, events = logs({f"u{number}": (0, 1) for number in range(20)})
    named = exposures.with_columns(
        pl.col("teams").str.replace('"a"', '"at"').str.replace('"b"', '"user_id"')
    )
    found = analyse_interleaving("e", ("at", "user_id"), named, events)
    assert (found.votes, found.events) == ((0, 20), (0, 20))


def test_before_the_planned_end_there_is_no_verdict() -> None:
    votes = logs({f"u{number}": (0, 1) for number in range(20)})
    early = analyse_interleaving("e", ("a", "b"), *votes, days=7)
    assert early.verdict.startswith("No verdict: the experiment runs until 2026-03-08 00:00 UTC")


def test_drafts_before_the_start_and_after_the_planned_end_do_not_count() -> None:
    week = timedelta(days=7)
    parts = []
    for number, vote in enumerate([(1, 0), (0, 1), (1, 0)]):  # of the users of three weeks
        users = {f"u{number}-{user}": vote for user in range(20)}
        later = pl.col("at") + number * week
        parts.append([frame.with_columns(at=later) for frame in logs(users)])
    exposures, events = (pl.concat(frames) for frames in zip(*parts, strict=True))
    assert report(exposures, events).votes == (40, 20)
    start = START + week
    found = analyse_interleaving("e", ("a", "b"), exposures, events, days=7, since=start)
    assert (found.votes, found.since, found.until) == ((0, 20), start, start + week)
    assert found.verdict.startswith("Users prefer b")


@pytest.mark.parametrize("event", ["click/exposure", "watch.value", "exposure"])
def test_only_events_can_be_counted(event: str) -> None:
    with pytest.raises(ValueError, match="counts events: name their type"):
        analyse_interleaving("e", ("a", "b"), *logs({"u": (0, 1)}), event)


def test_without_a_draft_there_is_nothing_to_count() -> None:
    exposures, events = logs({"u": (0, 1)})
    with pytest.raises(ValueError, match="no user of e was shown a draft"):
        report(exposures.clear(), events)


def test_even_votes_are_no_preference_and_a_worse_arm_is_not_kept() -> None:
    even = {f"u{number}": ((1, 0) if number % 2 else (0, 1)) for number in range(20)}
    assert "prefer neither b nor a beyond chance" in report(*logs(even)).verdict
    worse = {f"u{number}": (1, 0) for number in range(20)}
    assert report(*logs(worse)).verdict.startswith("Keep a: users prefer it to b")
    nobody = report(*logs({"u": (0, 0)}))
    assert (nobody.share, nobody.p_value) == (None, 1.0)


def test_only_events_on_shown_items_in_time_count_and_each_once() -> None:
    exposures, events = logs({"u": (0, 1)})
    (one,) = events.to_dicts()
    others = [
        one,  # sent again
        one | {"item_id": "elsewhere"},
        one | {"request_id": "other"},
        one | {"at": START + timedelta(days=2), "item_id": "b1"},
        one | {"type": "like", "item_id": "b2"},
    ]
    found = report(exposures, pl.concat([events, pl.DataFrame(others, events.schema)]))
    assert found.events == (0, 1)
    with pytest.raises(ValueError, match="needs the column teams"):
        report(exposures.drop("teams"), events)
