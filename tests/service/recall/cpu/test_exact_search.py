"""Search of a small catalogue: the same hits as by sorting all scores, in 8 bits."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from tiny import query_batch
from torch import Tensor
from torch.nn import functional as F

from service.recall.candidate_lists import CandidateLists
from service.recall.cpu.exact_search import ExactSearcher
from service.recall.types import StageTimes


def sorted_out(
    vectors_VD: Tensor,
    interests: Sequence[Tensor],
    excluded: Sequence[list[int]],
    quotas: Sequence[int],
) -> tuple[list[list[int]], list[list[int]]]:
    """The candidates and the offers of each query, the slow way."""
    lists, offers = [], []
    for query, closed in enumerate(excluded):
        given, offered = list[int](), list[int]()
        for interest_BD, quota in zip(interests, quotas, strict=True):
            order = (interest_BD[query] @ vectors_VD.T).argsort(descending=True).tolist()
            open_rows = [row for row in order if row not in closed]
            offered.append(next(row for row in open_rows if row not in offered))
            given += [row for row in open_rows if row not in given][:quota]
        lists.append(given)
        offers.append(offered)
    return lists, offers


@pytest.mark.parametrize("items", [61, 500, 3000])
@pytest.mark.parametrize("quotas", [(9,), (8, 2), (4, 2, 2, 1)])
@pytest.mark.parametrize("kind", ["unit vectors", "unlike lengths, negative scores", "cut off"])
def test_hits_and_tokens_are_those_of_sorting(
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
    searcher = ExactSearcher(vectors_VD.numpy())
    if kind == "cut off":  # most of the best have one and the same 8-bit score
        searcher._catalogue = searcher._catalogue._replace(shift=0)
    times = StageTimes("search")
    found = [
        searcher.search(interest_BD.numpy(), step, lists, times).tolist()
        for step, interest_BD in zip(batch.steps(), interests, strict=True)
    ]

    expected, offers = sorted_out(vectors_VD, interests, excluded, quotas)
    assert [one.rows.tolist() for one in lists.candidates(batch)] == expected
    offered = [list(of_query) for of_query in zip(*found, strict=True)]
    last = len(quotas) - 1  # nothing is offered after the last search
    assert [of_query[:last] for of_query in offered] == [of_query[:last] for of_query in offers]
    assert times.seconds["search"] > 0
