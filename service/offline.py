"""What is done for the service offline: bundles with their index, histories, and its own recall
as something that `model.evaluate` can measure.

Shapes: B batch, K candidates.
"""

import logging
from collections.abc import Sequence
from importlib.metadata import version as package_version
from pathlib import Path

import numpy as np

from index.build import build_index
from model.artifact import new_bundle, publish, read_item_vectors, read_user_ids
from model.batches import IntArray
from model.data import Dataset
from model.evaluate import Figures, Recall
from model.gpt import GPT
from model.rollout import RecallConfig
from service.history import HistoryStore
from service.recall import Query, Recaller

log = logging.getLogger(__name__)


def export_bundle(
    artifacts: Path, dataset: Dataset, model: GPT, recall: RecallConfig, figures: Figures
) -> Path:
    """Write a bundle with its index and make it the served one; returns its folder."""
    code = package_version("recgpt")
    with new_bundle(artifacts, dataset, model, recall, figures, code) as (folder, version):
        build_index(read_item_vectors(folder), folder)
    publish(artifacts, version)
    return artifacts / version


async def load_histories(dataset: Dataset, url: str, overwrite: bool) -> int:
    """Fill a store with the whole histories of a data set; returns how many were stored.

    Raises StoreUnavailable, and ValueError for an unusable store.
    """
    store = HistoryStore.open(url, timeout_ms=10_000)
    try:
        histories = (
            (user, [dataset.item_ids[row] for row in dataset.history(i)])
            for i, user in enumerate(dataset.user_ids)
        )
        return await store.load(histories, overwrite)
    finally:
        await store.close()


def of_trained_users(dataset: Dataset, bundle: Path) -> Dataset:
    """The data set without the users whom the bundle's run held out of training."""
    trained = set(read_user_ids(bundle))
    rows = np.array([row for row, user in enumerate(dataset.user_ids) if user in trained])
    if len(rows) in (0, dataset.users):  # with none, it is of another data set, which is said later
        return dataset
    log.info(
        "%s users were held out of training and are left out here (`recgpt evaluate new-users`)",
        f"{dataset.users - len(rows):,}",
    )
    return dataset.of_users(rows)


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
