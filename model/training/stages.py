"""The two stages of training: pre-training and prompt-tuning (docs/method.md, 2 and 3)."""

from collections.abc import Callable

from model.data.dataset import Dataset
from model.network.gpt import GPT
from model.training.batches import SampleBatch, TrainingBatch, draw, plain
from model.training.checkpoints import Metrics
from model.training.config import PretrainConfig, TuneConfig
from model.training.loop import Stage
from model.training.prompts import interleaved, tail


def pretraining(
    config: PretrainConfig, dataset: Dataset, validate: Callable[[GPT], Metrics]
) -> Stage:
    """Returns the stage that predicts the next item of a plain history."""

    def batch(model: GPT, samples: SampleBatch) -> TrainingBatch:
        return plain(samples, model.config.max_history, last_only=config.sampling == "prefixes")

    return Stage(
        "pretrain",
        config,
        lambda model, rng: draw(dataset, config.sampling, model.config.max_history, rng),
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
        batch,
        validate,
    )
