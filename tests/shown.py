"""A small world in which an impression that a user did not take tells what the user wants.

An event is of either of two groups of items. Before it the user was shown an item of the other
group, and nothing else tells the group of the last event.
"""

from pathlib import Path

import numpy as np
from preparing import run as prepared

from model.data.dataset import Dataset

USERS, ITEMS, EVENTS = 300, 40, 8
ALIKE = 4
"""Events at the beginning that are of one group, so that pre-training learns the groups."""


def world(folder: Path) -> Dataset:
    """A prepared data set in `folder / "data"`."""
    rng = np.random.default_rng(0)
    lines = ["user,item,time,type"]
    for user in range(USERS):
        groups = [rng.permutation(np.arange(group, ITEMS, 2)).tolist() for group in (0, 1)]
        for time in range(EVENTS):
            if time == 0 or time >= ALIKE:
                wanted = int(rng.integers(2))
            refused = groups[1 - wanted][0]
            lines.append(f"u{user},i{refused},{2 * time},impression")
            lines.append(f"u{user},i{groups[wanted].pop()},{2 * time + 1},click")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "log.csv").write_text("\n".join(lines))
    _, dataset = prepared(
        folder / "log.csv",
        out=folder / "data",
        action_column="type",
        offer_action="impression",
    )
    return dataset
