"""The filters of queries as selections of the catalogue, kept as long as their memory allows.

To apply a filter takes a pass over the catalogue, so its selection is kept under its canonical
form; the selections that were used last stay. Hidden items are taken out of a selection when it is
used, once after each change of them.

Shapes: V catalogue, F popular items.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from service.recall.filters.columns import AttributeColumns, Bools
from service.recall.filters.evaluation import Evaluated, evaluate
from service.recall.types import Ints

EVERYTHING, NOTHING = b"{}", b'{"any":[]}'
"""The filters that allow all items and none; the first stands for none once items are hidden."""
MAX_BYTES = 256 << 20
POPULAR = 4096  # popular items of a selection that are kept


class Selection(Protocol):
    """The allowed items in the form in which a backend searches them."""

    @property
    def items(self) -> int:
        """The number of allowed items."""

    @property
    def nbytes(self) -> int:
        """The memory that it takes."""


class Selector(Protocol):
    """The part of a backend that makes selections."""

    def select(self, allowed_V: Bools) -> Selection:
        """Returns the selection of these items."""

    def set_hidden(self, hidden_V: Bools) -> None:
        """Changes which items `visible` takes out."""

    def visible(self, selection: Any) -> Selection:
        """Returns the selection without hidden items."""


class Allowed:
    """The items that a query may be answered with."""

    def __init__(self, evaluated: Evaluated, selection: Selection) -> None:
        self.unknown_values = evaluated.unknown_values
        self.fields = evaluated.fields
        self.visible = selection
        """The selection without the items that are hidden now."""
        self.of_hidden = -1
        """The number of the set of hidden items that `visible` is without."""
        self._selection = selection
        self._bits = np.packbits(evaluated.allowed_V)
        self._popular_F: Ints = np.zeros(0, dtype=np.int64)

    @property
    def matched(self) -> int:
        """The number of these items."""
        return self.visible.items

    @property
    def nbytes(self) -> int:
        """The memory that it takes at most; `hide` changes it."""
        copy = 0 if self.visible is self._selection else self.visible.nbytes
        return self._selection.nbytes + copy + self._bits.nbytes + 8 * POPULAR

    def hide(self, selector: Selector, of_hidden: int) -> None:
        """Takes the hidden items out."""
        self.visible = selector.visible(self._selection)
        self.of_hidden = of_hidden

    def rows(self, items: int) -> Bools:
        """Returns which items these are, the hidden ones among them, V."""
        return np.unpackbits(self._bits, count=items).view(np.bool_)

    def forget_popular(self) -> None:
        """Forgets the most popular of these items, because the order has changed."""
        self._popular_F = self._popular_F[:0]

    def popular(self, popular_V: Ints, hidden_V: Bools, wanted: int) -> Ints:
        """Returns the most popular of these items; fewer than wanted if there are no more."""
        rows_F = self._popular_F[~hidden_V[self._popular_F]]
        if len(rows_F) < min(wanted, self.matched):
            allowed_F = popular_V[self.rows(len(popular_V))[popular_V]]
            rows_F = allowed_F[~hidden_V[allowed_F]]
            self._popular_F = allowed_F[: max(POPULAR, wanted)]
        return rows_F[:wanted]


class ItemFilters:
    """The attributes of the items, those that are hidden, and the selections of filters."""

    def __init__(
        self,
        columns: AttributeColumns,
        selector: Selector,
        popular_V: Ints,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        """Keeps selections of up to `max_bytes`, and always the last one."""
        self.columns = columns
        self._selector = selector
        self._usual_V = self._popular_V = popular_V
        self._max_bytes = max_bytes
        self._kept: OrderedDict[bytes, Allowed] = OrderedDict()
        self._bytes = 0
        self._hidden_V = np.zeros(columns.items, dtype=np.bool_)
        self._of_hidden = 0  # counts the changes of hidden items
        self._hides = False

    def of(self, forms: Sequence[bytes | None]) -> list[Allowed | None] | None:
        """Returns the items that each query allows, or None if every query allows all."""
        if not self._hides and not any(forms):
            return None
        default = EVERYTHING if self._hides else None
        return [self._allowed(form) if (form := one or default) else None for one in forms]

    def popular(self, allowed: Allowed | None, wanted: int) -> Ints:
        """Returns the most popular of the allowed items, then -1 if there are too few."""
        if allowed is None:
            return self._popular_V[:wanted]
        rows_F = np.full(min(wanted, len(self._popular_V)), -1)
        found = allowed.popular(self._popular_V, self._hidden_V, wanted)
        rows_F[: len(found)] = found
        return rows_F

    def rows(self, form: bytes) -> Bools:
        """Returns which items a filter allows, the hidden ones among them, V."""
        return self._allowed(form).rows(len(self._popular_V))

    def by_popularity(self, among_V: Bools, wanted: int) -> Ints:
        """Returns the most popular of some items."""
        return self._popular_V[among_V[self._popular_V]][:wanted]

    def visible(self, allowed: Allowed | None) -> Bools:
        """Returns which items are allowed and not hidden, V."""
        if allowed is None:
            return np.ones(len(self._popular_V), dtype=np.bool_)
        return allowed.rows(len(self._popular_V)) & ~self._hidden_V

    def rejected(self, allowed: Allowed | None) -> Ints:
        """Returns the rows of all other items."""
        return np.flatnonzero(~self.visible(allowed))

    def set_hidden(self, rows: Ints | Sequence[int]) -> None:
        """Replaces the set of hidden items."""
        self._hidden_V[:] = False
        self._hidden_V[np.asarray(rows, dtype=np.int64)] = True
        self._hides = len(rows) > 0
        self._of_hidden += 1
        self._selector.set_hidden(self._hidden_V)

    def rank(self, first_F: Ints) -> None:
        """Puts items that are popular now before all others, which stay in the usual order."""
        others_V = np.ones(len(self._usual_V), dtype=np.bool_)
        others_V[first_F] = False
        self._popular_V = np.concatenate([first_F, self._usual_V[others_V[self._usual_V]]])
        for kept in self._kept.values():
            kept.forget_popular()

    def change(self, values: Mapping[int, Mapping[str, object]]) -> None:
        """Changes attributes of items, by row; drops the selections of filters that read them."""
        changed = set()
        for row, own in values.items():
            for field, value in own.items():
                if self.columns.get(field):
                    self.columns.set(row, field, value)
                    changed.add(field)
        for form in [form for form, kept in self._kept.items() if kept.fields & changed]:
            self._bytes -= self._kept.pop(form).nbytes

    def _allowed(self, form: bytes) -> Allowed:
        allowed = self._kept.get(form)
        if allowed is None:
            evaluated = evaluate(form, self.columns)
            allowed = Allowed(evaluated, self._selector.select(evaluated.allowed_V))
            self._kept[form] = allowed
            self._bytes += allowed.nbytes
        else:
            self._kept.move_to_end(form)
        if allowed.of_hidden != self._of_hidden:
            self._bytes -= allowed.nbytes
            allowed.hide(self._selector, self._of_hidden)
            self._bytes += allowed.nbytes
        while self._bytes > self._max_bytes and len(self._kept) > 1:
            self._bytes -= self._kept.popitem(last=False)[1].nbytes
        return allowed
