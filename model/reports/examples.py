"""Examples for readers of a report: some test users with their history and the recalled items.

Shapes: B batch (the users looked through), K candidates.
"""

from dataclasses import dataclass

import numpy as np

from model.data.dataset import Dataset, IntArray
from model.evaluation.metrics import case_batches, histories_of, ranks
from model.evaluation.protocols import Split
from model.evaluation.reference import DenseRecall
from model.network.config import RecallConfig
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
    """A part of a list; `first` is the rank in the list of its first item."""

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
    recalled: list[Part]  # one per interest, or the merged list


def choose_examples(
    dataset: Dataset, split: Split, recall: DenseRecall, seed: int
) -> list[Example]:
    """Returns two hits of the first interest, two of later ones and two misses, if there are any.

    They are the first of each kind among `LOOKED_THROUGH` users that the seed draws. A list that is
    merged by probability is shown as one part.
    """
    drawn = np.random.default_rng(seed).permutation(len(split.users))[:LOOKED_THROUGH]
    cases = split.at(drawn)
    users_B, targets_B = cases.users, cases.targets
    histories = histories_of(dataset, users_B, cases.lengths)
    rows_BK = _recall(recall, dataset, cases)
    ranks_B = ranks(rows_BK, targets_B)
    ends = np.cumsum(_sizes(recall.config))
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


def _sizes(recall: RecallConfig) -> tuple[int, ...]:
    """Returns the sizes of the parts of a list."""
    if recall.merge == "probability":
        return (LISTED,)
    return quotas(LISTED, recall.interests, recall.first_share)


def _recall(recall: DenseRecall, dataset: Dataset, cases: Split) -> IntArray:
    """Returns the lists of all cases, computed a few hundred at a time: B K."""
    lists = [
        recall(histories, users_B, (LISTED,))[0]
        for _, histories, users_B in case_batches(dataset, cases, batch=256)
    ]
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
