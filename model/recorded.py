"""The served network recorded as ONNX, so that a CPU runs it without Python or torch between steps.

    network.prefill.onnx, network.step.onnx    weights included, the item and user tables not

Read by ONNX Runtime. Measured beside torch in docs/results/bench.md.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from model.gpt import GPT
from model.inference import Eager, Inference

PREFILL_FILE, STEP_FILE = "network.prefill.onnx", "network.step.onnx"
OPSET = 17
GIVEN = ("items_BD", "user_BD", "owner_U", "query_B")
"""Inputs of a step that are no part of the state."""
FREE = "BRTSQUN"
"""Letters of a name that stand for sizes which every batch has its own of."""


def write_network(model: GPT, folder: Path) -> None:
    """Record the network of a model in evaluation mode on the CPU."""
    recorder = _Recorder(model, folder)
    lengths_B = torch.tensor([2, 3])
    history_BL = torch.zeros(2, 3, dtype=torch.int64)
    with torch.no_grad():
        served = Inference(model, recorder)
        _, cache = served.prefill(history_BL, lengths_B, torch.tensor([-1, -1]), steps=1)
        served.step(history_BL[:, 0], cache)


class _Recorder:
    """Writes each stage when it is first called."""

    def __init__(self, model: GPT, folder: Path) -> None:
        self._eager, self._folder = Eager(model), folder
        layers = range(model.config.layers)
        self._seen = ["distances_UT", "mask_RQT"]
        self._seen += [f"keys_{n}_RHdT" for n in layers] + [f"values_{n}_RHTd" for n in layers]
        self._changing = [f"near_{n}_BCD" for n in layers if model.config.local]
        self._own = [f"own_{part}_{n}_BND" for part in ("keys", "values") for n in layers]

    def prefill(self, inputs: dict[str, Tensor]) -> tuple[Tensor, list[Any]]:
        outputs = ["interest_BD", *self._seen, *self._changing]
        _export(self._eager.stages[0], inputs, outputs, self._folder / PREFILL_FILE)
        return self._eager.prefill(inputs)

    def step(self, inputs: dict[str, Tensor], state: list[Any]) -> tuple[Tensor, list[Any]]:
        names = self._seen + self._changing + self._own
        given = inputs | dict(zip(names, state, strict=True))
        outputs = ["interest_BD", *(f"new_{name}" for name in self._changing + self._own)]
        _export(self._eager.stages[1], given, outputs, self._folder / STEP_FILE)
        return self._eager.step(inputs, state)


def _export(
    stage: nn.Module, inputs: dict[str, Tensor], outputs: Sequence[str], file: Path
) -> None:
    axes = {name: _axes(name) for name in [*inputs, *outputs]}
    with warnings.catch_warnings():
        # The tracer warns of sizes read as numbers: those are fixed ones, tests compare results.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            stage,
            tuple(inputs.values()),
            file,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,  # the newer exporter needs another package and takes seconds
        )


def _axes(name: str) -> dict[int, str]:
    """Which axes of a tensor are free, by the letters of its name."""
    letters = name.rsplit("_", 1)[1]
    return {at: letter for at, letter in enumerate(letters) if letter in FREE}


class Recorded:
    """The recorded stages; see `model.inference.Network`. The state is ONNX Runtime's own."""

    def __init__(self, folder: Path, threads: int) -> None:
        """Of a verified bundle; each stage runs on so many threads."""
        self._prefill = _Session(folder / PREFILL_FILE, threads)
        self._step = _Session(folder / STEP_FILE, threads)
        self._names = [name for name in self._step.inputs if name not in GIVEN]
        own = [name for name in self._names if name.startswith("own_")]
        self._seen = len(self._names) - len(self._step.outputs) + 1
        self._own, self._width = len(own), self._step.width

    def prefill(self, inputs: dict[str, Tensor]) -> tuple[Tensor, list[Any]]:
        """See `Network`."""
        interest_BD, *state = self._prefill({n: _value(t) for n, t in inputs.items()})
        nothing = np.zeros((interest_BD.shape()[0], 0, self._width), dtype=np.float32)
        empty = onnxruntime.OrtValue.ortvalue_from_numpy(nothing)
        return _tensor(interest_BD), state + [empty] * self._own

    def step(self, inputs: dict[str, Tensor], state: list[Any]) -> tuple[Tensor, list[Any]]:
        """See `Network`."""
        feed = {name: _value(tensor) for name, tensor in inputs.items()}
        interest_BD, *changed = self._step(feed | dict(zip(self._names, state, strict=True)))
        return _tensor(interest_BD), state[: self._seen] + changed


class _Session:
    """A session with the names of what goes in and comes out."""

    def __init__(self, file: Path, threads: int) -> None:
        self._session = open_session(file, threads)
        self.inputs = [one.name for one in self._session.get_inputs()]
        self.outputs = [one.name for one in self._session.get_outputs()]
        self.width = self._session.get_inputs()[0].shape[1]

    def __call__(self, feed: dict[str, Any]) -> list[Any]:
        """All outputs; what the network has no use for is not fed."""
        wanted = {name: feed[name] for name in self.inputs}
        found: list[Any] = self._session.run_with_ort_values(self.outputs, wanted)
        return found


def open_session(model: Path | bytes, threads: int) -> Any:
    """ONNX Runtime on the CPU, whose threads do not spin while they wait."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _value(tensor: Tensor) -> Any:
    return onnxruntime.OrtValue.ortvalue_from_numpy(tensor.numpy())


def _tensor(value: Any) -> Tensor:
    return torch.from_numpy(value.numpy())
