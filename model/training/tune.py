"""Stage two: prompt-tuning on sequences that hold the model's own offers (METHOD section 3)."""

from collections.abc import Callable
from typing import Literal

from pydantic import Field

from model.data.dataset import Dataset
from model.network.gpt import GPT
from model.training.batches import Batch, Sampling, Window, draw
from model.training.loop import FitConfig, Metrics, Stage
from model.training.prompts import interleaved, tail


class TuneConfig(FitConfig, frozen=True):
    """Prompt-tuning."""

    epochs: int = Field(4, ge=0, description="most epochs of the stage")
    patience: int = Field(4, ge=1, description="epochs without a better NDCG@20 before it stops")
    learning_rate: float = Field(1e-4, gt=0, description="of Adam")
    sampling: Sampling = Field("prefixes", description="see pre-training")
    form: Literal["tail", "interleaved"] = Field(
        "tail",
        description="tail: the last items give way to offers; interleaved: an offer behind "
        "every item",
    )
    offers: int = Field(1, ge=1, le=7, description="items that give way, in the tail form")
    offer_targets: bool = Field(
        True, description="interleaved form: the user's feedback is the target at an offer, too"
    )


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
