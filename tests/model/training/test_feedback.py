"""Feedback as an input: what users did with items, and the outcome that a recall asks for."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from preparing import run as prepared

from cli.main import main
from model.data.dataset import Dataset
from model.data.event_sets import set_ends
from model.evaluation.metrics import case_batches
from model.evaluation.protocols import by_outcome, splits
from model.evaluation.reference import feedback_of
from model.network.gpt import GPT
from model.reports.comparison import compare_runs, format_comparison
from model.reports.inputs import measure_inputs
from model.training.batches import SetTargets, by_length, prefixes, read_samples
from model.training.checkpoints import Progress
from model.training.config import TrainConfig
from model.training.loop import Stage, fit
from model.training.run import read_figures, train

ITEMS = 101
LIKED, DISLIKED = 1, 37
"""Steps to the next item. Few of them never lead back to an item."""
POPULAR = ["popularity", "popularity, not like"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Walks whose next item depends on the action that it is going to get, and on nothing else."""
    folder = tmp_path_factory.mktemp("feedback")
    rng = np.random.default_rng(0)
    lines = ["user,item,time,action"]
    for user in range(200):
        item = int(rng.integers(ITEMS))
        for time in range(12):
            liked = rng.random() < 0.5
            item = (item + (LIKED if liked else DISLIKED)) % ITEMS
            lines.append(f"{user},{item},{time},{'like' if liked else 'dislike'}")
    (folder / "log").mkdir()
    (folder / "log" / "log.csv").write_text("\n".join(lines))
    _, dataset = prepared(folder / "log" / "log.csv", out=folder / "data", action_column="action")
    return dataset


