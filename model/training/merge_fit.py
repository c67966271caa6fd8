"""How the interests of a finished network share a list, learned on the validation cases.

Shapes: N cases, B batch, M interests, V catalogue, D width, S targets of a case, T targets of all
cases.
"""

import logging
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from model.data.dataset import Dataset
from model.evaluation.config import Metric
from model.evaluation.metrics import case_batches, evaluate
from model.evaluation.protocols import Split, target_sets
from model.evaluation.reference import DenseRecall
from model.network.config import RecallConfig

log = logging.getLogger(__name__)

SHARES = (0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4)
"""First shares that quotas are chosen from."""
LOGITS_AT_ONCE = 8 << 20
"""Bound of the logits that are in memory at a time."""
STEPS = 100
"""Steps of expectation and maximisation."""


def fit_merge(served: DenseRecall, dataset: Dataset, cases: Split, metric: Metric) -> RecallConfig:
    """Returns the recall's settings with the shares of the interests that suit these cases.

    Quotas get the first share with the best `metric`. A merge by probability gets the weights that
    give the targets the highest likelihood, as a mixture of the interests.
    """
    recall = served.config
    if recall.interests == 1:
        return recall
    if recall.merge == "probability":
        logs_TM, shares_T = target_logs(served, dataset, cases)
        weights_M = mixture_weights(logs_TM, shares_T)
        fitted: dict[str, object] = {"weights": tuple(weights_M.round(4).tolist())}
    else:
        depths = [int(metric.removeprefix("recall@"))] if metric.startswith("recall@") else []

        def quality(share: float) -> float:
            shared = recall.model_copy(update={"first_share": share})
            return evaluate(replace(served, config=shared), dataset, cases, depths)[metric]

        fitted = {"first_share": max(SHARES, key=quality)}
    log.info("merge of %d interests, as validation chose: %s", recall.interests, fitted)
    return recall.model_copy(update=fitted)


def target_logs(
    served: DenseRecall, dataset: Dataset, cases: Split
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns the log-probability of each target by each interest, T M, and its share of its case.

    The probabilities are over all items outside the history. Targets inside it are left out.
    """
    sets_NS = target_sets(dataset, cases)
    interests = served.config.interests
    with torch.no_grad():
        table_VD = served.model.item_vectors().cpu()
    logs, shares = [], []
    batch = max(1, LOGITS_AT_ONCE // (interests * dataset.catalogue))
    for part, histories, users_B in case_batches(dataset, cases, batch):
        found = served.lists(histories, users_B, 1)
        logits_BMV = torch.from_numpy(found.interests_BMD) @ table_VD.T
        for logits_MV, history in zip(logits_BMV, histories, strict=True):
            logits_MV[:, torch.from_numpy(history.astype(np.int64))] = -torch.inf
        logs_BMV = logits_BMV.log_softmax(dim=2).numpy()
        sets_BS = sets_NS[part]
        logs_BMS = np.take_along_axis(logs_BMV, np.maximum(sets_BS, 0)[:, None], axis=2)
        open_BS = (sets_BS >= 0) & (logs_BMS[:, 0] > -np.inf)
        logs.append(logs_BMS.transpose(0, 2, 1)[open_BS])
        shares.append(np.repeat(1 / np.maximum(open_BS.sum(axis=1), 1), open_BS.sum(axis=1)))
    return np.concatenate(logs).astype(np.float64), np.concatenate(shares)


def mixture_weights(
    logs_TM: NDArray[np.float64], shares_T: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Returns the weights M of a mixture that gives targets the highest likelihood (EM).

    Each target counts as much as its share. Equal weights if there are no targets.
    """
    weights_M = np.full(logs_TM.shape[1], 1 / logs_TM.shape[1])
    if not len(logs_TM):
        return weights_M
    odds_TM = np.exp(logs_TM - logs_TM.max(axis=1, keepdims=True))
    for _ in range(STEPS):
        parts_TM = odds_TM * weights_M
        parts_TM /= parts_TM.sum(axis=1, keepdims=True)
        weights_M = shares_T @ parts_TM / shares_T.sum()
    return weights_M
