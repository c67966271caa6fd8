"""The items that a filter allows. `service.recall.filters.form` says what a filter is.

Shapes: V catalogue.
"""

from typing import NamedTuple

import numpy as np

from service.recall.filters.columns import COMPARISONS, AttributeColumns, Bools
from service.recall.filters.form import ALL, ANY, NONE, Condition, conditions


class Evaluated(NamedTuple):
    """A filter that was applied to all items."""

    allowed_V: Bools
    fields: frozenset[str]  # that it reads
    unknown_values: int  # values of its conditions that no item has


def evaluate(form: bytes, columns: AttributeColumns) -> Evaluated:
    """Applies a filter in canonical form.

    A field that the bundle does not have, as after a change of bundles, is without values.
    """
    groups = conditions(form)
    allowed_V = np.ones(columns.items, dtype=np.bool_)
    for condition in groups.get(ALL, ()):
        allowed_V &= _matching(condition, columns)
    if ANY in groups:
        allowed_V &= np.logical_or.reduce([_matching(one, columns) for one in groups[ANY]])
    for condition in groups.get(NONE, ()):
        allowed_V &= ~_matching(condition, columns)
    every = [condition for group in groups.values() for condition in group]
    unknown = sum(_unknown_values(condition, columns) for condition in every)
    return Evaluated(allowed_V, frozenset(one["field"] for one in every), unknown)


def _matching(condition: Condition, columns: AttributeColumns) -> Bools:
    column = columns.get(condition["field"])
    if column is None:
        return np.zeros(columns.items, dtype=np.bool_)
    parts = [column.among(condition["in"])] if "in" in condition else []
    if bounds := {name: condition[name] for name in COMPARISONS if name in condition}:
        parts.append(column.within(bounds))
    matching_V: Bools = np.logical_and.reduce(parts)
    return matching_V


def _unknown_values(condition: Condition, columns: AttributeColumns) -> int:
    column = columns.get(condition["field"])
    return column.unknown(condition.get("in", ())) if column else 0
