"""The network as it is served: two pure functions of tensors, of histories packed into a grid.

Keys and values stay where they are in the grid; a mask keeps neighbours apart. So every product
runs once over the whole batch. The last layer has queries for the newest items only. A GPU runs
these modules as they are; for a CPU they are recorded (`model.recorded`), so nothing in them may
depend on the sizes of a batch.

Shapes: B batch, R rows of the grid, T slots of a row, S = R T, Q queries a row, U = R Q, N tokens
appended, C width of the convolution, D width of the network, H heads, d = D / H.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.gpt import GPT, HISTORY, OFFER
from model.layer import Layer, norm_of

State = list[Tensor]
"""What further tokens need of those seen: distances (U T) and mask (R Q T) of the newest, keys
(R H d T) of each layer, values (R H T d) of each, then, with a convolution, the newest inputs
(B C D) of each."""


class _Stage(nn.Module):
    def __init__(self, model: GPT) -> None:
        super().__init__()
        config = model.config
        self.history = config.max_history
        reach = config.max_history + config.max_interests
        self.layers = [Layer(block, reach) for block in model.layers]
        self.cosine, self.personal = config.cosine, config.user_rank > 0
        self.back_C = torch.arange(config.local - 1, -1, -1, device=model.items.weight.device)
        self.norm = norm_of(model.norm)
        self.scale = float(model.log_scale.detach().exp()) if config.cosine else 1.0
        self.segments = model.segments.weight.detach()
        self.positions = None
        if config.positions == "absolute":
            self.positions = model.positions.weight.detach()

    def embed(self, items_ND: Tensor, segment: int, user_ND: Tensor | None, at_N: Tensor) -> Tensor:
        """As `GPT.embed`."""
        x_ND = items_ND + self.segments[segment]
        if user_ND is not None:
            x_ND = x_ND + user_ND
        if self.positions is not None:
            x_ND = x_ND + self.positions.index_select(0, at_N.clamp(0, len(self.positions) - 1))
        return F.layer_norm(x_ND, *self.norm)

    def interest(self, hidden_BD: Tensor) -> Tensor:
        return F.normalize(hidden_BD, dim=-1) * self.scale if self.cosine else hidden_BD


class Prefill(_Stage):
    """Histories to first interests."""

    def forward(
        self,
        items_SD: Tensor,
        user_BD: Tensor,
        owner_S: Tensor,
        start_RT: Tensor,
        first_B: Tensor,
        newest_B: Tensor,
        owner_U: Tensor,
        query_B: Tensor,
    ) -> tuple[Tensor, ...]:
        """First interests B D, then a `State`.

        items: rows of the table; user: vectors; the others are a `Packing`'s, and of each history
        the slots of its oldest and newest item.
        """
        slots_S = torch.arange(items_SD.shape[0], device=items_SD.device)
        at_S = self.history - 1 + slots_S - newest_B.index_select(0, owner_S)
        user_SD = user_BD.index_select(0, owner_S) if self.personal else None
        x_SD = self.embed(items_SD, HISTORY, user_SD, at_S)
        columns_T = torch.arange(start_RT.shape[1], device=items_SD.device)
        distances_TT = columns_T[:, None] - columns_T
        mask_RTT = _mask((columns_T < start_RT[..., None]) | (distances_TT < 0))
        older_CS1 = (columns_T - start_RT).flatten() >= self.back_C[:-1].flip(0)[:, None]
        older_CS1 = older_CS1.to(x_SD.dtype)[..., None]
        distances_UT, mask_RQT = _newest(start_RT, columns_T, first_B, newest_B, owner_U)
        keys, values, inputs = [], [], []
        for depth, layer in enumerate(self.layers):
            inputs.append(x_SD)
            key, value = layer.keys_values(x_SD, start_RT.shape[0])
            keys.append(key)
            values.append(value)
            if depth < len(self.layers) - 1:
                bias_RHTT = layer.bias(distances_TT.clamp(min=0), mask_RTT)
                query_SD = F.linear(x_SD, *layer.query)
                attended_SD = layer.attend(query_SD, key, value, bias_RHTT)
                x_SD = layer.finish(x_SD, attended_SD, layer.local(x_SD, older_CS1))
        near = self._near(inputs, first_B, newest_B)
        x_BD = x_SD.index_select(0, newest_B)
        query_UD = F.linear(x_BD, *layer.query).index_select(0, owner_U)
        attended_UD = layer.attend(query_UD, key, value, layer.bias(distances_UT, mask_RQT))
        local_BD = layer.local_of(near[-1]) if near else None
        hidden_BD = layer.finish(x_BD, attended_UD.index_select(0, query_B), local_BD)
        return self.interest(hidden_BD), distances_UT, mask_RQT, *keys, *values, *near

    def _near(self, inputs: list[Tensor], first_B: Tensor, newest_B: Tensor) -> list[Tensor]:
        """Of each layer's inputs those before and at the newest, 0 where there are none: B C D."""
        if not len(self.back_C):
            return []
        near_BC = newest_B[:, None] - self.back_C
        known_BC1 = (near_BC >= first_B[:, None]).to(inputs[0].dtype)[..., None]
        near_N = near_BC.clamp(min=0).flatten()
        shape = -1, len(self.back_C), inputs[0].shape[1]
        return [x_SD.index_select(0, near_N).view(shape) * known_BC1 for x_SD in inputs]


