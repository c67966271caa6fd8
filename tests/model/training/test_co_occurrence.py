"""The start from pairs: neighbours in histories are neighbours as vectors, by training events."""

from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from model.data.dataset import Dataset
from model.training import co_occurrence
from model.training.co_occurrence import pair_counts, pair_vectors, start_from_pairs
from model.training.config import PretrainConfig, TrainConfig
from model.training.run import load_run, train


@pytest.fixture(scope="module")
def two_groups(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Histories of the items a0 … a9, or of b0 … b9; each item in random order."""
    rng = np.random.default_rng(0)
    lines = [
        f"u{user} " + " ".join(f"{'ab'[user % 2]}{n}" for n in rng.permutation(10)[:4])
        for user in range(80)
    ]
    return tiny.of_lines(tmp_path_factory.mktemp("groups"), lines, "groups")


def test_a_pair_counts_one_over_its_distance_both_ways_within_a_user(tmp_path: Path) -> None:
    dataset = tiny.of_lines(tmp_path, ["u1 a b c d e", "u2 a f"], "pairs")
    row = dataset.item_ids.index
    counts_VV = pair_counts(dataset).toarray()
    assert counts_VV[row("a"), row("b")] == counts_VV[row("b"), row("a")] == 1
    assert counts_VV[row("a"), row("c")] == pytest.approx(1 / 2)
    assert counts_VV[row("a"), row("d")] == pytest.approx(1 / 3)
    assert counts_VV[row("a"), row("e")] == 0  # too far
    assert counts_VV[row("e"), row("f")] == 0  # another user's
    assert counts_VV[row("a"), row("f")] == 1


def test_blocks_change_the_counts_at_their_seams_only(
    two_groups: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = pair_counts(two_groups).sum()
    monkeypatch.setattr(co_occurrence, "BLOCK_EVENTS", 80)  # a whole number of users
    assert pair_counts(two_groups).sum() == pytest.approx(whole)
    monkeypatch.setattr(co_occurrence, "MAX_BLOCKS", 2)
    assert pair_counts(two_groups).sum() == pytest.approx(whole / 2)


@pytest.mark.parametrize("width", [8, 64], ids=["narrow", "wider than the catalogue"])
def test_items_of_a_group_are_near_each_other(two_groups: Dataset, width: int) -> None:
    vectors_VD = pair_vectors(two_groups, width)
    assert vectors_VD.shape == (20, width)
    is_a_V = torch.tensor([item.startswith("a") for item in two_groups.item_ids])
    cosines_VV = vectors_VD @ vectors_VD.T
    same_VV = is_a_V[:, None] == is_a_V
    assert cosines_VV[same_VV].mean() > cosines_VV[~same_VV].mean() + 0.1
    assert cosines_VV[~same_VV].abs().max() < 1e-3


def test_an_item_without_a_pair_keeps_its_random_direction(tmp_path: Path) -> None:
    dataset = tiny.of_lines(tmp_path, ["u1 a b c", "u2 b c a", "u3 alone"], "alone")
    model = tiny.gpt(catalogue=dataset.catalogue, users=3)
    before_VD = model.items.weight.detach().clone()
    start_from_pairs(model.items, dataset)
    after_VD = model.items.weight.detach()
    length = before_VD.norm(dim=1).mean()
    torch.testing.assert_close(after_VD.norm(dim=1), length.expand(dataset.catalogue))
    cosines_V = torch.cosine_similarity(before_VD, after_VD)
    alone_V = torch.tensor([item == "alone" for item in dataset.item_ids])
    assert cosines_V[alone_V] == pytest.approx(1, abs=1e-5)
    assert (cosines_V[~alone_V] < 0.95).all()


def test_every_second_group_stays_random(two_groups: Dataset) -> None:
    items = tiny.gpt(catalogue=20).items
    before_Vd = items.weight.detach().clone().chunk(4, dim=1)
    start_from_pairs(items, two_groups, groups=4)
    after_Vd = items.weight.detach().chunk(4, dim=1)
    same = [torch.equal(old, new) for old, new in zip(before_Vd, after_Vd, strict=True)]
    assert same == [False, True, False, True]


def started(start: str, folder: Path) -> torch.Tensor:
    """The item vectors of a run before its first epoch: of length 1, V D."""
    config = TrainConfig(
        data=folder / "data",
        out=folder / start,
        model=tiny.CONFIG,
        pretrain=PretrainConfig(epochs=0, start=start),
    )
    train(config)
    _, _, model = load_run(folder / start)
    return model.item_vectors().detach()


def test_a_run_starts_from_the_pairs_of_its_training_events(tmp_path: Path) -> None:
    """Neither the validation nor the test item of a history takes part: y and z stay random."""
    dataset = tiny.of_lines(tmp_path, [f"u{user} a b c d y z" for user in range(8)], "ends")
    random_VD, paired_VD = started("random", tmp_path), started("pairs", tmp_path)
    cosines = dict(zip(dataset.item_ids, (random_VD * paired_VD).sum(dim=1).tolist(), strict=True))
    assert [cosines["y"], cosines["z"]] == pytest.approx([1, 1], abs=1e-5)
    assert all(cosines[item] < 0.95 for item in "abcd")
