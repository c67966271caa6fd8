"""Connections over real sockets: bounds on slow and hostile clients, and answers in one write."""

import asyncio
import json

import pytest
from http_connections import answer, ended, serving

from service.http import protocol
from service.http.protocol import _CoalescingTransport
from service.observability.metrics import Metrics

pytestmark = pytest.mark.anyio

GET = b"GET / HTTP/1.1\r\nHost: test\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n"
SOON = 0.2
"""Seconds of every timer that a test wants to see fire."""
NEVER = 600.0


class Transport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.sent: list[bytes] = []
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent.append(bytes(data))

    def close(self) -> None:
        self.closed = True


async def test_a_head_goes_out_with_its_body_or_alone_when_none_comes() -> None:
    transport = Transport()
    held = _CoalescingTransport(transport, asyncio.get_running_loop())
    held.write(b"HTTP/1.1 200 OK\r\n\r\n")
    held.write(b"body")
    held.write(b"more")
    assert transport.sent == [b"HTTP/1.1 200 OK\r\n\r\nbody", b"more"]
    held.write(b"HTTP/1.1 200 OK\r\n\r\n")
    await asyncio.sleep(0)
    held.write(b"late")
    assert transport.sent[2:] == [b"HTTP/1.1 200 OK\r\n\r\n", b"late"]
    held.write(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
    held.close()
    assert transport.sent[-1].startswith(b"HTTP/1.1 408")
    assert transport.closed
    assert held.get_extra_info("peername") is None  # all else is the transport's own


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads are late soon."""
    monkeypatch.setattr(protocol, "HEAD_SECONDS", SOON)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No head is ever late."""
    monkeypatch.setattr(protocol, "HEAD_SECONDS", NEVER)


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize(
    ("begin", "status"), [(b"", 0), (b"\r\n", 0), (b"G", 408), (GET, 408), (GET + b"X-Half: ", 408)]
)
@pytest.mark.parametrize("before", [b"", GET + b"\r\n"])
async def test_a_client_that_sends_no_whole_head_is_ended(
    begin: bytes, status: int, before: bytes
) -> None:
    """The first request of a connection, or a later one."""
    metrics = Metrics()
    async with serving(metrics=metrics) as connect:
        reader, writer = await connect()
        if before:
            writer.write(before)
            assert (await answer(reader))[0] == 200
        writer.write(begin)
        found, body = await answer(reader)
        assert found == status
        if status:
            assert json.loads(body)["detail"].startswith("the head of the request did not arrive")
            labels = {"route": "other", "status": "408"}
            assert metrics.registry.get_sample_value("recgpt_requests_total", labels) == 1
            labels = {"reason": "LateHead"}
            assert metrics.registry.get_sample_value("recgpt_failures_total", labels) == 1
        assert await ended(reader)


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("piece", [b"X-More: 1\r\n", b"\r\n"])
async def test_a_head_that_trickles_is_ended(piece: bytes) -> None:
    async with serving() as connect:
        reader, writer = await connect()
        if piece.strip():
            writer.write(GET)

        async def trickle() -> None:
            while not writer.is_closing():
                writer.write(piece)
                await asyncio.sleep(SOON / 10)

        trickling = asyncio.create_task(trickle())
        status, _ = await answer(reader)
        assert status == (408 if piece.strip() else 0)
        trickling.cancel()


@pytest.mark.usefixtures("soon")
async def test_a_request_that_takes_long_is_not_ended() -> None:
    """The time of a head does not count for the body, nor for a connection that is in use."""
    async with serving() as connect:
        reader, writer = await connect()
        writer.write(CHUNKED)
        for _ in range(5):
            writer.write(b"3\r\nabc\r\n")
            await asyncio.sleep(SOON / 2)
        writer.write(b"0\r\n\r\n")
        assert await answer(reader) == (200, b"15")
        for _ in range(5):
            writer.write(GET + b"\r\n")
            assert await answer(reader) == (200, b"0")
            await asyncio.sleep(SOON / 4)


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("pieces", [1, 50])
@pytest.mark.parametrize("name", [b"X-Large: ", b"Cookie: "])
async def test_a_head_above_64_kib_is_refused(pieces: int, name: bytes) -> None:
    async with serving() as connect:
        reader, writer = await connect()
        writer.write(GET + name)
        for _ in range(pieces):
            writer.write(b"a" * (80_000 // pieces))
            await writer.drain()
            await asyncio.sleep(0)
        writer.write(b"\r\n\r\n")
        status, body = await answer(reader)
        assert status == 431
        problem = json.loads(body)
        assert (problem["status"], problem["title"]) == (431, "Request Header Fields Too Large")
        assert await ended(reader)


async def flood(writer: asyncio.StreamWriter) -> None:
    """Sends for longer than what a refused client sends is thrown away."""
    while True:
        writer.write(b"a" * (1 << 16))
        await writer.drain()


@pytest.mark.usefixtures("patient")
async def test_endless_heads_and_trailers_are_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "LINGER_SECONDS", SOON)
    async with serving() as connect:
        for begin in (GET + b"X-Endless: ", CHUNKED + b"1\r\na\r\n0\r\nX-Trailer: "):
            reader, writer = await connect()
            writer.write(begin)
            with pytest.raises(ConnectionError):
                await flood(writer)
            assert (await answer(reader))[0] in (0, 431)  # 0: the request was under way


@pytest.mark.usefixtures("patient")
async def test_large_bodies_and_heads_of_60_kb_are_taken() -> None:
    async with serving() as connect:
        reader, writer = await connect()
        head = b"POST / HTTP/1.1\r\nHost: test\r\nX-Long: " + b"a" * 60_000
        head += b"\r\nContent-Length: 1000000\r\n\r\n"
        for _ in range(2):
            writer.write(head + b"b" * 1_000_000)
            assert await answer(reader) == (200, b"1000000")
        writer.write(CHUNKED + b"1;an=extension\r\na\r\n" * 20_000 + b"0\r\nX-Trailer: 1\r\n\r\n")
        assert await answer(reader) == (200, b"20000")


@pytest.mark.usefixtures("soon")
async def test_a_body_that_trickles_after_its_answer_is_ended() -> None:
    async with serving() as connect:
        reader, writer = await connect()
        writer.write(b"POST /early HTTP/1.1\r\nHost: test\r\nContent-Length: 1000\r\n\r\n")
        assert await answer(reader) == (200, b"0")

        async def trickle() -> None:
            while not writer.is_closing():
                writer.write(b"a")
                await asyncio.sleep(SOON / 10)

        trickling = asyncio.create_task(trickle())
        assert await ended(reader)
        trickling.cancel()


@pytest.mark.usefixtures("patient")
async def test_a_client_that_does_not_read_its_answer_is_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(protocol, "UNREAD_SECONDS", SOON)
    async with serving() as connect:
        reader, writer = await connect()
        writer.write(GET.replace(b"GET /", b"GET /large") + b"\r\n")
        await asyncio.sleep(2 * SOON)
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await reader.readexactly(50_000_000)


@pytest.mark.usefixtures("patient")
async def test_what_is_not_http_is_a_problem_document() -> None:
    async with serving() as connect:
        for begin in (b"hello\r\n\r\n", b"GET http:// HTTP/1.1\r\n\r\n"):
            reader, writer = await connect()
            writer.write(begin)
            status, body = await answer(reader)
            assert status == json.loads(body)["status"] == 400
            assert await ended(reader)


@pytest.mark.usefixtures("patient")
async def test_requests_that_do_not_wait_for_answers_are_answered_in_order() -> None:
    """Hundreds of them in one write, with bodies of a known length and in chunks."""
    sizes = [number * 7 % 1000 for number in range(300)]
    requests = []
    for size in sizes:
        if size % 2:
            head = b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n\r\n" % size
            requests.append(head + b"b" * size)
        else:
            chunk = b"%x\r\n%b\r\n" % (size, b"c" * size) if size else b""
            requests.append(CHUNKED + chunk + b"0\r\n\r\n")
    async with serving() as connect:
        reader, writer = await connect()
        writer.write(b"".join(requests))
        for size in sizes:
            assert await answer(reader) == (200, b"%d" % size)
        writer.write(GET + b"Connection: close\r\n\r\n")
        assert await answer(reader) == (200, b"0")
        assert await ended(reader)
