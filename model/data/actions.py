"""The actions of events: what users did with items, as types or from ratings.

Shapes: N events.
"""

import polars as pl

MAX_ACTIONS = 16
"""Types that a data set may have: each is an input of the network."""
DISLIKE, LIKE = "dislike", "like"


def action_key(value: pl.Expr, like_from: float | None) -> pl.Expr:
    """Returns the action of each row as text, null if it has none.

    With `like_from` the values are ratings: `like` from there on, else `dislike`.
    """
    if like_from is None:
        text = value.cast(pl.String, strict=False).str.strip_chars()
        return pl.when(text != "").then(text)
    rating = value.cast(pl.Float64, strict=False).fill_nan(None)
    liked = pl.when(rating >= like_from).then(pl.lit(LIKE)).otherwise(pl.lit(DISLIKE))
    return pl.when(rating.is_not_null()).then(liked)


def action_names(events: pl.LazyFrame) -> list[str]:
    """Returns the distinct actions of events in order. Raises ValueError if they are too many."""
    distinct = events.select(pl.col("action").drop_nulls().unique().sort())
    names: list[str] = distinct.collect(engine="streaming")["action"].to_list()
    if len(names) > MAX_ACTIONS:
        raise ValueError(
            f"--action-column has {len(names):,} different values, such as {names[0]!r}, and may "
            f"have {MAX_ACTIONS}: name a column of types, or say --like-from for ratings"
        )
    return names


def action_codes(names: list[str]) -> pl.Expr:
    """Returns the number of each row's action among `names` as Int8; -1: none."""
    codes = pl.col("action").replace_strict(names, range(len(names)), default=-1)
    return codes.cast(pl.Int8)
