"""Scores of a whole small catalogue: 8-bit ones with a bound of their error, and exact ones.

Shapes: B batch, V catalogue, P the same padded to whole groups, D width, N items.
"""

import warnings
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor
from torch.nn import functional as F

from model.recorded import open_session
from service.merge import Ints

Floats = NDArray[np.float32]
Coarse = NDArray[np.int32]

GROUP = 8  # items that selection looks at together
LEVELS = 63  # of a query's numbers to either side: with more, sums of AVX2's 16 bits overflow
ITEM_LEVELS = 127
LOW = np.int32(np.iinfo(np.int32).min)
"""The score of what is not to be found."""
OPSET, IR = 17, 8


class Scores:
    """Products of 8-bit integers, by ONNX Runtime: four times as fast as of 32-bit floats.

    Vectors are turned by a random rotation first: then none has a large number that makes steps
    wide for all. The room for products is used again: fresh memory costs more.
    """

    def __init__(self, vectors_VD: Tensor) -> None:
        """Products take as many threads as torch does now."""
        self.items, self.dim = vectors_VD.shape
        self._vectors_PD = F.pad(vectors_VD, (0, 0, 0, -self.items % GROUP)).contiguous()
        self.padded = len(self._vectors_PD)
        self._turn_DD = _rotation(self.dim)
        turned_PD = (self._vectors_PD @ self._turn_DD).numpy()
        self._step = max(float(np.abs(turned_PD).max()), 1e-30) / ITEM_LEVELS
        steps_PD = np.rint(turned_PD / np.float32(self._step))
        coarse_PD = steps_PD * np.float32(self._step)
        self._error = float(np.linalg.norm(turned_PD - coarse_PD, axis=1).max())
        self._length = float(np.linalg.norm(coarse_PD, axis=1).max())
        self._session = product_session(steps_PD.astype(np.int8))
        self._binding = self._session.io_binding()
        self._room = np.zeros(0, dtype=np.int32)
        self._interest_BD = vectors_VD[:1]
        self._errors_B = np.zeros(0)
        with warnings.catch_warnings():  # sparse tensors are "in beta state": torch says it once
            warnings.simplefilter("ignore")
            self.exact(np.zeros(1, dtype=np.int64))

    def of(self, interest_BD: Tensor) -> Coarse:
        """All scores, B P, until the next call; padding is `LOW`."""
        self._interest_BD = interest_BD
        turned_BD = (interest_BD @ self._turn_DD).numpy()
        steps_B1 = np.maximum(np.abs(turned_BD).max(axis=1, keepdims=True), 1e-30) / LEVELS
        whole_BD = np.rint(turned_BD / steps_B1)
        # |q·v - q'·v'| ≤ |q - q'| |v'| + |q| |v - v'|, and a little for the sums themselves.
        errors_B = np.linalg.norm(turned_BD - whole_BD * steps_B1, axis=1) * self._length
        lengths_B = np.linalg.norm(turned_BD, axis=1)
        errors_B = errors_B + lengths_B * (self._error + 1e-5 * self._length)
        self._errors_B = errors_B / (steps_B1[:, 0].astype(np.float64) * self._step)
        size = len(turned_BD) * self.padded
        if len(self._room) < size:
            self._room = np.zeros(size, dtype=np.int32)
        scores_BP = self._room[:size].reshape(-1, self.padded)
        asked_BD = (whole_BD + (LEVELS + 1)).astype(np.uint8)
        self._binding.bind_cpu_input("asked", asked_BD)
        self._binding.bind_ortvalue_output(
            "scores", onnxruntime.OrtValue.ortvalue_from_numpy(scores_BP)
        )
        self._session.run_with_iobinding(self._binding)
        scores_BP[:, self.items :] = LOW
        return scores_BP

    def reach(self, floor_B: Ints) -> Coarse:
        """What a score must be at least here to be at least the floor in truth.

        The floor is a score here that as many items reach as are wanted.
        """
        limit_B = np.floor(floor_B - 2 * self._errors_B) - 1
        limits_B: Coarse = np.maximum(limit_B, LOW + 1).astype(np.int32)
        return limits_B

    def exact(self, places_N: Ints) -> Floats:
        """The true scores at places of the last product, user after user."""
        if not len(places_N):  # often so, and no product is quick
            return np.zeros(0, dtype=np.float32)
        users_N, rows_N = np.divmod(places_N, self.padded)
        users = len(self._interest_BD)
        ends_B = np.searchsorted(users_N, np.arange(users + 1))
        wanted = torch.sparse_csr_tensor(
            torch.from_numpy(ends_B),
            torch.from_numpy(rows_N),
            torch.zeros(len(rows_N)),
            (users, self.padded),
            check_invariants=False,
        )
        scores = torch.sparse.sampled_addmm(wanted, self._interest_BD, self._vectors_PD.T, beta=0)
        scores_N: Floats = scores.values().numpy()
        return scores_N


def _rotation(width: int) -> Tensor:
    """The same one every time."""
    drawn_DD = torch.randn(width, width, generator=torch.Generator().manual_seed(0))
    rotation_DD: Tensor = torch.linalg.qr(drawn_DD).Q
    return rotation_DD


def product_session(items_PD: NDArray[np.int8]) -> Any:
    """A session that multiplies queries, from 1 to 2 LEVELS + 1, by the items."""
    items, width = items_PD.shape
    zero = np.array(LEVELS + 1, dtype=np.uint8)
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["asked", "items", "zero"], ["scores"])],
        "scores",
        [helper.make_tensor_value_info("asked", TensorProto.UINT8, ["B", width])],
        [helper.make_tensor_value_info("scores", TensorProto.INT32, ["B", items])],
        [
            numpy_helper.from_array(np.ascontiguousarray(items_PD.T), "items"),
            numpy_helper.from_array(zero, "zero"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    model.ir_version = IR
    return open_session(model.SerializeToString(), torch.get_num_threads())
