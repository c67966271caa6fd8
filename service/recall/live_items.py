"""The items of one bundle with the changes that the store holds.

A front end has one of these for each bundle that it serves. It reads the texts of the store by the
kinds of the bundle's attributes, tells the engine of them, and puts them into answers.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic_core import from_json, to_json

from model.artifact.id_table import IdTable
from model.kinds import Kind
from service.recall.attribute_values import Value, engine_value, value_of
from service.recall.item_metadata import ItemMetadata, with_metadata

log = logging.getLogger(__name__)

LOG_SECONDS = 60.0
"""Time for which another ignored value is not logged."""


class ItemUpdate(NamedTuple):
    """A message to the engine: what has changed."""

    hidden: list[str] | None
    """All hidden items; None: as before."""
    changes: dict[str, dict[str, Value | None]]
    """Values of attributes by item, times in seconds since 1970; None: the item has no value."""
    popular: list[str] | None = None
    """The items that are popular now, the most popular first; None: as before."""


class LiveItems:
    """The items of a bundle as they are now."""

    def __init__(self, ids: IdTable, kinds: Mapping[str, Kind], metadata: ItemMetadata) -> None:
        self.kinds = kinds
        self._ids = ids
        self._metadata = metadata
        self._changed: dict[int, dict[str, Value]] = {}  # by row: values in place of the bundle's
        self._ignored: dict[str, list[str]] = {}  # by item: problems with its values
        self._hidden: frozenset[str] = frozenset()
        self._logged = -LOG_SECONDS
        self.unknown_hidden = 0
        """Hidden items that the bundle does not have."""

    def take(
        self,
        hidden: frozenset[str] | None,
        texts: Mapping[str, Mapping[str, str]],
        popular: Sequence[str] | None = None,
    ) -> ItemUpdate:
        """Takes all hidden items (None: as before) and the texts of items that have changed.

        `popular` are the items that are popular now, which only the engine must know.
        """
        if hidden is not None:
            self.unknown_hidden += sum(item not in self for item in hidden - self._hidden)
            self.unknown_hidden -= sum(item not in self for item in self._hidden - hidden)
            self._hidden = hidden
        changes = {item: found for item, own in texts.items() if (found := self._take(item, own))}
        ranked = None if popular is None else list(popular)
        return ItemUpdate(None if hidden is None else list(hidden), changes, ranked)

    def __contains__(self, item: str) -> bool:
        return self._ids.get(item) >= 0

    def __len__(self) -> int:
        return len(self._ids)

    def row(self, item: str) -> int:
        """Returns the row of an item in the catalogue, -1 if the bundle does not have it."""
        return self._ids.get(item)

    def sample(self, count: int) -> list[tuple[str, int]]:
        """Returns up to `count` items and their rows, always the same ones."""
        return self._ids.sample(count)

    def attributes(self, item: str) -> dict[str, Any]:
        """Returns the attributes of an item of the bundle as they are now."""
        row = self._ids.get(item)
        now = self._of_bundle(row) | self._changed.get(row, {})
        return {name: value for name, value in now.items() if value is not None}

    def changed(self, item: str) -> list[str]:
        """Returns the names of the attributes that differ from the bundle's."""
        return sorted(self._changed.get(self._ids.get(item), {}))

    def ignored(self, item: str) -> list[str]:
        """Returns why texts of an item are ignored, in words."""
        return sorted(self._ignored.get(item, ()))

    @property
    def ignored_count(self) -> int:
        """The number of texts that are ignored."""
        return sum(map(len, self._ignored.values()))

    def metadata_of(self, row: int) -> bytes:
        """Returns title and attributes of an item in JSON, without those that are null."""
        if row not in self._changed:
            return self._metadata.of(row)
        return to_json(self._of_bundle(row) | self._changed[row])

    def added_to(self, candidates: bytes, rows: NDArray[np.integer[Any]]) -> bytes:
        """Returns encoded candidates, which are of these rows, with a field `metadata` each."""
        return with_metadata(candidates, rows, self.metadata_of)

    def _of_bundle(self, row: int) -> dict[str, Any]:
        found: dict[str, Any] = from_json(self._metadata.of(row))
        return found

    def _take(self, item: str, texts: Mapping[str, str]) -> dict[str, Value | None]:
        """Returns the values of an item that the engine must know."""
        self._ignored.pop(item, None)
        row = self._ids.get(item)
        if row < 0:
            return {}
        values: dict[str, Value] = {}
        for name, text in texts.items():
            try:
                values[name] = self._value(name, text)
            except ValueError as error:
                self._ignored.setdefault(item, []).append(f"{name[:40]} {error}")
                self._log(f"i:{item}: {name[:40]} {error}")
        before = self._changed.pop(row, {})
        if values:
            self._changed[row] = values
        back = before.keys() - values.keys()
        bundle = self._of_bundle(row) if back else {}
        now = values | {name: bundle.get(name) for name in back}
        return {
            name: self._for_engine(self.kinds[name], value)
            for name, value in now.items()
            if self.kinds[name] != "text"  # which no filter reads
        }

    def _for_engine(self, kind: Kind, value: Any) -> Value | None:
        """Returns a value of JSON as the engine compares it; None if it cannot."""
        try:
            read = value_of(kind, value) if isinstance(value, str) else value  # decimals are text
            return None if read is None else engine_value(kind, read)
        except ValueError:
            return None

    def _log(self, problem: str) -> None:
        """Logs the first problem, and then one a minute at most."""
        if time.monotonic() - self._logged >= LOG_SECONDS:
            self._logged = time.monotonic()
            log.warning("a value in the store is ignored, %s: GET /items/{id} shows all", problem)

    def _value(self, name: str, text: str) -> Value:
        """Returns the value of a text. Raises ValueError if it is to be ignored."""
        if name not in self.kinds:
            raise ValueError("is no attribute of the bundle")
        return value_of(self.kinds[name], text)
