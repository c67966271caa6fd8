"""The training loop that both stages share: epochs, validation, early stop, checkpoints, resume.

Every epoch draws its random numbers from (seed, stage, epoch) alone, so that a run that was killed
and resumed from its last checkpoint ends with the same weights as one that was not.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from model.data.dataset import Dataset, IntArray, popularity
from model.network.gpt import GPT
from model.training import distributed
from model.training.batches import SampleBatch, Samples, TrainingBatch, by_length
from model.training.checkpoints import (
    Metrics,
    Progress,
    load_checkpoint,
    load_weights,
    save_checkpoint,
    save_weights,
)
from model.training.config import FitConfig
from model.training.loss import batch_loss, objective, products
from model.training.optimizer import Optimizer

log = logging.getLogger(__name__)

SMALL_STEP = 100_000
"""Numbers in the vectors of a batch's items: with fewer, threads wait longer than they work."""
RATE, SECONDS = "samples_per_second", "seconds"
"""Names of an epoch's rate and duration among its figures."""


@dataclass(frozen=True)
class Stage:
    """The parts in which one stage of training differs from another."""

    name: str
    config: FitConfig
    draw: Callable[[GPT, np.random.Generator], Samples]
    """The samples of one epoch."""
    read: Callable[[Samples, list[IntArray]], Iterator[SampleBatch]]
    """The events of some samples, batch by batch."""
    batch: Callable[[GPT, SampleBatch], TrainingBatch]
    """The network's input for some samples."""
    validate: Callable[[GPT], Metrics]
    begin: Callable[[GPT], None] = lambda model: None
    """Applied to the network before the first epoch."""
    settle: Callable[[GPT], None] = lambda model: None
    """Applied to the network after every epoch, before it is validated."""


def fit(model: GPT, dataset: Dataset, stage: Stage, run: Path, seed: int, resume: bool) -> Progress:
    """Trains one stage, with checkpoints under `run/<stage>`; `model` ends with its best weights.

    The weights at the start take part in the choice (epoch 0), so that a stage never makes the
    validation figure worse. With `resume` it continues after the last complete epoch.
    """
    return _Fit(model, dataset, stage, run, seed).train(resume)


