from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from model.data.dataset import Dataset
from model.data.event_sets import set_ends
from model.training.batches import SetTargets, by_length, plain, prefixes, read_samples, windows


def test_prefixes_are_all_prefixes(dataset: Dataset) -> None:
    samples = prefixes(dataset, max_history=4)
    got = sorted(zip(samples.users_N, samples.starts_N, samples.lengths_N, strict=True))
    expected = []
    for user, length in enumerate(np.diff(dataset.offsets)):
        for end in range(1, length):
            start = max(0, end - 4)
            expected.append((user, dataset.offsets[user] + start, end - start))
    assert got == sorted(expected)


@pytest.mark.parametrize("max_history", [1, 3, 8, 50])
def test_windows_make_each_item_a_target_once(dataset: Dataset, max_history: int) -> None:
    samples = windows(dataset, max_history, np.random.default_rng(0))
    assert samples.lengths_N.min() >= 1
    assert samples.lengths_N.max() <= max_history
    targets = np.concatenate(
        [
            np.arange(s + 1, s + n + 1)
            for s, n in zip(samples.starts_N, samples.lengths_N, strict=True)
        ]
    )
    expected = [
        offset + i
        for offset, length in zip(dataset.offsets[:-1], np.diff(dataset.offsets), strict=True)
        for i in range(1, length)
    ]
    assert sorted(targets) == expected


def test_only_events_of_the_data_set_are_read(dataset: Dataset) -> None:
    """No window reaches from one user into the next."""
    last = dataset.offsets[1:] - 1
    for samples in (prefixes(dataset, 5), windows(dataset, 5, np.random.default_rng(1))):
        targets = samples.starts_N + samples.lengths_N
        assert (targets <= last[samples.users_N]).all()
        assert (samples.starts_N >= dataset.offsets[samples.users_N]).all()


def test_batches_hold_every_sample_once_and_like_lengths(dataset: Dataset) -> None:
    samples = prefixes(dataset, max_history=8)
    batches = by_length(samples, 16, np.random.default_rng(0))
    assert sorted(np.concatenate(batches)) == list(range(len(samples)))
    spread = [np.ptp(samples.lengths_N[batch]) for batch in batches]
    assert np.mean(spread) < 2
    other = by_length(samples, 16, np.random.default_rng(1))
    assert [b.tolist() for b in batches] != [b.tolist() for b in other]


def test_windows_are_read_padded_with_their_targets(dataset: Dataset) -> None:
    samples = prefixes(dataset, max_history=8)
    (batch,) = read_samples(dataset, samples, [np.array([0, 3, 5])])
    for row, sample in enumerate([0, 3, 5]):
        start, length = samples.starts_N[sample], samples.lengths_N[sample]
        assert batch.history_BL[row, :length].tolist() == list(
            dataset.events[start : start + length]
        )
        expected = list(dataset.events[start + 1 : start + length + 1])
        assert batch.next_BL[row, :length].tolist() == expected
        assert (batch.next_BL[row, length:] == -1).all()


def test_plain_has_the_loss_at_the_last_slot_or_everywhere(dataset: Dataset) -> None:
    samples = prefixes(dataset, max_history=8)
    (batch,) = read_samples(dataset, samples, [np.array([2, 4])])
    last, every = plain(batch, 8, last_only=True), plain(batch, 8, last_only=False)
    assert last.at_BQ is not None
    assert last.at_BQ.flatten().tolist() == (batch.lengths_B - 1).tolist()
    assert (last.targets_BQS >= 0).all()
    assert every.at_BQ is None
    assert (every.targets_BQS >= 0).sum() == batch.lengths_B.sum()


def test_users_without_training_targets_give_no_samples(tmp_path: Path) -> None:
    dataset = tiny.walks(tmp_path, users=5)
    counts = np.bincount(prefixes(dataset, 8).users_N, minlength=5)
    assert counts.tolist() == np.maximum(np.diff(dataset.offsets) - 1, 0).tolist()


@pytest.mark.parametrize("last_only", [True, False])
def test_set_targets_are_the_items_up_to_the_end_of_the_set(
    dataset: Dataset, last_only: bool
) -> None:
    samples = prefixes(dataset, max_history=8)
    chosen = np.array([0, 3, 5, len(samples) - 1])
    sets = SetTargets(set_ends(dataset, "3"), last_only)
    (batch,) = read_samples(dataset, samples, [chosen], sets)
    targets = plain(batch, 8, last_only).targets_BQS
    for row, sample in enumerate(chosen):
        start, length = samples.starts_N[sample], samples.lengths_N[sample]
        end = dataset.offsets[samples.users_N[sample] + 1]
        for slot in [length - 1] if last_only else range(length):
            first = start + slot + 1
            expected = list(dict.fromkeys(dataset.events[first : min(first + 3, end)].tolist()))
            found = targets[row, 0 if last_only else slot]
            assert found[found >= 0].tolist() == expected
            assert expected[0] == batch.next_BL[row, slot]
        if not last_only:
            assert (targets[row, length:] == -1).all()


def test_sets_of_one_are_the_next_item(dataset: Dataset) -> None:
    samples = windows(dataset, 8, np.random.default_rng(0))
    sets = SetTargets(set_ends(dataset, "next"), last_only=False)
    (alone,) = read_samples(dataset, samples, [np.arange(20)])
    (as_sets,) = read_samples(dataset, samples, [np.arange(20)], sets)
    one, other = (plain(batch, 8, last_only=False) for batch in (alone, as_sets))
    assert torch.equal(one.targets_BQS, other.targets_BQS)
