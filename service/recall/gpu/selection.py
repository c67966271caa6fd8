"""Selections of filters on a GPU: a boolean for each item.

Shapes: V catalogue, W queries with a history, B batch (padded), U different filters.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from service.recall.filters.columns import Bools
from service.recall.gpu.search import DeviceMasks


class DeviceSelection(NamedTuple):
    """The items that a filter allows."""

    items: int
    allowed_V: Tensor

    @property
    def nbytes(self) -> int:
        """The memory that it takes on the device."""
        return self.allowed_V.nbytes


class DeviceSelector:
    """See `service.recall.filters.item_filters.Selector`."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._visible_V: Tensor | None = None

    def select(self, allowed_V: Bools) -> DeviceSelection:
        """See `Selector`."""
        allowed = torch.from_numpy(allowed_V).to(self._device)
        return DeviceSelection(int(np.count_nonzero(allowed_V)), allowed)

    def set_hidden(self, hidden_V: Bools) -> None:
        """See `Selector`."""
        self._visible_V = torch.from_numpy(~hidden_V).to(self._device) if hidden_V.any() else None

    def visible(self, selection: DeviceSelection) -> DeviceSelection:
        """See `Selector`."""
        if self._visible_V is None:
            return selection
        allowed_V = selection.allowed_V & self._visible_V
        return DeviceSelection(int(allowed_V.sum()), allowed_V)


def device_masks(
    selections_W: Sequence[DeviceSelection | None], batch: int, items: int, device: torch.device
) -> DeviceMasks:
    """Returns the masks of queries with a history, and of padding: all items for those without."""
    everything_V = torch.ones(items, dtype=torch.bool, device=device)
    different = {id(one): one.allowed_V for one in selections_W if one}
    numbers = {key: number for number, key in enumerate(different, 1)}
    of_query = [numbers.get(id(one), 0) for one in selections_W]
    of_query += [0] * (batch - len(of_query))
    allowed_UV = torch.stack([everything_V, *different.values()])
    return DeviceMasks(allowed_UV, torch.tensor(of_query, device=device))
