"""The rules of one query's list: they count what is listed, and say what may be listed next.

Shapes: V catalogue, P items of a pool.
"""

import math
from collections import Counter

from service.recall.filters.columns import AttributeColumns, Bools, Value
from service.recall.types import Ints
from service.recall.variety.form import Variety

ROUNDING = 1e-9

Values = tuple[tuple[Value, ...], ...]
"""The values of an item, by cap."""


class Rules:
    """Caps on values, and the share of fresh items."""

    def __init__(
        self, variety: Variety, columns: AttributeColumns, fresh_V: Bools | None = None
    ) -> None:
        """Takes the rows V of fresh items if the query wants a share of them."""
        found = [(cap.per_value, columns.get(cap.field)) for cap in variety.caps]
        self._caps = [
            (most, column, Counter[Value]()) for most, column in found if column is not None
        ]
        self._fresh_V = fresh_V
        self._fresh_share = variety.fresh_share
        self._others = self._max_others = 0

    def reserve_fresh(self, reach: int) -> None:
        """Reserves places for fresh items in a list that may grow to `reach` items."""
        if self._fresh_V is not None:
            self._max_others = reach - math.ceil(self._fresh_share * reach - ROUNDING)

    def release_fresh(self, reach: int) -> bool:
        """Gives the reserved places to other items; returns whether there were any."""
        if self._fresh_V is None or self._max_others >= reach:
            return False
        self._max_others = reach
        return True

    def values(self, rows_P: Ints) -> list[Values]:
        """Returns the values of items that caps count."""
        rows = rows_P.tolist()
        by_cap = [column.values(rows) for _, column, _ in self._caps]
        return list(zip(*by_cap, strict=True)) if by_cap else [()] * len(rows)

    def admit(self, row: int, values: Values) -> bool:
        """Returns whether an item may be listed."""
        if self._fresh_V is not None and not self._fresh_V[row] and self._is_reserved():
            return False
        return all(
            counts[value] < most
            for (most, _, counts), own in zip(self._caps, values, strict=True)
            for value in own
        )

    def add(self, row: int, values: Values) -> None:
        """Counts an item that was listed."""
        if self._fresh_V is not None and not self._fresh_V[row]:
            self._others += 1
        for (_, _, counts), own in zip(self._caps, values, strict=True):
            counts.update(own)

    def leave_out(self, allowed_V: Bools) -> None:
        """Takes all items that may not be listed now out of these rows V."""
        for most, column, counts in self._caps:
            if full := [value for value, count in counts.items() if count >= most]:
                allowed_V &= ~column.among(full)
        if self._fresh_V is not None and self._is_reserved():
            allowed_V &= self._fresh_V

    def _is_reserved(self) -> bool:
        """Returns whether all places that are left are for fresh items."""
        return self._others >= self._max_others