@pytest.fixture(scope="module")
def data(world: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return next(tmp_path_factory.getbasetemp().glob("feedback*/data"))


def config(data: Path, out: Path, feedback: str, outcome: str | None) -> TrainConfig:
    model = tiny.CONFIG.model_dump() | {"feedback": feedback, "user_rank": 0}
    return TrainConfig.model_validate(
        {
            "data": data,
            "out": out,
            "device": "cpu",
            "stages": "pretrain",
            "model": model,
            "recall": {"interests": 1, "outcome": outcome},
            "pretrain": {"epochs": 12, "batch_size": 32, "learning_rate": 1e-2},
        }
    )


@pytest.fixture(scope="module")
def runs(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs that ask for likes, for dislikes, and for likes without reading any feedback."""
    folder = tmp_path_factory.mktemp("runs")
    wanted = (("like", "outcome"), ("dislike", "outcome"), ("none", "none"))
    for name, feedback in wanted:
        outcome = "like" if name == "none" else name
        train(config(data, folder / name, feedback, outcome))
    return {name: folder / name for name, _ in wanted}


@pytest.mark.parametrize("outcome", ["like", "dislike"])
def test_a_recall_finds_the_items_that_get_the_wanted_outcome(
    runs: dict[str, Path], outcome: str
) -> None:
    # A network that cannot tell the two next items apart has NDCG@5 = (1 + 0.63) / 2 at best.
    figures = read_figures(runs[outcome])
    assert figures["recgpt"]["NDCG@5"] > 0.85
    assert figures[f"recgpt, not {outcome}"]["NDCG@5"] < 0.7
    assert read_figures(runs["none"])["recgpt"]["NDCG@5"] < 0.85


def test_a_comparison_tells_wanted_outcomes_from_others(runs: dict[str, Path]) -> None:
    found = compare_runs(runs["like"], runs["none"])
    figures = read_figures(runs["like"])
    assert found["figures"]["HR@10"]["new"] == pytest.approx(figures["recgpt"]["HR@10"])
    others = found["others"]["figures"]["HR@10"]["new"]
    assert others == pytest.approx(figures["recgpt, not like"]["HR@10"])
    assert found["cases"] + found["others"]["cases"] == 200
    assert "with the outcome like" in format_comparison(found)
    assert "with another outcome" in format_comparison(found)


def test_an_item_carries_its_own_action_and_the_outcome_of_the_next(world: Dataset) -> None:
    samples = prefixes(world, max_history=5)
    batches = by_length(samples, 64, np.random.default_rng(0))
    assert world.actions is not None
    for numbers, batch in zip(batches, read_samples(world, samples, batches), strict=True):
        assert batch.feedback is not None
        for row, number in enumerate(numbers):
            start, length = samples.starts_N[number], samples.lengths_N[number]
            actions, outcomes = (part[row, :length].tolist() for part in batch.feedback[:2])
            assert actions == world.actions[start : start + length].tolist()
            assert outcomes == world.actions[start + 1 : start + length + 1].tolist()


def test_a_set_of_targets_has_one_outcome(world: Dataset) -> None:
    samples = prefixes(world, max_history=5)
    batches = by_length(samples, 64, np.random.default_rng(0))
    sets = SetTargets(set_ends(world, "4"), last_only=True, one_action=True)
    assert world.actions is not None
    for numbers, batch in zip(batches, read_samples(world, samples, batches, sets), strict=True):
        assert batch.sets_BQS is not None
        for row, number in enumerate(numbers):
            first = samples.starts_N[number] + samples.lengths_N[number]
            events = range(first, min(first + 4, world.offsets[samples.users_N[number] + 1]))
            same = [world.events[at] for at in events if world.actions[at] == world.actions[first]]
            found = batch.sets_BQS[row, 0]
            assert set(found[found >= 0].tolist()) == set(same)


def test_evaluation_reads_the_feedback_that_training_reads(world: Dataset) -> None:
    """The outcome at an item of the history is known; at its end it is the wanted one."""
    split = splits(world).test
    assert world.actions is not None
    for part, histories, users_B in case_batches(world, split, 50):
        found = feedback_of(histories, 5, wanted=1)
        assert found is not None
        for row, user in enumerate(users_B):
            actions = world.actions[world.offsets[user] : world.offsets[user + 1]][:-1]
            assert found.actions_BL[row].tolist() == actions[-5:].tolist()
            assert found.outcomes_BL[row].tolist() == [*actions[-4:].tolist(), 1]
        assert part.stop
    untold = feedback_of([np.arange(3)], 5, wanted=1)
    assert [part.tolist() for part in untold[:2]] == [[[-1, -1, -1]], [[-1, -1, 1]]]


def test_cases_are_divided_by_the_outcome_of_the_first_target(world: Dataset) -> None:
    split = splits(world).test
    liked, others = by_outcome(world, split, "like")
    assert world.actions is not None
    last_U = world.actions[world.offsets[1:] - 1]
    assert liked.users.tolist() == np.flatnonzero(last_U == world.action_code("like")).tolist()
    assert sorted([*liked.users, *others.users]) == list(range(world.users))
    with pytest.raises(ValueError, match="dislike, like, not 'buy'"):
        by_outcome(world, split, "buy")


def test_each_input_matters_to_a_network_that_reads_it(world: Dataset) -> None:
    samples = prefixes(world, max_history=8)
    (batch,) = read_samples(world, samples, [np.arange(20)])
    assert batch.feedback is not None
    for feedback, reads in (("none", 0), ("actions", 1), ("outcome", 2)):
        model = tiny.gpt(tiny.CONFIG.model_copy(update={"feedback": feedback}), actions=2)
        with torch.no_grad():
            known, _ = model.prefill(
                batch.history_BL, batch.lengths_B, batch.users_B, batch.feedback
            )
            for number in (0, 1):
                parts = [*batch.feedback]
                parts[number] = torch.full_like(parts[number], -1)
                changed = type(batch.feedback)(*parts)
                found, _ = model.prefill(batch.history_BL, batch.lengths_B, batch.users_B, changed)
                assert torch.equal(found, known) == (number >= reads)


def test_what_cannot_be_is_refused(data: Path, tmp_path: Path) -> None:
    tiny.walks(tmp_path)
    with pytest.raises(ValueError, match="needs the actions of events"):
        train(config(tmp_path / "data", tmp_path / "run", "actions", None))
    with pytest.raises(ValueError, match="no actions at all, not 'like'"):
        train(config(tmp_path / "data", tmp_path / "other", "none", "like"))
    settings = config(data, tmp_path, "outcome", "like").model_dump()
    with pytest.raises(ValueError, match="offers get no feedback yet"):
        TrainConfig.model_validate(settings | {"stages": "both"})


def test_a_bundle_has_the_figures_of_the_wanted_outcome(
    runs: dict[str, Path], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("like", "none"):
        artifacts, run = str(tmp_path / name), str(runs[name])
        main(["export", "--run-dir", run, "--artifacts", artifacts])
        main(["evaluate", "--artifacts", artifacts, "--data", str(data), "--run-dir", run])
        printed = capsys.readouterr().out
        names = ("pre-trained, one interest", "recgpt")
        equal = ", ".join(sorted([*names, *(f"{name}, not like" for name in names), *POPULAR]))
        assert f"to four decimals: {equal}" in printed


def test_there_are_no_figures_of_an_outcome_that_no_test_case_has(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A share of no case is no number, and a bundle with such a figure could not be read."""
    folder = tmp_path / "data"
    shutil.copytree(data, folder)
    dataset = Dataset.load(folder)
    actions, last = np.array(dataset.actions), np.asarray(dataset.offsets[1:]) - 1
    actions[last] = dataset.action_code("dislike")
    np.save(folder / "actions.npy", actions)
    settings = config(folder, tmp_path / "run", "outcome", "like").model_dump()
    settings["pretrain"] |= {"epochs": 0}
    figures = train(TrainConfig.model_validate(settings))
    assert set(figures) == {
        f"{name}, not like" for name in ("popularity", "pre-trained, one interest", "recgpt")
    }
    main(["report", str(tmp_path / "run")])
    artifacts = str(tmp_path / "artifacts")
    main(["export", "--run-dir", str(tmp_path / "run"), "--artifacts", artifacts])
    main(["evaluate", "--artifacts", artifacts, "--data", str(folder)])
    assert "four decimals: popularity, not like, recgpt, not like" in capsys.readouterr().out


def test_plain_tuning_has_the_targets_of_pre_training(
    world: Dataset, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It continues pre-training: all items of a set got the outcome that the network is told."""
    stages: dict[str, Stage] = {}

    def recorded(model: GPT, dataset: Dataset, stage: Stage, *others: Any) -> Progress:
        stages[stage.name] = stage
        return fit(model, dataset, stage, *others)

    monkeypatch.setattr("model.training.run.fit", recorded)
    settings = config(data, tmp_path / "run", "outcome", "like").model_dump()
    settings["pretrain"] |= {"epochs": 0, "targets": "4"}
    settings["tune"] |= {"epochs": 0, "targets": "4", "form": "plain"}
    train(TrainConfig.model_validate(settings | {"stages": "both"}))
    samples = prefixes(world, max_history=5)
    first, second = (
        next(stages[name].read(samples, [np.arange(100)])) for name in ("pretrain", "tune")
    )
    assert first.sets_BQS is not None
    assert second.sets_BQS is not None
    assert first.sets_BQS.tolist() == second.sets_BQS.tolist()


def test_another_wanted_outcome_costs_what_the_wanted_one_brings(
    runs: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    main(["evaluate", "inputs", "--run-dir", str(runs["like"])])
    printed = capsys.readouterr().out
    assert "test cases (not like)" in printed
    found = measure_inputs(runs["like"])
    liked = found["like"]["variants"]
    others = found["not like"]["variants"]
    assert set(liked) == {
        "as it is",
        "asked for dislike",
        "asked for nothing",
        "guided by 0.1 from dislike",
        "guided by 0.25 from dislike",
        "guided by 0.5 from dislike",
        "told actions in another order",
        "told no actions",
    }
    guided = [others[f"guided by {by} from dislike"]["HR@10"]["value"] for by in (0.1, 0.25, 0.5)]
    assert others["as it is"]["HR@10"]["value"] >= guided[0] >= guided[1] > guided[2]
    expected = read_figures(runs["like"])
    assert liked["as it is"]["HR@10"]["value"] == pytest.approx(expected["recgpt"]["HR@10"])
    asked = others["asked for dislike"]["recall@20"]
    assert asked["value"] >= others["as it is"]["recall@20"]["value"]
    for group in found.values():  # actions say nothing in this world
        same = group["variants"]["told actions in another order"]["recall@100"]
        assert same["value"] == 1  # of 101 items at most 100 are not in the history
    with pytest.raises(ValueError, match="reads items only"):
        measure_inputs(runs["none"])


def test_a_finished_run_is_tested_with_guidance_and_keeps_its_weights(
    runs: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    shutil.copytree(runs["like"], tmp_path / "run")
    before = (tmp_path / "run" / "pretrain" / "best.safetensors").read_bytes()
    settings = config(data, tmp_path / "run", "outcome", "like").model_dump() | {"resume": True}
    settings["recall"] |= {"avoid": "dislike", "guidance": 0.5}
    figures = train(TrainConfig.model_validate(settings))
    first = "pre-trained, one interest"
    assert figures[f"{first}, not like"] == read_figures(runs["like"])[f"{first}, not like"]
    assert figures["recgpt, not like"]["HR@10"] < figures[f"{first}, not like"]["HR@10"]
    assert (tmp_path / "run" / "pretrain" / "best.safetensors").read_bytes() == before
    found = measure_inputs(tmp_path / "run", "validation")["not like"]["variants"]
    assert found["without guidance"]["HR@10"]["value"] > found["as it is"]["HR@10"]["value"]
    settings["recall"] |= {"outcome": "dislike"}  # which judged the epochs
    with pytest.raises(ValueError, match="was started with another recall"):
        train(TrainConfig.model_validate(settings))


@pytest.mark.parametrize(
    ("feedback", "recall", "match"),
    [
        ("outcome", {"outcome": "like", "guidance": 1}, "one to avoid"),
        ("outcome", {"avoid": "dislike", "guidance": 1}, "one to avoid"),
        ("actions", {"outcome": "like", "avoid": "dislike", "guidance": 1}, "reads outcomes"),
    ],
)
def test_guidance_that_cannot_be_is_refused(
    data: Path, tmp_path: Path, feedback: str, recall: dict[str, object], match: str
) -> None:
    settings = config(data, tmp_path, feedback, None).model_dump()
    with pytest.raises(ValueError, match=match):
        TrainConfig.model_validate(settings | {"recall": recall})


def test_a_network_starts_without_a_meaning_for_what_it_does_not_know(world: Dataset) -> None:
    model = GPT(tiny.CONFIG.model_copy(update={"feedback": "outcome"}), ITEMS, 5, actions=2)
    assert [table.weight[0].abs().sum().item() for table in model.feedback_tables] == [0, 0]
    assert all(table.weight[1:].abs().min() > 0 for table in model.feedback_tables)
