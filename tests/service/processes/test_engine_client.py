"""The client of the engine, against stand-ins for engines that come and go."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from engine_stand_in import Engine

from model.artifact.id_table import write_ids
from service.batcher import WorkerLost
from service.catalogue.state import CatalogueState
from service.observability.service_status import BEAT, ServiceStatus
from service.processes.engine_client import EngineClient
from service.processes.messages import (
    Greeting,
)
from service.recall.live_items import ItemUpdate
from service.recall.metadata_encoder import read_metadata
from service.recall.trials import Trial
from service.recall.types import Query

pytestmark = pytest.mark.anyio


@pytest.fixture
def engine(artifacts: Path, tmp_path: Path) -> Engine:
    read_metadata(artifacts / "current").save(tmp_path)
    write_ids(tmp_path, "item", [f"i{n}" for n in range(40)])
    about = {
        "ids": str(tmp_path),
        "kinds": {"price": "number"},
        "actions": ["like", "view"],
        "outcomes": ["like"],
        "interests": 3,
    }
    return Engine(tmp_path / "engine", Greeting(str(tmp_path), "v1", 4, 16, **about))


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[EngineClient]:
    status = ServiceStatus()
    client = EngineClient(str(tmp_path / "engine"), status, patience_seconds=60)
    client.status = status  # type: ignore[attr-defined]
    await client.start()
    yield client
    await client.close()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.001)


async def recalled(client: EngineClient, user: str) -> str:
    result = await client.recall([Query(user, [])])
    return result.answers[0].json.decode()


async def test_it_waits_for_the_engine_and_learns_what_it_serves(
    client: EngineClient, engine: Engine
) -> None:
    ready: list[bool] = []
    client.on_ready = lambda: ready.append(True)
    assert "starting" in client.problem()
    early = asyncio.create_task(recalled(client, "ann"))
    async with engine.running():
        assert await early == "ann"
        assert client.bundle
        assert (client.bundle.version, client.bundle.max_interests) == ("v1", 4)
        assert client.interests == 3
        assert (client.max_batch, client.ahead) == (16, 32)
        assert ready == [True]
        assert "starting" in client.problem()  # for another front end may not be ready
        client.status.beat()  # type: ignore[attr-defined]
        client.status.set_started()  # type: ignore[attr-defined]
        assert client.problem() == ""


async def test_beside_an_engine_that_serves_it_starts_when_it_can_answer(
    client: EngineClient, engine: Engine, tmp_path: Path
) -> None:
    client.status.beat()  # type: ignore[attr-defined]
    client.status.set_started()  # type: ignore[attr-defined]
    second = EngineClient(str(tmp_path / "engine"), client.status, 60)  # type: ignore[attr-defined]
    starting = asyncio.create_task(second.start())
    await until(lambda: second._status.last_beat)
    assert not starting.done()
    async with engine.running():
        await starting
        assert second.bundle
        assert not second.problem()
        await second.close()


async def test_answers_come_in_the_order_of_the_questions(
    client: EngineClient, engine: Engine
) -> None:
    async with engine.running():
        users = [f"u{i}" for i in range(50)]
        assert await asyncio.gather(*(recalled(client, user) for user in users)) == users


async def test_trials_have_a_connection_of_their_own(client: EngineClient, engine: Engine) -> None:
    with pytest.raises(WorkerLost):
        async with client.trials():
            pass
    engine.lives = [1000, 2]
    async with engine.running():
        assert await recalled(client, "ann") == "ann"
        async with client.trials() as make:
            assert (await make(Trial(5, 10, None))).items == 5
            assert (await make(Trial(6, 10, 0))).items == 6
            assert await recalled(client, "bob") == "bob"
            with pytest.raises(WorkerLost):
                await make(Trial(7, 10, 0))
        assert await recalled(client, "carl") == "carl"


async def test_the_next_engine_is_asked_what_the_last_left_unanswered(
    client: EngineClient, engine: Engine
) -> None:
    engine.lives = [2]
    calls = [asyncio.create_task(recalled(client, f"u{i}")) for i in range(4)]
    await until(lambda: len(client._unanswered) == 4)
    calls[3].cancel()  # nobody waits for this answer any more
    async with engine.running():
        assert await asyncio.gather(*calls[:3]) == ["u0", "u1", "u2"]
        assert await recalled(client, "later") == "later"
    assert engine.asked == [["u0"], ["u1"], ["u2"], ["u2"], ["later"]]


@pytest.mark.parametrize("anyio_backend", [("asyncio", {"use_uvloop": True})])  # of front ends
async def test_a_question_behind_the_end_of_an_engine_waits_for_the_next_one(
    client: EngineClient, engine: Engine
) -> None:
    async with engine.running():
        assert await recalled(client, "ann") == "ann"
        assert client._writer
        client._writer.transport.abort()
        for _ in range(2):
            early = asyncio.create_task(recalled(client, "bob"))
            client._catalogue.change(frozenset({"i1"}), {})
            await asyncio.sleep(0)
            assert await early == "bob"


async def test_a_question_over_which_two_engines_ended_is_not_asked_again(
    client: EngineClient, engine: Engine
) -> None:
    engine.lives = [0, 0]
    async with engine.running():
        with pytest.raises(WorkerLost):
            await client.recall([Query("poison", [])])
        assert await recalled(client, "ann") == "ann"
    assert engine.asked == [["poison"], ["poison"], ["ann"]]


async def test_an_engine_that_does_not_beat_is_no_engine(
    client: EngineClient, engine: Engine
) -> None:
    status: ServiceStatus = client.status  # type: ignore[attr-defined]
    assert client.alive()  # the first start may take as long as it takes
    async with engine.running():
        await until(lambda: client.bundle)
        status.beat()
        assert not client.started
        assert "starting" in client.problem()
        status.set_started()
        assert client.started
        assert client.alive()
        assert client.problem() == ""
        client._patience_seconds = 0.0
        assert "replaced" in client.problem()
        status._engine[BEAT] -= 31
        assert not client.alive()
        status.set_load_seconds(20)  # it may take this much longer
        assert client.alive()


async def test_another_version_needs_another_front_end(
    client: EngineClient, engine: Engine
) -> None:
    """Rows of one catalogue and metadata of another would make wrong answers."""
    failures: list[BaseException] = []
    client.on_failure = failures.append
    engine.lives = [0]
    async with engine.running():
        await until(lambda: client.bundle)
        engine.greeting = engine.greeting._replace(version="v2")
        lost = asyncio.create_task(recalled(client, "ann"))
        await until(lambda: failures)
        lost.cancel()
    assert "v2" in str(failures[0])


async def test_an_engine_is_told_of_all_items_before_it_is_asked_and_then_of_changes(
    engine: Engine, tmp_path: Path
) -> None:
    catalogue = CatalogueState()
    catalogue.change(frozenset({"i1", "unknown"}), {"i2": {"price": "3"}})
    client = EngineClient(str(tmp_path / "engine"), ServiceStatus(), 60, catalogue)
    await client.start()
    early = asyncio.create_task(recalled(client, "ann"))
    async with engine.running():
        await early
        whole = (0, (["i1", "unknown"], {"i2": {"price": 3}}))
        assert [(n, (sorted(u.hidden or []), u.changes)) for n, u in engine.told] == [whole]
        catalogue.change(None, {"i2": {}, "i3": {"price": "4"}})
        await recalled(client, "bob")
        assert engine.told[1:] == [
            (1, ItemUpdate(None, {"i2": {"price": None}, "i3": {"price": 4}}))
        ]
        assert client.bundle
        assert client.bundle.items.attributes("i3") == {"price": 4}
        await client.close()
    catalogue.change(frozenset(), {})  # nobody listens any more


async def test_the_next_engine_is_told_of_all_items_as_they_are_now(
    engine: Engine, tmp_path: Path
) -> None:
    catalogue = CatalogueState()
    engine.lives = [1]
    client = EngineClient(str(tmp_path / "engine"), ServiceStatus(), 60, catalogue)
    await client.start()
    async with engine.running():
        await recalled(client, "ann")
        catalogue.change(frozenset({"i1"}), {"i2": {"price": "3"}})
        await recalled(client, "bob")  # of whom the first engine hears, and ends
        change = ItemUpdate(["i1"], {"i2": {"price": 3}})
        whole = change._replace(popular=[])
        assert engine.told == [(0, ItemUpdate([], {}, [])), (1, change), (2, whole)]
        assert engine.asked == [["ann"], ["bob"], ["bob"]]
        await client.close()


async def test_a_question_that_no_engine_answers_has_failed_when_the_client_closes(
    tmp_path: Path,
) -> None:
    client = EngineClient(str(tmp_path / "engine"), ServiceStatus(), patience_seconds=60)
    await client.start()
    asked = asyncio.create_task(recalled(client, "ann"))
    await asyncio.sleep(0)
    await client.finish(0.01)
    assert not asked.done()
    await client.close()
    with pytest.raises(WorkerLost, match="its engine is gone"):
        await asked
