"""The prompt builder: sequences that hold offers the model itself generated.

Source: docs/method.md, section 3.

Three forms, one function each. They take the samples of a batch and the current model (or the
offers made for them), and return sequences in which offers carry the segment OFFER, with the user's
true next items as targets.

Shapes: B batch, L length, M offers, S items of a set, V catalogue, D width, N = B L.
"""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from model.network.gpt import GPT, evaluating
from model.network.rollout import rollout
from model.network.tokens import HISTORY, OFFER, Tokens, history_tokens
from model.network.top_items import best_rows
from model.training.batches import SampleBatch, TrainingBatch, last_targets

LOGITS_AT_ONCE = 8 << 20
"""Bound of the logits that are in memory while targets are assigned."""


def append(samples: SampleBatch, offers_BM: Tensor, max_history: int, first: bool) -> TrainingBatch:
    """Puts offers behind the whole history: x₁ … xₙ ĝ₁ … ĝ_M, the sequence of a recall.

    The targets at each slot from the newest item on are the sample's own, without those that were
    offered up to there: the user took these. With `first` false, there is none at the newest item.
    """
    tokens = followed_by(samples.history_BL, samples.lengths_B, offers_BM, max_history)
    offers = offers_BM.shape[1]
    targets_B1S = last_targets(samples)[:, None]
    taken_BMS = (targets_B1S == offers_BM[..., None]).cumsum(dim=1) > 0
    targets_BQS = torch.cat([targets_B1S, targets_B1S.masked_fill(taken_BMS, -1)], dim=1)
    slots_Q = torch.arange(0 if first else 1, offers + 1, device=offers_BM.device)
    at_BQ = samples.lengths_B[:, None] - 1 + slots_Q
    targets_BQS = targets_BQS[:, slots_Q]
    return TrainingBatch(tokens, samples.users_B, at_BQ, targets_BQS)


