"""`model.network.gpt.GPT` as a CPU serves it: compiled, unpadded, in memory that is used again.

A rollout is a `prefill`, which reads the histories, and a `step` for each further interest, which
appends an offered item to every history. Each is one call of compiled code: with torch or ONNX
Runtime, the overhead of a thousand small operations took as long as their arithmetic
(docs/results/bench.md).

Shapes: G groups; others as in `service.recall.cpu.layer_kernels`.
"""

import math

import numpy as np
import scipy.linalg.cython_blas  # noqa: F401 — numba's matrix product; see `Transformer.__init__`
import torch
from threadpoolctl import threadpool_limits

from index.kernels.jit import Integer, compiled, inlined, inner
from model.network.gpt import GPT
from model.network.tokens import HISTORY, OFFER
from service.recall.cpu.attention import BLOCK, ONE, TOKEN, HeadSpace, Tokens, add
from service.recall.cpu.gemm_chunking import measure_chunking
from service.recall.cpu.layer_kernels import (
    KVCache,
    Workspace,
    affine,
    cache_at,
    gelu,
    length_of,
    normalise,
    run_layer,
    set_token,
    slots_of,
    weights_at,
)
from service.recall.cpu.network_weights import (
    AdapterWeights,
    NetworkWeights,
    as_array,
    network_weights,
    new_floats,
)
from service.recall.query_batch import BatchFeedback
from service.recall.types import Floats, Ints

NO_PAIRS = np.empty(0, dtype=np.int64)
NO_SHIFT = np.empty((0, 0), dtype=np.float32)


