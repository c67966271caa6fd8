"""`model.network.gpt.GPT` as a CPU serves it: compiled, unpadded, in memory used again.

Between a thousand small steps torch and ONNX Runtime spent as long as in them; here a step is one
call. Measured in docs/results/bench.md.

Shapes: see `service.recall.cpu.layer_kernels`.
"""

import numpy as np
import scipy.linalg.cython_blas  # noqa: F401 — numba multiplies with it; see `Transformer.__init__`
import torch
from threadpoolctl import threadpool_limits

from index.kernels.jit import Integer, Real, compiled, inner, pasted
from model.network.gpt import GPT, HISTORY, OFFER
from service.recall.cpu.gemm_chunking import measured
from service.recall.cpu.layer_kernels import (
    KVCache,
    Workspace,
    affine,
    at_tokens,
    memory_of,
    mix,
    set_token,
    weights_of,
)
from service.recall.cpu.vector_kernels import ONE, add, length_of, normalise
from service.recall.cpu.weights import NetworkWeights, served_weights
from service.recall.types import Floats, Ints

PREFILL = -1  # in place of the number of steps before


class Transformer:
    """Interests of a batch: `prefill`, then a `step` for each further one."""

    def __init__(self, model: GPT) -> None:
        """Of a model in evaluation mode on the CPU. Products take as many threads as torch now."""
        # Limits what is loaded by now: the import above, else only numba's first product loads it.
        threadpool_limits(torch.get_num_threads(), user_api="blas")
        self._model, self._config = model, model.config
        self._served = served_weights(model)
        self._pieces = measured(self._served.layers.up_DF[0])
        self._tokens = self._users = self._taken = 0
        self._make_room(1, 1)
        self._ends_B: Ints
        self._user_BD: Floats

    def prefill(self, items_S: Ints, offsets_B: Ints, users_B: Ints) -> Floats:
        """First interests B D of histories, each of 1 to `max_history` items: rows of the table.

        `offsets_B` has a 0 before the first end. Users are rows of the user table, -1 if unknown.
        """
        self._make_room(len(items_S), len(users_B))
        self._ends_B, self._taken = offsets_B, 0
        if self._config.user_rank:
            self._user_BD = self._model.user(torch.from_numpy(users_B)).numpy()
        else:
            self._user_BD = np.zeros((len(users_B), self._config.dim), dtype=np.float32)
        return self._run(items_S, PREFILL)

    def step(self, items_B: Ints) -> Floats:
        """The next interests B D, after one more item of each history."""
        self._taken += 1
        return self._run(items_B, self._taken - 1)

    def _run(self, items_N: Ints, taken: int) -> Floats:
        interest_BD = np.empty_like(self._user_BD)
        rows, rows_newest = map(self._pieces.rows_of, (len(items_N), len(interest_BD)))
        _run(
            self._served,
            self._memory,
            self._space,
            self._user_BD,
            items_N,
            self._ends_B,
            taken,
            rows,
            rows_newest,
            interest_BD,
        )
        return interest_BD

    def _make_room(self, tokens: int, users: int) -> None:
        """For so many; half as much again, so that a slightly larger batch needs no new memory."""
        if tokens <= self._tokens and users <= self._users:
            return
        self._tokens = tokens = max(self._tokens, tokens * 3 // 2)
        self._users = users = max(self._users, users * 3 // 2)
        width, fed, steps = self._config.dim, self._config.feed_forward, self._config.max_interests
        layers = self._config.layers
        self._memory = KVCache(
            _floats(layers, tokens, width),
            _floats(layers, tokens, 2 * width),
            _floats(layers, steps, users, width),
            _floats(layers, steps, users, 2 * width),
        )
        most = max(tokens, users)
        self._space = Workspace(
            np.empty((most, 4), dtype=np.int64),
            _floats(most, width),
            _floats(most, width),
            _floats(most, width),
            _floats(most, width),
            _floats(most, fed),
            _floats(self._config.max_history + steps),
        )


def _floats(*shape: int) -> Floats:
    return np.empty(shape, dtype=np.float32)


@compiled
def _run(
    served: NetworkWeights,
    memory: KVCache,
    space: Workspace,
    user_BD: Floats,
    items_N: Ints,
    offsets_B: Ints,
    taken: Integer,
    rows: Integer,
    rows_newest: Integer,
    interest_BD: Floats,
) -> None:
    """A step after so many others, or a prefill (PREFILL), with so many tokens at once.

    Both in one, because each would take as long to compile.
    """
    count, users, last = len(items_N), len(user_BD), len(served.layers.query_DD) - 1
    tokens_N4 = space.tokens_N4[:count]
    for user in range(users):
        begin, end = offsets_B[user], offsets_B[user + 1]
        if taken != PREFILL:
            set_token(tokens_N4[user], user, begin, end, taken + 1)
            continue
        for at in range(begin, end):
            set_token(tokens_N4[at], user, begin, at + 1, 0)
    segment = HISTORY if taken == PREFILL else OFFER
    x_ND, _ = at_tokens(memory_of(memory, 0), count, taken)
    _embed(served, user_BD, offsets_B, items_N, tokens_N4, segment, x_ND)
    for depth in range(last + 1):
        weights, own = weights_of(served.layers, depth), memory_of(memory, depth)
        x_ND, keys_NE = at_tokens(own, count, taken)
        affine(x_ND, weights.keys_DE, weights.keys_bias_E, rows, keys_NE)
        out_ND, at_once = interest_BD, rows_newest
        if depth < last:
            out_ND, _ = at_tokens(memory_of(memory, depth + 1), count, taken)
            at_once = rows
        elif taken == PREFILL:  # no more than the newest tokens are asked for
            x_ND, tokens_N4 = _newest(offsets_B, tokens_N4, x_ND, space)
        mix(weights, own, space, served.eps, at_once, tokens_N4, x_ND, out_ND)
    scale_to(interest_BD, served.scale)


@inner
def _newest(
    offsets_B: Ints, tokens_N4: Ints, x_SD: Floats, space: Workspace
) -> tuple[Floats, Ints]:
    """Inputs of everyone's newest tokens, and these."""
    newest_BD = space.newest_BD[: len(offsets_B) - 1]
    for user in range(len(newest_BD)):
        end = offsets_B[user + 1]
        set_token(tokens_N4[user], user, offsets_B[user], end, 0)
        for place in range(x_SD.shape[1]):
            newest_BD[user, place] = x_SD[end - 1, place]
    return newest_BD, tokens_N4[: len(newest_BD)]


@pasted
def _embed(
    served: NetworkWeights,
    user_BD: Floats,
    offsets_B: Ints,
    items_N: Ints,
    tokens_N4: Ints,
    segment: Integer,
    out_ND: Floats,
) -> None:
    """As `GPT.embed`."""
    embedding = served.embedding
    positions = len(embedding.positions_LD)
    segment_D = embedding.segments_2D[segment]
    for at in range(len(items_N)):
        item_D, out_D = embedding.items_VD[items_N[at]], out_ND[at]
        user, end, own = tokens_N4[at, 0], tokens_N4[at, 2], tokens_N4[at, 3]
        user_D = user_BD[user]
        length = length_of(item_D) if embedding.unit else ONE
        for place in range(len(out_D)):
            out_D[place] = item_D[place] / length + segment_D[place] + user_D[place]
        if positions:
            known = embedding.history - 1 - (offsets_B[user + 1] - end)
            position_D = embedding.positions_LD[min(known + own, positions - 1)]
            add(out_D, ONE, position_D)
        normalise(out_D, embedding.norm_2D, served.eps)


@inner
def scale_to(vectors_ND: Floats, length: Real) -> None:
    """Give all this length; 0: as they are."""
    if length > 0:
        for at in range(len(vectors_ND)):
            factor = np.float32(length) / length_of(vectors_ND[at])
            for place in range(vectors_ND.shape[1]):
                vectors_ND[at, place] *= factor
