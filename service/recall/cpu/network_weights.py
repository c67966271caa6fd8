"""The weights of `model.network.gpt.GPT` in the layout of the compiled code.

Shapes: V catalogue, I longest history, A adapters, R rank of an adapter, P pairs, G groups; others
as in `service.recall.cpu.layer_kernels`.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from model.network.block import Block
from model.network.config import GPTConfig
from model.network.gpt import GPT
from service.recall.cpu.layer_kernels import LayerWeights, Normalisation
from service.recall.types import Floats


class Embedding(NamedTuple):
    """The tables that turn tokens into vectors."""

    items_VD: Floats
    segments_2D: Floats
    positions_ID: Floats  # without rows if attention knows distances instead
    feedback_PD: Floats  # of each pair of an action and an outcome; without rows if none is read
    norm_2D: Floats  # scale and shift
    max_history: int
    unit: bool  # only the direction of each group of an item vector counts


class AdapterWeights(NamedTuple):
    """The adapters behind the layers; without any, nothing has a first dimension."""

    down_ADR: Floats
    down_bias_AR: Floats
    up_ARD: Floats
    up_bias_AD: Floats


class NetworkWeights(NamedTuple):
    """The weights of the network."""

    embedding: Embedding
    layers: LayerWeights  # of all layers
    adapters: AdapterWeights
    norm: Normalisation
    lengths_G: Floats  # of each group of an interest; none: interests keep their own length


def network_weights(model: GPT) -> NetworkWeights:
    """Returns the weights of a model on the CPU, in the layout of the compiled code.

    The item table is not copied: for a large catalogue it is a file mapped into memory.
    """
    config, norm = model.config, torch.stack([model.norm.weight, model.norm.bias])
    absolute = config.positions == "absolute"
    positions = model.positions.weight if absolute else torch.zeros(0, config.dim)
    embedding = Embedding(
        model.items.weight.numpy(),
        as_array(model.segments.weight),
        as_array(positions),
        _feedback_table(model),
        as_array(norm),
        config.max_history,
        config.cosine,
    )
    lengths_G = new_floats(0)
    if config.cosine:
        lengths_G = as_array(model.log_scale.exp().reshape(-1) * config.groups**-0.5)
    by_layer = [_layer_weights(block, config) for block in model.layers]
    layers = LayerWeights(*map(np.stack, zip(*by_layer, strict=True)))
    adapters = _adapter_weights(model)
    normalisation = Normalisation(model.norm.eps, config.groups)
    return NetworkWeights(embedding, layers, adapters, normalisation, lengths_G)


def _feedback_table(model: GPT) -> Floats:
    """Returns what each pair of an action and an outcome adds to an item, P D.

    The pair of the numbers a and o of A actions, -1 if not known, has the row
    (a + 1) (A + 1) + o + 1.
    """
    dim = model.config.dim
    if not model.feedback_tables:
        return new_floats(0, dim)
    actions, *outcomes = (table.weight.detach() for table in model.feedback_tables)
    outcome_OD = outcomes[0] if outcomes else torch.zeros_like(actions)
    return as_array((actions[:, None] + outcome_OD[None]).reshape(-1, dim))


def _adapter_weights(model: GPT) -> AdapterWeights:
    dim, rank = model.config.dim, model.config.adapter_rank
    parts = [
        tuple(map(as_array, (one.down.weight.t(), one.down.bias, one.up.weight.t(), one.up.bias)))
        for one in model.layer_adapters
    ]
    if not parts:
        return AdapterWeights(
            new_floats(0, dim, rank),
            new_floats(0, rank),
            new_floats(0, rank, dim),
            new_floats(0, dim),
        )
    return AdapterWeights(*map(np.stack, zip(*parts, strict=True)))


def _layer_weights(block: Block, config: GPTConfig) -> LayerWeights:
    factor = (config.dim // config.heads) ** -0.5
    norms = block.attention_norm, block.feed_forward_norm
    local_CD = getattr(block, "local_weight", torch.zeros(0, config.dim))
    return LayerWeights(
        as_array(block.query.dense().t() * factor),
        as_array(block.query.bias * factor),
        as_array(block.key_value.dense().t()),
        as_array(block.key_value.bias),
        as_array(block.distance_table().flip(1)),
        as_array(local_CD),
        as_array(block.out.dense().t()),
        as_array(block.out.bias),
        as_array(torch.stack([part for norm in norms for part in (norm.weight, norm.bias)])),
        as_array(block.up.dense().t()),
        as_array(block.up.bias),
        as_array(block.down.dense().t()),
        as_array(block.down.bias),
    )


def as_array(tensor: Tensor) -> Floats:
    """Returns a tensor's values, copied only if they do not lie in order."""
    return tensor.detach().contiguous().numpy()


def new_floats(*shape: int) -> Floats:
    """Returns an array of this shape, not filled."""
    return np.empty(shape, dtype=np.float32)
