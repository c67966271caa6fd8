"""Stage one: plain auto-regression on the users' histories (METHOD section 2)."""

from collections.abc import Callable

from pydantic import Field

from model.data.dataset import Dataset
from model.network.gpt import GPT
from model.training.batches import Batch, Sampling, Window, draw, plain
from model.training.loop import FitConfig, Metrics, Stage


class PretrainConfig(FitConfig, frozen=True):
    """Pre-training."""

    sampling: Sampling = Field(
        "prefixes",
        description="prefixes: a sample a prefix, loss at its last item (better); "
        "windows: loss at every item of a window (many times faster)",
    )


def pretraining(
    config: PretrainConfig, dataset: Dataset, validate: Callable[[GPT], Metrics]
) -> Stage:
    """The stage that predicts the next item of a plain history."""

    def batch(model: GPT, window: Window) -> Batch:
        positions_BL = model.config.history_positions(window.lengths_B, window.history_BL.shape[1])
        return plain(window, positions_BL, last_only=config.sampling == "prefixes")

    return Stage(
        "pretrain",
        config,
        lambda model, rng: draw(dataset, config.sampling, model.config.max_history, rng),
        batch,
        validate,
    )