@torch.no_grad()
def assign(model: GPT, batch: TrainingBatch) -> TrainingBatch:
    """Leaves each target of a sample at one of the slots: drawn, by how likely it is at each.

    That is stochastic EM for the mixture of the interests, which a merge by probability serves:
    an interest learns what it already explains better than the others do.
    """
    targets_BQS = batch.targets_BQS
    with evaluating(model):
        interests_BQD = model(batch.tokens, batch.users_B, batch.at_BQ)
    table_VD, slots = model.item_vectors(), targets_BQS.shape[1]
    at_once = max(1, LOGITS_AT_ONCE // (slots * len(table_VD)))
    logs = []
    parts = zip(torch.split(interests_BQD, at_once), torch.split(targets_BQS, at_once), strict=True)
    for part_BQD, rows_BQS in parts:
        logits_BQV = part_BQD @ table_VD.T
        right_BQS = logits_BQV.gather(2, rows_BQS.clamp(min=0))
        logs.append(right_BQS - logits_BQV.logsumexp(dim=2, keepdim=True))
    logs_BQS = torch.cat(logs).masked_fill(targets_BQS < 0, -torch.inf)
    gumbel_BQS = -torch.empty_like(logs_BQS).exponential_().log()
    drawn_BS = (logs_BQS + gumbel_BQS).argmax(dim=1)
    elsewhere_BQS = torch.arange(slots, device=drawn_BS.device)[:, None] != drawn_BS[:, None]
    return replace(batch, targets_BQS=targets_BQS.masked_fill(elsewhere_BQS, -1))


def tail(model: GPT, samples: SampleBatch, offers: int) -> TrainingBatch:
    """Replaces the last `offers` items of each history by what the model generates there.

    Targets: at the last true item its true successor; at the last offer the sample's own target,
    unless it was offered. A history keeps at least its first item; a short one becomes longer,
    which is recall itself.
    """
    kept_B = (samples.lengths_B - offers).clamp(min=1)
    history_BL = samples.history_BL[:, : int(kept_B.max())]
    offers_BM = generate(model, history_BL, kept_B, samples.users_B, offers)
    tokens = followed_by(history_BL, kept_B, offers_BM, model.config.max_history)
    last_BQ = torch.stack([kept_B - 1, samples.lengths_B - 1], dim=1)
    targets_BQ = samples.next_BL.gather(1, last_BQ)
    accepted_B = (offers_BM == targets_BQ[:, 1:]).any(dim=1)
    targets_BQ[:, 1].masked_fill_(accepted_B, -1)
    at_BQ = torch.stack([kept_B - 1, kept_B + offers - 1], dim=1)
    return TrainingBatch(tokens, samples.users_B, at_BQ, targets_BQ[..., None])


def followed_by(
    history_BL: Tensor, lengths_B: Tensor, offers_BM: Tensor, max_history: int
) -> Tokens:
    """Returns histories with offers right behind their last items, as tokens."""
    offers = offers_BM.shape[1]
    slots_L = torch.arange(history_BL.shape[1] + offers, device=lengths_B.device)
    nth_BL = slots_L - lengths_B[:, None]  # ≥ 0: the number of the offer
    is_offer_BL = nth_BL >= 0
    offers_BL = offers_BM.gather(1, nth_BL.clamp(0, offers - 1))
    return Tokens(
        torch.where(is_offer_BL, offers_BL, F.pad(history_BL, (0, offers))),
        torch.where(is_offer_BL, OFFER, HISTORY),
        nth_BL + max_history,
        lengths_B + offers,
    )


def interleaved(
    model: GPT, samples: SampleBatch, last_only: bool, offer_targets: bool
) -> TrainingBatch:
    """Puts the model's offer behind every true item: x₁ ĝ₂ x₂ ĝ₃ …

    Targets: at a true item its true successor; with `offer_targets`, at an offer the same successor
    (the user's feedback) unless the offer was that very item. An offer has the position of the
    feedback to it.
    """
    history = history_tokens(samples.history_BL, samples.lengths_B, model.config.max_history)
    offers_BL = generate_everywhere(model, samples)
    feedback_BL = samples.next_BL
    at_offers_BL = torch.full_like(feedback_BL, -1)
    if offer_targets:
        at_offers_BL = torch.where(offers_BL != feedback_BL, feedback_BL, -1)
    tokens = Tokens(
        torch.stack([samples.history_BL, offers_BL], dim=2).flatten(1),
        torch.tensor([HISTORY, OFFER], device=offers_BL.device).repeat(offers_BL.shape),
        torch.stack([history.positions_BL, history.positions_BL + 1], dim=2).flatten(1),
        2 * samples.lengths_B,
    )
    targets_BQ = torch.stack([feedback_BL, at_offers_BL], dim=2).flatten(1)
    at_BQ = None
    if last_only:
        last_B = tokens.lengths_B - 2
        at_BQ = torch.stack([last_B, last_B + 1], dim=1)
        targets_BQ = targets_BQ.gather(1, at_BQ)
    return TrainingBatch(tokens, samples.users_B, at_BQ, targets_BQ[..., None])


@torch.no_grad()
def generate(
    model: GPT,
    history_BL: Tensor,
    lengths_B: Tensor,
    users_B: Tensor,
    offers: int,
    real_BM: Tensor | None = None,
) -> Tensor:
    """Returns the offers that a rollout makes after each history, real ones first: rows B M."""
    padding_BL = torch.arange(history_BL.shape[1], device=lengths_B.device) >= lengths_B[:, None]
    seen_BL = torch.where(padding_BL, history_BL[:, :1], history_BL)
    table_VD = model.item_vectors()
    with evaluating(model):
        found = rollout(
            model,
            history_BL,
            lengths_B,
            users_B,
            offers,
            lambda interest_BD: best_rows(interest_BD, table_VD, seen_BL, offers),
            real_BM=real_BM,
        )
    return found.offers_BM


@torch.no_grad()
def generate_everywhere(model: GPT, samples: SampleBatch) -> Tensor:
    """Returns what the model would offer after every prefix, unseen in that prefix: rows B L."""
    history_BL = samples.history_BL
    slots_L = torch.arange(history_BL.shape[1], device=history_BL.device)
    so_far_LL = slots_L <= slots_L[:, None]
    tokens = history_tokens(history_BL, samples.lengths_B, model.config.max_history)
    with evaluating(model):
        interests_BLD = model(tokens, samples.users_B)
    table_VD = model.item_vectors()
    offers = []
    # In parts, because the items seen before each slot take B L L rows.
    parts = zip(torch.split(interests_BLD, 16), torch.split(history_BL, 16), strict=True)
    for part_BLD, items_BL in parts:
        seen_BLL = torch.where(so_far_LL, items_BL[:, None], items_BL[:, :, None])
        _, best_N1 = best_rows(part_BLD.flatten(0, 1), table_VD, seen_BLL.flatten(0, 1), 1)
        offers.append(best_N1.view(items_BL.shape))
    return torch.cat(offers)
