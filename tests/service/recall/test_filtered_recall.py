"""Filtered recalls against the oracle: the answer of a query that excludes all other items."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.artifact.bundle import load_artifact
from model.data.dataset import Dataset
from model.network.gpt import GPT
from service.offline import export_bundle
from service.recall.candidate_lists import POPULAR
from service.recall.filters.form import canonical_form
from service.recall.gpu.backend import GpuBackend
from service.recall.recaller import Recaller
from service.recall.types import Candidates, FilterResult, Query

ITEMS = 40


@pytest.fixture(scope="module")
def filterable(dataset: Dataset) -> Dataset:
    """Items with their number, and a letter of which there are five."""
    numbers = pl.Series("number", range(ITEMS))
    letters = pl.Series("letter", ["abcde"[row % 5] for row in range(ITEMS)])
    return replace(dataset, items=dataset.items.with_columns(numbers, letters))


@pytest.fixture(scope="module", params=["exact", "gathered", "ivf", "gpu"])
def recaller(
    filterable: Dataset,
    model: GPT,
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> Recaller:
    artifacts = tmp_path_factory.mktemp(request.param)
    if request.param == "gpu":  # its code on CPU tensors
        artifact = load_artifact(export_bundle(artifacts, filterable, model, tiny.RECALL, {}))
        return Recaller(artifact, GpuBackend(artifact, torch.device("cpu")))
    kind = "ivf" if request.param == "ivf" else "exact"
    export_bundle(artifacts, filterable, model, tiny.RECALL, {}, kind)
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "gathered":  # filters of an exact index, which would be masks
            patch.setattr("index.search.SHARE_OF_SMALL", 0.6)
        return Recaller.load(artifacts, "cpu")


def between(low: int, high: int) -> bytes:
    """The filter of the items from number `low` to before `high`."""
    return canonical_form({"all": [{"field": "number", "gte": float(low), "lt": float(high)}]})


def letters(of: str) -> bytes:
    return canonical_form({"all": [{"field": "letter", "in": list(of)}]})


def history_of(dataset: Dataset, user: int, length: int = 1000) -> list[str]:
    return [dataset.item_ids[row] for row in dataset.history(user)[:length]]


def one(recaller: Recaller, query: Query) -> Candidates:
    answers, _ = recaller.recall([query])
    return answers[0]


def oracle(recaller: Recaller, query: Query, allowed: list[int]) -> Candidates:
    """The answer to the query if all other items are excluded."""
    item_ids = recaller.item_ids
    others = [item_ids[row] for row in range(ITEMS) if row not in allowed]
    excluded = [*query.exclude, *others]  # type: ignore[misc]
    return one(recaller, replace(query, exclude=excluded, filter=None))


def assert_equal(found: Candidates, expected: Candidates) -> None:
    assert found.rows.tolist() == expected.rows.tolist()
    assert found.interests.tolist() == expected.interests.tolist()
    assert found.scores == pytest.approx(expected.scores, abs=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_answers_are_those_of_the_oracle(
    recaller: Recaller, filterable: Dataset, data: st.DataObject
) -> None:
    """In one batch: queries with unlike filters, with an equal one, without, and cold ones."""
    low, high = sorted(data.draw(st.tuples(st.integers(0, ITEMS), st.integers(0, ITEMS))))
    some = "".join(sorted(data.draw(st.sets(st.sampled_from("abcdez"), min_size=1))))
    filters = {
        between(low, high): list(range(low, high)),
        letters(some): [row for row in range(ITEMS) if "abcde"[row % 5] in some],
        None: list(range(ITEMS)),
    }
    users = st.integers(0, filterable.users - 1)
    queries = [
        Query(
            f"u{(user := data.draw(users))}",
            history_of(filterable, user, data.draw(st.sampled_from([0, 2, 1000]))),
            exclude=data.draw(st.lists(st.sampled_from(filterable.item_ids), max_size=4)),
            k=data.draw(st.sampled_from([1, 5, 12, 60])),
            interests=data.draw(st.sampled_from([None, 1, 4])),
            filter=data.draw(st.sampled_from(list(filters))),
        )
        for _ in range(data.draw(st.integers(1, 6)))
    ]
    answers, _ = recaller.recall(queries)
    for query, answer in zip(queries, answers, strict=True):
        allowed = filters[query.filter]
        assert_equal(answer, oracle(recaller, query, allowed))
        gone = set(query.history) | set(query.exclude)
        left = [row for row in allowed if filterable.item_ids[row] not in gone]
        assert len(answer.rows) == min(query.k, len(left))
        if query.filter is None:
            assert answer.filter is None
        else:
            assert answer.filter
            assert answer.filter.matched == len(allowed)
            assert answer.filter.exhausted == (query.k > len(left))


def test_unknown_values_match_nothing_and_are_counted(
    recaller: Recaller, filterable: Dataset
) -> None:
    answer = one(recaller, Query("u0", history_of(filterable, 0), k=5, filter=letters("xyz")))
    assert answer.rows.tolist() == []
    assert answer.filter == FilterResult(matched=0, exhausted=True, unknown_values=3)
    assert not answer.cold


def test_popular_items_of_the_filter_complete_a_list(
    recaller: Recaller, filterable: Dataset
) -> None:
    everything = one(recaller, Query("nobody", [], k=ITEMS)).rows.tolist()
    answer = one(recaller, Query("nobody", [], k=3, filter=between(10, 30)))
    assert answer.cold
    assert set(answer.interests) == {POPULAR}
    assert answer.rows.tolist() == [row for row in everything if 10 <= row < 30][:3]


def test_items_that_are_popular_now_come_first(recaller: Recaller, filterable: Dataset) -> None:
    """Within a filter those of the filter, hidden ones left out, then all others as before."""
    queries = [Query("nobody", [], k=ITEMS), Query("nobody", [], k=5, filter=between(10, 30))]
    everything, some = [answer.rows.tolist() for answer in recaller.recall(queries)[0]]
    ids = filterable.item_ids
    recaller.update_items(None, {}, [ids[3], ids[25], "unheard-of", ids[12], ids[17]])
    try:
        now, some_now = [answer.rows.tolist() for answer in recaller.recall(queries)[0]]
        first = [3, 25, 12, 17]
        assert now == first + [row for row in everything if row not in first]
        assert some_now == [25, 12, 17, *[row for row in some if row not in first]][:5]
        recaller.update_items([ids[25]], {})
        now, some_now = [answer.rows.tolist() for answer in recaller.recall(queries)[0]]
        assert (now[:3], some_now[:2]) == ([3, 12, 17], [12, 17])
        recaller.update_items([], {}, [ids[12]])
        assert one(recaller, queries[1]).rows.tolist()[0] == 12
    finally:
        recaller.update_items([], {}, [])
    assert one(recaller, queries[0]).rows.tolist() == everything


def test_a_large_batch_of_unlike_filters(recaller: Recaller, filterable: Dataset) -> None:
    queries = [
        Query("u0", history_of(filterable, number), k=4, filter=between(number % 30, ITEMS))
        for number in range(filterable.users)
    ]
    for query, answer in zip(queries, recaller.recall(queries)[0], strict=True):
        assert_equal(answer, one(recaller, query))
        assert np.min(answer.rows) >= 0


def test_a_filter_of_another_bundle_matches_nothing(
    recaller: Recaller, filterable: Dataset
) -> None:
    """A front end may know the attributes of the bundle before a change of bundles."""
    form = canonical_form({"all": [{"field": "unheard-of", "in": ["x"]}]})
    answer = one(recaller, Query("u0", history_of(filterable, 0), k=5, filter=form))
    assert answer.filter == FilterResult(matched=0, exhausted=True, unknown_values=0)


def test_hidden_items_are_in_no_answer(recaller: Recaller, filterable: Dataset) -> None:
    """Neither as hits nor as popular items, with and without a filter: as if all excluded them."""
    queries = [
        *(Query(f"u{user}", history_of(filterable, user), k=20) for user in range(3)),
        Query("u3", history_of(filterable, 3), k=20, filter=between(0, 35)),
        Query("u4", history_of(filterable, 4), k=3, filter=between(5, 9)),
        Query("nobody", [], k=20),
        Query("nobody", [], k=20, filter=letters("ab")),
    ]
    before = [recaller.ids_of(answer) for answer in recaller.recall(queries)[0]]
    hidden = sorted({item for found in before for item in found[:4]})
    excluding = [replace(query, exclude=hidden) for query in queries]
    expected, _ = recaller.recall(excluding)
    recaller.update_items([*hidden, "unheard-of", *hidden[:2]], {})
    try:
        answers, _ = recaller.recall(queries)
        for answer, other in zip(answers, expected, strict=True):
            assert_equal(answer, other)
            assert not set(recaller.ids_of(answer)) & set(hidden)
        assert answers[0].filter is None
        assert answers[4].filter
        rows = {filterable.item_ids.index(item) for item in hidden}
        assert answers[4].filter.matched == len(set(range(5, 9)) - rows)
        recaller.update_items(None, {})  # as before
        assert_equal(recaller.recall(queries)[0][0], expected[0])
    finally:
        recaller.update_items([], {})
    assert [recaller.ids_of(answer) for answer in recaller.recall(queries)[0]] == before


def test_changed_attributes_count_from_the_next_answer_on(
    recaller: Recaller, filterable: Dataset
) -> None:
    item = filterable.item_ids[7]
    query = Query("nobody", [], k=5, filter=letters("z"))
    assert recaller.ids_of(one(recaller, query)) == []
    change = {"letter": "z", "title": "no attribute"}
    recaller.update_items(None, {item: change, "unheard-of": change})
    try:
        assert recaller.ids_of(one(recaller, query)) == [item]
        assert one(recaller, query).filter == FilterResult(1, True, 0)
    finally:
        recaller.update_items(None, {item: {"letter": "c"}})
    assert recaller.ids_of(one(recaller, query)) == []
    assert recaller.kinds == {"number": "number", "letter": "category"}
