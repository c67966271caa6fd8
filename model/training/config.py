"""Settings of a training run. Imports no torch: command lines read them."""

import json
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, Field, model_validator

from model.evaluation.config import EventSet, Metric, ProtocolConfig
from model.network.config import BEFORE_GROUPS, MAX_OFFERS, GPTConfig, RecallConfig

Sampling = Literal["prefixes", "windows"]
"""Every prefix of a history is a sample, with the loss at its last item; or windows of a history
are, with the loss at every item (many times faster, less accurate)."""

PATIENCE = "epochs without a better validation figure that end the stage early"


class LossConfig(BaseModel, frozen=True):
    """The loss of a stage."""

    loss: Literal["softmax", "sampled", "bce"] = Field(
        "softmax",
        description="softmax: cross-entropy over the whole catalogue; sampled: softmax over "
        "sampled negatives, for a million items and more; bce: binary cross-entropy (SASRec)",
    )
    negatives: int | None = Field(
        None,
        ge=1,
        description="sampled: negatives per step, shared by its samples (default: 8192); "
        "bce: negatives per target (default: 1)",
    )
    products: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="number format of matrix products in network and softmax; auto: bfloat16 "
        "where the hardware has it, which is faster",
    )
    popularity_power: float = Field(
        0.75, ge=0, le=1, description="sampled: negatives are drawn by popularity to this power"
    )


class FitConfig(LossConfig, frozen=True):
    """The optimisation of a stage."""

    epochs: int = Field(15, ge=0, description="largest number of epochs")
    choose_by: Metric = Field(
        "NDCG@20",
        description="validation metric that chooses the epoch: HR@ or NDCG@5/10/20 of the next "
        "item, or recall@K of the set of targets",
    )
    patience: int = Field(15, ge=1, description=PATIENCE)
    epoch_steps: int | None = Field(
        None, ge=1, description="optimiser steps per epoch (default: one pass over all samples)"
    )
    batch_size: int = Field(256, ge=1, description="samples per optimiser step")
    learning_rate: float = Field(1e-3, gt=0, description="learning rate of Adam")
    decay: bool = Field(True, description="the learning rate falls linearly to zero")
    weight_decay: float = Field(
        0.0, ge=0, description="decoupled weight decay; with the sampled loss not of the tables"
    )
    user_rate: float = Field(
        3.0, gt=0, description="learning rate of the user table, as a multiple of learning_rate"
    )
    user_decay: float = Field(
        1.0,
        ge=0,
        description="decoupled weight decay of the user table, towards the unknown user",
    )


class PretrainConfig(FitConfig, frozen=True):
    """Pre-training."""

    start: Literal["random", "pairs"] = Field(
        "pairs",
        description="item vectors before the first epoch; pairs: items that occur near each other "
        "in histories point the same way, by counts. A warm start has the vectors of its bundle",
    )
    sampling: Sampling = Field(
        "prefixes",
        description="prefixes: every prefix is a sample, with the loss at its last item (more "
        "accurate); windows: the loss is at every item of a window (many times faster)",
    )
    targets: EventSet = Field(
        "next",
        description="items to predict: next (the next one), the rest of its day or session, or a "
        "number of next items; each item of a set counts the same",
    )


class TuneConfig(FitConfig, frozen=True):
    """Prompt-tuning."""

    epochs: int = Field(4, ge=0, description="largest number of epochs")
    patience: int = Field(4, ge=1, description=PATIENCE)
    learning_rate: float = Field(1e-4, gt=0, description="learning rate of Adam")
    sampling: Sampling = Field("prefixes", description="as for pre-training")
    form: Literal["append", "tail", "interleaved", "plain"] = Field(
        "tail",
        description="append: offers follow the whole history, as in a recall, real ones first if "
        "the data have some; tail: offers replace the last items; interleaved: an offer follows "
        "every item; plain: no offers, which continues pre-training for comparison",
    )
    offers: int = Field(
        1,
        ge=1,
        le=MAX_OFFERS,
        description="append, tail: number of offers; the loss is at each with append",
    )
    targets: EventSet = Field("next", description="append, plain: as for pre-training")
    assign: bool = Field(
        False,
        description="append: one interest learns a target, drawn by how likely each makes it, so "
        "that interests come to differ; otherwise every interest learns every target",
    )
    cross_fit: bool = Field(
        False,
        description="append: offers come from two further networks, each pre-trained on half of "
        "the users, for the other half; a network remembers what its own users took",
    )
    offer_targets: bool = Field(
        True, description="interleaved: the user's feedback is the target at an offer as well"
    )


