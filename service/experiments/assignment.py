"""Assignment: the same user gets the same arm in every process and at any time.

A user's place in a layer is a hash of layer and user, so experiments of one layer take users from
disjoint parts of it. The arm is another hash, of the experiment's salt and the user, so that it
does not depend on the place. Nothing is stored.
"""

from bisect import bisect_right
from hashlib import blake2b
from itertools import accumulate
from typing import NamedTuple

from service.experiments.config import Arm, Experiment, Experiments
from service.experiments.team_draft import INTERLEAVED


class Assignment(NamedTuple):
    """The arm of a user in one experiment."""

    experiment: str
    arm: str
    settings: Arm


class Assigner:
    """Assigns users to the arms of all experiments that run."""

    def __init__(self, experiments: Experiments) -> None:
        self.interleaves = any(one.interleave for one in experiments.root.values())
        """Whether any experiment is interleaved."""
        self._experiments = [
            (name, experiment, _cumulative_weights(experiment))
            for name, experiment in experiments.root.items()
        ]

    def assign(self, user: str) -> list[Assignment]:
        """Returns the arms of a user, at most one for each layer, in the order of the file.

        In an interleaved experiment the arm is `interleaved`, which sets nothing. A user with a
        fixed arm is in no other experiment of its layer.
        """
        found = []
        fixed = {one.layer for _, one, _ in self._experiments if user in one.users}
        for name, experiment, weights in self._experiments:
            arm = experiment.users.get(user)
            if arm is None:
                begin, end = experiment.slice
                place = _place("layer", experiment.layer, user)
                if experiment.layer in fixed or not begin <= place < end:
                    continue
                if experiment.interleave:
                    found.append(Assignment(name, INTERLEAVED, Arm()))
                    continue
                place = _place("arm", experiment.salt or name, user)
                arm = list(experiment.arms)[bisect_right(weights, place * weights[-1])]
            found.append(Assignment(name, arm, experiment.arms[arm]))
        return found


def _cumulative_weights(experiment: Experiment) -> list[float]:
    return list(accumulate(arm.weight for arm in experiment.arms.values()))


def _place(*words: str) -> float:
    """Returns a number in [0, 1) that depends on the words only, and evenly."""
    text = "\0".join(words).encode(errors="surrogatepass")
    return int.from_bytes(blake2b(text, digest_size=8).digest()) / 2**64
