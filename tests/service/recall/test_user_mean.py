"""The user module of whole histories: the mean of all items, also of those no longer read."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from model.artifact.bundle import load_artifact
from model.data.dataset import Dataset
from model.evaluation.metrics import case_batches
from model.evaluation.protocols import splits
from model.evaluation.reference import DenseRecall
from model.network import gpt
from model.network.config import GPTConfig
from model.network.gpt import GPT
from model.network.tokens import Tokens, history_tokens
from model.training.batches import by_length, prefixes, read_samples, windows
from model.training.config import TrainConfig
from service.offline import export_bundle, service_recall
from service.recall.cpu import backend
from service.recall.gpu.backend import GpuBackend
from service.recall.recaller import Recaller
from service.recall.types import Query

CONFIG = tiny.CONFIG.model_copy(update={"user_mean": True, "user_rank": 0})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Histories of 1 to 60 random items, of which the network reads 8 one by one."""
    folder = tmp_path_factory.mktemp("long")
    rng = np.random.default_rng(0)
    lines = [
        f"u{user} " + " ".join(f"i{item}" for item in rng.integers(40, size=rng.integers(4, 61)))
        for user in range(30)
    ]
    return tiny.of_lines(folder, lines, "long")


@pytest.fixture(scope="module", params=[0, 3])
def model(world: Dataset, request: pytest.FixtureRequest) -> GPT:
    config = CONFIG.model_copy(update={"user_queries": request.param})
    return tiny.gpt(config, world.catalogue, world.users)


@pytest.fixture(scope="module", params=["exact", "ivf"])
def recaller(
    world: Dataset,
    model: GPT,
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> Recaller:
    artifacts = tmp_path_factory.mktemp("bundle")
    export_bundle(artifacts, world, model, tiny.RECALL, {}, request.param)
    return Recaller.load(artifacts, "cpu")


def test_equals_the_trainers_reference(world: Dataset, model: GPT, recaller: Recaller) -> None:
    reference = DenseRecall(model, tiny.RECALL)
    for _, histories, users_B in case_batches(world, splits(world).test, 16):
        served = service_recall(recaller, world)(histories, users_B, (5, 20))
        for mine, theirs in zip(served, reference(histories, users_B, (5, 20)), strict=True):
            assert mine.tolist() == theirs.tolist()


def test_old_items_count_up_to_a_limit_and_unknown_ones_do_not(
    world: Dataset, recaller: Recaller, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scores(history: list[str], **about: object) -> list[float]:
        query = replace(Query("", history, k=5), **about)  # type: ignore[arg-type]
        neighbour = Query("", ["i7"] * 30, k=5, repeat_after_days=0.0)
        found: list[float] = recaller.recall([neighbour, query])[0][1].scores.round(4).tolist()
        return found

    newest = [f"i{n}" for n in range(8)]
    old = [*["i20"] * 10, *newest]
    assert scores(old) != scores(newest)
    assert scores(["no", *old]) == scores(old)
    assert scores(["i21", *old]) != scores(old)
    assert scores(old, repeat_after_days=0.0)
    monkeypatch.setattr(backend, "WHOLE_HISTORY", 18)
    assert scores(["i21", *old]) == scores(old)


def test_an_explanation_has_the_same_interests(recaller: Recaller) -> None:
    history = [*["i20"] * 10, *[f"i{n}" for n in range(8)]]
    query = Query("", history, k=3, interests=1)
    answer = recaller.recall([query])[0][0]
    told = recaller._explain(query, answer.rows).interests[0][:3]
    assert [item.row for item in told] == answer.rows.tolist()
    assert [item.score for item in told] == pytest.approx(answer.scores.tolist(), abs=1e-4)


def test_a_gpu_refuses_it(recaller: Recaller) -> None:
    with pytest.raises(ValueError, match=r"model.user_mean = True is not served on a GPU yet"):
        GpuBackend(load_artifact(recaller.bundle), torch.device("cpu"))


@pytest.mark.parametrize("sampling", ["prefixes", "windows"])
def test_training_takes_the_mean_of_all_items_up_to_each_slot(
    world: Dataset, model: GPT, sampling: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    samples = prefixes(world, 8) if sampling == "prefixes" else windows(world, 8, rng)
    vectors_VD = model.item_vectors().detach()
    batches = by_length(samples, 16, rng)
    monkeypatch.setattr("model.training.batches.WHOLE_HISTORY", 50)
    for chosen, batch in zip(
        batches, read_samples(world, samples, batches, whole=True), strict=True
    ):
        tokens = history_tokens(batch.history_BL, batch.lengths_B, 8, None, batch.older)
        means_BLD = model.history_means(tokens).detach()
        for row, sample in enumerate(chosen):
            begin, length = samples.starts_N[sample], samples.lengths_N[sample]
            first = max(world.offsets[samples.users_N[sample]], begin + length - 50)
            for slot in range(length):
                rows = torch.from_numpy(world.events[first : begin + slot + 1].astype(int))
                vectors_ND = vectors_VD[rows]
                if model.config.user_queries:
                    weights_NP = (vectors_ND @ model.user_queries.detach().T).softmax(dim=0)
                    expected_D = (weights_NP.T @ vectors_ND).flatten()
                else:
                    expected_D = vectors_ND.mean(dim=0)
                torch.testing.assert_close(means_BLD[row, slot], expected_D)


def test_offers_leave_the_mean_as_it_is(model: GPT) -> None:
    history_BL, lengths_B = torch.tensor([[1, 2, 3], [4, 5, 0]]), torch.tensor([3, 2])
    users_B = torch.tensor([-1, -1])
    _, cache = model.prefill(history_BL, lengths_B, users_B)
    offered = model.step(torch.tensor([9, 8]), cache)
    alone = []
    for history, offer in (([1, 2, 3], 9), ([4, 5], 8)):
        items = torch.tensor([[*history, offer]])
        segments = torch.tensor([[0] * len(history) + [1]])
        positions = torch.arange(8 - len(history), 9)[None]
        tokens = Tokens(items, segments, positions, torch.tensor([items.shape[1]]))
        alone.append(model(tokens, users_B[:1])[0, -1])
    torch.testing.assert_close(offered, torch.stack(alone))


def test_a_fresh_network_makes_nothing_of_the_mean() -> None:
    torch.manual_seed(0)
    plain = GPT(CONFIG.model_copy(update={"user_mean": False}), 40, 1).eval()
    torch.manual_seed(0)
    fresh = GPT(CONFIG, 40, 1).eval()
    fresh.load_state_dict(plain.state_dict(), strict=False)
    given = torch.tensor([[1, 2, 3]]), torch.tensor([3]), torch.tensor([-1])
    assert torch.equal(fresh.prefill(*given)[0], plain.prefill(*given)[0])
    assert gpt.WHOLE_HISTORY == backend.WHOLE_HISTORY


def test_queries_need_a_mean() -> None:
    with pytest.raises(ValueError, match="user_queries = 2 weigh the items of a mean"):
        GPTConfig(user_queries=2)


def test_prompts_do_not_know_whole_histories_yet(tmp_path: Path) -> None:
    settings = {"data": tmp_path, "out": tmp_path, "model": CONFIG, "stages": "both"}
    with pytest.raises(ValueError, match="prompts do not know whole histories yet"):
        TrainConfig.model_validate(settings)
