"""Simulated users: visits, clicks, their pace, and a service that is away for a while."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
import tiny
from recalling_stub import RecallingStub, recalling_stub

from service.experiments import simulation
from service.experiments.click_model import ClickModel, read_taken
from service.experiments.simulation import CLIENTS, Simulation, Unavailable

ITEMS = ["i0", "i1", "i2"]
USERS = [f"u{number}" for number in range(30)]


@pytest.fixture
def stub() -> Iterator[RecallingStub]:
    with recalling_stub(ITEMS, ["e"]) as running:
        yield running


@pytest.fixture
def model() -> ClickModel:
    """Every user takes every item."""
    pairs = list(itertools.product(USERS, ITEMS))
    taken = pl.DataFrame(pairs, schema=["user_id", "item_id"], orient="row")
    return ClickModel.fit(taken, position_bias=0, rank=1)


def visitors(stub: RecallingStub) -> Simulation:
    return Simulation(stub.url, visits=2, k=3, lifts={}, seed=1)


def test_users_recall_and_click_in_the_recalls_they_got(
    stub: RecallingStub, model: ClickModel
) -> None:
    counts = visitors(stub).run(model, USERS)
    assert counts["recalls"] == counts["recalls of a"] == len(stub.recalls)
    assert set(stub.recalls) == set(USERS)
    assert counts["clicks"] == len(stub.events) == 3 * len(stub.recalls)
    assert {event["request_id"] for event in stub.events} == {"r"}


def test_a_service_without_an_experiment_is_refused(model: ClickModel) -> None:
    with (
        recalling_stub(ITEMS, []) as stub,
        pytest.raises(ValueError, match="runs no experiment: start it with --experiments FILE"),
    ):
        visitors(stub).run(model, USERS)


def test_the_rate_makes_users_pause(
    stub: RecallingStub, model: ClickModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(simulation.time, "sleep", pauses.append)
    for seed in range(10):
        replace(visitors(stub), rate=4.0, seed=seed).run(model, USERS)
    assert len(pauses) == len(stub.recalls)
    assert sum(pauses) / len(pauses) == pytest.approx(CLIENTS / 4.0, rel=0.2)


def test_users_come_again_and_wait_while_the_service_is_away(
    stub: RecallingStub,
    model: ClickModel,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(simulation, "AWAY_S", 0.01)
    stub.away = 3
    rounds = visitors(stub).endless(model, USERS)
    with caplog.at_level("INFO"):
        first, second = next(rounds), next(rounds)
    assert [record.message.partition(";")[2] for record in caplog.records] == [" the users wait"]
    assert first["recalls"] + second["recalls"] == len(stub.recalls)
    assert first != second  # other random numbers
    stub.away = 1
    with pytest.raises(Unavailable):
        visitors(stub).run(model, USERS)


def test_tastes_are_read_from_a_data_set_and_from_parquet(tmp_path: Path) -> None:
    dataset = tiny.walks(tmp_path, users=5)
    taken = read_taken(tmp_path / "data")
    for row, user in enumerate(dataset.user_ids):
        events = dataset.events[dataset.offsets[row] : dataset.offsets[row + 1]]
        own = taken.filter(user_id=user)["item_id"].to_list()
        assert own == [dataset.item_ids[item] for item in events]
    file = tmp_path / "taken.parquet"
    taken.write_parquet(file)
    assert read_taken(file).equals(taken)
    with pytest.raises(ValueError, match="can't be read as Parquet"):
        read_taken(tmp_path / "nothing.parquet")
