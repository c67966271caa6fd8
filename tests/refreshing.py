"""A site to refresh: a served version, a log of twelve days, and the stream of the newest ones."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import tiny

from model.data.config import PrepareConfig
from model.data.dataset import Dataset
from model.data.prepare import prepare
from model.network.config import GPTConfig, RecallConfig
from model.training.config import PretrainConfig
from service.offline import export_bundle
from service.refresh.config import GateConfig, RefreshConfig

START = datetime(2026, 3, 1, tzinfo=UTC)
USERS, ITEMS, DAYS, LOGGED = 100, 150, 12, 9


@dataclass(frozen=True)
class Site:
    """The folders of a site."""

    artifacts: Path
    log: Path
    events: Path

    def config(self, work: Path, **options: object) -> RefreshConfig:
        """A refresh of a second or two."""
        usual = {
            "artifacts": self.artifacts,
            "work": work,
            "log": self.log,
            "events": self.events,
            "min_user_events": 0,
            "min_item_events": 0,
            "pretrain": PretrainConfig(sampling="windows", epochs=2),
            "gate": GateConfig(min_cases=20, recall_loss=0.5, coverage_loss=0.9),
        }
        return RefreshConfig.model_validate(usual | options)


def make(folder: Path, config: GPTConfig = tiny.CONFIG, recall: RecallConfig = tiny.RECALL) -> Site:
    """Walks of one item a day: nine days in the log, three in the stream, and a poor version.

    If feedback or an outcome matters, every third event is a dislike and all others are likes.
    """
    acts = config.feedback != "none" or recall.outcome is not None
    rng = np.random.default_rng(0)
    walks = pl.DataFrame(
        [
            (
                f"u{user}",
                f"i{(first + day) % ITEMS}",
                START + timedelta(days=day, seconds=user),
                "click" if not acts else "like" if (user + day) % 3 else "dislike",
            )
            for user, first in enumerate(rng.integers(0, ITEMS, USERS))
            for day in range(DAYS)
        ],
        schema=["user_id", "item_id", "at", "type"],
        orient="row",
    )
    begun = START + timedelta(days=LOGGED)
    logged = walks.filter(pl.col("at") < begun)
    folder.mkdir()
    log = folder / "log.csv"
    logged.select(
        "user_id", "item_id", action="type", timestamp=pl.col("at").dt.epoch("s")
    ).write_csv(log)
    stream = folder / "exported" / "events"
    stream.mkdir(parents=True)
    write_part(stream, walks.filter(pl.col("at") >= begun))
    items, data = folder / "items.csv", folder / "data"
    items.write_text("item_id,colour\n" + "".join(f"i{row},red\n" for row in range(ITEMS)))
    prepare(
        PrepareConfig(
            input=log,
            items=items,
            out=data,
            min_user_events=0,
            min_item_events=0,
            action_column="action" if acts else None,
            name="walks",
        )
    )
    dataset = Dataset.load(data)
    model = tiny.gpt(config, dataset.catalogue, dataset.users, actions=len(dataset.action_names))
    export_bundle(folder / "artifacts", dataset, model, recall, {})
    return Site(folder / "artifacts", log, folder / "exported")


def write_part(stream: Path, events: pl.DataFrame, request: str | None = None) -> None:
    """Writes a part of a stream as `recgpt events export` does.

    The events have user_id, item_id and at; without a type they are clicks.
    """
    first, last = (f"{int(at.timestamp() * 1000)}-0" for at in (events["at"][0], events["at"][-1]))
    events.select(
        pl.concat_str("user_id", "item_id", pl.col("at").dt.epoch("s")).alias("id"),
        "user_id",
        "item_id",
        pl.col("type") if "type" in events.columns else pl.lit("click").alias("type"),
        pl.col("at").cast(pl.Datetime("us", "UTC")),
        pl.lit(request, pl.String).alias("request_id"),
        pl.lit(None, pl.Float64).alias("value"),
    ).write_parquet(stream / f"{first}_{last}.parquet")
