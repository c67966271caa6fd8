"""How interests share a list is learned on the validation split, recorded, and served."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny

from cli.main import main
from model.evaluation.metrics import evaluate
from model.evaluation.protocols import splits
from model.evaluation.reference import DenseRecall
from model.network.config import RecallConfig
from model.training.config import PretrainConfig, TrainConfig
from model.training.merge_fit import SHARES, fit_merge, mixture_weights, target_logs
from model.training.run import load_run, read_figures, train

CHOOSE_BY = "recall@5"


def config(data: Path, out: Path, recall: RecallConfig) -> TrainConfig:
    stage = PretrainConfig(epochs=2, batch_size=16, learning_rate=1e-2, choose_by=CHOOSE_BY)
    return TrainConfig(
        data=data,
        out=out,
        device="cpu",
        model=tiny.CONFIG,
        pretrain=stage,
        recall=recall,
        fit_merge=True,
    )


def test_weights_are_those_of_the_highest_likelihood() -> None:
    logs_TM = np.log([[0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.1, 0.9]]) - 700
    # The derivative of 3 log(0.1 + 0.8 w) + log(0.9 - 0.8 w) is zero at w = 0.8125.
    assert mixture_weights(logs_TM, np.ones(4)) == pytest.approx([0.8125, 0.1875], abs=1e-3)
    assert mixture_weights(logs_TM, np.array([1, 1, 1, 3])) == pytest.approx([0.5, 0.5])
    assert mixture_weights(np.empty((0, 3)), np.empty(0)) == pytest.approx([1 / 3] * 3)


def test_targets_have_the_probabilities_of_a_search_without_the_history(tmp_path: Path) -> None:
    dataset = tiny.walks(tmp_path)
    model, cases = tiny.lively(tiny.gpt()), splits(dataset).validation
    logs_TM, shares_T = target_logs(DenseRecall(model, RecallConfig(interests=2)), dataset, cases)
    ranked = DenseRecall(model, RecallConfig(interests=1))
    histories = [dataset.history(u)[:n] for u, n in zip(cases.users, cases.lengths, strict=True)]
    (first_N1,) = ranked(histories, cases.users, [1])
    new = [t not in h for t, h in zip(cases.targets, histories, strict=True)]
    assert len(logs_TM) == len(shares_T) == sum(new)
    hit_T = (first_N1[:, 0] == cases.targets)[new]
    assert (logs_TM[hit_T, 0] > np.log(1 / dataset.catalogue)).all()
    assert (logs_TM < 0).all()
    assert (shares_T == 1).all()


def test_a_merge_by_probability_gets_weights_that_the_bundle_serves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.walks(tmp_path)
    run = tmp_path / "run"
    asked = RecallConfig(interests=3, merge="probability")
    train(config(tmp_path / "data", run, asked))
    found, dataset, model = load_run(run)
    assert len(found.recall.weights) == 3
    assert sum(found.recall.weights) == pytest.approx(1, abs=1e-3)
    assert found.recall.model_copy(update={"weights": ()}) == asked
    figures = evaluate(DenseRecall(model, found.recall), dataset, splits(dataset).test)
    assert read_figures(run)["recgpt"] == pytest.approx(figures)
    main(["report", str(run)])
    page = (run / "report.html").read_text()
    assert str(found.recall.weights) in page
    assert "<h4>Recalled</h4>" in page  # one list that all interests share
    assert "Interest 2" not in page
    artifacts = str(tmp_path / "artifacts")
    main(["export", "--run-dir", str(run), "--artifacts", artifacts])
    main(["evaluate", "--artifacts", artifacts, "--data", str(tmp_path / "data")])
    assert "equal to the trainer's figures to four decimals" in capsys.readouterr().out


def test_quotas_get_the_share_that_is_best_on_validation(tmp_path: Path) -> None:
    tiny.walks(tmp_path)
    run = tmp_path / "run"
    train(config(tmp_path / "data", run, RecallConfig(interests=2)))
    found, dataset, model = load_run(run)
    by_share = {}
    for share in SHARES:
        recall = DenseRecall(model, RecallConfig(interests=2, first_share=share))
        by_share[share] = evaluate(recall, dataset, splits(dataset).validation, [5])[CHOOSE_BY]
    assert by_share[found.recall.first_share] == max(by_share.values())


@pytest.mark.parametrize("merge", ["quotas", "probability"])
def test_the_test_split_has_no_say(tmp_path: Path, merge: str) -> None:
    dataset = tiny.walks(tmp_path)
    other = tmp_path / "other"
    shutil.copytree(tmp_path / "data", other)
    events, last = np.array(dataset.events), np.asarray(dataset.offsets[1:]) - 1
    events[last] = np.random.default_rng(0).permutation(events[last])
    np.save(other / "events.npy", events)
    recall = RecallConfig.model_validate({"interests": 3, "merge": merge})
    for data in (tmp_path / "data", other):
        train(config(data, tmp_path / f"run-{data.name}", recall))
    one, two = (tmp_path / name for name in ("run-data", "run-other"))
    assert read_figures(one) != read_figures(two)
    assert load_run(one)[0].recall == load_run(two)[0].recall


def test_a_refused_start_keeps_the_choice_and_a_new_end_renews_it(tmp_path: Path) -> None:
    tiny.walks(tmp_path)
    recall = RecallConfig(interests=2, merge="probability")
    settings = config(tmp_path / "data", tmp_path / "run", recall)
    train(settings)
    chosen = load_run(tmp_path / "run")[0].recall
    with pytest.raises(ValueError, match="holds a run"):
        train(settings)
    assert load_run(tmp_path / "run")[0].recall == chosen
    train(settings.model_copy(update={"fit_merge": False, "resume": True}))
    assert load_run(tmp_path / "run")[0].recall == recall


def test_one_interest_has_nothing_to_share(tmp_path: Path) -> None:
    dataset = tiny.walks(tmp_path)
    served = DenseRecall(tiny.gpt(), RecallConfig(interests=1))
    cases = splits(dataset).validation
    assert fit_merge(served, dataset, cases, CHOOSE_BY) == served.config
