"""The network as it is served: the function of `model.gpt.GPT`, arranged to be cheap on a CPU.

Histories are packed. Several short ones share a row of a grid that is as wide as the longest, each
with room behind it for what the model appends; a mask keeps neighbours apart. So nearly nothing is
padding, every product runs once over the whole batch, and keys and values stay where they are.
Queries, keys and values come out of one product, and the last layer's queries are only made for
the newest items.

Shapes: B batch, L length, R rows of the grid, T slots of a row, S = R T, Q queries of a row,
C width of the convolution, D width of the network, H heads, d = D / H.
"""

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from model.block import Block
from model.gpt import GPT, HISTORY, OFFER


@dataclass
class Packing:
    """Where in the grid each history stands."""

    width: int  # T
    rows: int
    first_B: NDArray[np.int64]  # slot of the oldest item, of all S
    places_S: NDArray[np.int64]  # how-manieth item of its history a slot holds; 0 where none
    owners_S: NDArray[np.int64]  # whose; anybody's where none
    queries_B: NDArray[np.int64]  # slot of the query, of all R Q
    queries: int  # Q


def pack(lengths_B: NDArray[np.int64], steps: int) -> Packing:
    """First fit, longest first; each history takes `steps` slots more than its length."""
    spans_B = lengths_B + steps
    width = int(spans_B.max())
    room: list[int] = []  # that each row has left
    held: list[int] = []  # histories that each row holds
    first_B, queries_B = np.empty_like(spans_B), np.empty_like(spans_B)
    rows_B = np.empty_like(spans_B)
    spans = spans_B.tolist()
    for user in np.argsort(-spans_B, kind="stable").tolist():
        span = spans[user]
        row = next((row for row, left in enumerate(room) if left >= span), len(room))
        if row == len(room):
            room.append(width)
            held.append(0)
        first_B[user] = (row + 1) * width - room[row]
        rows_B[user], queries_B[user] = row, held[row]
        room[row] -= span
        held[row] += 1
    owners_N = np.repeat(np.arange(len(spans_B)), spans_B)
    places_N = np.arange(len(owners_N)) - np.repeat(spans_B.cumsum() - spans_B, spans_B)
    slots_N = np.repeat(first_B, spans_B) + places_N
    places_S = np.zeros(len(room) * width, dtype=np.int64)
    owners_S = np.zeros_like(places_S)
    places_S[slots_N], owners_S[slots_N] = places_N, owners_N
    most = max(held)
    return Packing(
        width, len(room), first_B, places_S, owners_S, rows_B * most + queries_B, most
    )


@dataclass
class Cache:
    """What further tokens need of those seen so far."""

    packing: Packing
    inputs: list[Tensor]  # a layer each, S D
    keys_values: list[Tensor]  # a layer each, S 2D
    newest_B: Tensor  # slot of each history's newest token
    places_B: Tensor  # how-manieth token that is, from 0
    queries_B: Tensor  # `Packing.queries_B`
    user_BD: Tensor
    steps: int = 0  # tokens appended since the prefill


