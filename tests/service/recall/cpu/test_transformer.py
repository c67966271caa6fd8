"""The compiled network computes the same as the network in torch."""

import math
from functools import cache

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import CONFIG

from index.kernels.jit import compiled
from model.network.gpt import GPT
from model.network.tokens import history_tokens
from model.training.prompts import followed_by
from service.recall.cpu.attention import BLOCK, LOWEST, SHORT, softmax
from service.recall.cpu.gemm_chunking import GemmChunking, measure_chunking
from service.recall.cpu.layer_kernels import gelu
from service.recall.cpu.transformer import Transformer

VARIANTS: list[dict[str, object]] = [
    {},
    {"layers": 1},
    {"layers": 3, "heads": 4},
    {"user_rank": 0},
    {"adapter_rank": 3},
    {"adapter_rank": 3, "layers": 1, "cosine": False},
    {"local": 0},
    {"local": 12},
    {"cosine": False},
    {"groups": 2},
    {"groups": 4, "heads": 4, "local": 0, "adapter_rank": 3},
    {"positions": "absolute"},
    {"positions": "absolute", "local": 0, "cosine": False, "user_rank": 0},
]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@torch.no_grad()
def test_prefill_and_steps_equal_the_networks_own(variant: dict[str, object]) -> None:
    model = tiny.gpt(tiny.CONFIG.model_copy(update=variant))
    served = Transformer(model)
    rng = np.random.default_rng(0)
    for users in (1, 23, 7):  # the later ones find memory that was used before
        lengths_B = rng.integers(1, 9, users)
        history_BL = rng.integers(0, 40, (users, int(lengths_B.max())))
        users_B = rng.integers(-1, 60, users)
        items_S = np.concatenate(
            [row[:length] for row, length in zip(history_BL, lengths_B, strict=True)]
        )
        expected_BD, cache = model.prefill(*map(torch.from_numpy, (history_BL, lengths_B, users_B)))
        interest_BD = served.prefill(items_S, np.array([0, *lengths_B]).cumsum(), users_B)
        np.testing.assert_allclose(interest_BD, expected_BD.numpy(), atol=2e-5, rtol=1e-4)
        for _ in range(3):
            items_B = rng.integers(0, 40, users)
            expected_BD = model.step(torch.from_numpy(items_B), cache)
            interest_BD = served.step(items_B)
            np.testing.assert_allclose(interest_BD, expected_BD.numpy(), atol=2e-5, rtol=1e-4)


HISTORIES = st.lists(st.integers(0, 39), min_size=1, max_size=8)


@cache
def served_networks() -> list[tuple[GPT, Transformer]]:
    models = [tiny.gpt(seed=seed).requires_grad_(False) for seed in (0, 1)]
    return [(model, Transformer(model)) for model in models]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(HISTORIES, min_size=1, max_size=12),
    st.lists(st.integers(0, 39), max_size=4),
    st.integers(0, 1),
)
@torch.no_grad()
def test_the_cache_of_keys_and_values_leaves_nothing_of_earlier_batches(
    histories: list[list[int]], offers: list[int], number: int
) -> None:
    """Each interest is that of a whole pass over the history of one user and the offers so far."""
    model, compiled_one = served_networks()[number]
    users_B = np.arange(len(histories)) - 1
    starts = np.array([0, *map(len, histories)]).cumsum()
    interest_BD = compiled_one.prefill(np.concatenate(histories), starts, users_B)
    for step in range(len(offers) + 1):
        for row, history in enumerate(histories):
            lengths_B = torch.tensor([len(history)])
            given_BM = torch.tensor([offers[:step] or [0]])
            tokens = history_tokens(torch.tensor([history]), lengths_B, CONFIG.max_history)
            if step:
                parts = torch.tensor([history]), lengths_B, given_BM, CONFIG.max_history
                tokens = followed_by(*parts)
            whole_BLD = model(tokens, torch.tensor([users_B[row]]))
            np.testing.assert_allclose(
                interest_BD[row], whole_BLD[0, -1].numpy(), atol=2e-5, rtol=1e-4
            )
        if step < len(offers):
            interest_BD = compiled_one.step(np.full(len(histories), offers[step]))


