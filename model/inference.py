"""The network as it is served: the function of `model.gpt.GPT`, arranged to be cheap.

Here histories are packed and embedded and the state is kept; `model.graph` has the arithmetic.

Shapes: B batch, L length, R rows of the grid, T slots of a row, S = R T, U queries of all rows,
C width of the convolution, D width of the network.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.gpt import GPT, HISTORY, OFFER
from model.graph import Prefill, Step
from model.packing import Packing, pack


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
        return interest_BD, state[: 2 * self._config.layers] + changed


@dataclass
class PackedCache:
    """What further tokens need of those seen so far."""

    state: list[Any]
    user_BD: Tensor
    owner_U: Tensor  # whose query each is; anybody's where there is none
    query_B: Tensor  # `Packing.query_B`
    distances_UT: Tensor  # of the newest token to each slot of its row
    mask_RQT: Tensor  # 0, or -inf where a slot is not the history's
    steps: int = 0  # tokens appended since the prefill


class Inference:
    """A network's prefill and step, without gradients or dropout."""

    def __init__(self, model: GPT, network: Network | None = None) -> None:
        """`network` does the arithmetic; by default torch does."""
        self.config = model.config
        self._model = model
        self._network = network or Eager(model)
        self._device = model.items.weight.device
        self._back_C = torch.arange(model.config.local - 1, -1, -1, device=self._device)
        self._segments = list(model.segments.weight)
        self._read_already = _reads_as_it_is(model)

    def prefill(
        self, history_BL: Tensor, lengths_B: Tensor, users_B: Tensor, steps: int
    ) -> tuple[Tensor, PackedCache]:
        """As `GPT.prefill`, of tensors on the CPU; `steps` < max_interests."""
        lengths = lengths_B.numpy()
        packing = pack(lengths)
        owner_S, start_S = self._put(packing.owner_S), self._put(packing.start_S)
        rows, width = packing.rows, packing.width
        columns_T = torch.arange(width, device=self._device)
        place_S = (columns_T - start_S.view(rows, width)).flatten()
        cache = self._cache(packing, lengths, users_B)
        x_SD = self._embed(
            self._put(packing.spread(history_BL.numpy(), lengths)),
            HISTORY,
            cache.user_BD.index_select(0, owner_S),
            place_S + self.config.max_history - self._put(lengths)[owner_S],
        )
        distances_TT = columns_T[:, None] - columns_T
        hidden_RTT = (columns_T < start_S.view(rows, width, 1)) | (distances_TT < 0)
        newest_B = self._put(packing.first_B + lengths - 1)
        near_BC = newest_B[:, None] - self._back_C
        known_BC = near_BC >= self._put(packing.first_B)[:, None]
        interest_BD, cache.state = self._network.prefill(
            {
                "x_SD": x_SD,
                "older_CS1": (place_S >= self._back_C[:-1].flip(0)[:, None]).to(x_SD.dtype)[
                    ..., None
                ],
                "distances_TT": distances_TT.clamp_(min=0),
                "mask_RTT": _mask(hidden_RTT),
                "newest_B": newest_B,
                "near_BC": near_BC.clamp_(min=0),
                "known_BC1": known_BC.to(x_SD.dtype)[..., None],
                "owner_U": cache.owner_U,
                "query_B": cache.query_B,
                "distances_UT": cache.distances_UT,
                "mask_RQT": cache.mask_RQT,
            }
        )
        return interest_BD, cache

    def step(self, items_B: Tensor, cache: PackedCache) -> Tensor:
        """As `GPT.step`."""
        positions_B = torch.full_like(items_B, self.config.max_history + cache.steps)
        cache.steps += 1
        interest_BD, cache.state = self._network.step(
            {
                "x_BD": self._embed(items_B, OFFER, cache.user_BD, positions_B),
                "owner_U": cache.owner_U,
                "query_B": cache.query_B,
                "distances_UT": cache.distances_UT + cache.steps,
                "mask_RQT": cache.mask_RQT,
            },
            cache.state,
        )
        return interest_BD

    def _cache(
        self, packing: Packing, lengths_B: NDArray[np.int64], users_B: Tensor
    ) -> PackedCache:
        """Where newest tokens look, and a state still to come."""
        owner_U, newest_U, start_U = np.zeros((3, packing.queries), dtype=np.int64)
        owner_U[packing.query_B] = np.arange(len(lengths_B))
        start_U[packing.query_B] = packing.first_B % packing.width
        newest_U[packing.query_B] = (packing.first_B + lengths_B - 1) % packing.width
        distances_UT = newest_U[:, None] - np.arange(packing.width)
        hidden_UT = (distances_UT < 0) | (distances_UT > (newest_U - start_U)[:, None])
        return PackedCache(
            state=[],
            user_BD=self._model.user(users_B.to(self._device)),
            owner_U=self._put(owner_U),
            query_B=self._put(packing.query_B),
            distances_UT=self._put(distances_UT.clip(min=0)),
            mask_RQT=_mask(self._put(hidden_UT)).view(packing.rows, -1, packing.width),
        )

    def _embed(self, items_N: Tensor, segment: int, user_ND: Tensor, positions_N: Tensor) -> Tensor:
        """Sums of the embeddings, not yet normalised: N D."""
        model = self._model
        x_ND: Tensor = model.items.weight.index_select(0, items_N)
        if not self._read_already:
            x_ND = model.read(x_ND)
        x_ND = (x_ND + self._segments[segment]).add_(user_ND)
        if self.config.positions == "absolute":
            x_ND += model.positions(positions_N.clamp(max=len(model.positions.weight) - 1))
        return x_ND

    def _put(self, array: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(array).to(self._device)


def _reads_as_it_is(model: GPT, rows: int = 65_536) -> bool:
    """Whether the network reads the rows of its table unchanged, as those of a bundle."""
    parts = torch.split(model.items.weight, rows)
    return all(torch.allclose(model.read(part), part, rtol=0, atol=1e-6) for part in parts)


def _mask(hidden: Tensor) -> Tensor:
    """What is added to logits: 0, or -inf where hidden."""
    return torch.zeros(hidden.shape, device=hidden.device).masked_fill_(hidden, -torch.inf)
