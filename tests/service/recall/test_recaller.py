from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from tiny import RECALL

from index import selection
from index.build import build_index
from index.ivf import search as ivf_search
from index.kernels import int8_gemm, topk
from model.artifact.bundle import load_artifact, new_bundle, read_item_vectors
from model.artifact.manifest import ArtifactError
from model.data.dataset import Dataset
from model.evaluation.metrics import evaluate
from model.evaluation.protocols import splits
from model.evaluation.reference import DenseRecall
from model.network.gpt import GPT
from service.offline import export_bundle, service_recall
from service.recall import candidate_lists, item_ids, json_encoder
from service.recall.candidate_lists import POPULAR
from service.recall.cpu import attention, exact_search, gemm_chunking, layer_kernels, transformer
from service.recall.filters.item_filters import EVERYTHING, NOTHING
from service.recall.gpu.backend import GpuBackend
from service.recall.recaller import Recaller
from service.recall.types import Candidates, Query


@pytest.fixture(scope="module", params=["exact", "ivf", "gpu"])
def recaller(
    dataset: Dataset,
    model: GPT,
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> Recaller:
    """Every search, all of which give the same answers."""
    artifacts = tmp_path_factory.mktemp(request.param)
    if request.param == "gpu":  # its code on CPU tensors
        artifact = load_artifact(export_bundle(artifacts, dataset, model, RECALL, {}))
        return Recaller(artifact, GpuBackend(artifact, torch.device("cpu")))
    export_bundle(artifacts, dataset, model, RECALL, {}, request.param)
    return Recaller.load(artifacts, "cpu")


def history_of(dataset: Dataset, user: int) -> list[str]:
    return [dataset.item_ids[row] for row in dataset.history(user)]


def one(recaller: Recaller, query: Query) -> Candidates:
    answers, _ = recaller.recall([query])
    return answers[0]


@pytest.mark.parametrize("k", [1, 5, 20])
def test_equals_the_trainers_reference(
    recaller: Recaller, model: GPT, dataset: Dataset, k: int
) -> None:
    split = splits(dataset).test
    histories = [
        dataset.history(int(u))[:n] for u, n in zip(split.users, split.lengths, strict=True)
    ]
    served = service_recall(recaller, dataset)(histories, split.users, (k,))[0]
    trained = DenseRecall(model, RECALL)(histories, split.users, (k,))[0]
    assert served.tolist() == trained.tolist()


@pytest.mark.parametrize("k", [5, 40])
def test_repeats_equal_the_reference_that_masks_nothing(
    recaller: Recaller, model: GPT, dataset: Dataset, k: int
) -> None:
    split = splits(dataset).test
    histories = [
        dataset.history(int(u))[:n] for u, n in zip(split.users, split.lengths, strict=True)
    ]
    served = service_recall(recaller, dataset, repeats=True)(histories, split.users, (k,))[0]
    trained = DenseRecall(model, RECALL, repeats=True)(histories, split.users, (k,))[0]
    assert served.tolist() == trained.tolist()
    repeated = [np.isin(row_K, seen).any() for row_K, seen in zip(served, histories, strict=True)]
    assert any(repeated)


def test_only_the_queries_that_ask_for_repeats_get_them(
    recaller: Recaller, dataset: Dataset
) -> None:
    history, exclude = dataset.item_ids[:12], dataset.item_ids[10:20]
    queries = [
        Query("u0", history, exclude, 40, repeat_after_days=days) for days in (None, 0.0, 30.0)
    ]
    never, at_once, later = recaller.recall([*queries, queries[0]])[0][:3]
    assert set(recaller.ids_of(never)) == set(dataset.item_ids[20:])
    for answer in (at_once, later):  # whoever asks for days has excluded the younger ones
        assert set(recaller.ids_of(answer)) == set(dataset.item_ids) - set(exclude)
        assert not answer.cold


def test_equals_the_trainers_figures(recaller: Recaller, model: GPT, dataset: Dataset) -> None:
    split = splits(dataset).test
    served = evaluate(service_recall(recaller, dataset), dataset, split, deep=(20,))
    trained = evaluate(DenseRecall(model, RECALL), dataset, split, deep=(20,))
    assert served == trained
    assert served["HR@20"] > 0


def test_a_batch_of_unlike_queries_equals_them_one_by_one(
    recaller: Recaller, dataset: Dataset
) -> None:
    queries = [
        Query("u0", history_of(dataset, 0), k=10),
        Query("nobody", history_of(dataset, 1)[:1], k=3, interests=1),
        Query("u2", [], k=5),
        Query("u3", history_of(dataset, 3), exclude=history_of(dataset, 4), k=30, interests=4),
        Query("u5", ["unheard-of"], k=4),
    ]
    together, seconds = recaller.recall(queries)
    for query, answer in zip(queries, together, strict=True):
        alone = one(recaller, query)
        assert answer.rows.tolist() == alone.rows.tolist()
        assert answer.interests.tolist() == alone.interests.tolist()
        assert answer.scores == pytest.approx(alone.scores, abs=1e-5)
    assert set(seconds) == {"model", "search", "merge"}
    assert seconds["model"] > 0  # on a GPU its searches are a part of it
    assert seconds["merge"] > 0


def test_history_and_exclude_are_never_returned(recaller: Recaller, dataset: Dataset) -> None:
    history, exclude = history_of(dataset, 0), dataset.item_ids[10:20]
    answer = one(recaller, Query("u0", history, exclude, k=2000))
    assert set(recaller.ids_of(answer)) == set(dataset.item_ids) - set(history) - set(exclude)
    assert len(answer.rows) == len(set(answer.rows.tolist()))


def test_hidden_items_are_in_no_answer_until_they_are_shown_again(
    recaller: Recaller, dataset: Dataset
) -> None:
    """Neither as hits, nor offered, nor as popular items: as if every query excluded them."""
    warm = [Query(f"u{user}", history_of(dataset, user), k=20) for user in range(3)]
    queries = [*warm, Query("nobody", [], k=20)]
    before = [recaller.ids_of(answer) for answer in recaller.recall(queries)[0]]
    hidden = sorted({item for found in before for item in found[:5]})
    excluding = [replace(query, exclude=hidden) for query in queries]
    expected = [recaller.ids_of(answer) for answer in recaller.recall(excluding)[0]]
    recaller.update_items([*hidden, "unknown"], {})
    try:
        found = [recaller.ids_of(answer) for answer in recaller.recall(queries)[0]]
        assert found == expected
    finally:
        recaller.update_items([], {})
    assert [recaller.ids_of(answer) for answer in recaller.recall(queries)[0]] == before


def test_the_whole_history_is_excluded_not_only_what_the_model_reads(
    recaller: Recaller, dataset: Dataset
) -> None:
    history = dataset.item_ids[:30]  # the model reads 8
    answer = one(recaller, Query("u0", history, k=100))
    assert set(recaller.ids_of(answer)) == set(dataset.item_ids[30:])


def test_the_network_reads_as_many_items_as_the_service_is_told(
    dataset: Dataset, model: GPT, tmp_path: Path
) -> None:
    export_bundle(tmp_path, dataset, model, RECALL, {})
    whole, short = (Recaller.load(tmp_path, "cpu", max_history=most) for most in (None, 3))
    history = dataset.item_ids[:8]
    answer = one(short, Query("u0", history, k=20))
    newest = one(whole, Query("u0", history[-3:], exclude=history[:-3], k=20))
    assert short.ids_of(answer) == whole.ids_of(newest)
    assert whole.ids_of(one(whole, Query("u0", history, k=20))) != whole.ids_of(newest)
    with pytest.raises(ValueError, match="9 items is too long"):
        Recaller.load(tmp_path, "cpu", max_history=9)


def test_scores_are_inner_products_that_fall_within_an_interest(
    recaller: Recaller, dataset: Dataset
) -> None:
    answer = one(recaller, Query("u0", history_of(dataset, 0), k=20))
    assert sorted(set(answer.interests)) == [0, 1, 2]
    assert answer.interests.tolist().count(0) == 12
    for interest in range(3):
        scores = [s for s, i in zip(answer.scores, answer.interests, strict=True) if i == interest]
        assert scores == sorted(scores, reverse=True)


def test_an_unknown_user_with_a_history_gets_the_learned_default(
    recaller: Recaller, model: GPT, dataset: Dataset
) -> None:
    history = dataset.history(0)
    expected = DenseRecall(model, RECALL)([history], np.array([-1]), (10,))[0][0]
    answer = one(recaller, Query("stranger", history_of(dataset, 0), k=10))
    assert answer.rows.tolist() == expected.tolist()
    assert not answer.cold
    known = one(recaller, Query("u0", history_of(dataset, 0), k=10))
    assert answer.rows.tolist() != known.rows.tolist()


@pytest.mark.parametrize("history", [[], ["unheard-of", "neither"]])
def test_without_a_known_item_popular_ones_are_given(
    recaller: Recaller, dataset: Dataset, history: list[str]
) -> None:
    answer = one(recaller, Query("u0", history, exclude=[dataset.item_ids[0]], k=6))
    assert answer.cold
    assert answer.unknown_items == len(history)
    assert set(answer.interests) == {POPULAR}
    assert dataset.item_ids[0] not in recaller.ids_of(answer)
    assert len(answer.rows) == 6


def test_popular_items_fill_a_list_past_excluded_ones(recaller: Recaller, dataset: Dataset) -> None:
    popular = recaller.ids_of(one(recaller, Query("nobody", [], k=40)))
    assert len(popular) == 40
    answer = one(recaller, Query("nobody", [], exclude=popular[:20], k=6))
    assert recaller.ids_of(answer) == popular[20:26]


def test_unknown_items_are_skipped_and_counted(recaller: Recaller, dataset: Dataset) -> None:
    known = history_of(dataset, 0)
    mixed = [known[0], "unheard-of", *known[1:], "neither"]
    answer = one(recaller, Query("u0", mixed, k=10))
    assert answer.unknown_items == 2
    assert answer.rows.tolist() == one(recaller, Query("u0", known, k=10)).rows.tolist()


def test_interests_are_bounded_by_the_artifact(recaller: Recaller, dataset: Dataset) -> None:
    answer = one(recaller, Query("u0", history_of(dataset, 0), k=20, interests=8))
    assert max(answer.interests) < tiny.CONFIG.max_interests
    single = one(recaller, Query("u0", history_of(dataset, 0), k=20, interests=1))
    assert set(single.interests) == {0}


def test_everything_seen_leaves_an_empty_list(recaller: Recaller, dataset: Dataset) -> None:
    answer = one(recaller, Query("u0", dataset.item_ids, k=10))
    assert answer.rows.tolist() == []
    assert not answer.cold


def test_an_index_of_other_vectors_is_refused(dataset: Dataset, model: GPT, tmp_path: Path) -> None:
    with new_bundle(tmp_path, dataset, model, RECALL, {}, "0.1") as (bundle, version):
        build_index(read_item_vectors(bundle) + 1, bundle)
    with pytest.raises(ArtifactError, match="built from other item vectors"):
        Recaller.load(tmp_path / version, "cpu")


def test_a_bundle_without_an_index_is_refused(dataset: Dataset, model: GPT, tmp_path: Path) -> None:
    with new_bundle(tmp_path, dataset, model, RECALL, {}, "0.1") as (_, version):
        pass
    with pytest.raises(ArtifactError, match="index"):
        Recaller.load(tmp_path / version, "cpu")


def test_service_recall_refuses_another_data_set(recaller: Recaller, tmp_path: Path) -> None:
    other = tiny.walks(tmp_path, items=20)
    with pytest.raises(ValueError, match="another data set"):
        service_recall(recaller, other)


def test_a_batch_that_fails_leaves_nothing_behind(
    recaller: Recaller, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Items that one batch excludes must not be missing from the answers of the next."""
    query = Query("u0", history_of(dataset, 0), k=10)
    expected = recaller.ids_of(one(recaller, query))

    def broken(*_: object) -> None:
        raise RuntimeError("search failed")

    with monkeypatch.context() as patch:
        patch.setattr("service.recall.candidate_lists.CandidateLists.candidates", broken)
        with pytest.raises(RuntimeError, match="search failed"):
            recaller.recall([Query("u1", dataset.item_ids[:30], exclude=expected, k=10)])
    assert recaller.ids_of(one(recaller, query)) == expected


def test_a_large_batch_equals_its_queries_one_by_one(
    recaller: Recaller, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Queries run in several passes, and answers come in the order of the queries."""
    monkeypatch.setattr(recaller._backend, "max_users_per_pass", 16)
    queries = [
        Query(user, history_of(dataset, i)[: i % 12], k=7)
        for i, user in enumerate(dataset.user_ids)
    ]
    together, _ = recaller.recall(queries)
    assert [answer.rows.tolist() for answer in together] == [
        one(recaller, query).rows.tolist() for query in queries
    ]


def test_nothing_is_compiled_after_the_warm_up(recaller: Recaller, dataset: Dataset) -> None:
    """A request would wait seconds for it."""

    def compiled() -> int:
        modules = (
            *(int8_gemm, topk, ivf_search),
            *(item_ids, json_encoder, candidate_lists),
            *(attention, exact_search, gemm_chunking, layer_kernels, selection, transformer),
        )
        functions = [one for module in modules for one in vars(module).values()]
        return sum(len(one.signatures) for one in functions if hasattr(one, "signatures"))

    recaller.warm_up()
    before = compiled()
    assert before > 0
    queries = [
        Query("u0", history_of(dataset, 0), k=10),
        Query("u1", history_of(dataset, 1)[:1], exclude=dataset.item_ids[:3], k=2000, interests=4),
        Query("nobody", history_of(dataset, 2), k=1, interests=1),
        Query("u2", []),
        Query("u5", ["unheard-of"], exclude=["neither"]),
        Query("u6", history_of(dataset, 6), filter=EVERYTHING),
        Query("u7", history_of(dataset, 7), filter=NOTHING),
    ]
    for batch in (queries, queries[:1], queries[3:4], queries * 30):
        recaller.recall_json(batch)
    assert compiled() == before


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_adapters_are_served(dataset: Dataset, tmp_path: Path, backend: str) -> None:
    tuned = tiny.gpt(tiny.CONFIG.model_copy(update={"adapter_rank": 4}))
    artifact = load_artifact(export_bundle(tmp_path, dataset, tuned, RECALL, {}))
    device = torch.device("cpu")
    served = Recaller.load(tmp_path, "cpu")
    if backend == "gpu":
        served = Recaller(artifact, GpuBackend(artifact, device))
    histories, users = [dataset.history(user) for user in range(9)], np.arange(9)
    (found,) = service_recall(served, dataset)(histories, users, (20,))
    (expected,) = DenseRecall(tuned, RECALL)(histories, users, (20,))
    assert found.tolist() == expected.tolist()
