from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model.evaluation.reference import DenseRecall
from model.network.gpt import GPT
from model.network.tokens import HISTORY, OFFER, Tokens, history_tokens
from model.training.batches import SampleBatch
from model.training.cross_fit import CrossFitted
from model.training.prompts import append, assign, generate, generate_everywhere, interleaved, tail
from model.training.run import ONE_INTEREST
from model.training.stages import own_offers

HISTORIES = [[3, 1, 4, 1, 5], [9, 2, 6], [8]]
TARGETS = [10, 11, 12]
USERS = [0, -1, 2]


@pytest.fixture
def samples() -> SampleBatch:
    history = torch.zeros(3, 5, dtype=torch.int64)
    following = torch.full((3, 5), -1)
    for row, (items, target) in enumerate(zip(HISTORIES, TARGETS, strict=True)):
        history[row, : len(items)] = torch.tensor(items)
        following[row, : len(items)] = torch.tensor([*items[1:], target])
    return SampleBatch(history, torch.tensor([5, 3, 1]), torch.tensor(USERS), following)


@torch.no_grad()
def offers_after(
    model: GPT, history: list[int], user: int, count: int, real: Sequence[int] = ()
) -> list[int]:
    """The slow way: whole passes, the best item that is neither in the history nor offered."""
    offers = list(real)[:count]
    limit = model.config.max_history
    while len(offers) < count:
        positions = [*range(limit - len(history), limit), *range(limit, limit + len(offers))]
        segments = [HISTORY] * len(history) + [OFFER] * len(offers)
        parts = (torch.tensor([x]) for x in (history + offers, segments, positions))
        tokens = Tokens(*parts, torch.tensor([len(positions)]))
        scores = model(tokens, torch.tensor([user]))[0, -1] @ model.item_vectors().T
        scores[history + offers] = -torch.inf
        offers.append(int(scores.argmax()))
    return offers


def test_generates_the_best_unseen_items(samples: SampleBatch) -> None:
    model = tiny.gpt()
    offers = generate(model, samples.history_BL, samples.lengths_B, samples.users_B, offers=3)
    expected = [offers_after(model, h, u, 3) for h, u in zip(HISTORIES, USERS, strict=True)]
    assert offers.tolist() == expected


@pytest.mark.parametrize("count", [1, 2, 4])
def test_generated_offers_follow_real_ones(samples: SampleBatch, count: int) -> None:
    model = tiny.lively(tiny.gpt())
    first = offers_after(model, HISTORIES[2], USERS[2], 1)
    real = [[20, 21, 22], [], first]  # also the very item that would have been generated first
    real_BM = torch.tensor([row + [-1] * (3 - len(row)) for row in real])
    given = samples.history_BL, samples.lengths_B, samples.users_B, count
    expected = [
        offers_after(model, *one, count, told)
        for *one, told in zip(HISTORIES, USERS, real, strict=True)
    ]
    assert generate(model, *given, real_BM).tolist() == expected
    halves = CrossFitted((tiny.gpt(seed=1), model), torch.tensor([0, 0, 0]))
    told = replace(samples, users_B=torch.tensor([0, 1, 2]), real_BM=real_BM)
    assert halves(tiny.gpt(seed=2), told, count)[:1].tolist() == expected[:1]
    assert own_offers(model, replace(samples, real_BM=real_BM), count).tolist() == expected
    assert generate(model, *given).tolist() != expected


def tokens_of(samples: SampleBatch) -> Tokens:
    return history_tokens(samples.history_BL, samples.lengths_B, tiny.CONFIG.max_history)


def test_generates_what_every_prefix_would_get(samples: SampleBatch) -> None:
    """Offers in mid-sequence see positions of the whole history, so prefixes are run in place."""
    model = tiny.gpt()
    offers_BL = generate_everywhere(model, samples)
    for row, (history, user) in enumerate(zip(HISTORIES, USERS, strict=True)):
        for end in range(1, len(history) + 1):
            parts = (part[row : row + 1, :end] for part in tokens_of(samples)[:3])
            with torch.no_grad():
                hidden = model(Tokens(*parts, torch.tensor([end])), torch.tensor([user]))
            scores = hidden[0, -1] @ model.item_vectors().T
            scores[history[:end]] = -torch.inf
            assert offers_BL[row, end - 1] == scores.argmax()


@pytest.mark.parametrize("offers", [1, 2])
def test_tail(samples: SampleBatch, offers: int) -> None:
    model = tiny.gpt().train()
    batch = tail(model, samples, offers)
    assert model.training
    for row, (history, target) in enumerate(zip(HISTORIES, TARGETS, strict=True)):
        kept = max(1, len(history) - offers)
        given = offers_after(model.eval(), history[:kept], USERS[row], offers)
        size = kept + offers
        assert batch.tokens.items_BL[row, :size].tolist() == history[:kept] + given
        assert batch.tokens.segments_BL[row, :size].tolist() == [HISTORY] * kept + [OFFER] * offers
        limit = model.config.max_history
        expected = [*range(limit - kept, limit), *range(limit, limit + offers)]
        assert batch.tokens.positions_BL[row, :size].tolist() == expected
        assert batch.at_BQ is not None
        assert batch.at_BQ[row].tolist() == [kept - 1, size - 1]
        successor = [*history, target][kept]
        feedback = -1 if target in given else target
        assert batch.targets_BQS[..., 0][row].tolist() == [successor, feedback]


