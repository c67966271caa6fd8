import pytest
import tiny
import torch
from pydantic import ValidationError
from torch import Tensor

from model.network.block import history_positions
from model.network.config import GPTConfig
from model.network.gpt import GPT, HISTORY, OFFER, evaluating


def full(model: GPT, items: list[int], offers: list[int], user: int) -> Tensor:
    """The interest after a history and some offers, by one unpadded forward pass: D."""
    limit = model.config.max_history
    positions = [*range(limit - len(items), limit), *range(limit, limit + len(offers))]
    segments = [HISTORY] * len(items) + [OFFER] * len(offers)
    rows, kinds, places = (torch.tensor([x]) for x in (items + offers, segments, positions))
    return model(rows, kinds, places, torch.tensor([user]))[0, -1]


@pytest.mark.parametrize("layers", [1, 2, 3])
@torch.no_grad()
def test_prefill_and_step_equal_the_full_forward_pass(layers: int) -> None:
    model = tiny.gpt(tiny.CONFIG.model_copy(update={"layers": layers}))
    histories = [[3, 1, 4], [1, 5, 9, 2, 6, 5, 3, 5], [8]]  # of different lengths, one full
    users, offers = [7, -1, 0], [[10, 11], [12, 13], [14, 15]]
    padded = torch.zeros(3, 8, dtype=torch.int64)
    for row, history in zip(padded, histories, strict=True):
        row[: len(history)] = torch.tensor(history)

    interest_BD, cache = model.prefill(
        padded, torch.tensor([3, 8, 1]), torch.tensor(users), steps=2
    )
    for taken in range(3):
        expected = [
            full(model, history, offer[:taken], user)
            for history, offer, user in zip(histories, offers, users, strict=True)
        ]
        torch.testing.assert_close(interest_BD, torch.stack(expected), atol=1e-5, rtol=1e-4)
        if taken < 2:
            interest_BD = model.step(torch.tensor([offer[taken] for offer in offers]), cache)


@torch.no_grad()
def test_padding_changes_nothing() -> None:
    model = tiny.gpt()
    history, lengths, user = torch.tensor([[1, 2, 3]]), torch.tensor([3]), torch.tensor([4])
    longer = torch.tensor([[1, 2, 3, 39, 38]])
    exact, _ = model.prefill(history, lengths, user, steps=0)
    padded, _ = model.prefill(longer, lengths, user, steps=0)
    torch.testing.assert_close(exact, padded)


@torch.no_grad()
def test_the_future_is_not_seen() -> None:
    model = tiny.gpt()
    rows = torch.tensor([[1, 2, 3, 4]])
    places = history_positions(torch.tensor([4]), 4, model.config.max_history)
    before = model(rows, torch.zeros_like(rows), places, torch.tensor([0]))
    rows[0, 3] = 30
    after = model(rows, torch.zeros_like(rows), places, torch.tensor([0]))
    torch.testing.assert_close(before[:, :3], after[:, :3])
    assert not torch.allclose(before[:, 3], after[:, 3])


@torch.no_grad()
def test_chosen_slots_equal_the_same_slots_of_the_whole_pass() -> None:
    model = tiny.gpt()
    rows = torch.randint(0, 40, (3, 6), generator=torch.Generator().manual_seed(1))
    places = history_positions(torch.tensor([6, 6, 6]), 6, model.config.max_history)
    users = torch.tensor([0, 1, 2])
    at_BQ = torch.tensor([[0, 5], [2, 3], [4, 1]])
    everywhere = model(rows, torch.zeros_like(rows), places, users)
    chosen = model(rows, torch.zeros_like(rows), places, users, at_BQ)
    expected = everywhere.gather(1, at_BQ[..., None].expand(-1, -1, everywhere.shape[-1]))
    torch.testing.assert_close(chosen, expected)


def test_every_embedding_matters() -> None:
    model = tiny.gpt()
    args = {
        "items": torch.tensor([[1, 2]]),
        "segments": torch.tensor([[0, 0]]),
        "positions": torch.tensor([[6, 7]]),
        "users": torch.tensor([3]),
    }
    base = model(*args.values())
    other = {
        "items": torch.tensor([[5, 2]]),
        "segments": torch.tensor([[1, 0]]),
        "positions": torch.tensor([[5, 7]]),
        "users": torch.tensor([4]),
    }
    for name, value in other.items():
        assert not torch.allclose(base, model(*(args | {name: value}).values())), name


def test_unknown_users_share_a_learned_default() -> None:
    model = tiny.gpt()
    vectors = model.user(torch.tensor([-1, -1, 0]))
    assert torch.equal(vectors[0], vectors[1])
    assert not torch.equal(vectors[0], vectors[2])
    vectors[0].sum().backward()
    assert model.users.weight.grad is not None
    assert model.users.weight.grad[0].abs().sum() > 0


def test_user_dropout_trains_the_default_and_is_off_in_evaluation() -> None:
    model = tiny.gpt(tiny.CONFIG.model_copy(update={"user_dropout": 0.5}))
    users = torch.arange(60)
    default = model.user(torch.tensor([-1]))
    assert not torch.isclose(model.user(users), default).all(dim=1).any()
    dropped = torch.isclose(model.train().user(users), default).all(dim=1)
    assert 5 < dropped.sum() < 55


def test_rank_zero_has_no_user_module() -> None:
    model = tiny.gpt(tiny.CONFIG.model_copy(update={"user_rank": 0}))
    assert not any("user" in name for name in model.state_dict())
    assert model.user(torch.tensor([3])).abs().sum() == 0


def test_a_new_user_module_starts_neutral() -> None:
    fresh = GPT(tiny.CONFIG, 40, 60)
    assert fresh.user(torch.tensor([3])).abs().sum() == 0


def test_evaluating_restores_the_mode() -> None:
    model = tiny.gpt().train()
    with evaluating(model):
        assert not model.training
    assert model.training


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValidationError, match="heads = 3 does not divide dim = 16"):
        GPTConfig(dim=16, heads=3)
