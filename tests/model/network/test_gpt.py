import pytest
import tiny
import torch
from pydantic import ValidationError
from torch import Tensor

from model.network.config import GPTConfig
from model.network.gpt import GPT, Cache, evaluating
from model.network.tokens import HISTORY, OFFER, Tokens, history_tokens


def full(model: GPT, items: list[int], offers: list[int], user: int) -> Tensor:
    """The interest after a history and some offers, by one unpadded forward pass: D."""
    limit = model.config.max_history
    positions = [*range(limit - len(items), limit), *range(limit, limit + len(offers))]
    segments = [HISTORY] * len(items) + [OFFER] * len(offers)
    parts = (torch.tensor([x]) for x in (items + offers, segments, positions))
    tokens = Tokens(*parts, torch.tensor([len(positions)]))
    interest: Tensor = model(tokens, torch.tensor([user]))[0, -1]
    return interest


@pytest.mark.parametrize("layers", [1, 2, 3])
@torch.no_grad()
def test_prefill_and_step_equal_the_full_forward_pass(layers: int) -> None:
    model = tiny.gpt(tiny.CONFIG.model_copy(update={"layers": layers}))
    histories = [[3, 1, 4], [1, 5, 9, 2, 6, 5, 3, 5], [8]]  # of different lengths, one full
    users, offers = [7, -1, 0], [[10, 11], [12, 13], [14, 15]]
    padded = torch.zeros(3, 8, dtype=torch.int64)
    for row, history in zip(padded, histories, strict=True):
        row[: len(history)] = torch.tensor(history)

    interest_BD, cache = model.prefill(padded, torch.tensor([3, 8, 1]), torch.tensor(users))
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
    exact, _ = model.prefill(history, lengths, user)
    padded, _ = model.prefill(longer, lengths, user)
    torch.testing.assert_close(exact, padded)


@torch.no_grad()
def test_the_future_is_not_seen() -> None:
    model = tiny.gpt()
    rows, user = torch.tensor([[1, 2, 3, 4]]), torch.tensor([0])
    before = model(plain(rows), user)
    rows[0, 3] = 30
    after = model(plain(rows), user)
    torch.testing.assert_close(before[:, :3], after[:, :3])
    assert not torch.allclose(before[:, 3], after[:, 3])


def plain(rows_BL: Tensor) -> Tokens:
    """Histories without padding."""
    lengths = torch.full((len(rows_BL),), rows_BL.shape[1])
    return history_tokens(rows_BL, lengths, tiny.CONFIG.max_history)


@torch.no_grad()
def test_chosen_slots_equal_the_same_slots_of_the_whole_pass() -> None:
    model = tiny.gpt()
    rows = torch.randint(0, 40, (3, 6), generator=torch.Generator().manual_seed(1))
    users = torch.tensor([0, 1, 2])
    at_BQ = torch.tensor([[0, 5], [2, 3], [4, 1]])
    everywhere = model(plain(rows), users)
    chosen = model(plain(rows), users, at_BQ)
    expected = everywhere.gather(1, at_BQ[..., None].expand(-1, -1, everywhere.shape[-1]))
    torch.testing.assert_close(chosen, expected)


@torch.no_grad()
def test_tokens_in_two_parts_equal_one_pass() -> None:
    """The cache takes any number of tokens, and knows which of them were padding."""
    model = tiny.gpt()
    rows = torch.randint(0, 40, (2, 7), generator=torch.Generator().manual_seed(1))
    users = torch.tensor([3, -1])
    expected = model(plain(rows), users)[:, 4:]
    cache = Cache.empty(model.config, users)
    first, second = (
        Tokens(*(part[:, where] for part in plain(rows)[:3]), torch.tensor([size, size]))
        for where, size in ((slice(4), 4), (slice(4, 7), 3))
    )
    padded = Tokens(*(torch.nn.functional.pad(part, (0, 2)) for part in first[:3]), first.lengths_B)
    model(padded, users, cache=cache)
    torch.testing.assert_close(model(second, users, cache=cache), expected)


def test_every_embedding_matters() -> None:
    model = tiny.gpt()
    base = Tokens(
        torch.tensor([[1, 2]]), torch.tensor([[0, 0]]), torch.tensor([[6, 7]]), torch.tensor([2])
    )
    user = torch.tensor([3])
    other = {
        "items_BL": torch.tensor([[5, 2]]),
        "segments_BL": torch.tensor([[1, 0]]),
        "positions_BL": torch.tensor([[5, 7]]),
    }
    expected = model(base, user)
    for name, value in other.items():
        assert not torch.allclose(expected, model(base._replace(**{name: value}), user)), name
    assert not torch.allclose(expected, model(base, torch.tensor([4])))


def test_unknown_users_share_a_row_that_does_not_learn() -> None:
    model = tiny.gpt()
    vectors = model.user(torch.tensor([-1, -1, 0]))
    assert torch.equal(vectors[0], vectors[1])
    assert not torch.equal(vectors[0], vectors[2])
    vectors.sum().backward()
    assert model.users.weight.grad is not None
    assert model.users.weight.grad.any(dim=1).nonzero().tolist() == [[1]]


def test_user_dropout_asks_for_unknown_users_and_is_off_in_evaluation() -> None:
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