class Transformer:
    """Generates the interests of a batch: `prefill`, then a `step` for each further interest.

    It holds one batch at a time, in a KV cache that grows with the largest batch.
    """

    def __init__(self, model: GPT) -> None:
        """Takes a model in evaluation mode on the CPU.

        Matrix products use as many threads as torch does now.
        """
        # The limit holds for libraries that are loaded by now: without the import of scipy's BLAS
        # above, numba would load it later, with its first product.
        threadpool_limits(torch.get_num_threads(), user_api="blas")
        self._model, self._config = model, model.config
        self._weights = network_weights(model)
        self._chunking = measure_chunking(self._weights.layers.up_DF[0])
        self._max_tokens = self._max_queries = self._offers = 0
        self._reserve(1, 1)
        self._offsets_B: Ints
        self._user_BD: Floats
        self._shift_BD: (
            Floats  # of the interests, by whole histories; without rows if there is none
        )
        if self._config.user_mean:
            self._user_out_DD = as_array(model.user_out.weight.t())

    def prefill(
        self,
        items_S: Ints,
        offsets_B: Ints,
        users_B: Ints,
        feedback: BatchFeedback | None = None,
        means_BD: Floats | None = None,
    ) -> Floats:
        """Reads histories of 1 to `max_history` item rows each; returns the first interests B D.

        History b is items_S[offsets_B[b] : offsets_B[b + 1]]. Users are rows of the user table, -1
        if unknown; `means_BD` are the means of whole histories, for a network that has user_mean.
        """
        self._reserve(len(items_S), len(users_B))
        self._offsets_B, self._offers = offsets_B, 0
        if self._config.user_rank:
            self._user_BD = self._model.user(torch.from_numpy(users_B)).numpy()
        else:
            self._user_BD = np.zeros((len(users_B), self._config.dim), dtype=np.float32)
        self._shift_BD = NO_SHIFT if means_BD is None else means_BD @ self._user_out_DD
        return self._extend(items_S, self._pairs(feedback))

    def step(self, items_B: Ints) -> Floats:
        """Appends one offered item to each history; returns the next interests B D."""
        self._offers += 1
        return self._extend(items_B, NO_PAIRS)

    def _pairs(self, feedback: BatchFeedback | None) -> Ints:
        """Returns the row of each item in `Embedding.feedback_PD`."""
        if feedback is None:
            return NO_PAIRS
        actions = math.isqrt(len(self._weights.embedding.feedback_PD))
        pairs_S: Ints = (feedback.actions_S + 1) * actions + feedback.outcomes_S + 1
        return pairs_S

    def _extend(self, items_N: Ints, pairs_N: Ints) -> Floats:
        interest_BD = np.empty_like(self._user_BD)
        rows, newest_rows = map(self._chunking.rows_for, (len(items_N), len(interest_BD)))
        _extend(
            self._weights,
            self._cache,
            self._workspace,
            self._user_BD,
            items_N,
            pairs_N,
            self._offsets_B,
            self._offers,
            rows,
            newest_rows,
            self._shift_BD,
            interest_BD,
        )
        return interest_BD

    def _reserve(self, tokens: int, queries: int) -> None:
        """Makes cache and workspace large enough, with half as much again to grow into."""
        if tokens <= self._max_tokens and queries <= self._max_queries:
            return
        self._max_tokens = tokens = max(self._max_tokens, tokens * 3 // 2)
        self._max_queries = queries = max(self._max_queries, queries * 3 // 2)
        width, fed, steps = self._config.dim, self._config.feed_forward, self._config.max_interests
        layers = self._config.layers
        self._cache = KVCache(
            new_floats(layers, tokens, width),
            new_floats(layers, tokens, 2 * width),
            new_floats(layers, steps, queries, width),
            new_floats(layers, steps, queries, 2 * width),
        )
        rows = max(tokens, queries)
        self._workspace = Workspace(
            np.empty(rows, dtype=TOKEN),
            new_floats(rows, width),
            new_floats(rows, width),
            new_floats(rows, width),
            new_floats(rows, width),
            new_floats(rows, fed),
            self._head_space(),
        )

    def _head_space(self) -> HeadSpace:
        longest, head_width = self._config.max_history, self._config.dim // self._config.heads
        return HeadSpace(
            new_floats(longest, head_width),
            new_floats(longest, head_width),
            new_floats(longest, head_width),
            new_floats(longest, head_width),
            new_floats(BLOCK * (longest + self._config.max_interests)),
        )


@compiled
def _extend(
    weights: NetworkWeights,
    cache: KVCache,
    workspace: Workspace,
    user_BD: Floats,
    items_N: Ints,
    pairs_N: Ints,
    offsets_B: Ints,
    offers: Integer,
    rows: Integer,
    newest_rows: Integer,
    shift_BD: Floats,
    interest_BD: Floats,
) -> None:
    """Runs the network over new tokens, and computes the interests after the newest ones.

    If `offers` is 0, the new tokens are all items of the histories (prefill). Otherwise they are
    the latest offered item of each history, and `offers` counts all its offered items (step). One
    function does both, because two would take twice as long to compile. `rows` and `newest_rows`
    are the rows of a matrix product over all new tokens and over the newest ones. `shift_BD` is
    added to the interests, if it has rows.
    """
    count, last = len(items_N), len(weights.layers.query_DD) - 1
    tokens_N = workspace.tokens_N[:count]
    for query in range(len(user_BD)):
        begin, end = offsets_B[query], offsets_B[query + 1]
        if offers > 0:
            set_token(tokens_N[query], query, begin, end, offers)
            continue
        for at in range(begin, end):
            set_token(tokens_N[at], query, begin, at + 1, 0)
    x_ND, _ = slots_of(cache_at(cache, 0), count, offers)
    segment = OFFER if offers else HISTORY
    _embed(weights, user_BD, offsets_B, items_N, pairs_N, tokens_N, segment, x_ND)
    for depth in range(last + 1):
        layer, own = weights_at(weights.layers, depth), cache_at(cache, depth)
        x_ND, key_values_NE = slots_of(own, count, offers)
        affine(x_ND, layer.key_value_DE, layer.key_value_bias_E, rows, key_values_NE)
        out_ND, chunk = interest_BD, newest_rows
        if depth < last:
            out_ND, _ = slots_of(cache_at(cache, depth + 1), count, offers)
            chunk = rows
        elif offers == 0:  # the last layer computes the newest items only
            tokens_N, x_ND = _newest(workspace, offsets_B, x_ND)
        run_layer(layer, own, workspace, weights.norm, chunk, tokens_N, x_ND, out_ND)
        if offers > 0 and len(weights.adapters.down_ADR) > 0:
            _adapt(weights.adapters, depth, out_ND)
    for query in range(len(shift_BD)):
        add(interest_BD[query], ONE, shift_BD[query])
    _scale(interest_BD, weights.lengths_G)


@inner
def _adapt(adapters: AdapterWeights, depth: Integer, x_ND: Floats) -> None:
    """Adds an adapter's correction to the outputs of its layer, as `GPT.forward` does."""
    low_NR = np.dot(x_ND, adapters.down_ADR[depth])
    for at in range(len(x_ND)):
        gelu(low_NR[at], adapters.down_bias_AR[depth])
    correction_ND = np.dot(low_NR, adapters.up_ARD[depth])
    for at in range(len(x_ND)):
        add(x_ND[at], ONE, correction_ND[at])
        add(x_ND[at], ONE, adapters.up_bias_AD[depth])


@inner
def _newest(workspace: Workspace, offsets_B: Ints, x_SD: Floats) -> tuple[Tokens, Floats]:
    """Returns the newest token of each history, and its row of `x_SD`."""
    newest_BD = workspace.newest_BD[: len(offsets_B) - 1]
    tokens_B = workspace.tokens_N[: len(newest_BD)]
    for query in range(len(newest_BD)):
        begin, end = offsets_B[query], offsets_B[query + 1]
        set_token(tokens_B[query], query, begin, end, 0)
        for component in range(x_SD.shape[1]):
            newest_BD[query, component] = x_SD[end - 1, component]
    return tokens_B, newest_BD


@inlined
def _embed(
    weights: NetworkWeights,
    user_BD: Floats,
    offsets_B: Ints,
    items_N: Ints,
    pairs_N: Ints,
    tokens_N: Tokens,
    segment: Integer,
    out_ND: Floats,
) -> None:
    """Computes the input of the first layer, as `GPT.embed` does."""
    embedding = weights.embedding
    positions = len(embedding.positions_ID)
    segment_D = embedding.segments_2D[segment]
    for at in range(len(items_N)):
        item_D, out_D, token = embedding.items_VD[items_N[at]], out_ND[at], tokens_N[at]
        user_D = user_BD[token["query"]]
        width = len(out_D) // weights.norm.groups
        for first in range(0, len(out_D), width):
            group = slice(first, first + width)
            length = length_of(item_D[group]) if embedding.unit else ONE
            for component in range(first, first + width):
                out_D[component] = item_D[component] / length
        add(out_D, ONE, segment_D)
        add(out_D, ONE, user_D)
        if len(pairs_N):
            add(out_D, ONE, embedding.feedback_PD[pairs_N[at]])
        if positions:
            # The last item of a history has the position max_history - 1; offers follow.
            items_after = offsets_B[token["query"] + 1] - token["end"]
            position = embedding.max_history - 1 - items_after + token["offers"]
            add(out_D, ONE, embedding.positions_ID[min(position, positions - 1)])
        normalise(out_D, embedding.norm_2D, weights.norm)


@inner
def _scale(vectors_ND: Floats, lengths_G: Floats) -> None:
    """Gives each group of all vectors its length; without lengths it leaves them as they are."""
    for at in range(len(vectors_ND)):
        for group in range(len(lengths_G)):
            width = vectors_ND.shape[1] // len(lengths_G)
            part = vectors_ND[at, group * width : (group + 1) * width]
            factor = lengths_G[group] / length_of(part)
            for component in range(width):
                part[component] *= factor
