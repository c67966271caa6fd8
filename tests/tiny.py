"""A small world whose histories can be learnt: most users walk from item i to item i + 1."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from model.data.config import PrepareConfig
from model.data.dataset import Dataset
from model.data.prepare import prepare
from model.network.config import GPTConfig, RecallConfig
from model.network.gpt import GPT
from service.recall.query_batch import QueryBatch, Ragged, offsets_of, quota_table

CONFIG = GPTConfig(
    dim=16, groups=1, heads=2, feed_forward=32, max_history=8, user_rank=4, dropout=0.1
)
RECALL = RecallConfig(interests=3, first_share=0.6)


def walks(folder: Path, users: int = 60, items: int = 40, seed: int = 0) -> Dataset:
    """A prepared data set of `users` walks of 5 to 14 events through `items` items."""
    rng = np.random.default_rng(seed)
    lines = []
    for user in range(users):
        steps = np.where(rng.random(rng.integers(5, 15)) < 0.9, 1, rng.integers(2, 5))
        walk = (rng.integers(items) + np.cumsum(steps)) % items
        lines.append(f"u{user} " + " ".join(f"i{item}" for item in walk))
    return of_lines(folder, lines, "walks")


def of_lines(folder: Path, lines: Sequence[str], name: str) -> Dataset:
    """A prepared data set of these lines, a user each."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"{name}.txt"
    log.write_text("\n".join(lines) + "\n")
    data = folder / "data"
    prepare(
        PrepareConfig(
            input=log, out=data, format="lines", min_user_events=0, min_item_events=0, name=name
        )
    )
    return Dataset.load(data)


def gpt(
    config: GPTConfig = CONFIG,
    catalogue: int = 40,
    users: int = 60,
    seed: int = 0,
    actions: int = 0,
) -> GPT:
    """A network in evaluation mode whose every weight, the user module's too, matters."""
    torch.manual_seed(seed)
    model = GPT(config, catalogue, users, actions)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def lively(model: GPT) -> GPT:
    """The same network with plain norms, as before training: interests and users differ much."""
    with torch.no_grad():
        model.log_scale.fill_(2.5)
        model.segments.weight[1].normal_(std=1.0)
        for norm in model.modules():
            if isinstance(norm, torch.nn.LayerNorm):
                norm.weight.fill_(1)
                norm.bias.zero_()
    return model


def ragged(lists: Sequence[Sequence[int]]) -> Ragged:
    """These lists, one after another."""
    return Ragged(
        np.array([row for rows in lists for row in rows], int), offsets_of(map(len, lists))
    )


def query_batch(
    excluded: Sequence[Sequence[int]],
    quotas: Sequence[Sequence[int]],
    histories: Sequence[Sequence[int]] | None = None,
) -> QueryBatch:
    """Queries of unknown users; each history is what the query excludes, unless it is given."""
    histories = excluded if histories is None else histories
    k_B = np.array([sum(shares) for shares in quotas])
    return QueryBatch(
        users_B=np.full(len(excluded), -1),
        newest=ragged(histories),
        excluded=ragged(excluded),
        k_B=k_B,
        quotas_MB=quota_table(quotas),
        unknown_B=0 * k_B,
    )