SETS = [[[10, 3, 7]], [[11, -1, -1]], [[12, 5, -1]]]


@pytest.mark.parametrize("offers", [1, 2])
@pytest.mark.parametrize("first", [True, False])
def test_append_is_the_sequence_of_a_recall(samples: SampleBatch, offers: int, first: bool) -> None:
    model = tiny.gpt()
    given = generate(model, samples.history_BL, samples.lengths_B, samples.users_B, offers)
    batch = append(samples, given, model.config.max_history, first)
    for row, history in enumerate(HISTORIES):
        size = len(history) + offers
        assert batch.tokens.items_BL[row, :size].tolist() == history + given[row].tolist()
        segments = [HISTORY] * len(history) + [OFFER] * offers
        assert batch.tokens.segments_BL[row, :size].tolist() == segments
        assert batch.tokens.lengths_B[row] == size
        assert batch.at_BQ is not None
        slots = [*range(len(history) - 1, size)]
        assert batch.at_BQ[row].tolist() == slots[not first :]
    # What the network answers at the last offer is what a recall generates next.
    _, cache = model.prefill(samples.history_BL, samples.lengths_B, samples.users_B)
    for offer in given.T:
        expected = model.step(offer, cache)
    found = model(batch.tokens, batch.users_B, batch.at_BQ)[:, -1]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


ITEMS = st.integers(1, 12)
SAMPLES = st.tuples(st.lists(ITEMS, min_size=1, max_size=6), st.lists(ITEMS, max_size=3))


@settings(max_examples=100, deadline=None)
@given(st.lists(SAMPLES, min_size=1, max_size=4), st.integers(1, 3), st.booleans(), st.data())
def test_any_append_equals_the_rule_written_out(
    drawn: list[tuple[list[int], list[int]]], offers: int, first: bool, data: st.DataObject
) -> None:
    """Row by row: the offers follow the history, and a target is asked for until it is offered."""
    longest = max(len(history) for history, _ in drawn)
    wanted = max(len(targets) for _, targets in drawn) or 1
    lists_of_offers = st.lists(ITEMS, min_size=offers, max_size=offers)
    given_BM = [data.draw(lists_of_offers) for _ in drawn]
    history_BL = torch.tensor([h + [0] * (longest - len(h)) for h, _ in drawn])
    sets_BS = [targets + [-1] * (wanted - len(targets)) for _, targets in drawn]
    lengths_B = torch.tensor([len(history) for history, _ in drawn])
    samples = SampleBatch(
        history_BL,
        lengths_B,
        torch.zeros(len(drawn), dtype=torch.int64),
        torch.full_like(history_BL, -1),
        torch.tensor(sets_BS)[:, None],
    )
    batch = append(samples, torch.tensor(given_BM), 8, first)
    for row, (history, _) in enumerate(drawn):
        size = len(history) + offers
        assert batch.tokens.items_BL[row, :size].tolist() == history + given_BM[row]
        asked = [
            [-1 if target in given_BM[row][:taken] else target for target in sets_BS[row]]
            for taken in range(offers + 1)
        ]
        assert batch.targets_BQS[row].tolist() == asked[not first :]


def test_append_asks_for_what_was_not_offered_so_far(samples: SampleBatch) -> None:
    with_sets = replace(samples, sets_BQS=torch.tensor(SETS))
    offers = torch.tensor([[3, 10], [11, 9], [1, 2]])
    found = append(with_sets, offers, 8, first=True).targets_BQS.tolist()
    assert found[0] == [[10, 3, 7], [10, -1, 7], [-1, -1, 7]]
    assert found[1] == [[11, -1, -1], [-1, -1, -1], [-1, -1, -1]]
    assert found[2] == [[12, 5, -1]] * 3
    alone = append(samples, offers, 8, first=True).targets_BQS[..., 0].tolist()
    assert alone == [[10, 10, -1], [11, -1, -1], [12, 12, 12]]


def test_assign_leaves_a_target_at_one_slot_by_its_likelihood(samples: SampleBatch) -> None:
    model = tiny.lively(tiny.gpt())
    many = 2000
    row = samples.history_BL[:1].repeat(many, 1), samples.lengths_B[:1].repeat(many)
    targets = torch.tensor([[[0, 3, -1]]]).repeat(many, 1, 1)
    one = replace(
        samples,
        history_BL=row[0],
        lengths_B=row[1],
        users_B=samples.users_B[:1].repeat(many),
        next_BL=samples.next_BL[:1].repeat(many, 1),
        sets_BQS=targets,
    )
    batch = append(one, torch.full((many, 1), 3), 8, first=True)
    torch.manual_seed(0)
    found = assign(model, batch).targets_BQS
    assert found[..., 1].eq(torch.tensor([3, -1])).all()  # it was offered, so only the first has it
    assert found[..., 2].eq(-1).all()
    assert (found[..., 0] == 0).sum(dim=1).eq(1).all()
    model.eval()
    with torch.no_grad():
        interests = model(batch.tokens, batch.users_B, batch.at_BQ)[0]
        likely = (interests @ model.item_vectors().T).softmax(dim=1)[:, 0]
    expected = float(likely[1] / likely.sum())
    assert float((found[:, 1, 0] == 0).float().mean()) == pytest.approx(expected, abs=0.04)
    assert abs(expected - 0.5) > 0.05


