"""The engines that a front end asks, against stand-ins."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from engine_stand_in import Engine

from model.artifact.id_table import write_ids
from service.observability.service_status import ServiceStatus
from service.processes.child import EngineAddress, Serving
from service.processes.engine_client import EngineClient
from service.processes.engine_switch import RECENT, EngineSwitch
from service.processes.messages import Greeting
from service.recall.metadata_encoder import read_metadata
from service.recall.types import Query

pytestmark = pytest.mark.anyio


@pytest.fixture
def engines(artifacts: Path, tmp_path: Path) -> list[Engine]:
    """Engines of the versions v1 and v2."""
    read_metadata(artifacts / "current").save(tmp_path)
    write_ids(tmp_path, "item", [f"i{n}" for n in range(40)])
    about = {"ids": str(tmp_path), "kinds": {}, "actions": [], "outcomes": []}
    return [
        Engine(tmp_path / version, Greeting(str(tmp_path), version, 4, 16, **about))
        for version in ("v1", "v2")
    ]


def connect(address: EngineAddress) -> EngineClient:
    status = ServiceStatus()
    status.set_started()
    status.beat()
    return EngineClient(address.path, status, patience_seconds=60)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.001)


def told(serving: Serving) -> bytes:
    return serving.model_dump_json().encode()


async def test_a_new_engine_is_warmed_with_the_latest_queries(
    engines: list[Engine], tmp_path: Path
) -> None:
    first, second = (EngineAddress(path=str(tmp_path / v)) for v in ("v1", "v2"))
    switch = EngineSwitch(connect, Serving(engine=first))
    async with engines[0].running(), engines[1].running():
        await switch.start()
        for number in range(RECENT + 3):
            await switch.recall([Query(f"u{number}", [])])
        await switch.recall([Query("shown to a colleague", [], explain=True)])
        switch.tell(told(Serving(engine=second)))
        await until(lambda: switch.asked == [second.path])
        warmed = [user for users in engines[1].asked for user in users]
        assert warmed == [f"u{number}" for number in range(4, RECENT + 3)]
        assert max(map(len, engines[1].asked)) <= 8  # half of a batch
        assert switch.bundle
        assert switch.bundle.version == "v2"
        await switch.recall([Query("next", [])])
        assert engines[1].asked[-1] == ["next"]
        await switch.close()


async def test_a_bug_that_keeps_it_from_following_versions_is_told(
    engines: list[Engine],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fail(self: EngineSwitch, client: EngineClient) -> None:
        raise RuntimeError("poison")

    monkeypatch.setattr(EngineSwitch, "_warm", fail)
    first, second = (EngineAddress(path=str(tmp_path / v)) for v in ("v1", "v2"))
    for serving in (Serving(engine=second), Serving(engine=first, arms={"v2": second})):
        failures: list[BaseException] = []
        switch = EngineSwitch(connect, Serving(engine=first))
        switch.on_failure = failures.append
        async with engines[0].running(), engines[1].running():
            await switch.start()
            switch.tell(told(serving))
            await until(lambda: failures)  # noqa: B023 — awaited before the next one is made
            assert str(failures[0]) == "poison"
            await switch.close()
    assert caplog.text.count("not followed any more") == 2


async def test_arms_come_and_go_without_another_connection(
    engines: list[Engine], tmp_path: Path
) -> None:
    first, second = (EngineAddress(path=str(tmp_path / v)) for v in ("v1", "v2"))
    gone: list[str] = []

    async def note(version: str) -> None:
        gone.append(version)

    switch = EngineSwitch(connect, Serving(engine=first))
    switch.on_arm_gone = note
    both = {"v1": first, "v2": second}
    async with engines[0].running(), engines[1].running():
        await switch.start()
        switch.tell(told(Serving(engine=first, arms=both)))
        await until(lambda: "v2" in switch.arms)
        assert list(switch.arms) == ["v2"]  # v1 is the served one
        found = await switch.arms["v2"].recall([Query("ann", [])])
        assert found.bundle
        assert found.bundle.version == "v2"
        old = switch._client
        switch.tell(told(Serving(engine=second, arms=both)))  # v2 is published
        await until(lambda: list(switch.arms) == ["v1"])
        assert switch.arms["v1"]._client is old
        await until(lambda: gone == ["v2"])
        switch.tell(told(Serving(engine=second)))
        await until(lambda: switch.asked == [second.path])
        assert gone == ["v2", "v1"]
        await switch.close()


async def test_a_look_returns_when_the_supervisor_has_looked(
    engines: list[Engine], tmp_path: Path
) -> None:
    first = EngineAddress(path=str(tmp_path / "v1"))
    switch = EngineSwitch(connect, Serving(engine=first, looks=4))
    async with engines[0].running():
        await switch.start()
        switch.on_look = lambda: switch.tell(told(Serving(engine=first, looks=5, loading="v2")))
        assert await switch.look()
        assert switch.loading == "v2"
        await switch.close()
