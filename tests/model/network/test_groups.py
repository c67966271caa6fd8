"""A network of several groups is as many independent networks whose scores add up."""

import pytest
import tiny
import torch
from pydantic import ValidationError
from torch import Tensor

from model.network.config import GPTConfig
from model.network.gpt import GPT
from model.network.ops import GroupLinear
from model.network.tokens import history_tokens
from model.training.batches import TrainingBatch
from model.training.config import LossConfig
from model.training.loss import batch_loss, objective

ONE = tiny.CONFIG.model_copy(update={"user_rank": 0, "dropout": 0.0, "attention_dropout": 0.0})
TWO = ONE.model_copy(update={"dim": 32, "heads": 4, "feed_forward": 64, "groups": 2})


def part_of(name: str, whole: Tensor, group: int) -> Tensor:
    """Returns the share of one network in a weight of two groups."""
    if name == "log_scale":
        return whole[group]
    if "key_value" in name:
        return whole.unflatten(0, (2, 2, -1))[:, group].flatten(0, 1)
    columns = name.startswith(("items", "segments")) or name.endswith("local_weight")
    return whole.chunk(2, dim=1 if columns else 0)[group]


@pytest.fixture(scope="module")
def networks() -> tuple[GPT, list[GPT]]:
    """A network of two groups, and the two networks with the same weights."""
    both, parts = tiny.gpt(TWO), [tiny.gpt(ONE), tiny.gpt(ONE)]
    for group, part in enumerate(parts):
        weights = both.state_dict().items()
        part.load_state_dict({name: part_of(name, whole, group) for name, whole in weights})
    return both, parts


@pytest.fixture(scope="module")
def batch() -> TrainingBatch:
    history_BL = torch.tensor([[3, 1, 4, 1], [5, 9, 0, 0], [2, 6, 5, 0]])
    lengths_B = torch.tensor([4, 2, 3])
    tokens = history_tokens(history_BL, lengths_B, ONE.max_history)
    targets_BQS = torch.tensor([7, 8, 30])[:, None, None]
    return TrainingBatch(tokens, torch.full((3,), -1), lengths_B[:, None] - 1, targets_BQS)


@torch.no_grad()
def test_scores_are_the_mean_of_the_groups_logits(
    networks: tuple[GPT, list[GPT]], batch: TrainingBatch
) -> None:
    both, parts = networks

    def logits(network: GPT) -> Tensor:
        interests_BQD: Tensor = network(batch.tokens, batch.users_B, batch.at_BQ)
        return interests_BQD @ network.item_vectors().T

    torch.testing.assert_close(logits(both), (logits(parts[0]) + logits(parts[1])) / 2)
    torch.testing.assert_close(both.item_vectors().norm(dim=1), torch.ones(40))


@pytest.mark.parametrize("loss", ["softmax", "sampled", "bce"])
def test_each_group_learns_by_its_own_loss(
    networks: tuple[GPT, list[GPT]], batch: TrainingBatch, loss: str
) -> None:
    both, parts = networks
    objective_of = objective(
        LossConfig(loss=loss, products="float32"),
        torch.ones(40, dtype=torch.int64).numpy(),
        torch.device("cpu"),
    )
    found = {}
    for name, network in (("both", both), ("first", parts[0])):
        network.zero_grad()
        torch.manual_seed(0)
        draws = torch.Generator().manual_seed(0)
        value = batch_loss(network, batch, objective_of, draws)
        value.backward()  # type: ignore[no-untyped-call]
        found[name] = {key: p.grad for key, p in network.named_parameters() if p.grad is not None}
    # The first group draws its negatives first, so they are those of the first network.
    assert found["both"].keys() == found["first"].keys()
    for name, gradient in found["first"].items():
        of_group = part_of(name, found["both"][name], 0)
        torch.testing.assert_close(2 * of_group, gradient, atol=1e-5, rtol=1e-4)


def test_the_dense_weight_maps_alike() -> None:
    torch.manual_seed(0)
    linear = GroupLinear(8, 24, groups=2, parts=3)
    x_ND = torch.randn(5, 8)
    torch.testing.assert_close(linear(x_ND), x_ND @ linear.dense().T + linear.bias)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 18, "heads": 3, "groups": 2}, "groups = 2 does not divide heads = 3"),
        ({"dim": 16, "feed_forward": 33, "groups": 2}, "does not divide feed_forward = 33"),
        ({"groups": 2, "cosine": False}, "groups = 2 need cosine = true"),
        ({"groups": 2, "network": "gru"}, "and the network gpt: say --model.groups 1"),
    ],
)
def test_groups_must_fit(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        GPTConfig.model_validate(options)
