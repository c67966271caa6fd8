"""One training run: its folder, both stages, and its test figures.

RUN/config.json            the configuration; a resumed run must match it
RUN/pretrain/ RUN/tune/    best.safetensors (weights), last.safetensors (checkpoint)
RUN/half-0/ RUN/half-1/    the same of the networks that make cross-fitted offers, if any do
RUN/tensorboard/           the curves as events
RUN/curves.png             the curves as a picture
RUN/recall.json            how interests share a list, if validation has chosen it
RUN/metrics.json           test figures by the trainer's own recall, written last
"""

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from matplotlib.figure import Figure

from model.data.dataset import Dataset, popularity, training_view
from model.device import choose_device
from model.evaluation.metrics import Figures, Recall, evaluate, evaluate_outcomes
from model.evaluation.protocols import (
    Split,
    Splits,
    cold_share,
    popularity_before,
    splits,
    with_outcome,
)
from model.evaluation.reference import DenseRecall, popular_recall
from model.files import new_file, write_json
from model.network.config import RecallConfig
from model.network.gpt import GPT
from model.network.peers import new_network
from model.training import distributed
from model.training.checkpoints import Metrics, Progress, load_weights
from model.training.config import TrainConfig
from model.training.cross_fit import HALVES, CrossFitted, halves, of_half
from model.training.loop import fit
from model.training.merge_fit import fit_merge
from model.training.stages import (
    Offerer,
    own_offers,
    pretraining,
    prompt_tuning,
    train_adapters_only,
)
from model.training.warm_start import start_from

log = logging.getLogger(__name__)

ONE_INTEREST = RecallConfig(interests=1)
RECALL = "recall.json"

Validator = Callable[[RecallConfig, str], Callable[[GPT], Metrics]]
"""(how to recall, the metric that chooses) → the validation of a network."""


def train(config: TrainConfig) -> Figures:
    """Runs the stages, then tests; returns the figures of each model, as in `metrics.json`.

    Under torchrun the first process returns the figures, the others none. Raises ValueError for a
    configuration or a folder that cannot be trained with.
    """
    if config.stages != "pretrain" and (config.peer or config.model.network != "gpt"):
        raise ValueError("a peer has no prompts to be tuned with: say --stages pretrain")
    with distributed.joined(choose_device(config.device)) as device:
        return _train(config, device)


def _train(config: TrainConfig, device: torch.device) -> Figures:
    dataset = training_view(Dataset.load(config.data), config.hold_out_users, config.seed)
    if distributed.is_first():
        _claim_folder(config, dataset)
    started = time.perf_counter()
    torch.manual_seed(config.seed)
    parts = splits(dataset, config.protocol)
    split = with_outcome(dataset, parts.validation, config.recall.outcome)
    training, cases = parts.training(), _some_cases(split, config)
    model, pretrain = network_of(config, dataset), config.pretrain
    if config.warm_start:
        start_from(config.warm_start, model, dataset)  # both are on the CPU
        pretrain = pretrain.model_copy(update={"start": "random"})  # it has its vectors
    model.to(device)

    def validator(recall: RecallConfig, metric: str) -> Callable[[GPT], Metrics]:
        return lambda model: _validation(
            reference_recall(config, dataset, model, recall), dataset, cases, metric
        )

    progress: dict[str, Progress] = {}
    by_action, whole = config.model.feedback == "outcome", config.model.user_mean
    if config.stages != "tune":
        judge = validator(ONE_INTEREST, config.pretrain.choose_by)
        first = pretraining(pretrain, training, judge, by_outcome=by_action, whole=whole)
        progress["pretrain"] = fit(model, training, first, config.out, config.seed, config.resume)
    load_weights(config.out / "pretrain" / "best.safetensors", model)
    if config.stages != "pretrain":
        offers_of: Offerer = own_offers
        if config.tune.cross_fit:
            offers_of = _train_halves(config, training, device, validator)
        judge = validator(config.recall, config.tune.choose_by)
        second = prompt_tuning(config.tune, training, judge, offers_of, by_action, whole)
        if config.model.adapter_rank and config.tune.form != "plain":
            train_adapters_only(model)
        progress["tune"] = fit(model, training, second, config.out, config.seed, config.resume)
    if not distributed.is_first():
        return {}
    draw_curves(progress, config.out / "curves.png")
    if config.fit_merge:
        last = config.pretrain if config.stages == "pretrain" else config.tune
        served = reference_recall(config, dataset, model)
        recall = fit_merge(served, dataset, cases, last.choose_by)
        write_json(config.out / RECALL, recall)
        config = config.model_copy(update={"recall": recall})
    log.info("trained in %.0f s; testing", time.perf_counter() - started)
    return _test(config, parts, training, model)


