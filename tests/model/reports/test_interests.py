from pathlib import Path

import acted
import pytest
import tiny

from model.data.dataset import Dataset
from model.evaluation.protocols import splits
from model.evaluation.reference import DenseRecall, at_positions, merge_by_quotas
from model.network.config import RecallConfig
from model.network.gpt import GPT
from model.network.rollout import quotas
from model.reports.interests import (
    compare_interests,
    format_interests,
    top_lists,
)
from model.training.config import PretrainConfig, TrainConfig, TuneConfig
from model.training.run import read_figures, train


@pytest.mark.parametrize(("interests", "share"), [(1, 1.0), (2, 0.9), (3, 0.6), (4, 0.5)])
def test_merged_lists_are_the_reference_recalls(
    dataset: Dataset, model: GPT, interests: int, share: float
) -> None:
    """One rollout of four interests serves lists of fewer, whatever the split."""
    split = splits(dataset).test
    lists = top_lists(DenseRecall(model, RecallConfig(interests=4)), dataset, split, batch=7)
    merged = at_positions(lists, merge_by_quotas(lists, quotas(20, interests, share)), -1)
    recall = DenseRecall(model, RecallConfig(interests=interests, first_share=share))
    histories = [
        dataset.history(int(u))[:n] for u, n in zip(split.users, split.lengths, strict=True)
    ]
    assert merged.tolist() == recall(histories, split.users, (20,))[0].tolist()


def test_the_comparison_asks_for_the_outcome_of_the_run(tmp_path: Path) -> None:
    """It measures the cases that got it, with the run's guidance and the feedback in histories."""
    acted.world(tmp_path)
    recall = acted.GUIDED.model_copy(update={"interests": 1})
    config = TrainConfig(
        data=tmp_path / "data",
        out=tmp_path / "run",
        device="cpu",
        model=tiny.CONFIG.model_copy(update={"feedback": "outcome", "user_rank": 0}),
        recall=recall,
        pretrain=PretrainConfig(epochs=2, batch_size=16, learning_rate=1e-2),
    )
    train(config)
    found = compare_interests(tmp_path / "run", interests=1)["splits"]["test"]["pretrain"]["lists"]
    trained = read_figures(tmp_path / "run")["recgpt"]
    measured = {entry["k"]: entry["recall"] for entry in found}
    for k in (20, 50):
        assert measured[k] == pytest.approx(trained[f"recall@{k}"])


def test_the_comparison_agrees_with_the_run(tmp_path: Path) -> None:
    tiny.walks(tmp_path)
    config = TrainConfig(
        data=tmp_path / "data",
        out=tmp_path / "run",
        device="cpu",
        stages="both",
        model=tiny.CONFIG,
        pretrain=PretrainConfig(epochs=2, batch_size=16),
        tune=TuneConfig(epochs=1, batch_size=16),
    )
    train(config)
    found = compare_interests(tmp_path / "run", interests=3)
    for stage, interests, share, name in (
        ("pretrain", 1, 1.0, "pre-trained, one interest"),
        ("tune", 2, 0.9, "recgpt"),
    ):
        (entry,) = (
            entry
            for entry in found["splits"]["test"][stage]["lists"]
            if (entry["interests"], entry["first_share"], entry["k"]) == (interests, share, 20)
        )
        trained = read_figures(tmp_path / "run")[name]
        assert entry["recall"] == pytest.approx(trained["recall@20"])
        assert entry["coverage"] == pytest.approx(trained["coverage@20"])
    overlap = found["splits"]["test"]["tune"]["overlap"]
    assert {entry["interest"] for entry in overlap} == {2, 3}
    assert all(0 <= entry["jaccard"] <= 1 for entry in overlap)
    assert len(found["chosen"]) == 2 * 3 * 4
    assert "3 interests" in format_interests(found)
    for stage, interests in (("pretrain", 2), ("tune", 2), ("tune", 3)):
        sums: dict[float, float] = {}
        for entry in found["splits"]["validation"][stage]["lists"]:
            if entry["interests"] == interests:
                share = entry["first_share"]
                sums[share] = sums.get(share, 0) + entry["recall"]
        of = [e for e in found["chosen"] if (e["stage"], e["interests"]) == (stage, interests)]
        (chosen,) = {entry["first_share"] for entry in of}
        assert sums[chosen] == max(sums.values())
    tuned = found["tables"]["tune"]
    assert list(tuned) == ["1 interest", "2 interests", "3 interests"]
    for entry in found["chosen"][-4:]:  # three interests, after tuning
        assert tuned["3 interests"][f"recall@{entry['k']}"] == entry["test"]
    (shared,) = (e["shared_with_first"] for e in overlap if (e["interest"], e["k"]) == (3, 20))
    assert tuned["3 interests"]["shared_with_first@20"] == shared
