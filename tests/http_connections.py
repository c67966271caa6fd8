"""Connections over real sockets to the HTTP protocol of a front end, around a small application."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import uvicorn
from certificates import Certificates
from starlette.types import Receive, Scope, Send

from service.http.api_keys import ApiKey
from service.http.gate import Gate
from service.http.protocol import CoalescingProtocol
from service.observability.metrics import Metrics


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the number of bytes in the body; /early answers before it is read."""
    size, more = 0, scope["path"] != "/early"
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size, more = size + len(message["body"]), message["more_body"]
    length = 50_000_000 if scope["path"] == "/large" else 0
    content = str(size).encode().ljust(length)
    headers = [(b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": content})


@dataclass
class Room:
    """Stands in for a batcher: it has room for a number of recalls."""

    recalls: int = 1_000_000
    asked: list[int] = field(default_factory=list)

    def has_room(self, arriving: int, client: str = "") -> bool:
        self.asked.append(arriving)
        return client == "modest" or arriving < self.recalls


Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def serving(
    room: Room | None = None,
    max_connections: int = 1000,
    metrics: Metrics | None = None,
    keys: Sequence[ApiKey] = (),
    certificates: Certificates | None = None,
) -> AsyncIterator[Callable[[], "asyncio.Future[Connection]"]]:
    """A server of `echo`, over TLS with certificates, and a function that connects to it."""
    limits = (metrics or Metrics(), max_connections, lambda: False, keys)
    gate = Gate(room or Room(), *limits)  # type: ignore[arg-type]
    server_files, trusted = {}, None
    if certificates:
        server_files = {
            "ssl_certfile": certificates.server,
            "ssl_keyfile": certificates.server_key,
        }
        trusted = ssl.create_default_context(cafile=certificates.authority)
    config = uvicorn.Config(echo, log_config=None, lifespan="off", **server_files)  # type: ignore[arg-type]
    config.load()
    state = uvicorn.server.ServerState()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: CoalescingProtocol(gate, config, state, {}), "127.0.0.1", 0, ssl=config.ssl
    )
    writers: list[asyncio.StreamWriter] = []

    async def connect() -> Connection:
        address = server.sockets[0].getsockname()
        reader, writer = await asyncio.open_connection(*address, ssl=trusted)
        writers.append(writer)
        return reader, writer

    async with asyncio.timeout(60):
        yield lambda: asyncio.ensure_future(connect())
    for writer in writers:
        writer.close()
    server.close()


async def answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Status and body of the next answer; (0, b"") if the connection ends instead."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return 0, b""
    lines = head.decode().lower().split("\r\n")
    length = next(int(line[16:]) for line in lines if line.startswith("content-length: "))
    return int(lines[0].split()[1]), await reader.readexactly(length)


async def ended(reader: asyncio.StreamReader) -> bool:
    """Whether nothing more comes; waits until the server closes the connection."""
    try:
        return await reader.read() == b""
    except ConnectionError:
        return True
