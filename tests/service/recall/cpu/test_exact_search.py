"""Search of a small catalogue: the same hits as by sorting all scores, in 8 bits."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from tiny import ragged
from torch import Tensor
from torch.nn import functional as F

from service.recall.candidate_lists import CandidateLists
from service.recall.cpu.exact_search import ExactCatalogue, ExactSearcher
from service.recall.query_batch import QueryBatch, quota_table


def sorted_out(
    vectors_VD: Tensor,
    steps: Sequence[Tensor],
    excluded_B: Sequence[list[int]],
    quotas: Sequence[int],
) -> tuple[list[list[int]], list[list[int]]]:
    """Everyone's candidates, and everyone's next tokens, the slow way."""
    lists, tokens = [], []
    for user, excluded in enumerate(excluded_B):
        given, offered = list[int](), list[int]()
        for interest_BD, quota in zip(steps, quotas, strict=True):
            order = (interest_BD[user] @ vectors_VD.T).argsort(descending=True).tolist()
            open_rows = [row for row in order if row not in excluded]
            offered.append(next(row for row in open_rows if row not in offered))
            given += [row for row in open_rows if row not in given][:quota]
        lists.append(given)
        tokens.append(offered)
    return lists, tokens


@pytest.mark.parametrize("items", [61, 500, 3000])
@pytest.mark.parametrize("quotas", [(9,), (8, 2), (4, 2, 2, 1)])
@pytest.mark.parametrize("kind", ["unit vectors", "unlike lengths, negative scores", "cut off"])
def test_hits_and_tokens_are_those_of_sorting(
    items: int, quotas: tuple[int, ...], kind: str
) -> None:
    rng, users = np.random.default_rng(items), 7
    torch.manual_seed(items)
    vectors_VD = F.normalize(torch.randn(items, 16), dim=1)
    steps = [14 * F.normalize(torch.randn(users, 16), dim=1) for _ in quotas]
    if kind.startswith("unlike"):
        vectors_VD = vectors_VD.abs() * torch.rand(items, 1)
        steps = [-interest_BD.abs() for interest_BD in steps]
    steps[-1] = steps[0] + 0.1 * steps[-1]  # alike: most of its hits are given already
    excluded_B = [rng.choice(items, int(rng.integers(1, 12)), replace=False) for _ in range(users)]
    excluded, k_B = ragged(excluded_B), np.full(users, sum(quotas))
    queries = QueryBatch(
        0 * k_B - 1, excluded, excluded, k_B, quota_table([quotas] * users), 0 * k_B
    )
    lists = CandidateLists(items, *excluded, sum(quotas), len(quotas))
    dense = ExactCatalogue(vectors_VD.numpy())
    if kind == "cut off":  # most of the best have one and the same 8-bit score
        dense.coarse = dense.coarse._replace(shift=0)
    hits = ExactSearcher(dense, lists, queries, np.arange(users))
    found = [hits.search(interest_BD.numpy()).tolist() for interest_BD in steps]
    hits.refill()

    expected, tokens = sorted_out(vectors_VD, steps, [one.tolist() for one in excluded_B], quotas)
    assert [one.rows.tolist() for one in lists.finish()] == expected
    given_tokens = [list(of_user) for of_user in zip(*found, strict=True)]
    last = len(quotas) - 1  # nobody asks for a token after the last search
    assert [of_user[:last] for of_user in given_tokens] == [of_user[:last] for of_user in tokens]
