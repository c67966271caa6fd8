"""Examples for readers of a report: some test users with their history and the recalled items.

Shapes: B batch (the users looked through), K candidates.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from model.data.dataset import Dataset, IntArray
from model.evaluation.metrics import ranks
from model.evaluation.protocols import Split
from model.evaluation.reference import DenseRecall
from model.network.config import RecallConfig
from model.network.gpt import GPT
from model.network.rollout import quotas

LISTED = 20  # candidates a user
LOOKED_THROUGH = 2000  # largest number of users that the examples are chosen from
OF_EACH_KIND = 2
SHOWN_HISTORY = 8  # newest items of a history


@dataclass(frozen=True)
class Item:
    """An item as the report shows it; `about` is empty if the data set has no genres."""

    title: str
    about: str = ""
    target: bool = False


@dataclass(frozen=True)
class Part:
    """The items that one interest recalled; `first` is the rank in the list of the first one."""

    first: int
    entries: list[Item]


@dataclass(frozen=True)
class Example:
    """One test user."""

    user: str
    earlier: int  # items of the history that are not shown
    history: list[Item]  # newest last
    target: Item
    rank: int  # of the target in the list, from 1; 0: missed
    interest: int | None  # that recalled the target, from 0
    recalled: list[Part]  # one per interest


def choose_examples(
    dataset: Dataset, split: Split, model: GPT, recall: RecallConfig, seed: int
) -> list[Example]:
    """Returns two hits of the first interest, two of later ones and two misses, if there are any.

    They are the first of each kind among `LOOKED_THROUGH` users that the seed draws.
    """
    drawn = np.random.default_rng(seed).permutation(len(split.users))[:LOOKED_THROUGH]
    users_B, targets_B, lengths_B = (a[drawn] for a in (split.users, split.targets, split.lengths))
    histories = [
        dataset.history(int(user))[:length] for user, length in zip(users_B, lengths_B, strict=True)
    ]
    rows_BK = _recall(DenseRecall(model, recall), histories, users_B)
    ranks_B = ranks(rows_BK, targets_B)
    ends = np.cumsum(quotas(LISTED, recall.interests, recall.first_share))
    found_by_B = np.where(ranks_B > 0, np.searchsorted(ends, ranks_B - 1, side="right"), -1)
    kinds = (found_by_B == 0, found_by_B > 0, found_by_B < 0)
    chosen = [int(at) for kind in kinds for at in np.flatnonzero(kind)[:OF_EACH_KIND]]
    return [
        Example(
            user=dataset.user_ids[int(users_B[at])],
            earlier=max(0, len(histories[at]) - SHOWN_HISTORY),
            history=[_item(dataset, row) for row in histories[at][-SHOWN_HISTORY:]],
            target=_item(dataset, targets_B[at]),
            rank=int(ranks_B[at]),
            interest=int(found_by_B[at]) if found_by_B[at] >= 0 else None,
            recalled=[
                Part(
                    first=int(end) - len(part) + 1,
                    entries=[_item(dataset, row, row == targets_B[at]) for row in part if row >= 0],
                )
                for part, end in zip(np.split(rows_BK[at], ends[:-1]), ends, strict=True)
            ],
        )
        for at in chosen
    ]


def _recall(recall: DenseRecall, histories: Sequence[IntArray], users_B: IntArray) -> IntArray:
    """Returns the lists of all users, computed a few hundred at a time: B K."""
    parts = [slice(start, start + 256) for start in range(0, len(histories), 256)]
    lists = [recall(histories[part], users_B[part], (LISTED,))[0] for part in parts]
    return np.concatenate(lists) if lists else np.zeros((0, LISTED), dtype=np.int64)


def _item(dataset: Dataset, row: int, target: bool = False) -> Item:
    """Returns the item at a row, with its title or else its id, and its genres."""
    about = dataset.items.row(int(row), named=True)
    genres = about.get("genres")
    return Item(
        title=str(about.get("title") or about["item_id"]),
        about=", ".join(map(str, genres)) if isinstance(genres, list) else str(genres or ""),
        target=target,
    )
