"""The two stages of training: pre-training and prompt-tuning (docs/method.md, 2 and 3)."""

from collections.abc import Callable

from model.data.dataset import Dataset
from model.data.event_sets import set_ends
from model.network.gpt import GPT
from model.training.batches import SampleBatch, SetTargets, TrainingBatch, draw, plain, read_samples
from model.training.checkpoints import Metrics
from model.training.config import PretrainConfig, TuneConfig
from model.training.loop import Stage
from model.training.prompts import interleaved, tail


def pretraining(
    config: PretrainConfig, dataset: Dataset, validate: Callable[[GPT], Metrics]
) -> Stage:
    """Returns the stage that predicts the next item, or the next set of items, of a plain history.

    Raises ValueError if the sets need times that the data set lacks.
    """
    last_only = config.sampling == "prefixes"
    sets = None
    if config.targets != "next":
        sets = SetTargets(set_ends(dataset, config.targets), last_only)

    def batch(model: GPT, samples: SampleBatch) -> TrainingBatch:
        return plain(samples, model.config.max_history, last_only)

    return Stage(
        "pretrain",
        config,
        lambda model, rng: draw(dataset, config.sampling, model.config.max_history, rng),
        lambda samples, batches: read_samples(dataset, samples, batches, sets),
        batch,
        validate,
    )


def prompt_tuning(
    config: TuneConfig, dataset: Dataset, validate: Callable[[GPT], Metrics]
) -> Stage:
    """Returns the stage that predicts the user's next item after the model's own offers."""

    def batch(model: GPT, samples: SampleBatch) -> TrainingBatch:
        if config.form == "tail":
            return tail(model, samples, config.offers)
        last_only = config.sampling == "prefixes"
        return interleaved(model, samples, last_only, config.offer_targets)

    return Stage(
        "tune",
        config,
        lambda model, rng: draw(dataset, config.sampling, model.config.max_history, rng),
        lambda samples, batches: read_samples(dataset, samples, batches),
        batch,
        validate,
    )
