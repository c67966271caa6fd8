import pytest
import tiny
import torch
from torch import Tensor

from model.network.rollout import best_new, quotas, rollout


def test_searches_once_an_interest_and_appends_the_best_new_item() -> None:
    model, asked = tiny.gpt(), []
    scores = torch.tensor([3.0, 2.0, 1.0])
    rows = iter([[5, 6, 7], [5, 8, 9], [8, 5, 6]])

    def search(interest_BD: Tensor) -> tuple[Tensor, Tensor]:
        asked.append(interest_BD)
        return scores[None], torch.tensor([next(rows)])

    history, lengths, users = torch.tensor([[1, 2]]), torch.tensor([2]), torch.tensor([0])
    found = rollout(model, history, lengths, users, 3, search)
    assert found.interests_BMD.shape == (1, 3, 16)
    assert torch.equal(torch.stack(asked, dim=1), found.interests_BMD)
    assert found.offers_BM.tolist() == [[5, 8, 6]]
    assert found.rows_BMK.tolist() == [[[5, 6, 7], [5, 8, 9], [8, 5, 6]]]
    assert torch.equal(found.scores_BMK, scores.expand(1, 3, 3))
    interest, cache = model.prefill(history, lengths, users)
    for step, offer in enumerate([5, 8]):
        assert torch.equal(found.interests_BMD[:, step], interest)
        interest = model.step(torch.tensor([offer]), cache)
    torch.testing.assert_close(found.interests_BMD[:, 2], interest)
    assert not found.interests_BMD.requires_grad


def test_the_best_new_item() -> None:
    none = -torch.inf
    scores = torch.tensor([[3.0, 2.0, 1.0], [3.0, none, none], [3.0, 2.0, 1.0]])
    rows = torch.tensor([[4, 5, 6], [4, 8, 9], [4, 5, 6]])
    offered = torch.tensor([[4, 5], [4, 7], [6, 7]])
    assert best_new(scores, rows, offered).tolist() == [[6], [4], [4]]
    assert best_new(scores, rows, offered[:, :0]).tolist() == [[4], [4], [4]]


@pytest.mark.parametrize("share", [0.05, 0.5, 0.7, 0.9, 1.0])
@pytest.mark.parametrize("interests", [1, 2, 3, 4])
@pytest.mark.parametrize("k", [1, 2, 7, 20, 100, 2000])
def test_quotas_fill_the_list(k: int, interests: int, share: float) -> None:
    shares = list(quotas(k, interests, share))
    assert sum(shares) == k
    assert len(shares) == interests
    assert min(shares) >= 0
    if interests > 1:
        assert k * share - 1e-6 <= shares[0] < k * share + 1
        assert shares[1:] == sorted(shares[1:], reverse=True)


def test_the_papers_split() -> None:
    assert quotas(20, 2, 0.9) == (18, 2)


def test_a_broken_share_is_rounded_up() -> None:
    assert quotas(7, 2, 0.5) == (4, 3)
    assert quotas(5, 3, 0.1) == (1, 2, 2)
