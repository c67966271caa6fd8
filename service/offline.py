"""Work for the service that is done offline.

It makes bundles with their index, loads histories into a store, and offers the service's own recall
in the form that `model.evaluation.metrics` measures.

Shapes: B batch, K candidates.
"""

import logging
from collections.abc import Sequence
from importlib.metadata import version as package_version
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from index.build import QUERIES, Requested, build_index, build_index_like
from model.artifact.additions import Additions, extended_bundle, find_new_items
from model.artifact.bundle import load_artifact, new_bundle, read_item_vectors, read_user_ids
from model.artifact.config import AddConfig
from model.artifact.versions import find_bundle, publish
from model.data.dataset import Dataset, IntArray
from model.evaluation.config import ProtocolConfig
from model.evaluation.metrics import Figures, Histories, Recall, histories_of
from model.evaluation.protocols import LEAVE_ONE_OUT
from model.evaluation.reference import feedback_of, older_items, pad
from model.network.config import RecallConfig
from model.network.gpt import GPT, evaluating
from model.network.rollout import rollout
from service.history.events import CLICK, HistoryEvent
from service.history.store import HistoryStore
from service.recall.recaller import Recaller
from service.recall.types import UNTOLD, Query

log = logging.getLogger(__name__)


def export_bundle(
    artifacts: Path,
    dataset: Dataset,
    model: GPT,
    recall: RecallConfig,
    figures: Figures,
    index: Requested = "auto",
    index_recall: float = 0.98,
    protocol: ProtocolConfig = LEAVE_ONE_OUT,
) -> Path:
    """Writes a bundle with its index and makes it the served one; returns its folder.

    Raises ValueError for a peer's network, and as `build_index` does.
    """
    if model.config.network != "gpt":
        raise ValueError(
            f"the {model.config.network} network is a peer to compare with and cannot be served: "
            "export a run that was trained without --model.network"
        )
    code = package_version("recgpt")
    writing = new_bundle(artifacts, dataset, model, recall, figures, code, protocol)
    with writing as (folder, version):
        interests_BD = sample_interests(dataset, model, recall, QUERIES)
        build_index(read_item_vectors(folder), folder, index, index_recall, interests_BD)
    publish(artifacts, version)
    return artifacts / version


def add_items(config: AddConfig) -> tuple[Path, Additions]:
    """Writes a new version of the served bundle, with more items, and makes it the served one.

    Returns its folder and an account of the new items. See `model.artifact.additions`.
    """
    if not (config.artifacts / "current").exists():
        raise ValueError(f"{config.artifacts} has no `current`: name the folder of the bundles")
    artifact = load_artifact(find_bundle(config.artifacts))
    new = find_new_items(config, artifact)
    with extended_bundle(config.artifacts, artifact, new) as (folder, version):
        build_index_like(read_item_vectors(folder), folder, artifact.folder)
    publish(config.artifacts, version)
    return config.artifacts / version, new.report


def sample_interests(
    dataset: Dataset, model: GPT, recall: RecallConfig, count: int
) -> NDArray[np.float32] | None:
    """Returns the first interests B D of up to `count` users with a history, always the same ones.

    They are those of such a recall, for its outcome and with its guidance. Returns None if no user
    has a history.
    """
    users = np.flatnonzero(np.diff(dataset.offsets))
    users_B = np.sort(np.random.default_rng(0).permutation(users)[:count])
    if not len(users_B):
        return None
    device = model.items.weight.device
    histories = histories_of(dataset, users_B, np.diff(dataset.offsets)[users_B])
    history_BL, lengths_B = pad(histories, model.config.max_history)
    codes = (
        -1 if name is None else dataset.action_code(name) for name in (recall.outcome, recall.avoid)
    )
    with evaluating(model):
        found = rollout(
            model,
            torch.from_numpy(history_BL).to(device),
            torch.from_numpy(lengths_B).to(device),
            torch.from_numpy(users_B).to(device),
            1,
            _no_search,
            feedback_of(histories, model.config.max_history, *codes).to(device),
            older_items(histories, model.config.max_history).to(device),
            recall.guidance,
        )
    first_BD: NDArray[np.float32] = found.interests_BMD[:, 0].cpu().numpy()
    return first_BD


def _no_search(interest_BD: Tensor) -> tuple[Tensor, Tensor]:
    """Finds nothing: only interests are asked for."""
    return interest_BD[:, :1], torch.zeros_like(interest_BD[:, :1], dtype=torch.int64)


async def load_histories(
    dataset: Dataset, url: str, overwrite: bool, days: float | None = None
) -> int:
    """Fills a store with the whole histories of a data set; returns how many were stored.

    Events have the types and times that the data set knows. A history that gets no event for `days`
    expires.

    Raises ValueError if the URL is of no usable store, StoreUnavailable if it does not answer.
    """
    store = HistoryStore.open(url, timeout_ms=10_000, days=days)
    try:
        users = range(dataset.users)
        if dataset.actions is None:
            plain = (
                (dataset.user_ids[user], [dataset.item_ids[row] for row in dataset.history(user)])
                for user in users
            )
            return await store.load(plain, overwrite)
        return await store.load(
            ((dataset.user_ids[u], _events(dataset, u)) for u in users), overwrite
        )
    finally:
        await store.close()


