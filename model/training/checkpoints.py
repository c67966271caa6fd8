"""Weights and checkpoints of a stage of training, as safetensors files."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from model.files import new_file
from model.network.gpt import GPT
from model.tensor_files import write_tensors
from model.training.optimizer import Optimizer

Metrics = dict[str, float]
"""Figures by name: validation metrics, the mean loss, the rate."""


@dataclass
class Progress:
    """The state of a stage; saved with every checkpoint."""

    metric: str = "NDCG@20"
    """The validation metric that chooses the epoch."""
    epoch: int = 0
    best: float = -1.0
    best_epoch: int = 0
    curves: list[Metrics] = field(default_factory=list)

    def keep(self, metrics: Metrics) -> bool:
        """Records the figures of the epoch; returns whether they are the best so far."""
        self.curves.append({"epoch": self.epoch, **metrics})
        if metrics[self.metric] <= self.best:
            return False
        self.best, self.best_epoch = metrics[self.metric], self.epoch
        return True

    def finished(self, epochs: int, patience: int) -> bool:
        """Whether all epochs are over, or the last `patience` of them brought nothing better."""
        return self.epoch >= epochs or self.epoch - self.best_epoch >= patience


def save_weights(path: Path, model: GPT) -> None:
    """Writes the model's tensors."""
    with new_file(path) as beside:
        write_tensors(model.state_dict(), beside)


def load_weights(path: Path, model: GPT) -> None:
    """Loads a file of `save_weights`. Raises ValueError if it is missing or does not fit."""
    if not path.exists():
        raise ValueError(f"{path} is missing: run `recgpt train` with this stage first")
    try:
        model.load_state_dict(load_file(path))
    except Exception as error:
        raise ValueError(f"{path} cannot be loaded into this model: {error}") from error


def save_checkpoint(path: Path, model: GPT, optimizer: Optimizer, progress: Progress) -> None:
    """Writes weights, optimiser state and progress into one file, so that they cannot disagree."""
    tensors = {f"model.{n}": t for n, t in model.state_dict().items()}
    tensors |= dict(optimizer.tensors())
    with new_file(path) as beside:
        write_tensors(tensors, beside, {"progress": json.dumps(vars(progress))})


def load_checkpoint(path: Path, model: GPT, optimizer: Optimizer) -> Progress:
    """Loads a file of `save_checkpoint`. Raises ValueError if it is damaged."""
    weights: dict[str, Tensor] = {}
    moments: dict[str, Tensor] = {}
    try:
        with safe_open(path, framework="pt") as file:
            progress = Progress(**json.loads(file.metadata()["progress"]))
            for name in file.keys():  # noqa: SIM118 - not a dict
                of_model = name.startswith("model.")
                target = weights if of_model else moments
                target[name.removeprefix("model.")] = file.get_tensor(name)
        model.load_state_dict(weights)
    except Exception as error:
        raise ValueError(f"{path} cannot be resumed from: {error}; delete it to restart") from error
    optimizer.load(moments)
    return progress
