"""The network as it is served: the function of `model.gpt.GPT`, arranged to be cheap on a CPU.

Histories are packed into a grid, and keys and values stay where they are in it: a mask keeps
neighbours apart. So every product runs once over the whole batch. Queries, keys and values come
out of one product; the last layer has queries for the newest items only.

Shapes: B batch, L length, R rows of the grid, T slots of a row, S = R T, U queries of all rows,
C width of the convolution, D width of the network, H heads.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from model.block import Block
from model.gpt import GPT, HISTORY, OFFER
from model.packing import Packing, pack


@dataclass
class PackedCache:
    """What further tokens need of those seen so far."""

    packing: Packing
    inputs: list[Tensor]  # a layer each, S D
    keys_values: list[Tensor]  # a layer each, S 2D
    user_BD: Tensor
    newest_B: Tensor  # slot of each history's newest token, of all S
    start_B: Tensor  # slot of its oldest
    query_B: Tensor  # `Packing.query_B`
    column_U: Tensor  # each query's slot within its row
    mask_RQT: Tensor  # 0, or -inf before the history begins
    steps: int = 0  # tokens appended since the prefill


class Layer:
    """A decoder layer on grids; see `Block` for what it computes."""

    def __init__(self, block: Block, reach: int) -> None:
        width = block.query.weight.shape[0]
        self.heads, self.width = block.heads, width
        scale = (width // block.heads) ** -0.5
        fused = torch.cat([block.query.weight * scale, block.key_value.weight])
        bias = torch.cat([block.query.bias * scale, block.key_value.bias])
        self.fused = fused, bias
        self.query = fused[:width], bias[:width]
        self.key_value = fused[width:], bias[width:]
        self.out = block.out.weight, block.out.bias
        self.up = block.up.weight, block.up.bias
        self.down = block.down.weight, block.down.bias
        self.norms = [
            ((width,), norm.weight, norm.bias, norm.eps)
            for norm in (block.attention_norm, block.feed_forward_norm)
        ]
        slots_T = torch.arange(reach, device=fused.device)
        distances_TT = slots_T[:, None] - slots_T
        bias = block.bias(distances_TT, distances_TT >= 0)
        self.bias_HTT = bias.expand(self.heads, reach, reach).contiguous()
        self.local_weight = list(getattr(block, "local_weight", []))  # oldest first

    def attend(self, query: Tensor, key: Tensor, value: Tensor, bias_HRQT: Tensor) -> Tensor:
        """Of queries R Q D, keys and values R T D: R Q D. Overwrites the bias."""
        heads = [x.chunk(self.heads, dim=2) for x in (query, key, value)]
        for logits_RQT, q, k in zip(bias_HRQT, heads[0], heads[1], strict=True):
            logits_RQT.baddbmm_(q, k.transpose(1, 2))
        weights = bias_HRQT.softmax(dim=-1)
        return torch.cat([w @ v for w, v in zip(weights, heads[2], strict=True)], dim=2)

    def finish(self, x_ND: Tensor, attended_ND: Tensor, local_ND: Tensor | None) -> Tensor:
        """What a block does behind its attention."""
        mixed_ND = F.linear(attended_ND, *self.out).add_(x_ND)
        if local_ND is not None:
            mixed_ND.add_(local_ND)
        x_ND = F.layer_norm(mixed_ND, *self.norms[0])
        fed_ND = F.linear(F.gelu(F.linear(x_ND, *self.up)), *self.down)
        return F.layer_norm(fed_ND.add_(x_ND), *self.norms[1])


class Inference:
    """A network's prefill and step, without gradients or dropout."""

    def __init__(self, model: GPT) -> None:
        config = model.config
        self.config = config
        self._model = model
        self._device = model.items.weight.device
        reach = config.max_history + config.max_interests
        self._layers = [Layer(block, reach) for block in model.layers]
        self._back_C1 = torch.arange(1, max(config.local, 1), device=self._device)[:, None]
        self._segments = list(model.segments.weight)
        self._scale = float(model.log_scale.exp()) if config.cosine else 1.0
        self._read_already = _reads_as_it_is(model)
        self._norm = (config.dim,), model.norm.weight, model.norm.bias, model.norm.eps

    def prefill(
        self, history_BL: Tensor, lengths_B: Tensor, users_B: Tensor, steps: int
    ) -> tuple[Tensor, PackedCache]:
        """As `GPT.prefill`, of tensors on the CPU; `steps` < max_interests."""
        lengths = lengths_B.numpy()
        packing = pack(lengths + steps)
        items_S = packing.spread(history_BL.numpy(), lengths)
        cache = self._empty_cache(packing, lengths, users_B)
        start_S, owner_S = self._put(packing.start_S), self._put(packing.owner_S)
        rows, width = packing.rows, packing.width
        columns_T = torch.arange(width, device=self._device)
        place_S = (columns_T - start_S.view(rows, width)).flatten()
        x_SD = self._embed(
            self._put(items_S),
            HISTORY,
            cache.user_BD.index_select(0, owner_S),
            place_S + self.config.max_history - self._put(lengths)[owner_S],
        )
        mask_RTT = _mask(columns_T < start_S.view(rows, width, 1))
        older_CS1 = (place_S >= self._back_C1).to(x_SD.dtype)[..., None]
        for layer in self._layers[:-1]:
            qkv_S3D = F.linear(x_SD, *layer.fused)
            cache.inputs.append(x_SD)
            cache.keys_values.append(qkv_S3D[:, self.config.dim :])
            bias_HRTT = layer.bias_HTT[:, None, :width, :width] + mask_RTT
            query, key, value = qkv_S3D.view(rows, width, -1).chunk(3, dim=2)
            attended_SD = layer.attend(query, key, value, bias_HRTT).view(x_SD.shape)
            x_SD = layer.finish(x_SD, attended_SD, _local(layer, x_SD, older_CS1))
        last = self._layers[-1]
        cache.inputs.append(x_SD)
        cache.keys_values.append(F.linear(x_SD, *last.key_value))
        x_BD = x_SD.index_select(0, cache.newest_B)
        query_BD = F.linear(x_BD, *last.query)
        return self._interest(self._newest(len(self._layers) - 1, x_BD, query_BD, cache)), cache

    def step(self, items_B: Tensor, cache: PackedCache) -> Tensor:
        """As `GPT.step`."""
        position = self.config.max_history + cache.steps
        cache.steps += 1
        cache.newest_B += 1
        cache.column_U += 1
        positions_B = torch.full_like(items_B, position)
        x_BD = self._embed(items_B, OFFER, cache.user_BD, positions_B)
        for depth, layer in enumerate(self._layers):
            qkv_B3D = F.linear(x_BD, *layer.fused)
            if layer.local_weight:
                cache.inputs[depth].index_copy_(0, cache.newest_B, x_BD)
            key_value_B2D = qkv_B3D[:, self.config.dim :]
            cache.keys_values[depth].index_copy_(0, cache.newest_B, key_value_B2D)
            x_BD = self._newest(depth, x_BD, qkv_B3D[:, : self.config.dim], cache)
        return self._interest(x_BD)

    def _empty_cache(
        self, packing: Packing, lengths_B: NDArray[np.int64], users_B: Tensor
    ) -> PackedCache:
        """A cache of no layer yet, whose newest tokens are the histories' last."""
        newest_B = packing.first_B + lengths_B - 1
        column_U, start_U = np.zeros((2, packing.queries), dtype=np.int64)
        column_U[packing.query_B] = newest_B % packing.width
        start_U[packing.query_B] = packing.first_B % packing.width
        hidden_UT = self._put(np.arange(packing.width) < start_U[:, None])
        return PackedCache(
            packing,
            inputs=[],
            keys_values=[],
            user_BD=self._model.user(users_B.to(self._device)),
            newest_B=self._put(newest_B),
            start_B=self._put(packing.first_B),
            query_B=self._put(packing.query_B),
            column_U=self._put(column_U),
            mask_RQT=_mask(hidden_UT).view(packing.rows, -1, packing.width),
        )

    def _newest(self, depth: int, x_BD: Tensor, query_BD: Tensor, cache: PackedCache) -> Tensor:
        """The layer's output for the newest token of each history, whose query is given."""
        layer, packing = self._layers[depth], cache.packing
        rows, width = packing.rows, packing.width
        query_UD = query_BD.new_zeros(packing.queries, self.config.dim)
        query_UD.index_copy_(0, cache.query_B, query_BD)
        bias_HUT = layer.bias_HTT.index_select(1, cache.column_U)[:, :, :width]
        bias_HRQT = bias_HUT.view(layer.heads, rows, -1, width) + cache.mask_RQT
        key_RTD, value_RTD = cache.keys_values[depth].view(rows, width, -1).chunk(2, dim=2)
        query_RQD = query_UD.view(rows, -1, self.config.dim)
        attended_UD = layer.attend(query_RQD, key_RTD, value_RTD, bias_HRQT).flatten(0, 1)
        local_BD = _local_of_newest(layer, cache.inputs[depth], cache)
        return layer.finish(x_BD, attended_UD.index_select(0, cache.query_B), local_BD)

    def _embed(self, items_N: Tensor, segment: int, user_ND: Tensor, positions_N: Tensor) -> Tensor:
        model = self._model
        x_ND = model.items.weight.index_select(0, items_N)
        if not self._read_already:
            x_ND = model.read(x_ND)
        x_ND = (x_ND + self._segments[segment]).add_(user_ND)
        if self.config.positions == "absolute":
            x_ND += model.positions(positions_N.clamp(max=len(model.positions.weight) - 1))
        return F.layer_norm(x_ND, *self._norm)

    def _interest(self, hidden_BD: Tensor) -> Tensor:
        if not self.config.cosine:
            return hidden_BD
        return F.normalize(hidden_BD, dim=-1).mul_(self._scale)

    def _put(self, array: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(array).to(self._device)


def _reads_as_it_is(model: GPT, rows: int = 65_536) -> bool:
    """Whether the network reads the rows of its table unchanged, as those of a bundle."""
    parts = torch.split(model.items.weight, rows)
    return all(torch.allclose(model.read(part), part, rtol=0, atol=1e-6) for part in parts)


def _mask(hidden: Tensor) -> Tensor:
    """What is added to logits: 0, or -inf where hidden."""
    return torch.zeros(hidden.shape, device=hidden.device).masked_fill_(hidden, -torch.inf)


def _local(layer: Layer, x_SD: Tensor, older_CS1: Tensor) -> Tensor | None:
    """The convolution of every slot; `older_CS1`: 1 where it has a token 1, 2, ... before it."""
    if not layer.local_weight:
        return None
    *weights, own_D = layer.local_weight
    local_SD: Tensor = x_SD * own_D
    for back, (weight_D, older_S1) in enumerate(zip(reversed(weights), older_CS1, strict=True), 1):
        local_SD[back:].addcmul_(x_SD[:-back] * older_S1[back:], weight_D)
    return local_SD


def _local_of_newest(layer: Layer, x_SD: Tensor, cache: PackedCache) -> Tensor | None:
    """The convolution of the newest tokens only: B D."""
    if not layer.local_weight:
        return None
    *weights, own_D = layer.local_weight
    local_BD: Tensor = x_SD.index_select(0, cache.newest_B) * own_D
    for back, weight_D in enumerate(reversed(weights), 1):
        slots_B = cache.newest_B - back
        known_B1 = (slots_B >= cache.start_B).to(x_SD.dtype)[:, None]
        near_BD = x_SD.index_select(0, slots_B.clamp_(min=0))
        local_BD.addcmul_(near_BD * known_B1, weight_D)
    return local_BD
