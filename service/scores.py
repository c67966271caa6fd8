"""Scores of a whole small catalogue: 8-bit ones, and how far they may be from the truth.

Shapes: B batch, V catalogue, P the same padded to whole groups, D width, N items.
"""

from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from service.compiled import compiled
from service.merge import Floats, Ints

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

    def __init__(self, vectors_VD: Floats) -> None:
        """Products take as many threads as torch does now."""
        self.items, self.dim = vectors_VD.shape
        self.vectors_PD = np.pad(vectors_VD, ((0, -self.items % GROUP), (0, 0)))
        self.padded = len(self.vectors_PD)
        turn_DD = _rotation(self.dim)
        self._turn_DD: Floats = turn_DD.numpy()
        turned_PD = (torch.from_numpy(self.vectors_PD) @ turn_DD).numpy()
        self._step = max(float(np.abs(turned_PD).max()), 1e-30) / ITEM_LEVELS
        steps_PD = np.rint(turned_PD / np.float32(self._step))
        coarse_PD = steps_PD * np.float32(self._step)
        self._error = float(np.linalg.norm(turned_PD - coarse_PD, axis=1).max())
        self._length = float(np.linalg.norm(coarse_PD, axis=1).max())
        self._session = product_session(steps_PD.astype(np.int8))
        self._binding = self._session.io_binding()
        self._room = np.zeros(0, dtype=np.int32)

    def of(self, interest_BD: Floats) -> tuple[Coarse, Ints]:
        """All scores, B P, until the next call, and everyone's slack, B.

        Who has a higher score in truth may have one here that is lower by the slack. Both count in
        steps of the user's own. Padding is `LOW`.
        """
        asked_BD = np.empty(interest_BD.shape, dtype=np.uint8)
        slack_B = np.empty(len(interest_BD), dtype=np.int64)
        errors = self._step, self._error, self._length
        _quantise(interest_BD, self._turn_DD, *errors, asked_BD, slack_B)
        size = len(interest_BD) * self.padded
        if len(self._room) < size:
            self._room = np.zeros(size, dtype=np.int32)
        scores_BP = self._room[:size].reshape(-1, self.padded)
        self._binding.bind_cpu_input("asked", asked_BD)
        self._binding.bind_ortvalue_output(
            "scores", onnxruntime.OrtValue.ortvalue_from_numpy(scores_BP)
        )
        self._session.run_with_iobinding(self._binding)
        scores_BP[:, self.items :] = LOW
        return scores_BP, slack_B


@compiled
def _quantise(
    interest_BD: Floats,
    turn_DD: Floats,
    item_step: float,
    item_error: float,
    item_length: float,
    asked_BD: NDArray[np.uint8],
    slack_B: Ints,
) -> None:
    """Queries, turned, in whole steps, and twice the bound of the error of their products.

    |q·v - q'·v'| ≤ |q - q'| |v'| + |q| |v - v'|, and a little for the sums themselves.
    """
    turned_D = np.empty(len(turn_DD), dtype=np.float32)
    for user in range(len(interest_BD)):
        np.dot(interest_BD[user], turn_DD, turned_D)
        most = np.float32(1e-30)
        for component in range(len(turned_D)):
            most = max(most, abs(turned_D[component]))
        step = most / np.float32(LEVELS)
        rest = square = 0.0
        for component in range(len(turned_D)):
            value = turned_D[component]
            whole = np.rint(value / step)
            asked_BD[user, component] = np.uint8(whole + np.float32(LEVELS + 1))
            rest += (value - whole * step) ** 2
            square += value**2
        error = np.sqrt(rest) * item_length
        error += np.sqrt(square) * (item_error + 1e-5 * item_length)
        slack_B[user] = np.int64(2 * error / (np.float64(step) * item_step)) + 2


def _rotation(width: int) -> Tensor:
    """The same one every time."""
    drawn_DD = torch.randn(width, width, generator=torch.Generator().manual_seed(0))
    rotation_DD: Tensor = torch.linalg.qr(drawn_DD).Q.contiguous()
    return rotation_DD


def product_session(items_PD: NDArray[np.int8]) -> Any:
    """A session that multiplies queries, from 1 to 2 LEVELS + 1, by the items.

    It takes as many threads as torch does now, which do not spin while they wait.
    """
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
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