def _events(dataset: Dataset, user: int) -> list[HistoryEvent]:
    """Returns the events of a user of a data set with actions, oldest first."""
    assert dataset.actions is not None
    part = slice(dataset.offsets[user], dataset.offsets[user + 1])
    rows, actions = dataset.events[part], dataset.actions[part]
    times = (
        dataset.times[part] if dataset.times is not None and dataset.clock else [None] * len(rows)
    )
    names = [*dataset.action_names, CLICK]  # -1 is the last one
    return [
        HistoryEvent(dataset.user_ids[user], dataset.item_ids[row], names[code], time)
        for row, code, time in zip(rows, actions, times, strict=True)
    ]


def of_trained_users(dataset: Dataset, bundle: Path) -> Dataset:
    """Returns the data set without the users whom the bundle's run held out of training."""
    trained = set(read_user_ids(bundle))
    rows = np.array([row for row, user in enumerate(dataset.user_ids) if user in trained])
    if len(rows) in (0, dataset.users):  # none: another data set, which `service_recall` refuses
        return dataset
    log.info(
        "%s users were held out of training and are left out here (`recgpt evaluate new-users`)",
        f"{dataset.users - len(rows):,}",
    )
    return dataset.of_users(rows)


def service_recall(
    recaller: Recaller, dataset: Dataset, repeats: bool = False, same_items: bool = True
) -> Recall:
    """Returns the service's recall as a function from rows of the data set to rows.

    Items of the history are recalled only with `repeats`.

    Rows become external ids, as in a request, and the ids of an answer become rows again. Items
    that were added after training, which the data set does not hold, have the row -1. Raises
    ValueError if the artifact is of another data set; without `same_items` it may be of an older
    one, whose other items have the row -1 as well.
    """
    added = sum(addition["added"] for addition in recaller.manifest.additions)
    item_ids = recaller.item_ids
    unlike = set(item_ids) ^ set(dataset.item_ids)
    if same_items and not unlike <= set(item_ids[len(item_ids) - added :]):
        raise ValueError(f"artifact {recaller.version} was trained on another data set than --data")
    return _ServiceRecall(recaller, dataset, repeats)


class _ServiceRecall:
    """See `service_recall`."""

    def __init__(self, recaller: Recaller, dataset: Dataset, repeats: bool) -> None:
        self._recaller, self._dataset = recaller, dataset
        self._repeat_after_days = 0 if repeats else None
        self._item_rows = {item: row for row, item in enumerate(dataset.item_ids)}
        self._names = [*dataset.action_names, UNTOLD]  # -1 is the last one
        self._reads_feedback = recaller.manifest.model.feedback != "none"

    def __call__(
        self, histories: Sequence[IntArray], users_B: IntArray, ks: Sequence[int]
    ) -> list[IntArray]:
        return [self._rows(histories, users_B, k) for k in ks]

    def _rows(self, histories: Sequence[IntArray], users_B: IntArray, k: int) -> IntArray:
        """Returns the rows of k items for each history, B K; -1 where there are fewer."""
        users, items = self._dataset.user_ids, self._dataset.item_ids
        queries = [
            Query(
                user_id=users[user] if user >= 0 else "",
                history=[items[row] for row in history],
                k=k,
                repeat_after_days=self._repeat_after_days,
                actions=actions,
                offers=[items[row] for row in real if row >= 0],
            )
            for user, history, actions, real in zip(
                users_B, histories, self._actions(histories), _real_offers(histories), strict=True
            )
        ]
        answers, _ = self._recaller.recall(queries)
        rows_BK = np.full((len(queries), k), -1, dtype=np.int64)
        for row_K, answer in zip(rows_BK, answers, strict=True):
            ids = self._recaller.ids_of(answer)
            row_K[: len(ids)] = [self._item_rows.get(item, -1) for item in ids]
        return rows_BK

    def _actions(self, histories: Sequence[IntArray]) -> Sequence[Sequence[str]]:
        """Returns the actions of each history; none if the network reads none."""
        told = histories.actions if isinstance(histories, Histories) else None
        if told is None or not self._reads_feedback:
            return [()] * len(histories)
        return [[self._names[code] for code in codes] for codes in told]


def _real_offers(histories: Sequence[IntArray]) -> Sequence[Sequence[int]]:
    """Returns the real offers after each history, -1: none."""
    real_BM = histories.offers_BM if isinstance(histories, Histories) else None
    return [()] * len(histories) if real_BM is None else real_BM.tolist()
