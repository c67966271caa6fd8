import math
from collections.abc import Sequence

import numpy as np
import pytest
import tiny

from model.data.dataset import (
    Dataset,
    IntArray,
    popularity,
)
from model.evaluation.config import ProtocolConfig
from model.evaluation.metrics import (
    Figures,
    check_equal,
    evaluate,
    format_figures,
    ndcg,
    ranks,
    set_recalls,
)
from model.evaluation.protocols import splits
from model.evaluation.reference import DenseRecall, pad, popular_recall
from model.network.config import RecallConfig


def test_ranks_and_ndcg() -> None:
    found = ranks(np.array([[4, 2, 9], [1, 2, 3], [7, 8, -1]]), np.array([2, 5, 7]))
    assert found.tolist() == [2, 0, 1]
    assert ndcg(found, 3) == pytest.approx((1 / math.log2(3) + 0 + 1) / 3)
    assert ndcg(found, 1) == pytest.approx(1 / 3)


def test_evaluate_against_a_hand_count(dataset: Dataset) -> None:
    split = splits(dataset).test
    place = {int(user): i % 25 for i, user in enumerate(split.users)}  # 0-based rank; ≥ 20 missing

    def recall(
        histories: Sequence[IntArray], users_B: IntArray, ks: Sequence[int]
    ) -> list[IntArray]:
        rows = np.full((len(users_B), 22), -1)
        for row, (user, history) in enumerate(zip(users_B, histories, strict=True)):
            own = dataset.history(int(user))
            assert history.tolist() == own[:-1].tolist()  # the validation item is in the history
            if place[int(user)] < 22:
                rows[row, place[int(user)]] = own[-1]
        return [rows[:, :k] for k in ks]

    metrics = evaluate(recall, dataset, split, deep=(20, 22), batch=7)
    places = np.array(list(place.values()))
    for k in (5, 10, 20):
        assert metrics[f"HR@{k}"] == pytest.approx((places < k).mean())
        gains = np.where(places < k, 1 / np.log2(places + 2), 0)
        assert metrics[f"NDCG@{k}"] == pytest.approx(gains.mean())
    assert metrics["recall@22"] == pytest.approx((places < 22).mean())
    targets = {int(dataset.history(u)[-1]) for u, rank in place.items() if rank < 22}
    assert metrics["coverage@22"] == pytest.approx(len(targets) / dataset.catalogue)


def test_unknown_users_are_asked_for_as_such(dataset: Dataset) -> None:
    asked: list[int] = []

    def recall(
        histories: Sequence[IntArray], users_B: IntArray, ks: Sequence[int]
    ) -> list[IntArray]:
        asked.extend(users_B.tolist())
        return [np.full((len(users_B), k), -1) for k in ks]

    evaluate(recall, dataset, splits(dataset).test, deep=(), known_users=False)
    assert set(asked) == {-1}


def test_popularity_counts_events(dataset: Dataset) -> None:
    training = splits(dataset).training()
    expected = [(training.events == row).sum() for row in range(dataset.catalogue)]
    assert popularity(training).tolist() == expected
    assert sum(expected) < len(dataset.events)


def test_popular_recall_leaves_out_the_history() -> None:
    repeating = popular_recall(np.array([5, 9, 9, 1]), repeats=True)
    assert (
        repeating([np.array([1]), np.array([2, 0])], np.zeros(2), (2,))[0].tolist() == [[1, 2]] * 2
    )
    recall = popular_recall(np.array([5, 9, 9, 1]))
    two, three = recall([np.array([1]), np.array([0, 3])], np.array([0, 1]), (2, 3))
    assert two.tolist() == [[2, 0], [1, 2]]
    assert three.tolist() == [[2, 0, 3], [1, 2, -1]]


@pytest.mark.parametrize("interests", [1, 2, 4])
def test_dense_recall_returns_unseen_items_once(dataset: Dataset, interests: int) -> None:
    model = tiny.gpt(catalogue=dataset.catalogue, users=dataset.users)
    recall = DenseRecall(model, RecallConfig(interests=interests, first_share=0.6))
    split = splits(dataset).validation
    histories = [
        dataset.history(int(u))[:n] for u, n in zip(split.users, split.lengths, strict=True)
    ]
    for row, history in zip(recall(histories, split.users, (20,))[0], histories, strict=True):
        assert len(set(row)) == 20
        assert not set(row) & set(history)
        assert min(row) >= 0


