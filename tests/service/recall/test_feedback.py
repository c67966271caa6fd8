"""Feedback in a recall: the engine reads the actions of histories and the wanted outcome."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import acted
import numpy as np
import pytest
import torch
from acted import GUIDED, RECALL

from index.formats import QUERIES_FILE
from model.artifact.bundle import load_artifact
from model.data.dataset import Dataset
from model.evaluation.metrics import case_batches, histories_of
from model.evaluation.protocols import splits
from model.evaluation.reference import DenseRecall
from model.network.gpt import GPT
from service.offline import export_bundle, service_recall
from service.recall.gpu.backend import GpuBackend
from service.recall.recaller import Recaller
from service.recall.types import UNTOLD, Candidates, Query, pack_ids


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return acted.world(tmp_path_factory.mktemp("acted"))


@pytest.fixture(scope="module")
def export(
    world: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., tuple[GPT, Recaller]]:
    return lambda *how: acted.bundle(tmp_path_factory.mktemp("bundle"), world, *how)


@pytest.mark.parametrize("index", ["exact", "ivf"])
@pytest.mark.parametrize("feedback", ["actions", "outcome"])
def test_equals_the_trainers_reference(
    world: Dataset, export: Callable[..., tuple[GPT, Recaller]], feedback: str, index: str
) -> None:
    model, recaller = export(feedback, index)
    reference = DenseRecall(model, RECALL, wanted=world.action_code("like"))
    for _, histories, users_B in case_batches(world, splits(world).test, 16):
        served = service_recall(recaller, world)(histories, users_B, (5, 20))
        trained = reference(histories, users_B, (5, 20))
        for k, (mine, theirs) in enumerate(zip(served, trained, strict=True)):
            assert mine.tolist() == theirs.tolist(), k
        told, histories.actions = histories.actions, None  # which changes the answers …
        assert told is not None
        untold = service_recall(recaller, world)(histories, users_B, (20,))[0]
        assert untold.tolist() != served[1].tolist()
        assert untold.tolist() == reference(histories, users_B, (20,))[0].tolist()


@pytest.mark.parametrize("index", ["exact", "ivf"])
def test_a_guided_recall_equals_the_trainers_reference(
    world: Dataset, export: Callable[..., tuple[GPT, Recaller]], index: str
) -> None:
    model, recaller = export("outcome", index, GUIDED)
    codes = {name: world.action_code(name) for name in ("like", "dislike")}
    reference = DenseRecall(model, GUIDED, codes["like"], avoided=codes["dislike"])
    for _, histories, users_B in case_batches(world, splits(world).test, 16):
        served = service_recall(recaller, world)(histories, users_B, (5, 20))
        trained = reference(histories, users_B, (5, 20))
        assert [found.tolist() for found in served] == [found.tolist() for found in trained]
        plain = replace(reference, config=RECALL)(histories, users_B, (20,))[0]
        assert served[1].tolist() != plain.tolist()


def test_an_index_is_measured_with_guided_interests(
    world: Dataset, export: Callable[..., tuple[GPT, Recaller]]
) -> None:
    model, recaller = export("outcome", "exact", GUIDED)
    codes = {name: world.action_code(name) for name in ("like", "dislike")}
    reference = DenseRecall(model, GUIDED, codes["like"], avoided=codes["dislike"])
    users = np.arange(world.users)
    histories = histories_of(world, users, np.diff(world.offsets))
    expected = reference.lists(histories, users, 1).interests_BMD[:, 0]
    found = np.load(recaller.bundle / QUERIES_FILE)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_guidance_leaves_a_query_alone_that_asks_for_what_is_avoided(
    export: Callable[..., tuple[GPT, Recaller]],
) -> None:
    (_, guided), (_, plain) = export("outcome", "exact", GUIDED), export()
    queries = [Query("", [f"i{n}", "i2"], k=20, actions=["like", "like"]) for n in range(3, 6)]
    queries.insert(1, Query("", [], k=3))
    for outcome, equal in (("dislike", True), ("like", False), (None, False)):
        asked = [replace(query, outcome=outcome) for query in queries]
        mine, theirs = ([scored(one) for one in r.recall(asked)[0]] for r in (guided, plain))
        assert mine[1] == theirs[1]
        for one, other in zip(mine[2:], theirs[2:], strict=True):
            assert [row for row, _ in one] == [row for row, _ in other] or not equal
        assert (mine[2:] == theirs[2:]) or not equal
        assert (mine[2:] != theirs[2:]) or equal


def test_an_explanation_is_guided_as_its_answer(
    export: Callable[..., tuple[GPT, Recaller]],
) -> None:
    _, recaller = export("outcome", "exact", GUIDED)
    query = Query("", ["i1", "i2"], k=20, actions=["like", "dislike"])
    (found,), _ = recaller.recall([query])
    told = recaller._explain(query, found.rows).interests
    for row, score, interest in zip(found.rows, found.scores, found.interests, strict=True):
        known = {item.row: item.score for item in told[interest]}
        assert row not in known or score == pytest.approx(known[row], abs=1e-4)
    assert told[0][0].row == found.rows[0]


Scored = list[tuple[int, float]]


def scored(found: Candidates) -> Scored:
    """Rows and scores: other feedback may change scores only."""
    return list(zip(found.rows.tolist(), found.scores.astype(float).round(4).tolist(), strict=True))


def one(recaller: Recaller, query: Query) -> Scored:
    return scored(recaller.recall([query])[0][0])


def test_an_action_belongs_to_its_item_whatever_the_catalogue_lacks(
    world: Dataset, export: Callable[..., tuple[GPT, Recaller]]
) -> None:
    _, recaller = export()
    known = Query("", ["i1", "i2", "i3"], k=20, actions=["like", "dislike", "like"])
    expected = one(recaller, known)
    with_unknown = replace(
        known,
        history=["no", "i1", "no", "i2", "i3"],
        actions=[UNTOLD, "like", "?", "dislike", "like"],
    )
    assert one(recaller, with_unknown) == expected
    packed = replace(
        with_unknown, history=pack_ids(with_unknown.history), actions=pack_ids(with_unknown.actions)
    )
    assert one(recaller, packed) == expected
    assert one(recaller, replace(known, actions=["dislike", "like", "like"])) != expected
    # Histories longer than the network reads, behind a query whose items may be repeated.
    again = Query("", ["i9"] * 20, k=5, actions=["like"] * 3, repeat_after_days=0.0)
    long = replace(known, history=["i4"] * 9 + ["i1"], actions=["dislike"] * 9 + ["like"])
    longer = replace(
        long, history=["no", "i5", *long.history], actions=["?", "like", *long.actions]
    )
    together, _ = recaller.recall([again, longer, known, long])
    assert scored(together[2]) == expected
    alone = [one(recaller, query) for query in (again, longer, known, long)]
    assert [scored(found) for found in together] == alone
    assert alone[3] != one(recaller, replace(long, actions=["like"] + ["dislike"] * 9))


def test_fewer_actions_than_items_leave_the_newest_unknown(
    export: Callable[..., tuple[GPT, Recaller]],
) -> None:
    _, recaller = export()
    history = ["i1", "i2", "i3"]
    short = Query("", history, k=20, actions=["like"])
    padded = replace(short, actions=["like", UNTOLD, UNTOLD])
    assert one(recaller, short) == one(recaller, padded)
    assert one(recaller, short) != one(recaller, replace(short, actions=[]))


def test_a_query_asks_for_another_outcome_than_the_bundle(
    world: Dataset, export: Callable[..., tuple[GPT, Recaller]]
) -> None:
    model, recaller = export()
    query = Query("", ["i1", "i2"], k=20, actions=["like", "like"])
    answers = {
        wanted: one(recaller, replace(query, outcome=wanted))
        for wanted in (None, "like", "dislike", "nobody's")
    }
    assert answers[None] == answers["like"]
    assert len({tuple(found) for found in answers.values()}) == 3
    for wanted in ("like", "dislike"):
        reference = DenseRecall(model, RECALL, wanted=world.action_code(wanted))
        for _, histories, users_B in case_batches(world, splits(world).test, 8):
            told = histories.actions
            assert told is not None
            queries = [
                Query(
                    world.user_ids[user],
                    [world.item_ids[row] for row in history],
                    k=10,
                    actions=[(*world.action_names, UNTOLD)[code] for code in codes],
                    outcome=wanted,
                )
                for user, history, codes in zip(users_B, histories, told, strict=True)
            ]
            found = [one.rows.tolist() for one in recaller.recall(queries)[0]]
            assert found == reference(histories, users_B, (10,))[0].tolist()


def test_a_click_has_no_type_in_a_stored_history(
    tmp_path: Path, world: Dataset, export: Callable[..., tuple[GPT, Recaller]]
) -> None:
    model, _ = export()
    dataset = replace(world, action_names=("click", "like"))
    export_bundle(tmp_path, dataset, model, RECALL, {})
    recaller = Recaller.load(tmp_path, "cpu")
    plain = Query("", ["i1", "i2"], k=20, actions=["", ""])
    assert one(recaller, plain) == one(recaller, replace(plain, actions=["click", "click"]))
    assert one(recaller, plain) != one(recaller, replace(plain, actions=[]))


def test_a_bundle_that_wants_no_outcome_is_not_asked_for_clicks(
    tmp_path: Path, world: Dataset, export: Callable[..., tuple[GPT, Recaller]]
) -> None:
    model, _ = export()
    dataset = replace(world, action_names=("click", "like"))
    recall = RECALL.model_copy(update={"outcome": None})
    export_bundle(tmp_path, dataset, model, recall, {})
    recaller = Recaller.load(tmp_path, "cpu")
    for _, histories, users_B in case_batches(dataset, splits(dataset).test, 16):
        (served,) = service_recall(recaller, dataset)(histories, users_B, (20,))
        (trained,) = DenseRecall(model, recall)(histories, users_B, (20,))
        assert served.tolist() == trained.tolist()
        (clicks,) = DenseRecall(model, recall, wanted=0)(histories, users_B, (20,))
        assert served.tolist() != clicks.tolist()


def test_an_explanation_reads_the_same_feedback(
    world: Dataset, export: Callable[..., tuple[GPT, Recaller]]
) -> None:
    _, recaller = export()
    query = Query("", ["i1", "i2"], k=5, actions=["like", "dislike"], explain=True)
    batch = recaller._look_up([query])
    told = recaller._explain(query, recaller.recall([query])[0][0].rows)
    first = [(item.row, round(item.score, 4)) for item in told.interests[0][:3]]
    assert first == one(recaller, replace(query, interests=1))[:3]
    assert batch.feedback is not None
    assert batch.feedback.outcomes_S.tolist() == [0, 1]


def test_a_gpu_refuses_feedback(
    tmp_path: Path, world: Dataset, export: Callable[..., tuple[GPT, Recaller]]
) -> None:
    _, recaller = export("actions")
    with pytest.raises(ValueError, match=r"model.feedback = actions is not served on a GPU yet"):
        GpuBackend(load_artifact(recaller.bundle), torch.device("cpu"))
