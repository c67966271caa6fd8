from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from cli.config import parse
from cli.train import Train
from model.data.dataset import Dataset
from model.evaluation.reference import DenseRecall
from model.network.config import GPTConfig, RecallConfig
from model.network.peers import new_network
from model.network.tokens import history_tokens
from model.reports.report import write_report
from model.training.config import TrainConfig
from model.training.run import ONE_INTEREST, load_run, train
from service.offline import export_bundle

CONFIGS = {
    network: tiny.CONFIG.model_copy(update={"network": network, "user_rank": 0})
    for network in ("gru", "two-tower")
}
RECIPES = Path(__file__).parents[3] / "model" / "recipes"
PEERS = {
    "sasrec-bce": "SASRec, BCE",
    "sasrec-ce": "SASRec, cross-entropy",
    "gru4rec": "GRU4Rec",
    "two-tower": "two-tower",
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_what_follows_does_not_matter(config: GPTConfig) -> None:
    """Padding on the right, and all that training puts behind a slot."""
    network = new_network(config, 40, 60).eval()
    rows, users = torch.randint(40, (3, 6)), torch.tensor([-1, 0, 1])
    lengths = torch.tensor([2, 6, 4])
    tokens = history_tokens(rows, lengths, config.max_history)
    whole = network(tokens, users)
    recalled, _ = network.prefill(rows, lengths, users)
    torch.testing.assert_close(recalled, whole[torch.arange(3), lengths - 1])
    asked = network(tokens, users, (lengths - 1)[:, None])
    torch.testing.assert_close(recalled, asked[:, 0])


def test_a_tower_reads_a_set_and_the_newest_item() -> None:
    network = new_network(CONFIGS["two-tower"], 40, 60).eval()
    lengths, users = torch.tensor([4, 4, 4]), torch.full((3,), -1)
    rows = torch.tensor([[1, 2, 3, 4], [3, 1, 2, 4], [1, 2, 4, 3]])
    first, shuffled, other = network.prefill(rows, lengths, users)[0]
    torch.testing.assert_close(first, shuffled)
    assert not torch.allclose(first, other, atol=1e-3)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_recalls_one_interest_only(config: GPTConfig) -> None:
    network = new_network(config, 40, 60).eval()
    history, users = [np.array([1, 2, 3])], np.array([-1])
    assert not {1, 2, 3} & set(DenseRecall(network, ONE_INTEREST)(history, users, (5,))[0][0])
    with pytest.raises(ValueError, match="recalls one interest"):
        DenseRecall(network, RecallConfig(interests=2))(history, users, (5,))


@pytest.mark.parametrize("recipe", PEERS)
def test_a_peer_is_a_configuration_of_the_trainer(recipe: str, tmp_path: Path) -> None:
    dataset = tiny.walks(tmp_path, users=30)
    words = ["--config", f"{RECIPES / recipe}.toml", "--data", f"{tmp_path}/data"]
    words += ["--out", f"{tmp_path}/run", "--device", "cpu", "--pretrain.epochs", "2"]
    config = parse(Train, "train", [*words, "--model.dim", "16"])
    assert isinstance(config, TrainConfig)
    figures = train(config)
    assert set(figures) == {"popularity", PEERS[recipe]}
    write_report(tmp_path / "run", tmp_path / "page.html")
    assert "<h4>Recalled</h4>" in (tmp_path / "page.html").read_text()
    _, _, network = load_run(tmp_path / "run")
    if recipe in ("gru4rec", "two-tower"):
        with pytest.raises(ValueError, match="cannot be served"):
            export_bundle(tmp_path / "artifacts", dataset, network, ONE_INTEREST, figures)
    else:
        assert network.config.user_rank == 0


@pytest.mark.parametrize("model", CONFIGS.values(), ids=CONFIGS)
def test_a_peer_has_no_interests_that_share_a_list(model: GPTConfig, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"recalls one interest.*leave out fit_merge"):
        TrainConfig(data=tmp_path, out=tmp_path / "run", model=model, fit_merge=True)


def test_a_peer_is_not_tuned(dataset: Dataset, tmp_path: Path) -> None:
    model = CONFIGS["gru"]
    config = TrainConfig(data=tmp_path, out=tmp_path / "run", model=model, stages="both")
    with pytest.raises(ValueError, match="say --stages pretrain"):
        train(config)