class _Fit:
    """A network in training, with its optimiser and files."""

    def __init__(self, model: GPT, dataset: Dataset, stage: Stage, run: Path, seed: int) -> None:
        self._model, self._stage, self._seed = model, stage, seed
        self._config, self._device = stage.config, model.items.weight.device
        self._optimizer = Optimizer(
            model,
            self._config.learning_rate,
            self._config.weight_decay,
            by_row=self._config.loss == "sampled",
            user_rate=self._config.user_rate,
            user_decay=self._config.user_decay,
        )
        self._loss_of = objective(self._config, popularity(dataset), self._device)
        self._last = run / stage.name / "last.safetensors"
        self._best = run / stage.name / "best.safetensors"
        self._curves = run / "tensorboard" / stage.name

    def train(self, resume: bool) -> Progress:
        """Runs all epochs, or those that a checkpoint leaves."""
        found = resume and self._last.exists()
        distributed.barrier()  # before the first process may write it
        if found:
            progress = load_checkpoint(self._last, self._model, self._optimizer)
            log.info("%s: resumed after epoch %d", self._stage.name, progress.epoch)
        else:
            progress = Progress(self._config.choose_by)
            self._stage.begin(self._model)
            self._finish_epoch(progress, {})
        with self._tensorboard(progress) as curves:
            while not progress.finished(self._config.epochs, self._config.patience):
                progress.epoch += 1
                metrics = self._finish_epoch(progress, self._train_epoch(progress.epoch))
                if curves:
                    for name, value in metrics.items():
                        curves.add_scalar(name, value, progress.epoch)
        load_weights(self._best, self._model)
        return progress

    def _tensorboard(self, progress: Progress) -> AbstractContextManager[SummaryWriter | None]:
        """The curves for TensorBoard; those of epochs that a killed run had begun are dropped."""
        if not distributed.is_first():
            return nullcontext()
        return SummaryWriter(str(self._curves), purge_step=progress.epoch + 1)

    def _train_epoch(self, epoch: int) -> Metrics:
        """Trains on the samples of one epoch; returns the mean loss and the rate."""
        stage_number = sum(self._stage.name.encode())  # the stages' random streams differ
        rng = np.random.default_rng([self._seed, stage_number, epoch])
        torch.manual_seed(int(rng.integers(2**63)) ^ distributed.rank())  # for dropout
        samples = self._stage.draw(self._model, rng)
        batches = by_length(samples, self._config.batch_size, rng)[: self._config.epoch_steps]
        negatives = torch.Generator(self._device)  # the same in all processes
        negatives.manual_seed(int(rng.integers(2**63)))
        started = time.perf_counter()
        self._model.train()
        with _threads(1 if self._is_small(samples) else torch.get_num_threads()):
            loss = self._make_steps(self._read(samples, batches, epoch), batches, epoch, negatives)
        seconds = time.perf_counter() - started
        return {"loss": loss, RATE: sum(map(len, batches)) / seconds, SECONDS: seconds}

    def _make_steps(
        self,
        bar: "tqdm[SampleBatch]",
        batches: list[IntArray],
        epoch: int,
        negatives: torch.Generator,
    ) -> float:
        """Makes a step for each batch; returns the mean loss."""
        total, steps = 0.0, 0
        for steps, samples in enumerate(bar, start=1):
            if self._config.decay:
                left = 1 - (epoch - 1 + steps / len(batches)) / self._config.epochs
                self._optimizer.set_rate(self._config.learning_rate * left)
            loss = self._step(samples, negatives, distributed.has_share(batches[steps - 1]))
            if not math.isfinite(loss):
                raise ValueError(
                    f"{self._stage.name}: the loss is {loss:g} in epoch {epoch}, so the training "
                    f"has diverged: lower the learning rate ({self._config.learning_rate:g})"
                )
            total += loss
            if steps % 20 == 0:
                bar.set_postfix(loss=f"{total / steps:.4f}")
        return total / max(1, steps)

    def _is_small(self, samples: Samples) -> bool:
        """Whether one thread makes a step in less time than several."""
        tokens = self._config.batch_size * samples.lengths_N.sum() / max(1, len(samples))
        return bool(tokens * self._model.config.dim < SMALL_STEP)

    def _step(self, samples: SampleBatch, negatives: torch.Generator, has_share: bool) -> float:
        """Makes one optimiser step; returns the mean loss over all processes.

        Without `has_share`, this process has no sample of its own, and its gradient is ignored.
        """
        batch = self._stage.batch(self._model, samples.to(self._device))
        dtype = products(self._config, self._device)
        loss = batch_loss(self._model, batch, self._loss_of, negatives, dtype)
        loss.backward()  # type: ignore[no-untyped-call]
        targets = batch.wanted_BQ.sum() * has_share
        mean = distributed.average_gradients(list(self._model.parameters()), loss, targets)
        self._optimizer.step()
        return mean.item()

    def _read(self, samples: Samples, batches: list[IntArray], epoch: int) -> "tqdm[SampleBatch]":
        """This process's share of every batch, with a progress bar."""
        shares = [distributed.local_share(batch) for batch in batches]
        return tqdm(
            self._stage.read(samples, shares),
            total=len(batches),
            desc=f"{self._stage.name} {epoch:3d}/{self._config.epochs}",
            unit="step",
            leave=False,
            disable=None if distributed.is_first() else True,  # None: silent without a terminal
        )

    def _finish_epoch(self, progress: Progress, figures: Metrics) -> Metrics:
        """Validates, keeps the weights if they are the best so far, saves the checkpoint, logs.

        Only the first process does so; the others receive the figure that decides when to stop.
        """
        self._stage.settle(self._model)
        if not distributed.is_first():
            metrics = {progress.metric: distributed.broadcast(0.0, self._device)}
            progress.keep(metrics)
            return metrics
        metrics = figures | self._stage.validate(self._model)
        best = progress.keep(metrics)
        if best:
            save_weights(self._best, self._model)
        save_checkpoint(self._last, self._model, self._optimizer, progress)
        distributed.broadcast(metrics[progress.metric], self._device)  # once the files are there
        about = self._stage.name, progress.epoch, self._config.epochs, _as_text(metrics, best)
        log.info("%s epoch %d of %d  %s", *about)
        return metrics


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Uses this number of threads for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _as_text(metrics: Metrics, best: bool) -> str:
    """The figures of an epoch as a line of the log."""
    parts = [f"{name} {metrics[name]:.4f}" for name in metrics if name not in (RATE, SECONDS)]
    if RATE in metrics:
        parts.append(f"{metrics[RATE]:,.0f} samples/s")
    return "  ".join([*parts, "best"] if best else parts)
