"""The evidence for the place of new items: known items that they are like, with weights.

Every source gives the same table: new (number of the new item), row (of a known item), weight > 0.
Shapes: N new items, V catalogue, D width.
"""

import numpy as np
import polars as pl
from numpy.typing import NDArray

REACH = 3
"""Events to either side that count as beside an item, weighted by 1 / distance."""
MOST_NEIGHBOURS = 10
"""Known items that a vector is made from: those with the greatest weights."""
CHUNK = 256
"""New items compared with the catalogue at a time."""

_COLUMNS = {"new": pl.UInt32, "row": pl.UInt32, "weight": pl.Float64}


def named(new: pl.DataFrame, catalogue: pl.DataFrame) -> pl.DataFrame:
    """Returns the evidence of the lists `new.neighbours`: an id counts as often as it is named."""
    if "neighbours" not in new.columns:
        return pl.DataFrame(schema=_COLUMNS)
    pairs = new.select("new", item_id="neighbours").explode("item_id", empty_as_null=True)
    return _sum(pairs.join(catalogue, on="item_id").with_columns(weight=pl.lit(1.0)))


def beside(new: pl.DataFrame, catalogue: pl.DataFrame, events: pl.DataFrame) -> pl.DataFrame:
    """Returns the evidence of `events` (user, item_id), those of a user together, oldest first."""
    seen = events.join(catalogue, on="item_id", how="left", maintain_order="left").join(
        new.select("new", "item_id"), on="item_id", how="left", maintain_order="left"
    )
    pairs = [
        seen.select(
            "new",
            row=pl.col("row").shift(distance),
            weight=pl.lit(1 / abs(distance)),
            same=pl.col("user") == pl.col("user").shift(distance),
        )
        for distance in range(-REACH, REACH + 1)
        if distance
    ]
    return _sum(pl.concat(pairs).filter("same").drop_nulls())


def alike(new: pl.DataFrame, catalogue: pl.DataFrame) -> pl.DataFrame:
    """Returns the evidence of shared attributes and words of titles.

    A feature counts by its rarity, a known item by its popularity.
    """
    theirs = features(catalogue, "row")
    rarity = theirs.group_by("feature").agg(rarity=(catalogue.height / pl.len()).log())
    rarity = rarity.filter(pl.col("rarity") > 0)  # a feature of all items tells nothing
    theirs = theirs.join(rarity, on="feature")
    popular = catalogue.select("row", popular=(pl.col("count").cast(pl.Float64) + 2).log())
    ours = features(new, "new")
    found = [pl.DataFrame(schema=_COLUMNS)]
    for start in range(0, new.height, CHUNK):
        part = ours.filter(pl.col("new").is_between(start, start + CHUNK, closed="left"))
        shared = part.join(theirs, on="feature").group_by("new", "row").agg(pl.sum("rarity"))
        weighted = shared.join(popular, on="row").with_columns(
            weight=pl.col("rarity") * pl.col("popular")
        )
        found.append(_sum(weighted))
    return pl.concat(found)


def features(items: pl.DataFrame, number: str) -> pl.DataFrame:
    """Returns the features of items as pairs of `number` and feature.

    A feature is the value of an attribute, an element of a list, or a word of the title.
    """
    parts = [pl.DataFrame(schema={number: pl.UInt32, "feature": pl.String})]
    for name, kind in items.schema.items():
        if name in (number, "item_id", "count", "neighbours"):
            continue
        value = pl.col(name)
        if name == "title" and kind == pl.String:
            value = value.str.to_lowercase().str.extract_all(r"\w{3,}")
        elif kind == pl.List(pl.String):
            pass
        elif kind == pl.String or kind.is_integer() or kind == pl.Boolean:
            value = pl.concat_list(value.cast(pl.String))
        else:
            continue  # a price or a date is shared by chance
        part = items.select(number, feature=value).explode("feature", empty_as_null=True)
        parts.append(part.drop_nulls().with_columns(feature=pl.lit(f"{name}=") + pl.col("feature")))
    return pl.concat(parts, how="vertical_relaxed").unique()


def as_vectors(
    evidence: pl.DataFrame, vectors_VD: NDArray[np.float32], new: int, length: float
) -> NDArray[np.float32]:
    """Returns the vectors of `new` items, N D: the weighted means of their neighbours.

    A vector is `length` times as long as its neighbours are on the average.
    """
    at_E, rows_E = evidence["new"].to_numpy(), evidence["row"].to_numpy()
    sums_N = np.bincount(at_E, weights=evidence["weight"].to_numpy(), minlength=new)
    share_E = evidence["weight"].to_numpy() / sums_N[at_E]
    means_ND = np.zeros((new, vectors_VD.shape[1]))
    np.add.at(means_ND, at_E, share_E[:, None] * vectors_VD[rows_E])
    lengths_E = length * np.linalg.norm(vectors_VD[rows_E], axis=1)
    lengths_N = np.bincount(at_E, weights=share_E * lengths_E, minlength=new)
    scale_N = lengths_N / np.maximum(np.linalg.norm(means_ND, axis=1), 1e-12)
    vectors_ND: NDArray[np.float32] = (means_ND * scale_N[:, None]).astype(np.float32)
    return vectors_ND


def _sum(pairs: pl.DataFrame) -> pl.DataFrame:
    """Sums the weights of every pair, and keeps the pairs of greatest weight of every new item."""
    return (
        pairs.group_by("new", "row")
        .agg(pl.sum("weight"))
        .sort("new", "weight", "row", descending=[False, True, False])
        .group_by("new", maintain_order=True)
        .head(MOST_NEIGHBOURS)
        .select(pl.col(name).cast(kind) for name, kind in _COLUMNS.items())
    )