class Step(_Stage):
    """One more token of each history to its next interest."""

    def forward(
        self,
        items_BD: Tensor,
        user_BD: Tensor,
        owner_U: Tensor,
        query_B: Tensor,
        distances_UT: Tensor,
        mask_RQT: Tensor,
        *state: Tensor,
    ) -> tuple[Tensor, ...]:
        """Next interests B D, then what has changed of the state.

        `state`: the rest of a `State`, then keys of each layer for what was appended so far
        (B N D), then values.
        """
        layers = len(self.layers)
        parts = [state[at : at + layers] for at in range(0, len(state), layers)]
        keys, values, *near, own_keys, own_values = parts
        later_1 = torch.arange(1, own_keys[0].shape[1] + 2, device=items_BD.device)[-1:]
        user_ND = user_BD if self.personal else None
        x_BD = self.embed(items_BD, OFFER, user_ND, self.history - 1 + later_1)
        now_near, now_keys, now_values = [], [], []
        for depth, layer in enumerate(self.layers):
            key_BD, value_BD = F.linear(x_BD, *layer.key), F.linear(x_BD, *layer.value)
            now_keys.append(torch.cat([own_keys[depth], key_BD[:, None]], dim=1))
            now_values.append(torch.cat([own_values[depth], value_BD[:, None]], dim=1))
            local_BD = None
            if near:
                now_near.append(torch.cat([near[0][depth][:, 1:], x_BD[:, None]], dim=1))
                local_BD = layer.local_of(now_near[-1])
            attended_UD = layer.attend_appended(
                F.linear(x_BD, *layer.query).index_select(0, owner_U),
                keys[depth],
                values[depth],
                layer.bias(distances_UT + later_1, mask_RQT),
                now_keys[-1].index_select(0, owner_U),
                now_values[-1].index_select(0, owner_U),
            )
            x_BD = layer.finish(x_BD, attended_UD.index_select(0, query_B), local_BD)
        return self.interest(x_BD), *now_near, *now_keys, *now_values


def _newest(
    start_RT: Tensor, columns_T: Tensor, first_B: Tensor, newest_B: Tensor, owner_U: Tensor
) -> tuple[Tensor, Tensor]:
    """Distances of newest items to the slots of their row, U T, and which are theirs, R Q T."""
    rows, width = start_RT.shape
    newest_U = newest_B.index_select(0, owner_U)
    distances_UT = newest_U[:, None] % width - columns_T
    length_U1 = (newest_U - first_B.index_select(0, owner_U))[:, None]
    mask_UT = _mask((distances_UT < 0) | (distances_UT > length_U1))
    return distances_UT.clamp(min=0), mask_UT.view(rows, -1, width)


def _mask(hidden: Tensor) -> Tensor:
    """What is added to logits: 0, or -inf where hidden."""
    return torch.where(hidden, -torch.inf, 0.0)
