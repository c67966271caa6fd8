"""The two stages of training: pre-training and prompt-tuning (METHOD sections 2 and 3)."""

from collections.abc import Callable

from model.data.dataset import Dataset
from model.network.block import history_positions
from model.network.gpt import GPT
from model.training.batches import SampleBatch, TrainingBatch, draw, plain
from model.training.checkpoints import Metrics
from model.training.config import PretrainConfig, TuneConfig
from model.training.loop import Stage
from model.training.prompts import interleaved, tail


def pretraining(
    config: PretrainConfig, dataset: Dataset, validate: Callable[[GPT], Metrics]
) -> Stage:
    """The stage that predicts the next item of a plain history."""

    def batch(model: GPT, window: SampleBatch) -> TrainingBatch:
        positions_BL = history_positions(
            window.lengths_B, window.history_BL.shape[1], model.config.max_history
        )
        return plain(window, positions_BL, last_only=config.sampling == "prefixes")

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
    """The stage that predicts the user's next item after what the model itself offered."""

    def batch(model: GPT, window: SampleBatch) -> TrainingBatch:
        if config.form == "tail":
            return tail(model, window, config.offers)
        last_only = config.sampling == "prefixes"
        return interleaved(model, window, last_only, config.offer_targets)

    return Stage(
        "tune",
        config,
        lambda model, rng: draw(dataset, config.sampling, model.config.max_history, rng),
        batch,
        validate,
    )
