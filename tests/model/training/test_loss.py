import numpy as np
import pytest
import tiny
import torch
from torch import Tensor
from torch.nn import functional as F

from model.network.tokens import Tokens
from model.training import loss
from model.training.batches import TrainingBatch
from model.training.config import LossConfig
from model.training.loss import Targets, batch_loss, bce, objective, sampled_softmax, softmax

CATALOGUE = 300
DRAWS = torch.Generator().manual_seed(0)


@pytest.fixture
def world() -> tuple[Tensor, Tensor, Tensor]:
    """Interests, an item table and targets, some of them the same item."""
    torch.manual_seed(0)
    hidden = torch.randn(70, 16, requires_grad=True)
    table = torch.randn(CATALOGUE, 16, requires_grad=True)
    targets = torch.randint(CATALOGUE, (70,))
    targets[1] = targets[0]
    return hidden, table, targets


def one_each(targets: Tensor) -> Targets:
    return Targets.of(targets[:, None])


def gradients(value: Tensor, hidden: Tensor, table: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(value, (hidden, table))


@pytest.mark.parametrize("rows_at_once", [16, 32, 1000])
def test_softmax_is_cross_entropy_whatever_the_chunks(
    world: tuple[Tensor, Tensor, Tensor], rows_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(loss.CHUNK_BYTES, "cpu", rows_at_once * 4 * CATALOGUE)
    hidden, table, targets = world
    expected = F.cross_entropy(hidden @ table.T, targets)
    found = softmax(hidden, table, one_each(targets))
    torch.testing.assert_close(found, expected)
    wanted = gradients(3 * expected, hidden, table)
    torch.testing.assert_close(gradients(3 * found, hidden, table), wanted)


def test_no_logit_overflows() -> None:
    hidden, table = torch.tensor([[100.0, 0.0]]), torch.tensor([[1e3, 0.0], [-1e3, 0.0]])
    assert softmax(hidden, table, one_each(torch.tensor([0]))) == 0
    assert softmax(hidden, table, one_each(torch.tensor([1]))) == 2e5


def test_sampled_softmax_is_the_formula(world: tuple[Tensor, Tensor, Tensor]) -> None:
    """Negatives repeat, and some are targets: they do not count there."""
    hidden, table, targets = world
    rows = torch.cat([targets[:5], torch.tensor([7, 7, 8, 9])])
    share = torch.rand(CATALOGUE, dtype=torch.double)[rows]
    vectors = table[torch.cat([targets, rows])]
    logits = hidden @ table[rows].T - (len(rows) * share).log().float()
    logits = logits.masked_fill(rows == targets[:, None], -torch.inf)
    right = (hidden * table[targets]).sum(1, keepdim=True)
    expected = F.cross_entropy(torch.cat([right, logits], dim=1), torch.zeros_like(targets))
    found = sampled_softmax(hidden, vectors, one_each(targets), rows, share)
    torch.testing.assert_close(found, expected)
    wanted = gradients(expected, hidden, table)
    torch.testing.assert_close(gradients(found, hidden, table), wanted)


def test_sampled_softmax_tends_to_the_whole_one(world: tuple[Tensor, Tensor, Tensor]) -> None:
    """However skewed the proposal, the correction undoes it."""
    hidden, table, targets = world
    hidden = hidden.detach() * 0.3
    counts = np.arange(CATALOGUE, dtype=np.int64) ** 2
    config = LossConfig(loss="sampled", negatives=400_000, popularity_power=0.5, products="float32")
    loss_of = objective(config, counts, torch.device("cpu"))
    found = loss_of(hidden, lambda rows: table[rows], one_each(targets), DRAWS)
    expected = softmax(hidden, table, one_each(targets))
    torch.testing.assert_close(found, expected, rtol=0.003, atol=0)


def test_bce_never_draws_the_target() -> None:
    """The negative is always the other of two items."""
    hidden, table = torch.tensor([[1.0], [2.0]]), torch.tensor([[0.5], [-1.0]])
    expected = F.softplus(torch.tensor([-0.5, 2.0])) + F.softplus(torch.tensor([-1.0, 1.0]))
    torch.testing.assert_close(
        bce(hidden, table, one_each(torch.tensor([0, 1])), 1), expected.mean()
    )


def test_batch_loss_is_the_mean_over_real_targets() -> None:
    model = tiny.gpt()
    rows = torch.tensor([[1, 2], [3, 0]])
    places, users = torch.tensor([[6, 7], [7, 7]]), torch.tensor([0, 1])
    zeros = torch.zeros_like(rows)
    tokens = Tokens(rows, zeros, places, torch.tensor([2, 1]))
    batch = TrainingBatch(tokens, users, None, torch.tensor([[[2], [0]], [[9], [-1]]]))
    scores = model(tokens, users) @ model.item_vectors().T
    logs = scores.log_softmax(-1)
    expected = -(logs[0, 0, 2] + logs[0, 1, 0] + logs[1, 0, 9]) / 3
    loss_of = objective(LossConfig(products="float32"), np.zeros(40, int), torch.device("cpu"))
    torch.testing.assert_close(batch_loss(model, batch, loss_of, DRAWS), expected)
    nothing = TrainingBatch(tokens, users, None, torch.full((2, 2, 1), -1))
    assert batch_loss(model, nothing, loss_of, DRAWS) == 0


@pytest.fixture
def sets() -> Tensor:
    """One to three targets of each of the interests."""
    generator = torch.Generator().manual_seed(1)
    rows = torch.stack([torch.randperm(CATALOGUE, generator=generator)[:3] for _ in range(70)])
    sizes = torch.randint(1, 4, (70, 1), generator=generator)
    rows = rows.masked_fill(torch.arange(3) >= sizes, -1)
    rows[4] = torch.tensor([-1, 8, 0])  # of a set that named an item twice
    return rows


def test_targets_of_sets() -> None:
    targets = Targets.of(torch.tensor([[4, -1, 2], [0, -1, -1], [1, 2, 3]]))
    assert targets.rows_T.tolist() == [4, 2, 0, 1, 2, 3]
    assert targets.slots_T.tolist() == [0, 0, 1, 2, 2, 2]
    third = pytest.approx(1 / 3)
    assert targets.weights_T.tolist() == [0.5, 0.5, 1, third, third, third]


@pytest.mark.parametrize("rows_at_once", [16, 32, 1000])
def test_softmax_of_sets_is_cross_entropy_with_their_uniform_distribution(
    world: tuple[Tensor, Tensor, Tensor],
    sets: Tensor,
    rows_at_once: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(loss.CHUNK_BYTES, "cpu", rows_at_once * 4 * CATALOGUE)
    hidden, table, _ = world
    distribution = torch.zeros(70, CATALOGUE + 1).scatter(1, sets % (CATALOGUE + 1), 1)
    distribution = distribution[:, :-1] / distribution[:, :-1].sum(1, keepdim=True)
    expected = F.cross_entropy(hidden @ table.T, distribution)
    found = softmax(hidden, table, Targets.of(sets))
    torch.testing.assert_close(found, expected)
    wanted = gradients(expected, hidden, table)
    torch.testing.assert_close(gradients(found, hidden, table), wanted)


def test_sampled_softmax_of_sets_is_the_formula(
    world: tuple[Tensor, Tensor, Tensor], sets: Tensor
) -> None:
    """The other targets of a slot stand in the sum once, whether they were drawn or not."""
    hidden, table, _ = world
    rows = torch.cat([sets[4, 1:], sets[0, :1], torch.tensor([7, 7])])
    share = torch.rand(CATALOGUE, dtype=torch.double)[rows]
    targets = Targets.of(sets)
    logits = hidden @ table[rows].T - (len(rows) * share).log().float()
    logits = logits.masked_fill((rows == sets[..., None]).any(dim=1), -torch.inf)
    right = (hidden[:, None] * table[sets]).sum(2).masked_fill(sets < 0, -torch.inf)
    logs = torch.cat([right, logits], dim=1).log_softmax(1)[:, :3]
    expected = -(logs.masked_fill(sets < 0, 0).sum(1) / (sets >= 0).sum(1)).mean()
    vectors = table[torch.cat([targets.rows_T, rows])]
    found = sampled_softmax(hidden, vectors, targets, rows, share)
    torch.testing.assert_close(found, expected)
    wanted = gradients(expected, hidden, table)
    torch.testing.assert_close(gradients(found, hidden, table), wanted)


def test_bce_of_a_set_is_the_mean_over_it() -> None:
    hidden, table = torch.randn(2, 3), torch.randn(2, 3)
    alone = [bce(hidden[:1], table, one_each(torch.tensor([row])), 1) for row in (0, 1)]
    both = bce(hidden[:1], table, Targets.of(torch.tensor([[0, 1]])), 1)
    torch.testing.assert_close(both, sum(alone) / 2)
