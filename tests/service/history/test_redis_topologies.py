"""Histories on several Redis servers, some of which end."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from appending import append
from redis_server import RedisServer
from redis_topologies import SECONDS, cluster, watched
from stored import items_of

from service.doctor.findings import Level
from service.doctor.store import check_store
from service.history.store import HistoryStore, StoreProblem, StoreUnavailable

pytestmark = pytest.mark.anyio

USERS = [f"u{i}" for i in range(60)]
MINE = [[f"item of {user}"] for user in USERS]
PATIENT = 5000
LIMIT = 3


async def fill(store: HistoryStore) -> None:
    assert await append(store, [(user, f"item of {user}") for user in USERS]) == [None] * 60


async def until_whole(store: HistoryStore) -> int:
    """Reads until all histories are there; no other history may appear before. Counts reads."""
    reads = 0
    async with asyncio.timeout(SECONDS):
        while True:
            reads += 1
            try:
                found = await items_of(store, USERS)
            except StoreUnavailable:
                await asyncio.sleep(0.1)
                continue
            for history, mine in zip(found, MINE, strict=True):
                assert history in (mine, StoreProblem.UNAVAILABLE)
            if found == MINE:
                return reads
            await asyncio.sleep(0.1)


async def test_sentinels_lead_to_the_new_primary(tmp_path: Path) -> None:
    with watched(tmp_path) as servers:
        store = HistoryStore.open(servers.url, timeout_ms=PATIENT)
        await fill(store)
        assert await items_of(store, USERS) == MINE
        servers.primary.command("WAIT", "1", str(PATIENT))
        servers.primary.process.kill()
        servers.primary.process.wait()
        await until_whole(store)
        async with asyncio.timeout(SECONDS):
            while True:
                try:
                    await append(store, [("u0", "new")])
                    break
                except StoreUnavailable:
                    await asyncio.sleep(0.1)
        assert await items_of(store, ["u0"]) == [["item of u0", "new"]]
        findings = await asyncio.to_thread(check_store, servers.url)
        assert Level.PROBLEM not in [finding.level for finding in findings]
        await store.close()


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RedisServer]]:
    with cluster(tmp_path_factory.mktemp("cluster")) as nodes:
        yield nodes


@pytest.fixture
async def spread(nodes: list[RedisServer]) -> AsyncIterator[HistoryStore]:
    for node in nodes:
        if node.command("ROLE").startswith("master"):
            node.flush()
    places = ",".join(f"127.0.0.1:{node.port}" for node in nodes)
    store = HistoryStore.open(f"redis+cluster://{places}", LIMIT, timeout_ms=PATIENT)
    await fill(store)
    yield store
    await store.close()


async def test_a_cluster_has_all_histories(spread: HistoryStore, nodes: list[RedisServer]) -> None:
    assert await items_of(spread, USERS) == MINE
    await spread.ping()
    braces = ["a{b}c", "{x}", "a{b", "{}", "a}b"]
    assert await append(spread, [(user, "i") for user in braces]) == [None] * 5
    assert await items_of(spread, braces) == [["i"]] * 5
    assert await spread.delete("u0")
    assert await items_of(spread, ["u0"]) == [[]]
    assert await spread.load([("u0", ["a", "b"]), ("u1", ["c"])], overwrite=True) == 2
    assert await items_of(spread, ["u0", "u1"]) == [["a", "b"], ["c"]]
    findings = await asyncio.to_thread(check_store, f"redis+cluster://127.0.0.1:{nodes[0].port}")
    assert [finding.level for finding in findings] == [Level.OK, Level.OK]


async def test_a_plain_client_does_not_take_moved_for_an_empty_history(
    spread: HistoryStore, nodes: list[RedisServer]
) -> None:
    plain = HistoryStore.open(nodes[0].url, timeout_ms=PATIENT)
    found = await items_of(plain, USERS)
    assert StoreProblem.UNAVAILABLE in found
    assert [] not in found
    await plain.close()


async def test_a_read_of_a_cluster_is_bounded(spread: HistoryStore) -> None:
    await spread._client.rpush("h:u7", "c", "b", "a")  # another program keeps more
    assert await items_of(spread, ["u7"]) == [["b", "c", "item of u7"]]


async def test_keys_that_move_are_followed(spread: HistoryStore, nodes: list[RedisServer]) -> None:
    await spread._client.rpush("h:u7", "c", "b", "a")  # more than a read returns
    expected = [*MINE[:7], ["b", "c", "item of u7"], *MINE[8:]]
    assert await items_of(spread, USERS) == expected
    slot = nodes[0].command("CLUSTER", "KEYSLOT", "h:u7")
    masters = {n.command("CLUSTER", "MYID"): n for n in nodes if "master" in n.command("ROLE")}
    (owner,) = [
        i for i, n in masters.items() if n.command("CLUSTER", "COUNTKEYSINSLOT", slot) != "0"
    ]
    other = next(name for name in masters if name != owner)
    masters[other].command("CLUSTER", "SETSLOT", slot, "IMPORTING", owner)
    masters[owner].command("CLUSTER", "SETSLOT", slot, "MIGRATING", other)
    keys = masters[owner].command("CLUSTER", "GETKEYSINSLOT", slot, "100").split()
    for key in keys:  # half-way: these keys are answered by ASK
        masters[owner].command("MIGRATE", "127.0.0.1", str(masters[other].port), key, "0", "5000")
    assert await items_of(spread, USERS) == expected
    for node in masters.values():  # and then by MOVED
        node.command("CLUSTER", "SETSLOT", slot, "NODE", other)
    for _ in range(3):
        assert await items_of(spread, USERS) == expected


async def test_a_node_that_hangs_costs_its_own_users_their_histories(
    spread: HistoryStore, nodes: list[RedisServer]
) -> None:
    assert await items_of(spread, USERS) == MINE
    victim = next(node for node in nodes if "master" in node.command("ROLE"))
    spread._reader._node_seconds = 0.2
    os.kill(victim.process.pid, signal.SIGSTOP)
    try:
        found = await items_of(spread, USERS)
        assert StoreProblem.UNAVAILABLE in found
        for history, mine in zip(found, MINE, strict=True):
            assert history in (mine, StoreProblem.UNAVAILABLE)
        assert sum(history is StoreProblem.UNAVAILABLE for history in found) < len(USERS)
    finally:
        os.kill(victim.process.pid, signal.SIGCONT)
    spread._reader._node_seconds = PATIENT / 2000
    await until_whole(spread)


async def test_replicas_take_over(spread: HistoryStore, nodes: list[RedisServer]) -> None:
    """The last test of this file, because a node is gone afterwards."""
    assert await items_of(spread, USERS) == MINE
    victim = next(node for node in nodes if "master" in node.command("ROLE"))
    victim.command("WAIT", "1", str(PATIENT))
    victim.process.kill()
    victim.process.wait()
    assert await until_whole(spread) > 0
