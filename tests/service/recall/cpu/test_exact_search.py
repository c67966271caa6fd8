"""Exact search in 8 bits against the reference in torch: the same candidates, the same offers."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import query_batch
from torch import Tensor
from torch.nn import functional as F

from index.exact import ExactIndex
from index.kernels.masks import NO_MASKS, Masks, pack
from model.evaluation.reference import at_positions, merge_by_quotas
from model.network.rollout import best_new
from model.network.top_items import best_rows
from service.recall.candidate_lists import CandidateLists
from service.recall.cpu.exact_search import ExactSearcher
from service.recall.types import StageTimes


def reference(
    vectors_VD: Tensor,
    interests: Sequence[Tensor],
    excluded: Sequence[Sequence[int]],
    quotas: Sequence[int],
) -> tuple[list[list[int]], list[list[int]]]:
    """The candidates and the offers of each query, by the rules of training and evaluation."""
    longest = max(map(len, excluded))
    excluded_BS = torch.tensor([[*rows, *rows[:1] * (longest - len(rows))] for rows in excluded])
    depth = min(sum(quotas) + len(quotas), len(vectors_VD))
    offers_BM = torch.zeros(len(excluded), 0, dtype=torch.int64)
    found = []
    for interest_BD in interests:
        scores_BK, rows_BK = best_rows(interest_BD, vectors_VD, excluded_BS, depth)
        offers_BM = torch.cat([offers_BM, best_new(scores_BK, rows_BK, offers_BM)], dim=1)
        found.append(rows_BK.masked_fill(scores_BK == -torch.inf, -1))
    rows_BMK = torch.stack(found, dim=1).numpy()
    lists_BK = at_positions(rows_BMK, merge_by_quotas(rows_BMK, quotas), -1)
    return [[row for row in rows if row >= 0] for rows in lists_BK.tolist()], offers_BM.tolist()


@pytest.mark.parametrize("items", [61, 500, 3000])
@pytest.mark.parametrize("quotas", [(9,), (8, 2), (4, 2, 2, 1), (1, 0, 0, 2)])
@pytest.mark.parametrize("kind", ["unit vectors", "unlike lengths, negative scores", "cut off"])
def test_candidates_and_offers_are_those_of_the_reference(
    items: int, quotas: tuple[int, ...], kind: str
) -> None:
    rng, users = np.random.default_rng(items), 7
    torch.manual_seed(items)
    vectors_VD = F.normalize(torch.randn(items, 16), dim=1)
    interests = [14 * F.normalize(torch.randn(users, 16), dim=1) for _ in quotas]
    if kind.startswith("unlike"):
        vectors_VD = vectors_VD.abs() * torch.rand(items, 1)
        interests = [-interest_BD.abs() for interest_BD in interests]
    interests[-1] = interests[0] + 0.1 * interests[-1]  # alike: most of its hits are given already
    excluded = [
        rng.choice(items, int(rng.integers(1, 12)), replace=False).tolist() for _ in range(users)
    ]
    batch = query_batch(excluded, [quotas] * users)
    lists = CandidateLists.empty(batch, items, len(quotas))
    searcher = ExactSearcher(ExactIndex(vectors_VD.numpy()))
    if kind == "cut off":  # most of the best have one and the same 8-bit score
        searcher._catalogue = searcher._catalogue._replace(shift=0)
    times = StageTimes("search")
    found = [
        searcher.search(interest_BD.numpy(), step, lists, times).tolist()
        for step, interest_BD in zip(batch.steps(), interests, strict=True)
    ]

    expected, offers = reference(vectors_VD, interests, excluded, quotas)
    assert [one.rows.tolist() for one in lists.candidates(batch)] == expected
    offered = [list(of_query) for of_query in zip(*found, strict=True)]
    last = len(quotas) - 1  # nothing is offered after the last search
    assert [of_query[:last] for of_query in offered] == [of_query[:last] for of_query in offers]
    assert times.seconds["search"] > 0


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_mask_is_as_good_as_excluding_all_other_items(data: st.DataObject) -> None:
    """Queries of a batch share masks, have their own, or none; the offers are allowed, too."""
    items, users, quotas = 300, 5, (4, 2, 1)
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    vectors_VD = rng.standard_normal((items, 16), dtype=np.float32)
    interests = [rng.standard_normal((users, 16), dtype=np.float32) for _ in quotas]
    several_FV = rng.random((2, items)) < data.draw(st.sampled_from([0.0, 0.01, 0.1, 0.6, 1.0]))
    of_query = data.draw(st.lists(st.sampled_from([0, 1, None]), min_size=users, max_size=users))
    own = [rng.choice(items, 8, replace=False).tolist() for _ in range(users)]
    index = ExactIndex(vectors_VD)
    words = [pack(allowed_V) for allowed_V in several_FV]
    masks = Masks.of([None if one is None else words[one] for one in of_query])
    closed = [
        rows if one is None else sorted({*rows, *np.flatnonzero(~several_FV[one]).tolist()})
        for rows, one in zip(own, of_query, strict=True)
    ]
    found, expected = (
        searched(index, interests, excluded, quotas, masks_B)
        for excluded, masks_B in ((own, masks), (closed, NO_MASKS))
    )
    assert found == expected


def searched(
    index: ExactIndex,
    interests: Sequence[np.ndarray],
    excluded: Sequence[Sequence[int]],
    quotas: tuple[int, ...],
    masks_B: Masks,
) -> tuple[list[list[int]], list[list[int]]]:
    """The candidates of each query, and the offers of each step."""
    batch = query_batch(excluded, [quotas] * len(excluded))
    lists = CandidateLists.empty(batch, len(index.catalogue.vectors_VD), len(quotas))
    searcher, times = ExactSearcher(index), StageTimes("search")
    offers = [
        searcher.search(interest_BD, step, lists, times, masks_B).tolist()
        for step, interest_BD in zip(batch.steps(), interests, strict=True)
    ]
    return [one.rows.tolist() for one in lists.candidates(batch)], offers