class TrainConfig(BaseModel, frozen=True):
    """A whole training run."""

    data: Path = Field(description="folder that `recgpt data prepare` wrote")
    out: Path = Field(description="folder of the run: checkpoints, curves, figures")
    stages: Literal["both", "pretrain", "tune"] = Field(
        "pretrain",
        description="stages to run; tune alone starts from the run's pre-trained weights",
    )
    peer: str | None = Field(
        None,
        description="this configuration is a peer to compare with: its name in metrics.json, "
        "which then holds its one-interest recall only",
    )
    warm_start: Path | None = Field(
        None,
        description="bundle, or folder of bundles, whose weights training starts from; items that "
        "it does not know start at random, users as the unknown user (default: training begins "
        "anew)",
    )
    resume: bool = Field(False, description="continue after the last complete epoch")
    seed: int = Field(1, ge=0, lt=2**63, description="seed of all random numbers")
    hold_out_users: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of the users that training leaves out, to measure new users",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="device to train on")
    validation_users: int = Field(
        30_000, ge=1, description="largest number of users to validate on, drawn once"
    )
    protocol: ProtocolConfig = Field(
        ProtocolConfig(), description="the events to train on, to validate with and to test with"
    )
    model: GPTConfig = Field(GPTConfig(), description="the network")
    recall: RecallConfig = Field(RecallConfig(), description="how interests share a list")
    pretrain: PretrainConfig = Field(PretrainConfig(), description="stage one")
    tune: TuneConfig = Field(TuneConfig(), description="stage two")
    fit_merge: bool = Field(
        False,
        description="after training, learn on the validation cases how interests share a list: "
        "recall.first_share with quotas, recall.weights with probability",
    )

    @classmethod
    def recorded(cls, file: Path) -> Self:
        """Returns the configuration that a run has recorded.

        A record that is older than an option has what was usual before it. Raises ValueError for a
        file that holds no configuration, and OSError for one that cannot be read.
        """
        content = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(content, dict):
            for part, before in (("model", BEFORE_GROUPS), ("pretrain", {"start": "random"})):
                if isinstance(content.get(part), dict):
                    content[part] = before | content[part]
        return cls.model_validate(content)

    @model_validator(mode="after")
    def _interests_can_be_generated(self) -> Self:
        wanted, possible = self.recall.interests, self.model.max_interests
        if wanted > possible:
            raise ValueError(
                f"recall.interests = {wanted} is more than model.max_interests = {possible}: "
                "ask for fewer, or train a network that can generate as many"
            )
        return self

    @model_validator(mode="after")
    def _guidance_fits_the_network(self) -> Self:
        if self.recall.guidance and self.model.feedback != "outcome":
            raise ValueError(
                f"recall.guidance = {self.recall.guidance:g} needs a network that reads outcomes: "
                "say --model.feedback outcome"
            )
        return self

    @model_validator(mode="after")
    def _interests_share_a_list(self) -> Self:
        if self.fit_merge and self.model.network != "gpt":
            raise ValueError(
                f"the {self.model.network} network recalls one interest, which shares its list "
                "with no other: leave out fit_merge"
            )
        return self

    @model_validator(mode="after")
    def _tuning_fits_the_network(self) -> Self:
        tune = self.tune
        if tune.offers >= self.model.max_interests and tune.form == "append":
            raise ValueError(
                f"tune.offers = {tune.offers} makes more interests than model.max_interests = "
                f"{self.model.max_interests}: ask for fewer offers"
            )
        if self.stages != "pretrain" and self.model.feedback != "none" and tune.form != "plain":
            raise ValueError(
                f"offers get no feedback yet: with model.feedback = {self.model.feedback} say "
                "stages = pretrain, or tune.form = plain"
            )
        if self.stages != "pretrain" and self.model.user_mean and tune.form != "plain":
            raise ValueError(
                "prompts do not know whole histories yet: with model.user_mean say stages = "
                "pretrain, or tune.form = plain"
            )
        for option in ("cross_fit", "assign"):
            if getattr(tune, option) and tune.form != "append":
                raise ValueError(f"tune.{option} needs the form append, not {tune.form}")
        return self
