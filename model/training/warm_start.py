"""A warm start: training goes on from the weights of a bundle, on newer data.

Data sets number their items and users anew, so the rows of the two tables are found by id. A new
item keeps the random weights of a new network, and a new user starts as the unknown user.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from model.artifact.bundle import load_artifact, read_user_ids
from model.artifact.versions import find_bundle
from model.data.dataset import Dataset
from model.network.config import GPTConfig
from model.network.gpt import GPT

log = logging.getLogger(__name__)

ITEMS, USERS = "items.weight", "users.weight"
REGULARISATION = {"dropout", "attention_dropout", "user_dropout"}
"""Fields of the network's configuration that do not change what its weights mean."""


@torch.no_grad()
def start_from(bundles: Path, model: GPT, dataset: Dataset) -> None:
    """Copies the weights of the served version, or of the one bundle at `bundles`, to `model`.

    Raises ValueError if it is of another form of network, ArtifactError if it is damaged.
    """
    artifact = load_artifact(find_bundle(bundles))
    _check_form(artifact.manifest.model, model.config, artifact.folder)
    if model.config.feedback != "none" and artifact.manifest.actions != [*dataset.action_names]:
        raise ValueError(f"{artifact.folder} knows other actions than the data set {dataset.name}")
    served, weights = artifact.model.state_dict(), model.state_dict()
    for name in weights.keys() - {ITEMS, USERS}:
        weights[name].copy_(served[name])
    items = _copy_rows(
        served[ITEMS], artifact.items["item_id"].to_list(), weights[ITEMS], dataset.item_ids
    )
    if USERS in weights:
        weights[USERS].copy_(served[USERS][0])  # the unknown user's row in all rows
        users = read_user_ids(artifact.folder)
        _copy_rows(served[USERS][1:], users, weights[USERS][1:], dataset.user_ids)
    log.info(
        "warm start from %s: %s of %s items are known",
        artifact.manifest.version,
        f"{items:,}",
        f"{dataset.catalogue:,}",
    )


def _copy_rows(
    source_VD: Tensor, source_ids: Sequence[str], target_VD: Tensor, target_ids: Sequence[str]
) -> int:
    """Copies the rows of the ids that both have; returns their number."""
    row_of = {identity: row for row, identity in enumerate(source_ids)}
    pairs = [(row_of[one], row) for row, one in enumerate(target_ids) if one in row_of]
    if pairs:
        from_N, to_N = torch.tensor(pairs).T
        target_VD[to_N] = source_VD[from_N]
    return len(pairs)


def _check_form(served: GPTConfig, wanted: GPTConfig, folder: Path) -> None:
    before, now = (config.model_dump(exclude=REGULARISATION) for config in (served, wanted))
    changed = [f"model.{name} = {before[name]}" for name in before if before[name] != now[name]]
    if changed:
        raise ValueError(
            f"{folder} has {', '.join(changed)}: give the same values for a warm start, or train "
            "without one"
        )
