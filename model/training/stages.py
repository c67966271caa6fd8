"""The stages of training: pre-training and prompt-tuning (docs/method.md, 2 and 3).

Shapes: U users, B batch, M offers.
"""

from collections.abc import Callable

from torch import Tensor

from model.data.dataset import Dataset
from model.data.event_sets import set_ends
from model.evaluation.config import EventSet
from model.network.gpt import GPT
from model.training.batches import SampleBatch, SetTargets, TrainingBatch, draw, plain, read_samples
from model.training.checkpoints import Metrics
from model.training.co_occurrence import start_from_pairs
from model.training.config import PretrainConfig, TuneConfig
from model.training.loop import Stage
from model.training.prompts import append, assign, generate, interleaved, tail

Offerer = Callable[[GPT, SampleBatch, int], Tensor]
"""(the network in tuning, samples, M) → offers after each history, real ones first: rows B M."""


def pretraining(
    config: PretrainConfig,
    dataset: Dataset,
    validate: Callable[[GPT], Metrics],
    name: str = "pretrain",
    by_outcome: bool = False,
    whole: bool = False,
) -> Stage:
    """Returns the stage that predicts the next item, or the next set of items, of a plain history.

    With `by_outcome`, all items of a set got the same action; with `whole`, the network gets whole
    histories. Raises ValueError if the sets need times that the data set lacks.
    """
    last_only = config.sampling == "prefixes"
    sets = _set_targets(dataset, config.targets, last_only, by_outcome)

    def batch(model: GPT, samples: SampleBatch) -> TrainingBatch:
        return plain(samples, model.config.max_history, last_only)

    def begin(model: GPT) -> None:
        if config.start == "pairs":
            start_from_pairs(model.items, dataset, model.config.groups)

    return Stage(
        name,
        config,
        lambda model, rng: draw(dataset, config.sampling, model.config.max_history, rng),
        lambda samples, batches: read_samples(dataset, samples, batches, sets, whole),
        batch,
        validate,
        begin=begin,
        settle=lambda model: model.tie_segments(),
    )


def own_offers(model: GPT, samples: SampleBatch, offers: int) -> Tensor:
    """Returns real offers, then those that the network in tuning makes itself: rows B M."""
    return generate(
        model, samples.history_BL, samples.lengths_B, samples.users_B, offers, samples.real_BM
    )


def prompt_tuning(
    config: TuneConfig,
    dataset: Dataset,
    validate: Callable[[GPT], Metrics],
    offers_of: Offerer = own_offers,
    by_outcome: bool = False,
    whole: bool = False,
) -> Stage:
    """Returns the stage that predicts the user's next items after offers.

    `by_outcome` and `whole` are those of `pretraining`. Raises ValueError if sets of targets need
    times that the data set lacks.
    """
    last_only = config.sampling == "prefixes"
    sets = None
    if config.form in ("append", "plain"):
        at_last = last_only or config.form == "append"
        sets = _set_targets(dataset, config.targets, at_last, by_outcome)

    def batch(model: GPT, samples: SampleBatch) -> TrainingBatch:
        longest = model.config.max_history
        if config.form == "plain":
            return plain(samples, longest, last_only)
        if config.form == "append":
            offers_BM = offers_of(model, samples, config.offers)
            frozen = bool(model.config.adapter_rank)  # the first interest
            made = append(samples, offers_BM, longest, first=config.assign or not frozen)
            if config.assign:
                made = assign(model, made)
                if frozen:
                    made.targets_BQS[:, 0] = -1
            return made
        if config.form == "tail":
            return tail(model, samples, config.offers)
        return interleaved(model, samples, last_only, config.offer_targets)

    real = config.form == "append"
    return Stage(
        "tune",
        config,
        lambda model, rng: draw(dataset, config.sampling, model.config.max_history, rng),
        lambda samples, batches: read_samples(dataset, samples, batches, sets, whole, real),
        batch,
        validate,
    )


def train_adapters_only(model: GPT) -> None:
    """Freezes all but the adapters, so that the first interest stays as it is."""
    model.requires_grad_(False)
    for adapter in model.layer_adapters:
        adapter.requires_grad_(True)


def _set_targets(
    dataset: Dataset, targets: EventSet, last_only: bool, by_outcome: bool
) -> SetTargets | None:
    if targets == "next":
        return None
    return SetTargets(set_ends(dataset, targets), last_only, by_outcome)
