"""The network as it is served: the function of `model.gpt.GPT`, arranged to be cheap.

Here histories are packed, their items' rows read and the state kept; `model.graph` has the
arithmetic, which `model.recorded` has for a CPU.

Shapes: B batch, L length, R rows of the grid, T slots of a row, S = R T, U queries of all rows,
D width of the network.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.gpt import GPT
from model.graph import Prefill, Step
from model.packing import pack


class Network(Protocol):
    """The arithmetic: what it keeps in a state is its own affair."""

    def prefill(self, inputs: dict[str, Tensor]) -> tuple[Tensor, list[Any]]:
        """First interests B D and a state, of `Prefill.forward`'s arguments."""

    def step(self, inputs: dict[str, Tensor], state: list[Any]) -> tuple[Tensor, list[Any]]:
        """Next interests B D and the state from there on, of `Step.forward`'s arguments."""


class Eager:
    """The arithmetic as torch does it, on the model's device."""

    def __init__(self, model: GPT) -> None:
        self.stages = Prefill(model), Step(model)
        self._config = model.config

    def prefill(self, inputs: dict[str, Tensor]) -> tuple[Tensor, list[Any]]:
        """See `Network`."""
        interest_BD, *state = self.stages[0](**inputs)
        empty_BND = interest_BD.new_empty(len(interest_BD), 0, self._config.dim)
        return interest_BD, state + [empty_BND] * 2 * self._config.layers

    def step(self, inputs: dict[str, Tensor], state: list[Any]) -> tuple[Tensor, list[Any]]:
        """See `Network`."""
        interest_BD, *changed = self.stages[1](*inputs.values(), *state)
        return interest_BD, state[: 2 + 2 * self._config.layers] + changed


@dataclass
class PackedCache:
    """What further tokens need of those seen so far."""

    user_BD: Tensor
    owner_U: Tensor
    query_B: Tensor
    state: list[Any]


class Inference:
    """A network's prefill and step, without gradients or dropout."""

    def __init__(self, model: GPT, network: Network | None = None) -> None:
        """`network` does the arithmetic; by default torch does."""
        self.config = model.config
        self._model = model
        self._network = network or Eager(model)
        self._device = model.items.weight.device
        self._read_already = _reads_as_it_is(model)

    def prefill(
        self, history_BL: Tensor, lengths_B: Tensor, users_B: Tensor, steps: int
    ) -> tuple[Tensor, PackedCache]:
        """As `GPT.prefill`, of tensors on the CPU; there is room for any number of steps."""
        lengths = lengths_B.numpy()
        packing = pack(lengths)
        user_BD = self._model.user(users_B.to(self._device))
        owner_U, query_B = self._put(packing.owner_U), self._put(packing.query_B)
        interest_BD, state = self._network.prefill(
            {
                "items_SD": self._read(self._put(packing.spread(history_BL.numpy(), lengths))),
                "user_BD": user_BD,
                "owner_S": self._put(packing.owner_S),
                "start_RT": self._put(packing.start_S.reshape(packing.rows, packing.width)),
                "first_B": self._put(packing.first_B),
                "newest_B": self._put(packing.first_B + lengths - 1),
                "owner_U": owner_U,
                "query_B": query_B,
            }
        )
        return interest_BD, PackedCache(user_BD, owner_U, query_B, state)

    def step(self, items_B: Tensor, cache: PackedCache) -> Tensor:
        """As `GPT.step`."""
        interest_BD, cache.state = self._network.step(
            {
                "items_BD": self._read(items_B),
                "user_BD": cache.user_BD,
                "owner_U": cache.owner_U,
                "query_B": cache.query_B,
            },
            cache.state,
        )
        return interest_BD

    def _read(self, items_N: Tensor) -> Tensor:
        """What the network sees of these rows: N D."""
        rows_ND: Tensor = self._model.items.weight.index_select(0, items_N)
        return rows_ND if self._read_already else self._model.read(rows_ND)

    def _put(self, array: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(array).to(self._device)


def _reads_as_it_is(model: GPT, rows: int = 65_536) -> bool:
    """Whether the network reads the rows of its table unchanged, as those of a bundle."""
    parts = torch.split(model.items.weight, rows)
    return all(torch.allclose(model.read(part), part, rtol=0, atol=1e-6) for part in parts)
