"""Stage two: prompt-tuning on sequences that hold the model's own offers (METHOD section 3)."""

from collections.abc import Callable

from model.data.dataset import Dataset
from model.network.gpt import GPT
from model.training.batches import Batch, Window, draw
from model.training.config import TuneConfig
from model.training.loop import Metrics, Stage
from model.training.prompts import interleaved, tail


def prompt_tuning(
    config: TuneConfig, dataset: Dataset, validate: Callable[[GPT], Metrics]
) -> Stage:
    """The stage that predicts the user's next item after what the model itself offered."""

    def batch(model: GPT, window: Window) -> Batch:
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
