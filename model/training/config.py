"""Configuration of a training run. Imports no torch: command lines read it."""

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, Field, model_validator

from model.network.config import GPTConfig, RecallConfig

Sampling = Literal["prefixes", "windows"]
"""Every prefix of a history as a sample of its own, with the loss at its last item; or whole
windows of a history with the loss at every item (many times faster, less accurate)."""


class LossConfig(BaseModel, frozen=True):
    """What a stage minimises."""

    loss: Literal["softmax", "sampled", "bce"] = Field(
        "softmax",
        description="softmax: cross-entropy over the whole catalogue; sampled: softmax over "
        "sampled negatives, for a million items and more; bce: binary cross-entropy (SASRec)",
    )
    negatives: int | None = Field(
        None,
        ge=1,
        description="sampled: negatives a step, shared by its samples (default 8192); "
        "bce: negatives a position (default 1)",
    )
    products: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="what network and softmax multiply in while training; auto: bfloat16 where the "
        "hardware does, which is faster",
    )
    popularity_power: float = Field(
        0.75, ge=0, le=1, description="sampled: negatives are drawn by popularity to this power"
    )


class FitConfig(LossConfig, frozen=True):
    """Optimisation of one stage."""

    epochs: int = Field(15, ge=0, description="most epochs of the stage")
    patience: int = Field(15, ge=1, description="epochs without a better NDCG@20 before it stops")
    epoch_steps: int | None = Field(
        None, ge=1, description="end an epoch after so many steps (default: after all samples)"
    )
    batch_size: int = Field(256, ge=1, description="samples a step")
    learning_rate: float = Field(1e-3, gt=0, description="of Adam")
    decay: bool = Field(True, description="the learning rate falls to zero over the epochs")
    weight_decay: float = Field(0.0, ge=0, description="decoupled; sampled: not of the tables")


class PretrainConfig(FitConfig, frozen=True):
    """Pre-training."""

    sampling: Sampling = Field(
        "prefixes",
        description="prefixes: a sample a prefix, loss at its last item (better); "
        "windows: loss at every item of a window (many times faster)",
    )


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


class TrainConfig(BaseModel, frozen=True):
    """A whole training run."""

    data: Path = Field(description="folder that `recgpt data prepare` wrote")
    out: Path = Field(description="folder of the run: checkpoints, curves, figures")
    stages: Literal["both", "pretrain", "tune"] = Field(
        "both", description="tune alone starts from the run's own pre-trained weights"
    )
    peer: str | None = Field(
        None,
        description="this configuration is a peer to compare with: its name in metrics.json, "
        "where its one-interest recall stands alone",
    )
    resume: bool = Field(False, description="go on after the last complete epoch")
    seed: int = Field(1, ge=0, description="of everything random")
    hold_out_users: float = Field(
        0.0, ge=0, lt=1, description="share of the users kept out, to measure how new users fare"
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where to train")
    validation_users: int = Field(
        30_000, ge=1, description="most users validated on after an epoch (drawn once)"
    )
    model: GPTConfig = Field(GPTConfig(), description="the network")
    recall: RecallConfig = Field(RecallConfig(), description="how interests share a list")
    pretrain: PretrainConfig = Field(PretrainConfig(), description="stage one")
    tune: TuneConfig = Field(TuneConfig(), description="stage two")

    @model_validator(mode="after")
    def _interests_can_be_generated(self) -> Self:
        wanted, possible = self.recall.interests, self.model.max_interests
        if wanted > possible:
            raise ValueError(
                f"recall.interests = {wanted} is more than model.max_interests = {possible}: "
                "ask for fewer, or train a network that can generate as many"
            )
        return self
