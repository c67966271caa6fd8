"""The prompt builder: sequences that hold offers the model itself generated (METHOD section 3).

Two forms, one function each. Both take the samples of a batch and the current model, and return
sequences in which offers carry the segment OFFER, with the user's true next items as targets.

Shapes: B batch, L length, V catalogue, D width, N = B L.
"""

import torch
from torch import Tensor

from model.network.block import history_positions
from model.network.gpt import GPT, HISTORY, OFFER, evaluating
from model.network.rollout import rollout
from model.network.top_items import best_rows
from model.training.batches import SampleBatch, TrainingBatch


def tail(model: GPT, window: SampleBatch, offers: int) -> TrainingBatch:
    """The last `offers` items of each history give way to what the model generates there.

    Targets: at the last true item its true successor; at the last offer the sample's own target,
    unless it was offered. A history keeps at least its first item; a short one becomes longer,
    which is recall itself.
    """
    kept_B = (window.lengths_B - offers).clamp(min=1)
    length = int(kept_B.max())
    slots_L = torch.arange(length + offers, device=kept_B.device)
    history_BL = window.history_BL[:, :length]
    offers_BM = generate(model, history_BL, kept_B, window.users_B, offers)

    rank_BL = slots_L - kept_B[:, None]  # ≥ 0: the how-manieth offer
    is_offer_BL = rank_BL >= 0
    picked_BL = offers_BM.gather(1, rank_BL.clamp(0, offers - 1))
    padded_BL = torch.nn.functional.pad(history_BL, (0, offers))
    positions_BL = rank_BL + model.config.max_history
    last_BQ = torch.stack([kept_B - 1, window.lengths_B - 1], dim=1)
    targets_BQ = window.next_BL.gather(1, last_BQ)
    accepted_B = (offers_BM == targets_BQ[:, 1:]).any(dim=1)
    targets_BQ[:, 1].masked_fill_(accepted_B, -1)
    return TrainingBatch(
        torch.where(is_offer_BL, picked_BL, padded_BL),
        torch.where(is_offer_BL, OFFER, HISTORY),
        positions_BL,
        window.users_B,
        torch.stack([kept_B - 1, kept_B + offers - 1], dim=1),
        targets_BQ,
    )


def interleaved(
    model: GPT, window: SampleBatch, last_only: bool, offer_targets: bool
) -> TrainingBatch:
    """x₁ ĝ₂ x₂ ĝ₃ …: behind every true item stands what the model would offer next.

    Targets: at a true item its true successor; at an offer the same successor (the user's
    feedback) where `offer_targets` says so, unless the offer was that very item.
    An offer takes the position its feedback has.
    """
    positions_BL = history_positions(
        window.lengths_B, window.history_BL.shape[1], model.config.max_history
    )
    offers_BL = generate_everywhere(model, window, positions_BL)
    feedback_BL = window.next_BL
    at_offers_BL = torch.full_like(feedback_BL, -1)
    if offer_targets:
        at_offers_BL = torch.where(offers_BL != feedback_BL, feedback_BL, -1)
    targets_BQ = torch.stack([feedback_BL, at_offers_BL], dim=2).flatten(1)
    at_BQ = None
    if last_only:
        last_B = 2 * window.lengths_B - 2
        at_BQ = torch.stack([last_B, last_B + 1], dim=1)
        targets_BQ = targets_BQ.gather(1, at_BQ)
    return TrainingBatch(
        torch.stack([window.history_BL, offers_BL], dim=2).flatten(1),
        torch.tensor([HISTORY, OFFER], device=offers_BL.device).repeat(offers_BL.shape),
        torch.stack([positions_BL, positions_BL + 1], dim=2).flatten(1),
        window.users_B,
        at_BQ,
        targets_BQ,
    )


def generate(
    model: GPT, history_BL: Tensor, lengths_B: Tensor, users_B: Tensor, offers: int
) -> Tensor:
    """What the model recalls first after each history, `offers` times over: rows B M."""
    padding_BL = torch.arange(history_BL.shape[1], device=lengths_B.device) >= lengths_B[:, None]
    seen = [torch.where(padding_BL, history_BL[:, :1], history_BL)]
    with torch.no_grad():
        table_VD = model.item_vectors()

    def best_unseen(interest_BD: Tensor) -> Tensor:
        _, best_B1 = best_rows(interest_BD, table_VD, torch.cat(seen, dim=1), 1)
        seen.append(best_B1)
        return best_B1[:, 0]

    with evaluating(model):
        rollout(model, history_BL, lengths_B, users_B, offers, best_unseen)
    return torch.cat(seen[1:], dim=1)


@torch.no_grad()
def generate_everywhere(model: GPT, window: SampleBatch, positions_BL: Tensor) -> Tensor:
    """What the model would offer after every prefix, unseen in that prefix: rows B L."""
    history_BL = window.history_BL
    length = history_BL.shape[1]
    slots_L = torch.arange(length, device=history_BL.device)
    so_far_LL = slots_L <= slots_L[:, None]
    with evaluating(model):
        segments_BL = torch.full_like(history_BL, HISTORY)
        interests_BLD = model(history_BL, segments_BL, positions_BL, window.users_B)
    table_VD = model.item_vectors()
    offers = []
    # in parts, because what is seen takes B L L rows
    parts = zip(torch.split(interests_BLD, 16), torch.split(history_BL, 16), strict=True)
    for part_BLD, items_BL in parts:
        seen_BLL = torch.where(so_far_LL, items_BL[:, None], items_BL[:, :, None])
        _, best_N1 = best_rows(part_BLD.flatten(0, 1), table_VD, seen_BLL.flatten(0, 1), 1)
        offers.append(best_N1.view(items_BL.shape))
    return torch.cat(offers)
