"""Stage one: plain auto-regression on the users' histories (METHOD section 2)."""

from collections.abc import Callable

from model.data.dataset import Dataset
from model.network.block import history_positions
from model.network.gpt import GPT
from model.training.batches import Batch, Window, draw, plain
from model.training.config import PretrainConfig
from model.training.loop import Metrics, Stage


def pretraining(
    config: PretrainConfig, dataset: Dataset, validate: Callable[[GPT], Metrics]
) -> Stage:
    """The stage that predicts the next item of a plain history."""

    def batch(model: GPT, window: Window) -> Batch:
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