def _train_halves(
    config: TrainConfig, training: Dataset, device: torch.device, validator: Validator
) -> CrossFitted:
    """Pre-trains the two networks that make the offers, under `RUN/half-0` and `RUN/half-1`."""
    half_U = halves(training.users, config.seed)
    judge = validator(ONE_INTEREST, config.pretrain.choose_by)
    networks = []
    for half in range(HALVES):
        torch.manual_seed(config.seed)  # the same weights in every process, and after a resume
        network = network_of(config, training).to(device)
        part = of_half(training, half_U, half)
        stage = pretraining(config.pretrain, part, judge, f"half-{half}")
        # Halves that an earlier tuning of this run trained are complete: they are not trained anew.
        fit(network, part, stage, config.out, config.seed, resume=True)
        networks.append(network.eval())
    return CrossFitted(tuple(networks), torch.from_numpy(half_U).to(device))


def load_run(
    run: Path, stage: Literal["pretrain", "tune"] | None = None
) -> tuple[TrainConfig, Dataset, GPT]:
    """Returns the configuration, data and best weights of a run, on the CPU.

    The recall is the one that validation chose, if it did. Without `stage`, the weights are those
    of its last stage. The data do not contain the users that the run held out. Raises ValueError if
    the folder is not a run.
    """
    if not (run / "config.json").exists():
        raise ValueError(f"{run} is not a run: no config.json in it. Train one: `recgpt train`")
    config = TrainConfig.recorded(run / "config.json")
    if (run / RECALL).exists():
        chosen = RecallConfig.model_validate_json((run / RECALL).read_text(encoding="utf-8"))
        config = config.model_copy(update={"recall": chosen})
    dataset = training_view(Dataset.load(config.data), config.hold_out_users, config.seed)
    model = network_of(config, dataset)
    if stage is None:
        stage = "tune" if (run / "tune" / "best.safetensors").exists() else "pretrain"
    load_weights(run / stage / "best.safetensors", model)
    return config, dataset, model.eval()


def network_of(config: TrainConfig, dataset: Dataset) -> GPT:
    """Returns the network of a run with random weights.

    Raises ValueError if it reads feedback that the data set lacks.
    """
    actions = len(dataset.action_names)
    return new_network(config.model, dataset.catalogue, dataset.users, actions)


def reference_recall(
    config: TrainConfig, dataset: Dataset, model: GPT, recall: RecallConfig | None = None
) -> DenseRecall:
    """Returns the recall of a run's network, as the run has it or as `recall` says.

    Both ask for the outcome of the run. Raises ValueError if the data set does not know it.
    """
    wanted, avoided = (
        -1 if name is None else dataset.action_code(name)
        for name in (config.recall.outcome, config.recall.avoid)
    )
    return DenseRecall(model, recall or config.recall, wanted, avoided=avoided)


def read_figures(run: Path) -> Figures:
    """Returns the test figures of a run. Raises ValueError if it is not finished."""
    file = run / "metrics.json"
    if not file.exists():
        raise ValueError(f"{run} is not finished: continue it with `recgpt train … --resume`")
    figures: Figures = json.loads(file.read_text(encoding="utf-8"))
    return figures


