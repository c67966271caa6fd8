"""Configuration of `recgpt items add`. Imports no torch and no polars: command lines read it."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field

from model.data.config import Format


class AddConfig(BaseModel, frozen=True):
    """The new items, and what is known of them."""

    artifacts: Path = Field(description="folder of the bundles; the served one is extended")
    items: Path | None = Field(
        None, description="table of new items: CSV, TSV or Parquet (default: unknown ids of events)"
    )
    item_id_column: str | None = Field(None, description="items: column of ids")
    title_column: str | None = Field(None, description="items: column of titles")
    genres_column: str | None = Field(
        None, description="items: column to split at | or spaces into the list `genres`"
    )
    neighbours_column: str | None = Field(
        None,
        description="items: column with ids of similar items, split at | or spaces (default: "
        "`neighbours`, if there is one)",
    )
    events: Path | None = Field(None, description="log, or folder of logs, of recent events")
    format: Literal["auto"] | Format = Field("auto", description="events: see `data prepare`")
    user_column: str | None = Field(None, description="events: column of user ids")
    item_column: str | None = Field(None, description="events: column of item ids")
    time_column: str | None = Field(None, description="events: column of times")
    in_order: bool = Field(False, description="events: the rows stand in order of time")
    min_item_events: int = Field(
        5, ge=1, description="without --items: unknown ids with fewer events are left out"
    )
    length: float = Field(
        0.75,
        gt=0,
        description="length of a new vector in proportion to its neighbours' vectors: the longer, "
        "the more often new items are recalled, and the less often the others",
    )
