"""Settings of `recgpt refresh`. Imports nothing that computes: command lines read them."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field

from model.artifact.registry import RegistryConfig
from model.data.config import DataConfig
from model.training.config import PretrainConfig, TuneConfig


class GateConfig(BaseModel, frozen=True):
    """The bounds that a new version has to keep."""

    recall_loss: float = Field(
        0.02, ge=0, lt=1, description="accepted relative loss of recall@100 against the served one"
    )
    coverage_loss: float = Field(
        0.1, ge=0, lt=1, description="accepted relative loss of coverage@100"
    )
    min_cases: int = Field(
        100, ge=1, description="events of the newest days that it takes to compare two versions"
    )
    max_cases: int = Field(
        10_000, ge=1, description="most events to compare with; of more, some are drawn"
    )
    malformed: float = Field(
        0.05, ge=0, le=1, description="largest share of rows that cannot be read"
    )
    unknown_items: float = Field(
        0.5,
        ge=0,
        le=1,
        description="largest share of the newest days' events whose item the served version does "
        "not know",
    )
    lost_items: float = Field(
        0.5, ge=0, le=1, description="largest share of the served items that have no event any more"
    )


class RefreshConfig(DataConfig, RegistryConfig, frozen=True):
    """The sources of events, the training, and the bounds that a new version has to keep."""

    artifacts: Path = Field(description="folder of the bundles; the new version is published here")
    work: Path = Field(
        description="folder of the refreshes: the exported events, the round under way, reports"
    )
    log: Path | None = Field(
        None, description="log file, or folder of log files, as for `recgpt data prepare`"
    )
    store: str | None = Field(
        None, description="store whose stream of events is exported first and trained on as well"
    )
    events: Path | None = Field(
        None, description="folder that `recgpt events export` wrote, in place of --store"
    )
    event_types: Path | None = Field(
        None, description="file of event types, as for `recgpt serve`: what enters a history trains"
    )
    action_column: str | None = Field(
        None,
        description="log: column of what the user did, for a network that reads feedback; the "
        "stream has the types of its events",
    )
    like_from: float | None = Field(
        None,
        description="the actions of the log are ratings: from here on they count as `like`, below "
        "as `dislike`",
    )
    full: bool = Field(
        False, description="train anew (default: from the weights of the served version)"
    )
    test_days: float = Field(
        1, gt=0, le=365, description="newest days that both versions are measured on"
    )
    stages: Literal["both", "pretrain"] = Field("pretrain", description="stages to train")
    seed: int = Field(1, ge=0, lt=2**63, description="seed of all random numbers")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="device to train on")
    pretrain: PretrainConfig = Field(PretrainConfig(), description="stage one")
    tune: TuneConfig = Field(TuneConfig(), description="stage two")
    gate: GateConfig = Field(GateConfig(), description="what the new version has to keep")