def _claim_folder(config: TrainConfig, dataset: Dataset) -> None:
    """Records the configuration, or checks that a resumed run has the same."""
    file = config.out / "config.json"
    # A command is a configuration with options of its own, such as --config.
    wanted = config.model_dump(mode="json", include=set(TrainConfig.model_fields))
    wanted["data"] = str(config.data.resolve())
    if not file.exists():
        write_json(file, wanted)
        return
    recorded = TrainConfig.recorded(file)
    found = recorded.model_dump(mode="json")
    if not config.resume and config.stages != "tune":
        raise ValueError(f"{config.out} holds a run: say --resume, or choose another --out")
    free = {"resume", "stages", "device", "out", "fit_merge"}  # these do not change the weights
    if config.stages == "tune":
        free |= {"tune", "recall"}
    if config.stages == "pretrain" and config.recall.outcome == recorded.recall.outcome:
        free |= {"recall"}  # pre-training is judged by one interest for this outcome
    changed = [key for key in wanted if key not in free and wanted[key] != found[key]]
    if changed:
        raise ValueError(
            f"{config.out} was started with another {', '.join(changed)}: "
            "give the same values to resume, or choose another --out"
        )
    write_json(file, wanted)
    (config.out / RECALL).unlink(missing_ok=True)  # of an earlier end of this run


def _some_cases(split: Split, config: TrainConfig) -> Split:
    """Draws at most `validation_users` cases by the seed."""
    if len(split.users) == 0:
        raise ValueError(
            f"the {config.protocol.split} protocol leaves no user to validate on: histories are "
            "too short, or no next item got the wanted outcome"
        )
    if len(split.users) <= config.validation_users:
        return split
    rng = np.random.default_rng(config.seed)
    chosen = np.sort(rng.choice(len(split.users), config.validation_users, replace=False))
    return split.at(chosen)


def _validation(recall: DenseRecall, dataset: Dataset, cases: Split, metric: str) -> Metrics:
    """The metric that chooses the epoch, and two usual ones beside it."""
    deep = [int(metric.removeprefix("recall@"))] if metric.startswith("recall@") else []
    metrics = evaluate(recall, dataset, cases, deep)
    return {name: metrics[name] for name in dict.fromkeys([metric, "NDCG@20", "HR@10"])}


def _test(config: TrainConfig, parts: Splits, training: Dataset, model: GPT) -> Figures:
    """Writes the run's test figures and its baselines to metrics.json, and returns them.

    If the run asks for an outcome, they are of the items that got it; the figures of a recall of
    the other items stand beside them.
    """
    dataset = parts.dataset

    def one_interest(model: GPT) -> DenseRecall:
        return reference_recall(config, dataset, model, ONE_INTEREST)

    recalls: dict[str, Recall] = {"popularity": popular_recall(popularity(training))}
    if parts.test_start is not None:
        counts_V = popularity_before(dataset, parts.test_start)
        recalls["popularity, last week"] = popular_recall(counts_V)
        log.info("%.1f %% of the test targets have no training event", 100 * cold_share(parts))
    if config.peer or config.model.network != "gpt":
        recalls[config.peer or config.model.network] = one_interest(model)
    else:
        first = network_of(config, dataset).to(model.items.weight.device)
        load_weights(config.out / "pretrain" / "best.safetensors", first)
        recalls["pre-trained, one interest"] = one_interest(first.eval())
        recalls["recgpt"] = reference_recall(config, dataset, model)
    figures = evaluate_outcomes(recalls, dataset, parts.test, config.recall.outcome)
    write_json(config.out / "metrics.json", figures)
    return figures


def draw_curves(progress: dict[str, Progress], path: Path) -> None:
    """Draws training loss and the chosen validation metric over the epochs of each stage."""
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, stage in progress.items():
        epochs = [point["epoch"] for point in stage.curves]
        left.plot(epochs[1:], [point["loss"] for point in stage.curves[1:]], label=name)
        quality = [point[stage.metric] for point in stage.curves]
        right.plot(epochs, quality, label=f"{name}, {stage.metric}")
        right.plot(stage.best_epoch, stage.best, "o", color=right.lines[-1].get_color())
    for axes, title in ((left, "training loss"), (right, "validation (dot: kept)")):
        axes.set(title=title, xlabel="epoch")
        axes.grid(alpha=0.3)
        if progress:
            axes.legend()
    with new_file(path) as beside:
        figure.savefig(beside, format="png", dpi=150)
    log.info("curves: %s", path)
