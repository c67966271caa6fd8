"""No answer holds an item that was hidden before the answer was begun."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis_server import RedisServer
from running_service import service

from loadtest.serving import bench_hidden
from loadtest.serving.bench_hidden import Connection, Watch, run


@pytest.mark.parametrize("workers", ["1", "2"])
def test_hidden_items_are_in_no_answer_under_load(
    artifacts: Path, redis_server: RedisServer, tmp_path: Path, workers: str
) -> None:
    redis_server.flush()
    patient = {"RECGPT_HTTP_WORKERS": workers, "RECGPT_DEADLINE_MS": "60000"}
    with service(artifacts, redis_server.url, tmp_path, **patient) as running:
        watch = asyncio.run(run(running.port, redis_server.url, answers=4000))
        assert watch.answers >= 4000
        assert watch.changes > 0
        assert not watch.violations


def test_an_answer_that_holds_a_hidden_item_is_noticed() -> None:
    watch = Watch(grace_seconds=1, hidden={'a"b': 10.0, "c": 10.5})
    assert watch.due(begun=10.9) == set()
    due = watch.due(begun=11.2)
    assert due == {'a"b'}
    watch.check(rb'[{"item_id":"c"},{"item_id":"d"}]', due, 1)
    assert watch.violations == []
    watch.check(rb'[{"item_id":"a\"b"}]', due, 1)
    assert len(watch.violations) == 1
    del watch.hidden['a"b']  # shown again while the answer was computed
    watch.check(rb'[{"item_id":"a\"b"}]', due, 1)
    assert len(watch.violations) == 1


ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n%b\r\nok"

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def connected(serve: Serve) -> AsyncIterator[Connection]:
    """A connection to a server that hangs up after the first request."""
    serving: set[asyncio.Task[None] | None] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.current_task())
        await reader.readuntil(b"\r\n\r\n")
        await serve(reader, writer)
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
        connection = Connection(server.sockets[0].getsockname()[1], "asker 3")
        yield connection
        connection.close()
        await asyncio.gather(*(task for task in serving if task))


@pytest.mark.anyio
async def test_it_connects_again_where_the_service_closes_the_connection() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(ANSWER % b"connection: close\r\n")

    async with connected(serve) as connection:
        for _ in range(3):
            assert await connection.request("GET", "/") == (200, b"ok")


@pytest.mark.anyio
@pytest.mark.parametrize("silent", [True, False])
async def test_a_request_without_an_answer_is_an_error_that_names_the_connection(
    monkeypatch: pytest.MonkeyPatch, silent: bool
) -> None:
    """The service is silent, or hangs up."""
    monkeypatch.setattr(bench_hidden, "PATIENCE_SECONDS", 0.2 if silent else 60)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if silent:
            await reader.read()

    async with connected(serve) as connection:
        with pytest.raises(RuntimeError, match=r"GET /x was not answered.*asker 3, \('127"):
            await connection.request("GET", "/x")