class Layer:
    """The weights of a `Block`, fused."""

    def __init__(self, block: Block) -> None:
        self.heads = block.heads
        scale = (block.query.weight.shape[0] // block.heads) ** -0.5
        self.query = block.query.weight * scale, block.query.bias * scale
        self.key_value = block.key_value.weight, block.key_value.bias
        self.fused = tuple(
            torch.cat(both) for both in zip(self.query, self.key_value, strict=True)
        )
        self.block = block
        self.local_weight = getattr(block, "local_weight", None)
        self.distance_bias = getattr(block, "distance_bias", None)

    def bias(self, distances: Tensor, visible: Tensor) -> Tensor:
        """See `Block.bias`; H … Q T also where there are no distance biases."""
        bias = self.block.bias(distances, visible)
        return bias if self.distance_bias is not None else bias.expand(self.heads, *bias.shape)

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        """Of queries R Q D, keys and values R T D, bias H R Q T: R Q D."""
        logits = torch.empty_like(bias)
        parts = list(zip(*(x.chunk(self.heads, dim=2) for x in (queries, keys, values)), strict=True))
        for head, (query, key, _) in enumerate(parts):
            torch.baddbmm(bias[head], query, key.transpose(1, 2), out=logits[head])
        weights = logits.softmax(dim=-1)
        return torch.cat([weights[head] @ value for head, (_, _, value) in enumerate(parts)], dim=2)

    def finish(self, x: Tensor, attended: Tensor, local: Tensor | None) -> Tensor:
        """What `Block.forward` does behind attention."""
        block = self.block
        mixed = block.out(attended).add_(x)
        if local is not None:
            mixed += local
        x = block.attention_norm(mixed)
        fed = block.down(F.gelu(block.up(x)))
        return cast(Tensor, block.feed_forward_norm(fed.add_(x)))


class Inference:
    """A network's prefill and step, without gradients or dropout."""

    def __init__(self, model: GPT) -> None:
        self.model = model
        self.config = model.config
        self.layers = [Layer(block) for block in model.layers]
        self.device = model.items.weight.device

    def prefill(
        self, history_BL: Tensor, lengths_B: Tensor, users_B: Tensor, steps: int
    ) -> tuple[Tensor, Cache]:
        """See `GPT.prefill`; the arguments may stay on the CPU."""
        lengths = lengths_B.numpy()
        packing = pack(lengths, steps)
        items_S = np.zeros_like(packing.places_S)
        real_BL = np.arange(history_BL.shape[1]) < lengths[:, None]
        slots_BL = packing.first_B[:, None] + np.arange(history_BL.shape[1])
        items_S[slots_BL[real_BL]] = history_BL.numpy()[real_BL]
        rows, width = packing.rows, packing.width
        places_S = self._put(packing.places_S)
        owners_S = self._put(packing.owners_S)
        user_BD = self.model.user(users_B.to(self.device))
        x_SD = self._embed(
            self._put(items_S),
            HISTORY,
            places_S + (self.config.max_history - self._put(lengths))[owners_S]
            if self.config.positions == "absolute" else None,
            user_BD[owners_S],
        )
        last_B = packing.first_B + lengths - 1
        cache = Cache(
            packing, [], [], self._put(last_B), self._put(lengths - 1),
            self._put(packing.queries_B), user_BD,
        )
        distances_TT = torch.arange(width, device=self.device)
        distances_TT = distances_TT[:, None] - distances_TT
        places_RT = places_S.view(rows, width)
        visible_RTT = (distances_TT >= 0) & (distances_TT <= places_RT[:, :, None])
        *lower, last = self.layers
        for layer in lower:
            qkv_S3D = F.linear(x_SD, *layer.fused)
            cache.inputs.append(x_SD)
            cache.keys_values.append(qkv_S3D[:, self.config.dim :])
            bias = torch.where(visible_RTT, layer.bias(distances_TT, distances_TT >= 0)[:, None], -torch.inf)
            attended = layer.attend(*qkv_S3D.view(rows, width, -1).chunk(3, dim=2), bias)
            x_SD = layer.finish(x_SD, attended.view(x_SD.shape), self._local(layer, x_SD, places_RT))
        cache.inputs.append(x_SD)
        cache.keys_values.append(F.linear(x_SD, *last.key_value))
        x_BD = x_SD[cache.newest_B]
        interest_BD = self._newest(len(lower), x_BD, F.linear(x_BD, *last.query), cache)
        return self.model.interest(interest_BD), cache

    def step(self, items_B: Tensor, cache: Cache) -> Tensor:
        """See `GPT.step`."""
        cache.newest_B += 1
        cache.places_B += 1
        position = self.config.max_history + cache.steps
        cache.steps += 1
        x_BD = self._embed(items_B, OFFER, torch.full_like(items_B, position), cache.user_BD)
        for depth, layer in enumerate(self.layers):
            qkv_B3D = F.linear(x_BD, *layer.fused)
            query_BD, kv = qkv_B3D.split([self.config.dim, 2 * self.config.dim], dim=1)
            cache.inputs[depth][cache.newest_B] = x_BD
            cache.keys_values[depth][cache.newest_B] = kv
            x_BD = self._newest(depth, x_BD, query_BD, cache)
        return self.model.interest(x_BD)

    def _newest(self, depth: int, x_BD: Tensor, query_BD: Tensor, cache: Cache) -> Tensor:
        layer, packing = self.layers[depth], cache.packing
        rows, width, queries = packing.rows, packing.width, packing.queries
        # slots of queries
        slots_U = cache.newest_B.new_zeros(rows * queries)
        places_U = torch.zeros_like(slots_U)
        slots_U[cache.queries_B] = cache.newest_B % width
        places_U[cache.queries_B] = cache.places_B
        distances = slots_U.view(rows, queries, 1) - torch.arange(width, device=self.device)
        visible = (distances >= 0) & (distances <= places_U.view(rows, queries, 1))
        bias = layer.bias(distances, visible)
        query_UD = query_BD.new_zeros(rows * queries, query_BD.shape[1])
        query_UD[cache.queries_B] = query_BD
        keys, values = cache.keys_values[depth].unflatten(0, (rows, width)).chunk(2, dim=2)
        attended = layer.attend(query_UD.view(rows, queries, -1), keys, values, bias)
        attended_BD = attended.flatten(0, 1)[cache.queries_B]
        local = None
        if layer.local_weight is not None:
            back_C = torch.arange(len(layer.local_weight) - 1, -1, -1, device=self.device)
            near_BC = cache.newest_B[:, None] - back_C
            near_BCD = cache.inputs[depth][near_BC.clamp_(min=0)]
            weight = layer.local_weight * (back_C <= cache.places_B[:, None])[..., None]
            local = (near_BCD * weight).sum(dim=1)
        return layer.finish(x_BD, attended_BD, local)

    def _local(self, layer: Layer, x_SD: Tensor, places_RT: Tensor) -> Tensor | None:
        if layer.local_weight is None:
            return None
        *older, own = layer.local_weight
        x_SD1 = x_SD
        local_SD = x_SD * own
        for back, weight_D in enumerate(reversed(older), start=1):
            near = x_SD1[:-back] * (places_RT.view(-1, 1)[back:] >= back)
            local_SD[back:].addcmul_(near, weight_D)
        return local_SD

    def _embed(self, items_N: Tensor, segment: int, positions_N: Tensor | None, user_ND: Tensor) -> Tensor:
        model = self.model
        x_ND = model.read(model.items(items_N)) + model.segments.weight[segment] + user_ND
        if self.config.positions == "absolute":
            x_ND += model.positions(positions_N.clamp(max=len(model.positions.weight) - 1))
        return cast(Tensor, model.norm(x_ND))

    def _put(self, array: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(array).to(self.device)
