"""Varied recalls against the oracle: rank everything exactly, then apply the rules greedily."""

import math
from collections import Counter
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
from model.evaluation.reference import pad
from model.network.gpt import GPT
from model.network.rollout import quotas, rollout
from model.network.top_items import best_rows
from service.offline import export_bundle
from service.recall.candidate_lists import POPULAR
from service.recall.filters.form import canonical_form
from service.recall.gpu.backend import GpuBackend
from service.recall.recaller import Recaller
from service.recall.types import Candidates, Query
from service.recall.variety.chooser import POOL
from service.recall.variety.form import Cap, Variety, packed

ITEMS = 40
BRANDS = ["x" if row % 3 else ["y", "z", None][row % 5 % 3] for row in range(ITEMS)]
TAGS = [["t0", "t1", "t2", "t3"][row % 4 : row % 4 + row % 3] for row in range(ITEMS)]
FLAGS = [[True, False, None][row * 7 % 3] for row in range(ITEMS)]
COLUMNS = {
    "brand": [() if brand is None else (brand,) for brand in BRANDS],
    "tags": [tuple(tags) for tags in TAGS],
    "flag": [() if flag is None else (flag,) for flag in FLAGS],
}


@pytest.fixture(scope="module")
def varied(dataset: Dataset) -> Dataset:
    columns = [
        pl.Series("number", range(ITEMS)),
        pl.Series("brand", BRANDS),
        pl.Series("tags", TAGS, pl.List(pl.String)),
        pl.Series("flag", FLAGS),
    ]
    return replace(dataset, items=dataset.items.with_columns(*columns))


