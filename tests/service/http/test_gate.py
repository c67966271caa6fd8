"""Requests that are refused before an application sees them, over real sockets."""

import asyncio
import errno
import gc
import json
import weakref
from functools import partial

import pytest
from http_connections import Connection, Room, answer, ended, serving

from service.http import gate, protocol
from service.http.api_keys import ApiKey, KeyScope
from service.observability.metrics import Metrics

pytestmark = pytest.mark.anyio

HEALTH = b"GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n"


def recall(body: bytes = b"{}", more: bytes = b"", version: bytes = b"1.1") -> bytes:
    head = b"POST /recall?a=b HTTP/%b\r\nHost: test\r\nContent-Length: %d\r\n%b\r\n"
    return head % (version, len(body), more) + body


async def asked(connection: Connection, request: bytes) -> tuple[int, bytes]:
    reader, writer = connection
    writer.write(request)
    return await answer(reader)


async def test_a_recall_without_room_is_refused_and_the_connection_stays() -> None:
    room, metrics = Room(recalls=0), Metrics()
    async with serving(room, metrics=metrics) as connect:
        reader, writer = await connect()
        for number in range(3):
            writer.write(recall(b"x" * 1000, more=b"X-Request-Id: mine-%d\r\n" % number))
            head = await reader.readuntil(b"\r\n\r\n")
            lines = head.decode().split("\r\n")
            assert lines[0] == "HTTP/1.1 429 Too Many Requests"
            assert "retry-after: 1" in lines
            assert f"x-request-id: mine-{number}" in lines
            assert "content-type: application/problem+json" in lines
            assert "connection: close" not in lines
            (length,) = (int(line[16:]) for line in lines if line.startswith("content-length: "))
            problem = json.loads(await reader.readexactly(length))
            assert problem["status"] == 429
            assert problem["title"] == "Too Many Requests"
            assert problem["request_id"] == f"mine-{number}"
        room.recalls = 1
        assert await asked((reader, writer), recall()) == (200, b"2")
    labels = {"route": "/recall", "status": "429"}
    assert metrics.registry.get_sample_value("recgpt_requests_total", labels) == 3
    assert metrics.registry.get_sample_value("recgpt_failures_total", {"reason": "QueueFull"}) == 3


async def test_other_operations_are_not_refused() -> None:
    async with serving(Room(recalls=0)) as connect:
        connection = await connect()
        for path in (b"/events", b"/healthz", b"/readyz", b"/metrics", b"/recall/"):
            request = recall().replace(b"/recall?a=b", path)
            assert await asked(connection, request) == (200, b"2")
        batch = recall().replace(b"/recall", b"/recall/batch")
        assert (await asked(connection, batch))[0] == 429


async def test_a_key_below_its_share_is_let_in() -> None:
    scopes = frozenset({KeyScope.READ})
    keys = [ApiKey(name, scopes, name * 8) for name in ("modest", "greedy")]
    async with serving(Room(recalls=0), keys=keys) as connect:
        connection = await connect()
        for name, status in (("greedy", 429), ("unknown", 429), ("modest", 200)):
            header = f"Authorization: Bearer {name * 8}\r\n".encode()
            assert (await asked(connection, recall(more=header)))[0] == status


async def test_recalls_of_one_turn_are_counted_before_they_reach_the_batcher() -> None:
    room = Room(recalls=3)
    async with serving(room) as connect:
        connections = [await connect() for _ in range(8)]
        for _ in range(2):
            room.asked.clear()
            for _, writer in connections:
                writer.write(recall())
            found = await asyncio.gather(*(answer(reader) for reader, _ in connections))
            assert {status for status, _ in found} <= {200, 429}
            assert found.count((200, b"2")) >= 3
            assert max(room.asked) <= 3


@pytest.mark.parametrize(
    "request_bytes",
    [
        recall(more=b"Connection: close\r\n"),
        recall(version=b"1.0"),
        recall(b"x" * 10)[:-5],  # the rest of its body comes later, or never
        recall()[:-2].replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"),
        recall() + recall(),
        recall() + HEALTH,
    ],
)
async def test_the_connection_is_closed_behind_a_refusal_where_it_cannot_go_on(
    request_bytes: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "LINGER_SECONDS", 0.2)
    async with serving(Room(recalls=0)) as connect:
        reader, writer = await connect()
        assert (await asked((reader, writer), request_bytes))[0] == 429
        assert await ended(reader)


async def test_a_request_behind_one_that_is_served_waits_for_its_answer() -> None:
    async with serving(Room(recalls=0)) as connect:
        reader, writer = await connect()
        writer.write(HEALTH + recall())
        assert await answer(reader) == (200, b"0")
        assert await answer(reader) == (200, b"2")


async def test_a_head_that_comes_after_a_refusal_in_pieces_is_served() -> None:
    async with serving(Room(recalls=0)) as connect:
        reader, writer = await connect()
        writer.write(recall() + HEALTH[:10])
        assert (await answer(reader))[0] == 429
        writer.write(HEALTH[10:])
        assert await answer(reader) == (200, b"0")


