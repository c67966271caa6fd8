"""The network of `model.gpt.GPT` as a CPU serves it: compiled, unpadded, in memory used again.

Between a thousand small steps torch and ONNX Runtime spent as long as in them; here a layer is two
calls. Measured in docs/results/bench.md.

Shapes: see `service.layer`.
"""

from typing import NamedTuple

import numpy as np
import scipy.linalg.cython_blas  # noqa: F401 — numba multiplies with it; see `Network.__init__`
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from index.compiled import Integer, Real, compiled
from model.block import Block, GPTConfig
from model.gpt import GPT, HISTORY, OFFER
from service.layer import Memory, Space, Weights, affine, mix
from service.merge import Floats, Ints
from service.pieces import measured
from service.vectors import ONE, add, length_of, normalise


class Network:
    """Interests of a batch: `prefill`, then a `step` for each further one."""

    def __init__(self, model: GPT) -> None:
        """Of a model in evaluation mode on the CPU. Products take as many threads as torch now."""
        # Limits what is loaded by now: the import above, else only numba's first product loads it.
        threadpool_limits(torch.get_num_threads(), user_api="blas")
        self._model, self._config = model, model.config
        self._items_VD: Floats = model.items.weight.numpy()
        self._embedding = _embedding_of(model)
        self._layers = [_weights_of(block, model.config) for block in model.layers]
        self._pieces = measured(self._layers[0].up_DF)
        self._eps = model.norm.eps
        self._scale = float(model.log_scale.exp()) if model.config.cosine else 0.0
        self._tokens = self._users = self._taken = 0
        self._make_room(1, 1)
        self._ends_B: Ints
        self._user_BD: Floats

    def prefill(self, items_S: Ints, ends_B: Ints, users_B: Ints) -> Floats:
        """First interests B D of histories, each of 1 to `max_history` items: rows of the table.

        `ends_B` has a 0 before the first end. Users are rows of the user table, -1 if unknown.
        """
        self._make_room(len(items_S), len(users_B))
        self._ends_B, self._taken = ends_B, 0
        if self._config.user_rank:
            self._user_BD = self._model.user(torch.from_numpy(users_B)).numpy()
        else:
            self._user_BD = np.zeros((len(users_B), self._config.dim), dtype=np.float32)
        tokens_S4, newest_B = _tokens_of(ends_B), ends_B[1:] - 1
        count, last = len(items_S), len(self._layers) - 1
        rows = self._pieces.rows_of(count)
        self._embed(items_S, tokens_S4, HISTORY, self._memory[0].inputs_SD[:count])
        for depth, (weights, memory) in enumerate(zip(self._layers, self._memory, strict=True)):
            x_SD, keys_SE = memory.inputs_SD[:count], memory.keys_SE[:count]
            affine(x_SD, weights.keys_DE, weights.keys_bias_E, rows, keys_SE)
            if depth < last:
                out_SD = self._memory[depth + 1].inputs_SD[:count]
                mix(weights, memory, self._space, self._eps, rows, tokens_S4, x_SD, out_SD)
        # Of the last layer no more than the newest tokens are asked for.
        interest_BD = np.empty_like(self._user_BD)
        rows = self._pieces.rows_of(len(newest_B))
        asked = tokens_S4[newest_B], x_SD[newest_B], interest_BD
        mix(weights, memory, self._space, self._eps, rows, *asked)
        scale_to(interest_BD, self._scale)
        return interest_BD

    def step(self, items_B: Ints) -> Floats:
        """The next interests B D, after one more item of each history."""
        count, taken = len(items_B), self._taken
        rows = self._pieces.rows_of(count)
        self._taken += 1
        tokens_B4 = np.empty((count, 4), dtype=np.int64)
        tokens_B4[:, 0], tokens_B4[:, 3] = np.arange(count), self._taken
        tokens_B4[:, 1], tokens_B4[:, 2] = self._ends_B[:-1], self._ends_B[1:]
        interest_BD = np.empty_like(self._user_BD)
        inputs = [memory.own_inputs_ABD[taken, :count] for memory in self._memory]
        self._embed(items_B, tokens_B4, OFFER, inputs[0])
        outputs = [*inputs[1:], interest_BD]
        for weights, memory, x_BD, out_BD in zip(
            self._layers, self._memory, inputs, outputs, strict=True
        ):
            keys_BE = memory.own_keys_ABE[taken, :count]
            affine(x_BD, weights.keys_DE, weights.keys_bias_E, rows, keys_BE)
            mix(weights, memory, self._space, self._eps, rows, tokens_B4, x_BD, out_BD)
        scale_to(interest_BD, self._scale)
        return interest_BD

    def _embed(self, items_N: Ints, tokens_N4: Ints, segment: int, out_ND: Floats) -> None:
        unit, history = self._config.cosine, self._config.max_history
        _embed(
            self._items_VD,
            self._embedding,
            self._user_BD,
            self._ends_B,
            items_N,
            tokens_N4,
            segment,
            history,
            unit,
            self._eps,
            out_ND,
        )

    def _make_room(self, tokens: int, users: int) -> None:
        """For so many; half as much again, so that a slightly larger batch needs no new memory."""
        if tokens <= self._tokens and users <= self._users:
            return
        self._tokens = tokens = max(self._tokens, tokens * 3 // 2)
        self._users = users = max(self._users, users * 3 // 2)
        width, fed, steps = self._config.dim, self._config.feed_forward, self._config.max_interests
        shapes = (
            (tokens, width),
            (tokens, 2 * width),
            (steps, users, width),
            (steps, users, 2 * width),
        )
        self._memory = [Memory(*(_floats(*shape) for shape in shapes)) for _ in self._layers]
        most = max(tokens, users)
        self._space = Space(
            _floats(most, width),
            _floats(most, width),
            _floats(most, width),
            _floats(most, fed),
            _floats(self._config.max_history + steps),
        )


def _floats(*shape: int) -> Floats:
    return np.empty(shape, dtype=np.float32)


def _array(tensor: Tensor) -> Floats:
    return tensor.detach().contiguous().numpy()


def _weights_of(block: Block, config: GPTConfig) -> Weights:
    """Those of a layer, as `service.layer` takes them."""
    shrink = (config.dim // config.heads) ** -0.5
    reach = torch.arange(config.max_history + config.max_interests)
    distance_HT = block.bias(reach, torch.ones(len(reach), dtype=torch.bool))
    norms = block.attention_norm, block.feed_forward_norm
    local_CD = getattr(block, "local_weight", torch.zeros(0, config.dim))
    return Weights(
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


class _Embedding(NamedTuple):
    segments_2D: Floats
    positions_LD: Floats  # of no rows where attention knows distances
    norm_2D: Floats  # scale and shift


def _embedding_of(model: GPT) -> _Embedding:
    absolute = model.config.positions == "absolute"
    positions = model.positions.weight if absolute else torch.zeros(0, model.config.dim)
    norm = torch.stack([model.norm.weight, model.norm.bias])
    return _Embedding(_array(model.segments.weight), _array(positions), _array(norm))


def _tokens_of(ends_B: Ints) -> Ints:
    """What `service.layer.mix` is told of each token of these histories: S 4."""
    users, lengths_B = np.arange(len(ends_B) - 1), np.diff(ends_B)
    tokens_S4 = np.zeros((ends_B[-1], 4), dtype=np.int64)
    tokens_S4[:, 0] = np.repeat(users, lengths_B)
    tokens_S4[:, 1] = np.repeat(ends_B[:-1], lengths_B)
    tokens_S4[:, 2] = np.arange(1, len(tokens_S4) + 1)
    return tokens_S4


@compiled
def _embed(
    items_VD: Floats,
    embedding: _Embedding,
    user_BD: Floats,
    ends_B: Ints,
    items_N: Ints,
    tokens_N4: Ints,
    segment: Integer,
    history: Integer,
    unit: bool,
    eps: Real,
    out_ND: Floats,
) -> None:
    """As `GPT.embed`."""
    positions = len(embedding.positions_LD)
    segment_D = embedding.segments_2D[segment]
    for at in range(len(items_N)):
        item_D, out_D = items_VD[items_N[at]], out_ND[at]
        user, end, own = tokens_N4[at, 0], tokens_N4[at, 2], tokens_N4[at, 3]
        user_D = user_BD[user]
        length = length_of(item_D) if unit else ONE
        for place in range(len(out_D)):
            out_D[place] = item_D[place] / length + segment_D[place] + user_D[place]
        if positions:
            position = min(history - 1 - (ends_B[user + 1] - end) + own, positions - 1)
            position_D = embedding.positions_LD[position]
            add(out_D, ONE, position_D)
        normalise(out_D, embedding.norm_2D, eps)


@compiled
def scale_to(vectors_ND: Floats, length: Real) -> None:
    """Give all this length; 0: as they are."""
    if length > 0:
        for at in range(len(vectors_ND)):
            factor = np.float32(length) / length_of(vectors_ND[at])
            for place in range(vectors_ND.shape[1]):
                vectors_ND[at, place] *= factor
