"""Configuration of a data set made of logs. Imports no polars: command lines read it."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field

from model.kinds import Kind

Format = Literal["csv", "tsv", "parquet", "lines", "gaps"]


class DataConfig(BaseModel, frozen=True):
    """How logs and item metadata are read, and which users and items are kept."""

    format: Literal["auto", Format] = Field(
        "auto",
        description="csv, tsv, parquet, lines (`user item item …` in order of time), or gaps "
        "(lines, a tab, and for each event the seconds since the one before); auto goes by the "
        "suffix",
    )
    user_column: str | None = Field(None, description="column of user ids (default: a usual name)")
    item_column: str | None = Field(None, description="column of item ids (default: a usual name)")
    time_column: str | None = Field(
        None, description="column of times: numbers or ISO dates (default: a usual name)"
    )
    items: Path | None = Field(None, description="item metadata: CSV, TSV or Parquet file")
    item_id_column: str | None = Field(None, description="metadata: column of item ids")
    title_column: str | None = Field(None, description="metadata: column of titles")
    genres_column: str | None = Field(
        None, description="metadata: column to split at | or spaces into the list `genres`"
    )
    item_kinds: dict[str, Kind] = Field(
        {},
        description="metadata: kinds of attributes, as in price=number,brand=category, where the "
        "guess that is printed is wrong: category, categories (split at |), number, time (ISO), "
        "flag or text (no filters)",
    )
    min_user_events: int = Field(5, ge=0, description="drop users with fewer events; 0: none")
    min_item_events: int = Field(5, ge=0, description="drop items with fewer events; 0: none")
    name: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="name of the data set, part of its versions' names (default: the input's)",
    )


class PrepareConfig(DataConfig, frozen=True):
    """Which logs `recgpt data prepare` reads, and where the data set goes."""

    input: Path = Field(description="log file, or folder of log files (read in order of name)")
    out: Path = Field(description="folder to write the data set to")
    action_column: str | None = Field(
        None,
        description="column of what the user did, a type or with --like-from a rating; training "
        "may read it as feedback (default: not read)",
    )
    like_from: float | None = Field(
        None,
        description="the actions are ratings: from here on they count as `like`, below as "
        "`dislike`",
    )
    offer_action: str | None = Field(
        None,
        description="the action of impressions, such as `impression`: these rows are no events; "
        "those that the user did not take are the offers before the user's next event",
    )
    in_order: bool = Field(False, description="the rows stand in order of time: read no time")
    overwrite: bool = Field(False, description="replace the data set at `out` once done")