@pytest.fixture(scope="module", params=["exact", "ivf", "gpu"])
def recaller(
    varied: Dataset,
    model: GPT,
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> Recaller:
    artifacts = tmp_path_factory.mktemp(request.param)
    if request.param == "gpu":  # its code on CPU tensors
        artifact = load_artifact(export_bundle(artifacts, varied, model, tiny.RECALL, {}))
        return Recaller(artifact, GpuBackend(artifact, torch.device("cpu")))
    export_bundle(artifacts, varied, model, tiny.RECALL, {}, request.param)
    return Recaller.load(artifacts, "cpu")


def between(low: int, high: int) -> bytes:
    """The filter of the items from number `low` to before `high`."""
    return canonical_form({"all": [{"field": "number", "gte": float(low), "lt": float(high)}]})


class Oracle:
    """One list, chosen from rankings of all items that may be listed."""

    def __init__(self, variety: Variety, fresh: set[int], vectors_VD: np.ndarray) -> None:
        self.variety, self.fresh, self.vectors_VD = variety, fresh, vectors_VD
        self.scores: list[float] = []
        self.rows: list[int] = []
        self.interests: list[int] = []

    def admits(self, row: int, max_others: int) -> bool:
        for field, per_value in self.variety.caps:
            counts = Counter(value for listed in self.rows for value in COLUMNS[field][listed])
            if any(counts[value] >= per_value for value in COLUMNS[field][row]):
                return False
        others = sum(listed not in self.fresh for listed in self.rows)
        return row in self.fresh or others < max_others

    def extend(
        self, ranking: list[tuple[float, int]], quota: int, interest: int, diversity: float
    ) -> None:
        start, reach = len(self.rows), len(self.rows) + quota
        max_others = reach
        if self.variety.fresh:
            max_others -= math.ceil(self.variety.fresh_share * reach - 1e-9)
        pool: list[tuple[float, int]] = []
        while len(self.rows) < reach:
            pool = [one for one in pool if self.admits(one[1], max_others)]
            if not pool:
                pool = [
                    one
                    for one in ranking
                    if one[1] not in self.rows and self.admits(one[1], max_others)
                ][: POOL * (reach - len(self.rows)) if diversity else None]
                values = self.relevance(pool)
            if not pool:
                if max_others == reach:
                    break
                max_others = reach
                continue
            if diversity:
                pool.sort(key=lambda one: -self.marginal(one[1], values[one[1]], diversity))
            score, row = pool.pop(0)
            self.scores.append(score)
            self.rows.append(row)
            self.interests.append(interest)
        if not diversity:
            order = sorted(range(start, len(self.rows)), key=lambda at: -self.scores[at])
            self.scores[start:] = [self.scores[at] for at in order]
            self.rows[start:] = [self.rows[at] for at in order]

    @staticmethod
    def relevance(pool: list[tuple[float, int]]) -> dict[int, float]:
        scores = [score for score, _ in pool] or [0.0]
        spread = max(max(scores) - min(scores), 1e-9)
        return {row: (score - min(scores)) / spread for score, row in pool}

    def marginal(self, row: int, relevance: float, diversity: float) -> float:
        units_VD = self.vectors_VD / np.linalg.norm(self.vectors_VD, axis=1, keepdims=True)
        nearest = max((float(units_VD[row] @ units_VD[one]) for one in self.rows), default=-1.0)
        return (1 - diversity) * relevance - diversity * nearest


def oracle(
    recaller: Recaller,
    dataset: Dataset,
    model: GPT,
    query: Query,
    allowed: set[int],
    variety: Variety,
    fresh: set[int],
) -> Oracle:
    item_rows = {item: row for row, item in enumerate(dataset.item_ids)}
    history = [item_rows[item] for item in query.history]  # type: ignore[index]
    excluded = {*history, *(item_rows[item] for item in query.exclude)}  # type: ignore[index]
    possible = [row for row in range(ITEMS) if row in allowed and row not in excluded]
    vectors_VD = model.item_vectors().detach()
    found = Oracle(variety, fresh, vectors_VD.numpy())
    interests = min(query.interests or tiny.RECALL.interests, model.config.max_interests)
    if history:
        gone_1N = torch.tensor([[row for row in range(ITEMS) if row not in possible]])
        history_1L, length_1 = pad([np.array(history)], model.config.max_history)
        steps = rollout(
            model,
            torch.from_numpy(history_1L),
            torch.from_numpy(length_1),
            torch.tensor([dataset.user_ids.index(query.user_id)]),
            interests,
            lambda interest_1D: best_rows(interest_1D, vectors_VD, gone_1N, ITEMS),
        )
        for interest, quota in enumerate(quotas(query.k, interests, tiny.RECALL.first_share)):
            scores_F, rows_F = steps.scores_BMK[0, interest], steps.rows_BMK[0, interest]
            ranking = list(zip(scores_F.tolist(), rows_F.tolist(), strict=True))
            possible_ranking = [one for one in ranking if one[1] in possible]
            found.extend(possible_ranking, quota, interest, variety.diversity)
    by_popularity = one(recaller, Query("nobody", [], k=ITEMS)).rows.tolist()
    popular = [(0.0, row) for row in by_popularity if row in possible]
    found.extend(popular, query.k - len(found.rows), POPULAR, 0.0)
    return found


def one(recaller: Recaller, query: Query) -> Candidates:
    answers, _ = recaller.recall([query])
    return answers[0]


def history_of(dataset: Dataset, user: int, length: int = 1000) -> list[str]:
    return [dataset.item_ids[row] for row in dataset.history(user)[:length]]


CAPS = st.lists(
    st.builds(Cap, st.sampled_from(["brand", "tags", "flag"]), st.integers(1, 4)),
    max_size=3,
    unique_by=lambda cap: cap.field,
).map(tuple)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_answers_are_those_of_the_oracle(
    recaller: Recaller, varied: Dataset, model: GPT, data: st.DataObject
) -> None:
    """In one batch with plain queries, whose answers stay as they are."""
    queries, found = [], []
    for _ in range(data.draw(st.integers(1, 4))):
        low = data.draw(st.sampled_from([0, 0, 10]))
        new = data.draw(st.sampled_from([None, 20, 30, 39]))
        variety = Variety(
            data.draw(CAPS),
            data.draw(st.sampled_from([0.0, 0.0, 0.3, 0.9])),
            None if new is None else between(new, ITEMS),
            0.0 if new is None else data.draw(st.sampled_from([0.1, 0.5, 1.0])),
        )
        user = data.draw(st.integers(0, varied.users - 1))
        query = Query(
            f"u{user}",
            history_of(varied, user, data.draw(st.sampled_from([0, 2, 1000]))),
            exclude=data.draw(st.lists(st.sampled_from(varied.item_ids), max_size=3)),
            k=data.draw(st.sampled_from([1, 5, 12, 60])),
            interests=data.draw(st.sampled_from([None, 1, 4])),
            filter=between(low, ITEMS) if low else None,
            variety=packed(variety),
        )
        queries.append(query)
        fresh = set(range(ITEMS if new is None else new, ITEMS))
        allowed = set(range(low, ITEMS))
        found.append(oracle(recaller, varied, model, query, allowed, variety, fresh))
    plain = [replace(query, variety=None) for query in queries]
    answers, _ = recaller.recall([*queries, *plain])
    expected, _ = recaller.recall(plain)
    for query, answer, one_found in zip(queries, answers, found, strict=False):
        assert answer.rows.tolist() == one_found.rows
        assert answer.interests.tolist() == one_found.interests
        assert answer.scores == pytest.approx(one_found.scores, abs=1e-4)
        assert answer.variety
        assert answer.variety.exhausted == (len(one_found.rows) < query.k)
        assert answer.variety.score == pytest.approx(sum(one_found.scores), abs=1e-3)
    for answer, without, varied_answer in zip(
        answers[len(queries) :], expected, answers, strict=False
    ):
        assert answer.rows.tolist() == without.rows.tolist()
        assert answer.variety is None
        assert varied_answer.variety
        plain_score = float(without.scores.sum())
        assert varied_answer.variety.plain_score == pytest.approx(plain_score, abs=1e-3)


def capped(k: int, *caps: Cap) -> Query:
    return Query("nobody", [], k=k, variety=packed(Variety(caps)))


def test_exactly_k_whenever_k_items_obey_a_cap(recaller: Recaller, varied: Dataset) -> None:
    """However many of the best items the cap rejects: 26 of the 40 have the brand x."""
    without = BRANDS.count(None)
    others = min(BRANDS.count("y"), 2) + min(BRANDS.count("z"), 2)
    for user in (0, 5):
        query = Query(f"u{user}", history_of(varied, user, 1), k=without + 2 + others)
        history = {varied.item_ids.index(item) for item in query.history}  # type: ignore[arg-type]
        lost = sum(BRANDS[row] is None for row in history)
        rules = packed(Variety((Cap("brand", 2),)))
        answer = one(recaller, replace(query, variety=rules))
        assert len(answer.rows) == query.k - lost
        assert answer.variety
        assert answer.variety.exhausted == (lost > 0)
        fewer = one(recaller, replace(query, k=query.k - lost, variety=rules))
        assert fewer.variety
        assert not fewer.variety.exhausted


def test_hidden_items_are_in_no_varied_answer(recaller: Recaller, varied: Dataset) -> None:
    variety = packed(Variety((Cap("brand", 3),), 0.5))
    query = Query("u1", history_of(varied, 1), k=12, variety=variety)
    before = recaller.ids_of(one(recaller, query))
    recaller.update_items(before[:4], {})
    try:
        for asked in (query, capped(12, Cap("brand", 3))):
            answer = one(recaller, asked)
            assert not set(recaller.ids_of(answer)) & set(before[:4])
    finally:
        recaller.update_items([], {})
    assert recaller.ids_of(one(recaller, query)) == before


def test_caps_read_changed_attributes(recaller: Recaller, varied: Dataset) -> None:
    cold = recaller.ids_of(one(recaller, capped(4, Cap("brand", 4))))
    try:
        recaller.update_items(None, {item: {"brand": "w"} for item in cold})
        found = recaller.ids_of(one(recaller, capped(4, Cap("brand", 1))))
        assert cold[0] in found
        assert not set(cold[1:]) & set(found)
    finally:
        rows = [varied.item_ids.index(item) for item in cold]
        old = {item: {"brand": BRANDS[row]} for item, row in zip(cold, rows, strict=True)}
        recaller.update_items(None, old)


def test_a_cap_of_another_bundle_holds_nothing_back(recaller: Recaller) -> None:
    """A front end may know the attributes of the bundle before a change of bundles."""
    assert len(one(recaller, capped(5, Cap("unheard-of", 1))).rows) == 5
