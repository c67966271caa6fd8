"""The network as it is served computes what the network of training does."""

from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from model.inference import Inference
from model.packing import pack
from model.recorded import Recorded, write_network

VARIANTS: list[dict[str, object]] = [
    {},
    {"layers": 1},
    {"layers": 3, "heads": 4},
    {"user_rank": 0},
    {"local": 0},
    {"local": 12},
    {"cosine": False},
    {"positions": "absolute"},
    {"positions": "absolute", "local": 0, "cosine": False, "user_rank": 0},
]


@pytest.mark.parametrize("recorded", [False, True], ids=["torch", "onnx"])
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@torch.no_grad()
def test_prefill_and_steps_equal_the_networks_own(
    variant: dict[str, object], recorded: bool, tmp_path: Path
) -> None:
    model = tiny.gpt(tiny.CONFIG.model_copy(update=variant))
    if recorded:
        write_network(model, tmp_path)
    rng = np.random.default_rng(0)
    lengths = torch.from_numpy(rng.integers(1, 9, 23))
    history_BL = torch.from_numpy(rng.integers(0, 40, (23, int(lengths.max()))))
    users_B = torch.from_numpy(rng.integers(-1, 60, 23))
    expected_BD, cache = model.prefill(history_BL, lengths, users_B, steps=3)
    served = Inference(model, Recorded(tmp_path, threads=1) if recorded else None)
    interest_BD, packed = served.prefill(history_BL, lengths, users_B, steps=3)
    torch.testing.assert_close(interest_BD, expected_BD, atol=2e-5, rtol=1e-4)
    for _ in range(3):
        items_B = torch.from_numpy(rng.integers(0, 40, 23))
        expected_BD = model.step(items_B, cache)
        interest_BD = served.step(items_B, packed)
        torch.testing.assert_close(interest_BD, expected_BD, atol=2e-5, rtol=1e-4)


def test_histories_share_rows_and_never_slots() -> None:
    rng = np.random.default_rng(0)
    for _ in range(30):
        spans_B = rng.integers(1, 30, rng.integers(1, 50))
        packing = pack(spans_B)
        taken = [
            slot
            for first, span in zip(packing.first_B, spans_B, strict=True)
            for slot in range(first, first + span)
        ]
        assert len(set(taken)) == len(taken)
        ends_B = packing.first_B + spans_B - 1
        assert (packing.first_B // packing.width == packing.row_B).all()
        assert (ends_B // packing.width == packing.row_B).all()
        assert len(set(packing.query_B.tolist())) == len(spans_B)
        assert packing.rows * packing.width < spans_B.sum() + packing.width * (
            packing.rows // 2 + 1
        )