def test_dense_recall_beyond_the_catalogue_is_filled_with_minus_one(dataset: Dataset) -> None:
    model = tiny.gpt(catalogue=dataset.catalogue, users=dataset.users)
    history = dataset.history(0)
    (row,) = DenseRecall(model, RecallConfig(interests=1))([history], np.array([0]), (60,))[0]
    found = row[row >= 0]
    assert sorted(found) == sorted(set(range(dataset.catalogue)) - set(history.tolist()))


def test_the_second_interest_changes_only_the_end_of_the_list(dataset: Dataset) -> None:
    model = tiny.gpt(catalogue=dataset.catalogue, users=dataset.users)
    history = [dataset.history(0)]
    (one,) = DenseRecall(model, RecallConfig(interests=1))(history, np.array([0]), (20,))[0]
    (two,) = DenseRecall(model, RecallConfig(interests=2))(history, np.array([0]), (20,))[0]
    assert one[:18].tolist() == two[:18].tolist()


def test_pad_keeps_the_newest() -> None:
    rows, lengths = pad([np.array([1, 2, 3]), np.array([7])], max_history=2)
    assert rows.tolist() == [[2, 3], [7, 0]]
    assert lengths.tolist() == [2, 1]


def test_the_table_has_a_line_a_metric_and_a_column_a_model() -> None:
    figures = {"popularity": {"HR@5": 0.1, "HR@10": 0.2}, "recgpt": {"HR@5": 0.25, "HR@10": 0.5}}
    assert format_figures(figures).splitlines() == [
        "       popularity  recgpt",
        "HR@5       0.1000  0.2500",
        "HR@10      0.2000  0.5000",
    ]


def test_figures_are_compared_to_the_fourth_decimal() -> None:
    trainer = {"recgpt": {"HR@5": 0.12345, "HR@10": 0.2}, "popularity": {"HR@5": 0.1}}
    equal = {"recgpt": {"HR@5": 0.12346}, "other": {"HR@5": 0.9}}
    assert check_equal(equal, trainer) == ["recgpt"]
    with pytest.raises(ValueError, match=r"recgpt: HR@5 is 0\.12400 here, but was 0\.12345"):
        check_equal({"recgpt": {"HR@5": 0.124}}, trainer)


@pytest.mark.parametrize("figures", [{}, {"recgpt": {"recall@50": 0.1}}, {"gru": {"HR@5": 0.1}}])
def test_figures_with_nothing_in_common_are_not_equal(figures: Figures) -> None:
    with pytest.raises(ValueError, match=r"nothing to compare.*training recorded recgpt \(HR@5\)"):
        check_equal(figures, {"recgpt": {"HR@5": 0.1}})


def test_recall_of_sets() -> None:
    rows = np.array([[4, 2, 9], [1, 2, 3], [7, -1, -1]])
    sets = np.array([[9, 4, 0, 8], [5, -1, -1, -1], [7, -1, 0, -1]])
    assert set_recalls(rows, sets).tolist() == [0.5, 0.0, 0.5]


def test_the_next_item_and_the_set_are_measured_together(dataset: Dataset) -> None:
    split = splits(dataset, ProtocolConfig(split="next-set", targets="2")).test

    def recall(
        histories: Sequence[IntArray], users_B: IntArray, ks: Sequence[int]
    ) -> list[IntArray]:
        """The last but one of a user's events at the second place, its last at the fourth."""
        own = np.array([dataset.history(int(user))[-2:] for user in users_B])
        rows = np.full((len(users_B), 50), -1)
        rows[:, 1], rows[:, 3] = own.T
        return [rows[:, :k] for k in ks]

    metrics = evaluate(recall, dataset, split, deep=(2, 20), batch=7)
    assert metrics["HR@5"] == 1
    assert metrics["NDCG@5"] == pytest.approx(1 / math.log2(3))
    differ = np.array([len(set(dataset.history(u)[-2:])) for u in range(dataset.users)])
    assert metrics["recall@2"] == pytest.approx((1 / differ).mean())
    assert metrics["recall@20"] == 1
