"""External ids: which values can be one, and signs that something has gone wrong with them."""

import polars as pl

from model.ids import MAX_ID_LENGTH

EXAMPLES = 5
"""Ids shown in a hint."""

ODD = {
    "look like missing values": r"(?i)^(nan|null|none|nil|n/?a|<na>|nat|undefined|\\n|-1)$",
    "look like numbers that a spreadsheet has rounded": r"^\d\.\d+[eE]\+\d+$",
    "have spaces around them": r"^\s|\s$",
    "hold control characters": r"[\x00-\x1f\x7f]",
}
"""Signs that ids are damaged, with the pattern of each."""
FLOATS = r"^\d+\.0$"


def id_text(value: pl.Expr, kind: pl.DataType, what: str) -> pl.Expr:
    """Returns ids as strings: 7 and "7" are one id.

    Raises ValueError for a column (named by `what`) whose type can't be an id.
    """
    if not (kind.is_integer() or isinstance(kind, pl.String | pl.Categorical | pl.Enum | pl.Null)):
        raise ValueError(f"{what} has the type {kind}: ids must be strings or integers")
    return value.cast(pl.String)


def id_problem(name: str) -> pl.Expr:
    """Returns what is wrong with the id in column `name`; null if nothing is."""
    value = pl.col(name)
    return (
        pl.when(value.is_null() | (value.str.strip_chars() == ""))
        .then(pl.lit(f"no {name} id"))
        .when(value.str.len_chars() > MAX_ID_LENGTH)
        .then(pl.lit(f"{name} id longer than {MAX_ID_LENGTH} characters"))
    )


def odd_ids(name: str, ids: pl.Series) -> list[str]:
    """Returns a hint for every kind of odd ids among these different ones."""
    hints = []
    for meaning, pattern in ODD.items():
        found = ids.filter(ids.str.contains(pattern))
        if len(found):
            hints.append(f"{len(found):,} {name} ids {meaning}: {shown_ids(found)}")
    floats = ids.filter(ids.str.contains(FLOATS))
    if len(floats) and len(floats) == len(ids):
        hints.append(f"all {name} ids look like integers written as floats: {shown_ids(floats)}")
    return hints


def shown_ids(ids: pl.Series) -> str:
    """Returns the first few ids, quoted."""
    more = ", …" if len(ids) > EXAMPLES else ""
    return ", ".join(repr(one) for one in ids.head(EXAMPLES)) + more
