"""Clients that outlive connections, for faults that must lose no request.

Each asks for one recall after another, at a constant rate all together, on a connection that it
keeps as long as the service lets it. Only the sending of a request on a connection that the service
closes at that moment is no loss: no byte of an answer can come, and HTTP clients send it again
only if the method allows it, so it is counted as lost here, too.
"""

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

PATIENCE_S = 30.0


class Heard(NamedTuple):
    """An answer, or the lack of one."""

    at: float  # seconds since the start of the load, when the request was sent
    seconds: float  # until the answer
    status: int  # 0: there was none
    user: str
    reason: str = ""  # the answer's `degraded_reason`
    items: tuple[str, ...] = ()


@dataclass
class Load:
    """Clients that ask while a fault is made; `stop` ends them."""

    ports: Callable[[], Sequence[int]]
    """The instances to which the balancer sends requests now."""
    users: Sequence[str]
    rate: float
    """Requests a second."""
    clients: int = 32
    k: int = 10
    heard: list[Heard] = field(default_factory=list)

    async def __aenter__(self) -> "Load":
        """Begins."""
        self.started = time.perf_counter()
        self._stopping = False
        self._tasks = [asyncio.create_task(self._ask_on(n)) for n in range(self.clients)]
        return self

    async def __aexit__(self, *_: object) -> None:
        """Waits for the answers to all requests that were sent."""
        self._stopping = True
        await asyncio.gather(*self._tasks)

    @property
    def now(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self.started

    def between(self, begin: float, end: float) -> list[Heard]:
        """Returns the outcomes of the requests that were sent in this time."""
        return [one for one in self.heard if begin <= one.at < end]

    async def _ask_on(self, number: int) -> None:
        period = self.clients / self.rate
        connection = _Connection()
        await asyncio.sleep(period * number / self.clients)
        due = time.perf_counter()
        turn = number
        while not self._stopping:
            user = self.users[turn % len(self.users)]
            ports = self.ports()
            if connection.port not in ports:
                connection.close()
            at = self.now
            status, body = await connection.ask(
                ports[turn % len(ports)], {"user_id": user, "k": self.k}
            )
            self.heard.append(_heard(at, self.now - at, status, user, body))
            turn += self.clients
            due = max(due + period, time.perf_counter() - period)
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
        connection.close()


class _Connection:
    """A connection that is opened when it is needed, and closed when the service says so."""

    def __init__(self) -> None:
        self.port = 0
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter | None = None

    async def ask(self, port: int, question: dict[str, Any]) -> tuple[int, bytes]:
        """Returns status and body of the answer; status 0 if there is none."""
        body = json.dumps(question).encode()
        head = f"POST /recall HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n"
        try:
            async with asyncio.timeout(PATIENCE_S):
                if self._writer is None or self._reader.at_eof():
                    self.close()
                    self._reader, self._writer = await asyncio.open_connection("127.0.0.1", port)
                    self.port = port
                self._writer.write(head.encode() + body)
                return await self._answer()
        except (OSError, EOFError, TimeoutError):
            self.close()
            return 0, b""

    def close(self) -> None:
        """Closes the connection if there is one."""
        if self._writer:
            self._writer.close()
        self._writer, self.port = None, 0

    async def _answer(self) -> tuple[int, bytes]:
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.split("content-length:", 1)[1].split("\r\n", 1)[0])
        body = await self._reader.readexactly(length)
        if "connection: close" in head:
            self.close()
        return int(head.split(" ", 2)[1]), body


def _heard(at: float, seconds: float, status: int, user: str, body: bytes) -> Heard:
    if status != 200:
        return Heard(at, seconds, status, user)
    answer = json.loads(body)
    items = tuple(item["item_id"] for item in answer["items"])
    return Heard(at, seconds, status, user, answer["degraded_reason"] or "", items)
