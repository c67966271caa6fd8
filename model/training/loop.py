"""The training loop that both stages share: epochs, validation, early stop, checkpoints, resume.

Every epoch draws its randomness from (seed, stage, epoch) alone, so that a run that was killed and
resumed from its last checkpoint ends with the same weights as one that was not.
"""

import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from model.data.dataset import Dataset, popularity
from model.network.gpt import GPT
from model.training import distributed
from model.training.batches import SampleBatch, Samples, TrainingBatch, by_length, read_samples
from model.training.checkpoints import (
    Metrics,
    Progress,
    load_checkpoint,
    load_weights,
    save_checkpoint,
    save_weights,
)
from model.training.config import FitConfig
from model.training.loss import Objective, batch_loss, objective, products
from model.training.optimizer import Optimizer

log = logging.getLogger(__name__)

RATE, SECONDS = "samples_per_second", "seconds"


@dataclass(frozen=True)
class Stage:
    """What tells one stage of training from another."""

    name: str
    config: FitConfig
    draw: Callable[[GPT, np.random.Generator], Samples]  # the samples of one epoch
    batch: Callable[[GPT, SampleBatch], TrainingBatch]  # what the network sees of them
    validate: Callable[[GPT], Metrics]


def fit(model: GPT, dataset: Dataset, stage: Stage, run: Path, seed: int, resume: bool) -> Progress:
    """Train one stage, checkpointing under `run/<stage>`; `model` ends with its best weights.

    The weights it starts with take part in the choice (epoch 0), so a stage never makes the
    validation figure worse. With `resume` it goes on after the last complete epoch.
    """
    folder = run / stage.name
    optimizer = Optimizer(
        model,
        stage.config.learning_rate,
        stage.config.weight_decay,
        by_row=stage.config.loss == "sampled",
    )
    last, best = folder / "last.safetensors", folder / "best.safetensors"
    found = resume and last.exists()
    distributed.wait()  # before the first one may write it
    if found:
        progress = load_checkpoint(last, model, optimizer)
        log.info("%s: resumed after epoch %d", stage.name, progress.epoch)
    else:
        progress = Progress()
        _finish_epoch(model, optimizer, stage, progress, {}, folder)
    loss_of = objective(stage.config, popularity(dataset), model.items.weight.device)
    with _events(run / "tensorboard" / stage.name, progress) as events:
        while not progress.finished(stage.config.epochs, stage.config.patience):
            progress.epoch += 1
            figures = _train_epoch(model, optimizer, loss_of, dataset, stage, progress.epoch, seed)
            metrics = _finish_epoch(model, optimizer, stage, progress, figures, folder)
            if events:
                for name, value in metrics.items():
                    events.add_scalar(name, value, progress.epoch)
    load_weights(best, model)
    return progress


def _events(folder: Path, progress: Progress) -> AbstractContextManager[SummaryWriter | None]:
    """The curves for TensorBoard, without what a killed run wrote of the coming epochs."""
    if not distributed.first():
        return nullcontext()
    return SummaryWriter(str(folder), purge_step=progress.epoch + 1)


def _train_epoch(
    model: GPT,
    optimizer: Optimizer,
    loss_of: Objective,
    dataset: Dataset,
    stage: Stage,
    epoch: int,
    seed: int,
) -> Metrics:
    """One pass over the stage's samples; returns the mean loss and the rate."""
    stage_number = sum(stage.name.encode())  # tells the stages' random streams apart
    rng = np.random.default_rng([seed, stage_number, epoch])
    torch.manual_seed(int(rng.integers(2**63)) ^ distributed.number())  # dropout of its own
    device = model.items.weight.device
    samples = stage.draw(model, rng)
    batches = by_length(samples, stage.config.batch_size, rng)[: stage.config.epoch_steps]
    negatives = torch.Generator(device).manual_seed(int(rng.integers(2**63)))  # all processes' own
    started, total, steps = time.perf_counter(), 0.0, 0
    model.train()
    bar = tqdm(
        read_samples(dataset, samples, [distributed.share(batch) for batch in batches]),
        total=len(batches),
        desc=f"{stage.name} {epoch:3d}/{stage.config.epochs}",
        unit="step",
        leave=False,
        disable=None if distributed.first() else True,  # None: silent without a terminal
    )
    for steps, (read, whole) in enumerate(zip(bar, batches, strict=True), start=1):
        if stage.config.decay:
            left = 1 - (epoch - 1 + steps / len(batches)) / stage.config.epochs
            optimizer.set_rate(stage.config.learning_rate * left)
        batch = stage.batch(model, read.to(device))
        loss = batch_loss(model, batch, loss_of, negatives, products(stage.config, device))
        loss.backward()  # type: ignore[no-untyped-call]
        targets = batch.wanted_BQ.sum() * distributed.counts(whole)
        mean = distributed.average(list(model.parameters()), loss, targets)
        optimizer.step()
        total += mean.item()
        if steps % 20 == 0:
            bar.set_postfix(loss=f"{total / steps:.4f}")
    seconds = time.perf_counter() - started
    return {
        "loss": total / max(1, steps),
        RATE: sum(map(len, batches)) / seconds,
        SECONDS: seconds,
    }


def _finish_epoch(
    model: GPT,
    optimizer: Optimizer,
    stage: Stage,
    progress: Progress,
    figures: Metrics,
    folder: Path,
) -> Metrics:
    """Validate, keep the weights if they are the best so far, save the checkpoint, log it.

    Only the first process does that; the others learn the figure that decides when to stop.
    """
    device = model.items.weight.device
    if not distributed.first():
        metrics = {"NDCG@20": distributed.from_first(0.0, device)}
        progress.keep(metrics)
        return metrics
    metrics = figures | stage.validate(model)
    note = ""
    if progress.keep(metrics):
        save_weights(folder / "best.safetensors", model)
        note = "  best"
    save_checkpoint(folder / "last.safetensors", model, optimizer, progress)
    distributed.from_first(metrics["NDCG@20"], device)  # when the files are there
    quality = {name: value for name, value in metrics.items() if name not in (RATE, SECONDS)}
    shown = "  ".join(f"{name} {value:.4f}" for name, value in quality.items())
    rate = f"  {metrics.get(RATE, 0):,.0f} samples/s" if figures else ""
    log.info("%s epoch %d  %s%s%s", stage.name, progress.epoch, shown, rate, note)
    return metrics