@pytest.mark.parametrize("positions", ["relative", "absolute"])
@torch.no_grad()
def test_histories_of_any_length_are_attended_alike(positions: str) -> None:
    longest = 3 * BLOCK + 5
    model = tiny.gpt(
        tiny.CONFIG.model_copy(update={"max_history": longest, "positions": positions})
    )
    served = Transformer(model)
    rng = np.random.default_rng(0)
    lengths_B = np.array(
        [SHORT - 1, SHORT, longest, 1, BLOCK, BLOCK + 1, 2 * BLOCK, 2 * BLOCK - 1, 3]
    )
    history_BL = rng.integers(0, 40, (len(lengths_B), longest))
    users_B = np.full(len(lengths_B), -1)
    items_S = np.concatenate(
        [row[:length] for row, length in zip(history_BL, lengths_B, strict=True)]
    )
    expected_BD, cache = model.prefill(*map(torch.from_numpy, (history_BL, lengths_B, users_B)))
    interest_BD = served.prefill(items_S, np.array([0, *lengths_B]).cumsum(), users_B)
    np.testing.assert_allclose(interest_BD, expected_BD.numpy(), atol=2e-5, rtol=1e-4)
    items_B = rng.integers(0, 40, len(lengths_B))
    expected_BD = model.step(torch.from_numpy(items_B), cache)
    np.testing.assert_allclose(served.step(items_B), expected_BD.numpy(), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "chunking", [GemmChunking(1, 99), GemmChunking(5, 99), GemmChunking(4, 12)], ids=str
)
@torch.no_grad()
def test_how_many_rows_a_product_takes_changes_nothing(
    chunking: GemmChunking, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    items_S, offsets_B, users_B = rng.integers(0, 40, 23), np.array([0, 1, 9, 14, 23]), np.arange(4)
    model = tiny.gpt()
    monkeypatch.setattr(
        "service.recall.cpu.transformer.measure_chunking", lambda _: GemmChunking(23, 23)
    )
    whole = Transformer(model)
    monkeypatch.setattr("service.recall.cpu.transformer.measure_chunking", lambda _: chunking)
    served = Transformer(model)
    for network in (whole, served):
        network.prefill(items_S, offsets_B, users_B)
    expected_BD, found_BD = whole.step(np.arange(4)), served.step(np.arange(4))
    np.testing.assert_allclose(found_BD, expected_BD, atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_the_chunking_is_measured() -> None:
    chunking = measure_chunking(np.ones((16, 32), dtype=np.float32))
    assert 1 <= chunking.small <= chunking.rows_for(1 << 20)
    assert chunking.rows_for(1) == chunking.small


@pytest.mark.parametrize("spread", [0.01, 1, 20, 200])
def test_softmax_is_that_of_numpy(spread: float) -> None:
    rng = np.random.default_rng(0)
    logits_T = (rng.normal(size=77) * spread).astype(np.float32)
    bias_I = rng.normal(size=100).astype(np.float32)
    sum_T = (logits_T + bias_I[-77:]).astype(np.float64)
    expected_T = np.exp(np.maximum(sum_T - sum_T.max(), LOWEST))
    compiled(lambda logits_T, bias_I: softmax(logits_T, bias_I))(logits_T, bias_I)
    np.testing.assert_allclose(logits_T, expected_T / expected_T.sum(), rtol=1e-5)


def test_gelu_is_that_of_the_error_function() -> None:
    x_N = np.linspace(-9, 9, 20_001).astype(np.float32)
    found_N = x_N.copy()
    compiled(lambda x_N, bias_N: gelu(x_N, bias_N))(found_N, np.zeros_like(x_N))
    expected = [x * 0.5 * (1 + math.erf(x / math.sqrt(2))) for x in x_N.tolist()]
    np.testing.assert_allclose(found_N, expected, atol=1e-6)
