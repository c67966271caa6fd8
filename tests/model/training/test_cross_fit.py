"""Cross-fitted offers come from the network that has not seen the user."""

from pathlib import Path

import numpy as np
import tiny
import torch

from model.training.batches import by_length, prefixes, read_samples
from model.training.cross_fit import CrossFitted, halves, of_half
from model.training.stages import own_offers


def test_each_half_gets_the_offers_of_the_other_halfs_network(
    tmp_path: Path,
) -> None:
    dataset = tiny.walks(tmp_path)
    half_U = halves(dataset.users, seed=3)
    networks = tiny.gpt(seed=1), tiny.gpt(seed=2)
    offers_of = CrossFitted(networks, torch.from_numpy(half_U))
    samples = prefixes(dataset, tiny.CONFIG.max_history)
    batches = by_length(samples, 50, np.random.default_rng(0))
    for batch in read_samples(dataset, samples, batches):
        found = offers_of(tiny.gpt(seed=3), batch, 2)
        by_network = [own_offers(network, batch, 2) for network in networks]
        for row, user in enumerate(batch.users_B):
            assert found[row].tolist() == by_network[1 - half_U[user]][row].tolist()


def test_a_half_holds_half_of_the_users_and_no_event_of_the_others(
    tmp_path: Path,
) -> None:
    dataset = tiny.walks(tmp_path)
    half_U = halves(dataset.users, seed=3)
    assert abs(np.bincount(half_U) - dataset.users / 2).max() <= 1
    parts = [of_half(dataset, half_U, half) for half in (0, 1)]
    for user in range(dataset.users):
        own, other = parts[half_U[user]], parts[1 - half_U[user]]
        assert own.history(user).tolist() == dataset.history(user).tolist()
        assert not len(other.history(user))
