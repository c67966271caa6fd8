"""A click model: the probability that a user clicks an item at a position of a list.

    P(click | user u, item i, position p) = examination(p) · attraction(u, i)

The examination is p^-b with a position bias b: 1 as in many logs of web search, 0 for users who
look at the whole list. The attraction is fitted on held-out events, which no arm was trained on: a
truncated singular value decomposition of their matrix of users and items, cut to [0, 1]. It is an
estimate of the probability that the user takes the item in the held-out period, so that users like
items that users like them took, and not only those that they took themselves.

Such users do not learn, get bored or talk to each other, and nothing outside of the held-out items
attracts them. The model can tell whether an experiment is run and evaluated correctly, and which of
two lists is closer to the held-out events. It cannot tell what real users would do.

Shapes: U users, V items, R rank, K positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.linalg import svds

from model.data.dataset import Dataset

RANK = 16


@dataclass(frozen=True)
class ClickModel:
    """The tastes of users, and how far down they look."""

    user_rows: dict[str, int]
    item_rows: dict[str, int]
    users_UR: NDArray[np.float64]
    items_VR: NDArray[np.float64]
    position_bias: float

    @classmethod
    def fit(cls, events: pl.DataFrame, position_bias: float = 1.0, rank: int = RANK) -> Self:
        """Fits the tastes on events with the columns user_id and item_id.

        Raises ValueError if they are of less than two users or items.
        """
        pairs = events.select("user_id", "item_id").unique(maintain_order=True)
        users, items = (pairs[name].unique(maintain_order=True) for name in pairs.columns)
        smaller = min(len(users), len(items))
        if smaller < 2:
            raise ValueError("the held-out events are of one user or one item: give more of them")
        user_rows, item_rows = ({one: row for row, one in enumerate(ids)} for ids in (users, items))
        rows = [user_rows[user] for user in pairs["user_id"]]
        columns = [item_rows[item] for item in pairs["item_id"]]
        taken_UV = csr_array((np.ones(len(pairs)), (rows, columns)), (len(users), len(items)))
        left_UR, weights_R, right_RV = svds(taken_UV, k=min(rank, smaller - 1), v0=np.ones(smaller))
        return cls(user_rows, item_rows, left_UR * weights_R, right_RV.T, position_bias)

    def chances(self, user: str, items: Sequence[str]) -> NDArray[np.float64]:
        """Returns the probability of a click at each position of a list of items: K.

        An item that nobody took in the held-out events attracts nobody.
        """
        rows_K = np.array([self.item_rows.get(item, -1) for item in items], dtype=np.int64)
        attraction_K = np.clip(self.items_VR[rows_K] @ self.users_UR[self.user_rows[user]], 0, 1)
        examined_K = np.arange(1.0, len(rows_K) + 1) ** -self.position_bias
        return np.where(rows_K >= 0, examined_K * attraction_K, 0.0)


def read_taken(path: Path) -> pl.DataFrame:
    """Returns which users took which items: user_id, item_id.

    Takes a Parquet file, a folder of such files, or a data set that `recgpt data prepare` wrote.
    Raises ValueError if it cannot be read.
    """
    if (path / "dataset.json").exists():
        dataset = Dataset.load(path)
        rows = np.repeat(np.arange(dataset.users), np.diff(dataset.offsets))
        return pl.DataFrame(
            {
                "user_id": pl.Series(dataset.user_ids).gather(rows),
                "item_id": pl.Series(dataset.item_ids).gather(dataset.events),
            }
        )
    try:
        return pl.read_parquet(path, columns=["user_id", "item_id"])
    except (OSError, pl.exceptions.PolarsError) as error:
        raise ValueError(f"{path} can't be read as Parquet: {error}") from error
