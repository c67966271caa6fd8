"""A network's weights as a CPU serves them.

Shapes: V catalogue, D width, L longest history; see `layer_kernels` for a layer's own.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from model.network.block import Block
from model.network.config import GPTConfig
from model.network.gpt import GPT
from service.recall.cpu.layer_kernels import LayerWeights
from service.recall.types import Floats


class Embedding(NamedTuple):
    """How tokens become vectors."""

    items_VD: Floats
    segments_2D: Floats
    positions_LD: Floats  # of no rows where attention knows distances
    norm_2D: Floats  # scale and shift
    history: int  # the longest
    unit: bool  # whether items count by their direction alone


class NetworkWeights(NamedTuple):
    """A network as it is served."""

    embedding: Embedding
    layers: LayerWeights  # of all layers
    eps: float
    scale: float  # length of an interest; 0: as it is


def served_weights(model: GPT) -> NetworkWeights:
    """Of a model on the CPU."""
    config, norm = model.config, torch.stack([model.norm.weight, model.norm.bias])
    absolute = config.positions == "absolute"
    positions = model.positions.weight if absolute else torch.zeros(0, config.dim)
    embedding = Embedding(
        model.items.weight.numpy(),
        _array(model.segments.weight),
        _array(positions),
        _array(norm),
        config.max_history,
        config.cosine,
    )
    scale = float(model.log_scale.exp()) if config.cosine else 0.0
    by_layer = [_weights_of(block, config) for block in model.layers]
    layers = LayerWeights(*map(np.stack, zip(*by_layer, strict=True)))
    return NetworkWeights(embedding, layers, model.norm.eps, scale)


def _array(tensor: Tensor) -> Floats:
    return tensor.detach().contiguous().numpy()


def _weights_of(block: Block, config: GPTConfig) -> LayerWeights:
    """Those of a layer, as `service.recall.cpu.layer_kernels` takes them."""
    shrink = (config.dim // config.heads) ** -0.5
    reach = torch.arange(config.max_history + config.max_interests)
    distance_HT = block.bias(reach, torch.ones(len(reach), dtype=torch.bool))
    norms = block.attention_norm, block.feed_forward_norm
    local_CD = getattr(block, "local_weight", torch.zeros(0, config.dim))
    return LayerWeights(
        _array(block.query.weight.t() * shrink),
        _array(block.query.bias * shrink),
        _array(block.key_value.weight.t()),
        _array(block.key_value.bias),
        _array(distance_HT.expand(config.heads, -1)),
        _array(local_CD),
        _array(block.out.weight.t()),
        _array(block.out.bias),
        _array(torch.stack([part for norm in norms for part in (norm.weight, norm.bias)])),
        _array(block.up.weight.t()),
        _array(block.up.bias),
        _array(block.down.weight.t()),
        _array(block.down.bias),
    )
