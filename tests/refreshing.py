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
            "gate": GateConfig(min_cases=20, coverage_loss=0.9),
        }
        return RefreshConfig.model_validate(usual | options)


def make(folder: Path) -> Site:
    """Walks of one item a day: nine days in the log, three in the stream, and a poor version."""
    rng = np.random.default_rng(0)
    walks = pl.DataFrame(
        [
            (f"u{user}", f"i{(first + day) % ITEMS}", START + timedelta(days=day, seconds=user))
            for user, first in enumerate(rng.integers(0, ITEMS, USERS))
            for day in range(DAYS)
        ],
        schema=["user_id", "item_id", "at"],
        orient="row",
    )
    begun = START + timedelta(days=LOGGED)
    logged = walks.filter(pl.col("at") < begun)
    folder.mkdir()
    log = folder / "log.csv"
    logged.select("user_id", "item_id", timestamp=pl.col("at").dt.epoch("s")).write_csv(log)
    stream = folder / "exported" / "events"
    stream.mkdir(parents=True)
    write_part(stream, walks.filter(pl.col("at") >= begun))
    items, data = folder / "items.csv", folder / "data"
    items.write_text("item_id,colour\n" + "".join(f"i{row},red\n" for row in range(ITEMS)))
    prepare(
        PrepareConfig(
            input=log, items=items, out=data, min_user_events=0, min_item_events=0, name="walks"
        )
    )
    dataset = Dataset.load(data)
    model = tiny.gpt(catalogue=dataset.catalogue, users=dataset.users)
    export_bundle(folder / "artifacts", dataset, model, tiny.RECALL, {})
    return Site(folder / "artifacts", log, folder / "exported")


def write_part(stream: Path, events: pl.DataFrame, request: str | None = None) -> None:
    """Writes a part of a stream as `recgpt events export` does: clicks of user_id, item_id, at."""
    first, last = (f"{int(at.timestamp() * 1000)}-0" for at in (events["at"][0], events["at"][-1]))
    events.select(
        pl.concat_str("user_id", "item_id", pl.col("at").dt.epoch("s")).alias("id"),
        "user_id",
        "item_id",
        pl.lit("click").alias("type"),
        pl.col("at").cast(pl.Datetime("us", "UTC")),
        pl.lit(request, pl.String).alias("request_id"),
        pl.lit(None, pl.Float64).alias("value"),
    ).write_parquet(stream / f"{first}_{last}.parquet")
