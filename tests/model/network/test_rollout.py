import pytest
import tiny
import torch
from torch import Tensor

from model.network.rollout import quotas, rollout


def test_searches_once_an_interest_and_appends_what_it_returns() -> None:
    model, seen = tiny.gpt(), []
    offers = iter([5, 6, 7])

    def search(interest_BD: Tensor) -> Tensor:
        seen.append(interest_BD)
        return torch.full((len(interest_BD),), next(offers))

    history, lengths, users = torch.tensor([[1, 2]]), torch.tensor([2]), torch.tensor([0])
    interests_BMD = rollout(model, history, lengths, users, 3, search)
    assert interests_BMD.shape == (1, 3, 16)
    assert torch.equal(torch.stack(seen, dim=1), interests_BMD)
    interest, cache = model.prefill(history, lengths, users, steps=2)
    for i, offer in enumerate([5, 6]):
        assert torch.equal(interests_BMD[:, i], interest)
        interest = model.step(torch.tensor([offer]), cache)
    torch.testing.assert_close(interests_BMD[:, 2], interest)
    assert not interests_BMD.requires_grad


@pytest.mark.parametrize("share", [0.05, 0.5, 0.7, 0.9, 1.0])
@pytest.mark.parametrize("interests", [1, 2, 3, 4])
@pytest.mark.parametrize("k", [1, 2, 7, 20, 100, 2000])
def test_quotas_fill_the_list(k: int, interests: int, share: float) -> None:
    shares = list(quotas(k, interests, share))
    assert sum(shares) == k
    assert len(shares) == interests
    assert min(shares) >= 0
    if interests > 1:
        assert abs(shares[0] - k * share) < 1
        assert shares[1:] == sorted(shares[1:], reverse=True)


def test_the_papers_split() -> None:
    assert quotas(20, 2, 0.9) == (18, 2)