async def test_a_refused_connection_that_falls_silent_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.2)
    async with serving(Room(recalls=0)) as connect:
        reader, writer = await connect()
        assert (await asked((reader, writer), recall()))[0] == 429
        assert await ended(reader)


async def test_a_few_refusals_are_sent_at_once_and_all_are_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gate, "REFUSALS_AT_ONCE", 2)
    async with serving(Room(recalls=0)) as connect:
        connections = [await connect() for _ in range(25)]
        gone = connections.pop()
        gone[1].write(recall())
        gone[1].transport.abort()
        found = await asyncio.gather(*(asked(one, recall()) for one in connections))
        assert {status for status, _ in found} == {429}


async def test_a_refusal_that_cannot_be_sent_holds_up_no_other(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(gate, "REFUSALS_AT_ONCE", 2)
    refusing = gate.Gate(Room(recalls=0), Metrics(), 1000)  # type: ignore[arg-type]
    sent: list[int] = []

    def send(number: int) -> None:
        if number % 3 == 0:
            raise RuntimeError("poison")
        sent.append(number)

    for number in range(9):
        refusing.refuse("/recall", "QueueFull", partial(send, number))
    async with asyncio.timeout(10):
        while len(sent) < 6:
            await asyncio.sleep(0)
    assert sent == [1, 2, 4, 5, 7, 8]
    assert caplog.text.count("a refusal was not sent") == 3
    refusing.refuse("/recall", "QueueFull", partial(send, 10))
    await asyncio.sleep(0)
    assert sent[6:] == [10]


async def test_a_client_that_resets_its_connection_is_refused_without_an_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The connection may end between the refusal and its last bytes."""

    def fail(self: object) -> None:
        raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")

    monkeypatch.setattr(protocol, "LINGER_SECONDS", 0.2)
    monkeypatch.setattr(protocol._CoalescingTransport, "write_eof", fail)
    async with serving(Room(recalls=0)) as connect:
        reader, writer = await connect()
        request = recall(more=b"Connection: close\r\n")
        assert (await asked((reader, writer), request))[0] == 429
        assert await ended(reader)
        assert (await asked(await connect(), recall()))[0] == 429
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_connections_beyond_the_limit_may_ask_for_health_only() -> None:
    metrics = Metrics()
    async with serving(max_connections=2, metrics=metrics) as connect:
        served = [await connect() for _ in range(2)]
        for connection in served:
            assert await asked(connection, recall()) == (200, b"2")
        for request, status in ((HEALTH, 200), (recall(), 429)):
            reader, writer = await connect()
            assert (await asked((reader, writer), request))[0] == status
            assert await ended(reader)
            writer.close()
        for connection in served:
            assert await asked(connection, recall()) == (200, b"2")
        served[0][1].close()
        while (await asked(connection := await connect(), recall()))[0] != 200:
            connection[1].close()  # until the server has seen that the other one is closed
        assert await asked(connection, recall()) == (200, b"2")
    labels = {"reason": "TooManyConnections"}
    assert (metrics.registry.get_sample_value("recgpt_failures_total", labels) or 0) >= 1


async def test_silent_connections_beyond_the_limit_are_closed_soon(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(protocol, "EXCESS_HEAD_SECONDS", 0.2)
    async with serving(max_connections=2) as connect:
        served = [await connect() for _ in range(2)]
        for connection in served:
            assert await asked(connection, HEALTH) == (200, b"0")
        excess = [await connect() for _ in range(4)]
        assert all([await ended(reader) for reader, _ in excess])
        assert await asked(served[0], HEALTH) == (200, b"0")


async def test_memory_is_given_back_when_a_flood_of_connections_has_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: list[bool] = []
    monkeypatch.setattr(gate, "FLOOD", 10)
    monkeypatch.setattr(gate, "FLOOD_SECONDS", 0.0)
    monkeypatch.setattr(gate, "give_memory_back", lambda: given.append(True))
    async with serving() as connect:
        for many, times in ((10, 0), (11, 1)):
            connections = [await connect() for _ in range(many)]
            for connection in connections:
                assert await asked(connection, HEALTH) == (200, b"0")
            for reader, writer in connections:
                writer.write(HEALTH.replace(b"Host", b"Connection: close\r\nHost"))
                assert await answer(reader) == (200, b"0")
                assert await ended(reader)
                writer.close()
            async with asyncio.timeout(10):
                while len(given) < times:
                    await asyncio.sleep(0)
            assert len(given) == times


def test_memory_of_cycles_is_given_back() -> None:
    class Cycle:
        def __init__(self) -> None:
            self.own = self

    gc.disable()
    try:
        gone = weakref.ref(Cycle())
        assert gone()
        gate.give_memory_back()
        assert not gone()
    finally:
        gc.enable()
