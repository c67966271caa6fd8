"""A load generator for POST requests: as fast as it goes (closed loop), or at a constant rate.

At a constant rate a latency counts from the moment at which the request was due, not from when it
could be sent: a server that stalls cannot hide the requests that it kept from being sent
(no coordinated omission). One thread, keep-alive connections, no HTTP library in the way.
"""

import asyncio
import gc
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle

import numpy as np
import uvloop

TICK = 0.001  # seconds: what timers of an event loop can do


@dataclass
class Load:
    """What a run measured."""

    seconds: float
    latencies: list[float] = field(default_factory=list)  # of good answers
    failed: int = 0  # answers other than 200, and requests without an answer

    @property
    def rate(self) -> float:
        """Good answers a second."""
        return len(self.latencies) / self.seconds

    def milliseconds(self, percentile: float) -> float:
        """Latency that `percentile` percent of the answers stayed within."""
        if not self.latencies:
            return float("nan")
        return float(np.percentile(self.latencies, percentile)) * 1000


def post(path: str, body: bytes) -> bytes:
    """A whole request, ready to be sent again and again."""
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


class _Connection(asyncio.Protocol):
    """One request at a time; the answer needs a content-length."""

    def __init__(self, answered: Callable[["_Connection", int], None]) -> None:
        """`answered` is told every status, 0 for a broken connection."""
        self._answered = answered
        self._buffer = bytearray()
        self._expected = -1
        self._waiting = False
        self._transport: asyncio.WriteTransport
        self.since = 0.0  # when its request was sent, or due

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def connection_lost(self, exc: Exception | None) -> None:
        if self._waiting:
            self._end(0)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._expected < 0:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(self._buffer[:end]).lower()
            length = head.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0]
            self._expected = end + 4 + int(length)
        if len(self._buffer) >= self._expected and self._waiting:
            status = int(self._buffer[9:12])
            self._buffer.clear()
            self._expected = -1
            self._end(status)

    def ask(self, request: bytes, since: float) -> None:
        """Send."""
        self.since, self._waiting = since, True
        if self._transport.is_closing():
            self._end(0)
        else:
            self._transport.write(request)

    def close(self) -> None:
        """Hang up; a request under way is forgotten."""
        self._waiting = False
        self._transport.close()

    def _end(self, status: int) -> None:
        self._waiting = False
        self._answered(self, status)


def closed_loop(port: int, requests: list[bytes], connections: int, seconds: float) -> Load:
    """Every connection asks again as soon as it has its answer."""

    async def run() -> Load:
        load, source = Load(seconds), cycle(requests)
        ended = asyncio.get_running_loop().create_future()
        left = connections

        def answered(connection: _Connection, status: int) -> None:
            nonlocal left
            now = time.perf_counter()
            _count(load, status, now - connection.since)
            if status and now < end:
                connection.ask(next(source), now)
                return
            left -= 1
            if not left:
                ended.set_result(None)

        pool = await _connect(port, connections, answered)
        started = time.perf_counter()
        end = started + seconds
        for connection in pool:
            connection.ask(next(source), started)
        await ended
        for connection in pool:
            connection.close()
        return load

    with _no_collection():
        return uvloop.run(run())


def open_loop(
    port: int, requests: list[bytes], rate: float, seconds: float, connections: int = 256
) -> Load:
    """Requests are due at a constant rate, whatever the server does.

    They are sent every `TICK`: the wait for that counts as the server's. To sleep for less, the
    event loop would have to spin, on a core that the server needs.
    """

    async def run() -> Load:
        load, source = Load(seconds), cycle(requests)
        due: deque[float] = deque()  # what no connection was free for

        def answered(connection: _Connection, status: int) -> None:
            _count(load, status, time.perf_counter() - connection.since)
            if not status:
                return
            if due:
                connection.ask(next(source), due.popleft())
            else:
                free.append(connection)

        pool = await _connect(port, connections, answered)
        free = list(pool)
        started = time.perf_counter()
        count, issued = int(rate * seconds), 0
        while issued < count:
            late = min(count, int((time.perf_counter() - started) * rate) + 1)
            due.extend(started + number / rate for number in range(issued, late))
            issued = late
            while free and due:
                free.pop().ask(next(source), due.popleft())
            await asyncio.sleep(TICK)
        for _ in range(1000):  # ten seconds for what is on its way
            if len(load.latencies) + load.failed >= count:
                break
            await asyncio.sleep(0.01)
        load.failed += count - len(load.latencies) - load.failed
        for connection in pool:
            connection.close()
        return load

    with _no_collection():
        return uvloop.run(run())


@contextmanager
def _no_collection() -> Iterator[None]:
    """A full collection takes tens of milliseconds here, which would be told as the server's."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _count(load: Load, status: int, latency: float) -> None:
    if status == 200:
        load.latencies.append(latency)
    else:
        load.failed += 1


async def _connect(
    port: int, count: int, answered: Callable[[_Connection, int], None]
) -> list[_Connection]:
    loop = asyncio.get_running_loop()
    pairs = [
        await loop.create_connection(partial(_Connection, answered), "127.0.0.1", port)
        for _ in range(count)
    ]
    return [protocol for _, protocol in pairs]
