import numpy as np
import pytest
import tiny
import torch
from torch import nn

from model.network.tokens import Tokens
from model.training.batches import TrainingBatch
from model.training.config import LossConfig
from model.training.loss import batch_loss, objective
from model.training.optimizer import Optimizer, RowAdam


def test_rows_move_as_with_adam_and_the_others_not_at_all() -> None:
    torch.manual_seed(0)
    ours, reference = nn.Embedding(20, 4, sparse=True), nn.Embedding(20, 4)
    reference.load_state_dict(ours.state_dict())
    before = ours.weight.detach().clone()
    seen = torch.arange(10)
    both = (
        (ours, RowAdam([ours.weight], lr=0.1)),
        (reference, torch.optim.Adam([reference.weight], lr=0.1)),
    )
    for _ in range(3):
        rows, padding = torch.cat([seen, torch.randint(10, (7,))]), torch.tensor([10])
        weights = torch.randn(len(rows), 4)
        for table, adam in both:
            ((table(rows) * weights).sum() + 0 * table(padding).sum()).backward()
            adam.step()
            adam.zero_grad()
    torch.testing.assert_close(ours.weight[seen], reference.weight[seen])
    assert torch.equal(ours.weight[10:], before[10:])


@pytest.mark.parametrize("by_row", [False, True])
def test_the_user_table_has_its_own_rate_and_decays_towards_the_unknown_user(by_row: bool) -> None:
    """The first step of Adam is as long as the rate, whatever the gradient."""
    model = tiny.gpt()
    model.users.weight.data[0] = 0
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = Optimizer(model, 1.0, by_row=by_row, user_rate=5.0, user_decay=2.0)
    optimizer.set_rate(0.01)
    users = torch.tensor([-1, 0, 1])
    (model.user(users).sum() + model.item_vectors(users + 1).square().sum()).backward()
    optimizer.step()
    moved = {name: p.detach() - before[name] for name, p in model.named_parameters()}
    decay = -0.05 * 2.0 * before["users.weight"][1:3]
    step = (moved["users.weight"][1:3] - decay).abs()
    torch.testing.assert_close(step, torch.full_like(step, 0.05))
    assert not moved["users.weight"][0].any()
    up = moved["user_up.weight"].abs()
    torch.testing.assert_close(up, torch.full_like(up, 0.01))


def test_sampled_loss_has_the_same_gradients_by_row() -> None:
    """The gradients of an item that is in the history, a target and a negative, too."""
    rows, zeros = torch.tensor([[1, 2, 1], [3, 0, 0]]), torch.zeros(2, 3, dtype=torch.long)
    targets = torch.tensor([[2, 5, 3], [9, -1, -1]])
    tokens = Tokens(rows, zeros, torch.tensor([[5, 6, 7], [7, 8, 9]]), torch.tensor([3, 1]))
    batch = TrainingBatch(tokens, zeros[:, 0], None, targets[..., None])
    config = LossConfig(loss="sampled", negatives=6, products="float32")
    gradients = []
    for by_row in (False, True):
        model = tiny.gpt()
        Optimizer(model, 1e-3, by_row=by_row)
        loss_of = objective(config, np.ones(40, dtype=np.int64), torch.device("cpu"))
        loss = batch_loss(model, batch, loss_of, torch.Generator().manual_seed(0))
        loss.backward()  # type: ignore[no-untyped-call]
        gradients.append([p.grad for p in model.parameters()])
        assert model.items.weight.grad is not None
        assert model.items.weight.grad.is_sparse == by_row
    for dense, found in zip(*gradients, strict=True):
        assert dense is not None
        assert found is not None
        torch.testing.assert_close(found.to_dense() if found.is_sparse else found, dense)