def accepting(model: GPT, samples: SampleBatch) -> SampleBatch:
    """The same samples, with the model's own offers as the users' next items."""
    offers = generate_everywhere(model, samples)
    following = torch.where(samples.next_BL >= 0, offers, -1)
    return SampleBatch(samples.history_BL, samples.lengths_B, samples.users_B, following)


@pytest.mark.parametrize("offer_targets", [True, False])
def test_interleaved(samples: SampleBatch, offer_targets: bool) -> None:
    model = tiny.gpt()
    batch = interleaved(model, samples, last_only=False, offer_targets=offer_targets)
    offers_BL = generate_everywhere(model, samples)
    places = tokens_of(samples).positions_BL
    assert batch.at_BQ is None
    assert torch.equal(batch.tokens.items_BL[:, 0::2], samples.history_BL)
    assert torch.equal(batch.tokens.items_BL[:, 1::2], offers_BL)
    assert (batch.tokens.segments_BL[:, 0::2] == HISTORY).all()
    assert (batch.tokens.segments_BL[:, 1::2] == OFFER).all()
    assert torch.equal(batch.tokens.positions_BL[:, 0::2], places)
    assert torch.equal(batch.tokens.positions_BL[:, 1::2], places + 1)
    assert torch.equal(batch.targets_BQS[..., 0][:, 0::2], samples.next_BL)
    at_offers = batch.targets_BQS[..., 0][:, 1::2]
    refused = offers_BL != samples.next_BL
    assert torch.equal(
        at_offers[refused], samples.next_BL[refused] if offer_targets else minus(refused)
    )


def minus(mask: Tensor) -> Tensor:
    return torch.full((int(mask.sum()),), -1)


def test_an_accepted_offer_asks_for_no_feedback(samples: SampleBatch) -> None:
    model = tiny.gpt()
    taken = accepting(model, samples)
    batch = interleaved(model, taken, last_only=False, offer_targets=True)
    assert (batch.targets_BQS[..., 0][:, 1::2] == -1).all()
    assert torch.equal(batch.targets_BQS[..., 0][:, 0::2], taken.next_BL)


def test_interleaved_with_the_loss_at_the_last_pair_only(samples: SampleBatch) -> None:
    model = tiny.gpt()
    every = interleaved(model, samples, last_only=False, offer_targets=True)
    last = interleaved(model, samples, last_only=True, offer_targets=True)
    assert last.at_BQ is not None
    assert last.at_BQ.tolist() == [[8, 9], [4, 5], [0, 1]]
    assert torch.equal(last.targets_BQS[..., 0], every.targets_BQS[..., 0].gather(1, last.at_BQ))


@pytest.mark.parametrize("offers", [1, 3])
def test_an_accepted_offer_in_the_tail_asks_for_no_feedback(
    samples: SampleBatch, offers: int
) -> None:
    model = tiny.gpt()
    last = [
        offers_after(model, history[: max(1, len(history) - offers)], user, offers)[-1]
        for history, user in zip(HISTORIES, USERS, strict=True)
    ]
    following = samples.next_BL.clone()
    following[torch.arange(3), samples.lengths_B - 1] = torch.tensor([last[0], 39, last[2]])
    taken = SampleBatch(samples.history_BL, samples.lengths_B, samples.users_B, following)
    assert tail(model, taken, offers).targets_BQS[..., 0][:, 1].tolist() == [-1, 39, -1]


def favours_row_0() -> GPT:
    """A network whose every interest has row 0 as its best item."""
    model = tiny.gpt(tiny.CONFIG.model_copy(update={"layers": 1}))
    with torch.no_grad():
        last = model.layers[0].feed_forward_norm
        last.weight.zero_()
        last.bias.copy_(model.item_vectors()[0])
    return model


def test_padding_is_not_seen_as_row_0(samples: SampleBatch) -> None:
    model = favours_row_0()
    offers = generate(model, samples.history_BL, samples.lengths_B, samples.users_B, offers=2)
    assert offers[:, 0].tolist() == [0, 0, 0]
    assert 0 not in offers[:, 1]
    everywhere = generate_everywhere(model, samples)
    assert all(not everywhere[row, :size].any() for row, size in enumerate(samples.lengths_B))
    recall = DenseRecall(model, ONE_INTEREST)
    histories = [np.array(history) for history in HISTORIES]
    (rows,) = recall(histories, np.array(USERS), (5,))
    assert rows[:, 0].tolist() == [0, 0, 0]
