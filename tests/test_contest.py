"""The contest at export: both ways are timed, by every size of a batch. Who wins is not tested."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import RECALL

from index.benchmark import BATCHES
from index.build import DECIDING, build_index
from index.index_json import read_card
from index.search import ItemIndex
from service.contest import dense_and_index


@pytest.mark.parametrize("items", [3, 40, 900])  # fewer than are asked for, too
@pytest.mark.parametrize("users", [1, 100])
def test_both_ways_are_timed(tmp_path: Path, items: int, users: int) -> None:
    rng = np.random.default_rng(0)
    vectors_VD, queries_BD = (
        rng.normal(size=(count, 8)).astype(np.float32) for count in (items, users)
    )
    build_index(vectors_VD, tmp_path, "flat")
    threads = torch.get_num_threads()
    found = dense_and_index(RECALL, vectors_VD, ItemIndex.load(tmp_path, vectors_VD), queries_BD)
    for rates in found:
        assert set(rates) == {str(batch) for batch in BATCHES}
        assert min(rates.values()) > 0
    assert torch.get_num_threads() == threads


def test_an_export_takes_the_faster_one_and_says_so(artifacts: Path) -> None:
    card = read_card(artifacts / "current")
    dense, flat = (card["contest"][f"{kind}_per_second"][DECIDING] for kind in ("dense", "flat"))
    assert card["kind"] == ("dense" if dense > flat else "flat")
