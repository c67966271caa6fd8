"""The service's own recall as something `model.evaluate` can measure.

Shapes: B batch, K candidates.
"""

from collections.abc import Sequence

import numpy as np

from model.batches import IntArray
from model.data import Dataset
from model.evaluate import Recall
from service.recall import Query, Recaller


def service_recall(recaller: Recaller, dataset: Dataset) -> Recall:
    """Turn rows of `dataset` into the external ids of a request, and the answer back into rows.

    Raises ValueError where the artifact is of another data set.
    """
    if set(recaller.item_ids) != set(dataset.item_ids):
        raise ValueError(f"artifact {recaller.version} was trained on another data set than --data")
    item_rows = {item: row for row, item in enumerate(dataset.item_ids)}

    def recall(histories: Sequence[IntArray], users_B: IntArray, k: int) -> IntArray:
        queries = [
            Query(
                user_id=dataset.user_ids[user] if user >= 0 else "",
                history=[dataset.item_ids[row] for row in history],
                k=k,
            )
            for user, history in zip(users_B, histories, strict=True)
        ]
        answers, _ = recaller.recall(queries)
        rows_BK = np.full((len(queries), k), -1, dtype=np.int64)
        for row_K, answer in zip(rows_BK, answers, strict=True):
            row_K[: len(answer.item_ids)] = [item_rows[item] for item in answer.item_ids]
        return rows_BK

    return recall
