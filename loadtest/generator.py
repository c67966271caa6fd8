"""A load generator for POST requests: as fast as it goes (closed loop), or at a constant rate.

At a constant rate a latency counts from the moment at which the request was due, not from when it
could be sent: a server that stalls cannot hide the requests that it kept from being sent
(no coordinated omission). One thread, keep-alive connections, no HTTP library in the way.
"""

import asyncio
import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle

import numpy as np
import uvloop


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

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._expected = -1
        self._answer: asyncio.Future[int] | None = None
        self._transport: asyncio.WriteTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer and not self._answer.done():
            self._answer.set_result(0)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._expected < 0:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(self._buffer[:end]).lower()
            length = head.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0]
            self._expected = end + 4 + int(length)
        if len(self._buffer) >= self._expected and self._answer:
            status = int(self._buffer[9:12])
            self._buffer.clear()
            self._expected = -1
            self._answer.set_result(status)

    def ask(self, request: bytes) -> asyncio.Future[int]:
        """Send; the future gives the status, 0 for a broken connection."""
        self._answer = asyncio.get_running_loop().create_future()
        if self._transport.is_closing():
            self._answer.set_result(0)
        else:
            self._transport.write(request)
        return self._answer


def closed_loop(port: int, requests: list[bytes], connections: int, seconds: float) -> Load:
    """Every connection asks again as soon as it has its answer."""

    async def run() -> Load:
        pool = await _connect(port, connections)
        load, source = Load(seconds), cycle(requests)
        end = time.perf_counter() + seconds

        async def ask_on(connection: _Connection) -> None:
            while (sent := time.perf_counter()) < end:
                status = await connection.ask(next(source))
                _count(load, status, time.perf_counter() - sent)
                if not status:
                    return

        await asyncio.gather(*map(ask_on, pool))
        _disconnect(pool)
        return load

    with _no_collection():
        return uvloop.run(run())


def open_loop(
    port: int, requests: list[bytes], rate: float, seconds: float, connections: int = 256
) -> Load:
    """Requests are due at a constant rate, whatever the server does."""

    async def run() -> Load:
        pool = await _connect(port, connections)
        load, source = Load(seconds), cycle(requests)
        due: asyncio.Queue[float] = asyncio.Queue()

        async def ask_on(connection: _Connection) -> None:
            while True:
                moment = await due.get()
                status = await connection.ask(next(source))
                _count(load, status, time.perf_counter() - moment)
                if not status:
                    return

        askers = [asyncio.create_task(ask_on(connection)) for connection in pool]
        started = time.perf_counter()
        count = int(rate * seconds)
        issued = 0
        while issued < count:
            late = min(count, int((time.perf_counter() - started) * rate) + 1)
            while issued < late:
                due.put_nowait(started + issued / rate)
                issued += 1
            await asyncio.sleep(max(0.0, started + issued / rate - time.perf_counter()))
        for _ in range(1000):  # ten seconds for what is on its way
            if len(load.latencies) + load.failed >= count:
                break
            await asyncio.sleep(0.01)
        for asker in askers:
            asker.cancel()
        load.failed += count - len(load.latencies) - load.failed
        _disconnect(pool)
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


async def _connect(port: int, count: int) -> list[_Connection]:
    loop = asyncio.get_running_loop()
    pairs = [await loop.create_connection(_Connection, "127.0.0.1", port) for _ in range(count)]
    return [protocol for _, protocol in pairs]


def _disconnect(pool: list[_Connection]) -> None:
    for connection in pool:
        connection._transport.close()
