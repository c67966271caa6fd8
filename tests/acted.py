"""A small world in which users like or dislike items, and bundles whose network reads it."""

from pathlib import Path
from typing import Literal

import numpy as np
import tiny
from preparing import run as prepared

from model.data.dataset import Dataset
from model.network.config import RecallConfig
from model.network.gpt import GPT
from service.offline import export_bundle
from service.recall.recaller import Recaller

USERS, ITEMS, EVENTS = 30, 40, 12
ACTIONS = ("dislike", "like", "")  # of an event without an action nothing is known
RECALL = RecallConfig(interests=3, first_share=0.6, outcome="like")
GUIDED = RECALL.model_copy(update={"avoid": "dislike", "guidance": 0.5})


def world(folder: Path) -> Dataset:
    """A prepared data set of random events with the actions dislike, like and none."""
    rng = np.random.default_rng(0)
    lines = ["user,item,time,action"] + [
        f"u{user},i{rng.integers(ITEMS)},{time},{ACTIONS[rng.integers(3)]}"
        for user in range(USERS)
        for time in range(EVENTS)
    ]
    (folder / "log.csv").write_text("\n".join(lines))
    _, dataset = prepared(folder / "log.csv", out=folder / "data", action_column="action")
    return dataset


def bundle(
    folder: Path,
    dataset: Dataset,
    feedback: Literal["actions", "outcome"] = "outcome",
    index: Literal["exact", "ivf"] = "exact",
    recall: RecallConfig = RECALL,
) -> tuple[GPT, Recaller]:
    """A random network that reads this much feedback, and its bundle."""
    config = tiny.CONFIG.model_copy(update={"feedback": feedback, "user_rank": 0})
    model = tiny.lively(tiny.gpt(config, dataset.catalogue, dataset.users, actions=2))
    export_bundle(folder, dataset, model, recall, {}, index)
    return model, Recaller.load(folder, "cpu")
