"""A load generator for POST requests: as fast as the server answers (closed loop), or at a constant
rate (open loop).

In an open loop a latency counts from the moment at which the request was due, not from the moment
at which it could be sent. So a server that stalls cannot hide the requests that it kept from being
sent (coordinated omission). One thread, keep-alive connections, no HTTP library in between.
"""

import asyncio
import gc
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle

import numpy as np
import uvloop

TICK_S = 0.001  # the resolution of an event loop's timers
IDLE_S = 3.0  # then a connection is replaced: servers close idle ones, the service after 5 s
PATIENCE_S = 10.0  # for answers that are still under way at the end

Read = Callable[[bytes, bytes], None]
"""Takes a request and the body of its answer."""


@dataclass
class Load:
    """The answers to a load of `seconds`."""

    seconds: float
    latencies: list[float] = field(default_factory=list)  # of good answers, in seconds
    late: int = 0  # good answers that came after the end: they have a latency, but no rate
    failed: int = 0  # answers other than 200, and requests without an answer
    statuses: Counter[int] = field(default_factory=Counter)  # of all answers; 0: none came

    @property
    def rate(self) -> float:
        """Good answers per second, of those that came before the end."""
        return (len(self.latencies) - self.late) / self.seconds

    def percentile_ms(self, percent: float) -> float:
        """Returns the latency in ms that `percent` of the good answers stayed within."""
        if not self.latencies:
            return float("nan")
        return float(np.percentile(self.latencies, percent)) * 1000

    def count(self, status: int, latency: float, late: bool) -> None:
        """Adds one answer. Status 0 means that there was none."""
        self.statuses[status] += 1
        if status != 200:
            self.failed += 1
            return
        self.latencies.append(latency)
        self.late += late


def post(path: str, body: bytes) -> bytes:
    """Returns a whole request, to be sent any number of times."""
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


class _Connection(asyncio.Protocol):
    """A connection with one request at a time; answers need a content-length."""

    def __init__(
        self, answered: Callable[["_Connection", int], None], read: "Read | None" = None
    ) -> None:
        """`answered` is called with the status of each answer, 0 if the connection broke; `read`
        with each good answer before.
        """
        self._answered = answered
        self._read = read
        self._request = b""
        self._buffer = bytearray()
        self._expected = -1  # bytes of the answer, -1 until its head has been read
        self._waiting = self._ends = False
        self._transport: asyncio.WriteTransport
        self.since = 0.0  # when its request was sent, or due
        self._used = time.perf_counter()

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
            self._ends = b"connection: close" in head
            length = head.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0]
            self._expected = end + 4 + int(length)
        if len(self._buffer) >= self._expected and self._waiting:
            status = int(self._buffer[9:12])
            if self._read and status == 200:
                body = bytes(self._buffer).partition(b"\r\n\r\n")[2]
                self._read(self._request, body)
            self._buffer.clear()
            self._expected = -1
            self._used = time.perf_counter()
            if self._ends:
                self._transport.close()
            self._end(status)

    def send(self, request: bytes, since: float) -> None:
        """Sends a request whose latency counts from `since`."""
        self._request, self.since, self._waiting = request, since, True
        if self._transport.is_closing():
            self._end(0)
        else:
            self._transport.write(request)

    def is_stale(self) -> bool:
        """Returns whether the server may have closed the connection by now."""
        return self._transport.is_closing() or time.perf_counter() - self._used > IDLE_S

    def close(self) -> bool:
        """Hangs up; returns whether a request was still without an answer."""
        unanswered, self._waiting = self._waiting, False
        self._transport.close()
        return unanswered

    def _end(self, status: int) -> None:
        self._waiting = False
        self._answered(self, status)


def closed_loop(
    port: int,
    requests: list[bytes],
    connections: int,
    seconds: float,
    patience_s: float = PATIENCE_S,
) -> Load:
    """Every connection sends its next request as soon as it has the answer to the last one.

    At the end no more are sent. The answers still under way are waited for, so that their latencies
    count and the server is idle when this returns, but they are no part of the rate.
    """

    async def run() -> Load:
        load, source = Load(seconds), cycle(requests)
        drained = asyncio.Event()
        busy = connections

        def answered(connection: _Connection, status: int) -> None:
            nonlocal busy
            now = time.perf_counter()
            load.count(status, now - connection.since, late=now >= end)
            if status and now < end:
                connection.send(next(source), now)
                return
            busy -= 1
            if not busy:
                drained.set()

        pool = await _connect(port, connections, answered)
        started = time.perf_counter()
        end = started + seconds
        for connection in pool:
            connection.send(next(source), started)
        with suppress(TimeoutError):
            await asyncio.wait_for(drained.wait(), seconds + patience_s)
        load.failed += sum(connection.close() for connection in pool)
        return load

    with _no_collection():
        return uvloop.run(run())


def open_loop(
    port: int,
    requests: list[bytes],
    rate: float,
    seconds: float,
    connections: int = 256,
    read: Read | None = None,
    is_over: Callable[[], bool] = lambda: False,
) -> Load:
    """Requests are due at a constant rate, whatever the server does.

    `read` is called with each request that got a good answer, and the body of that. The load ends
    early once `is_over`.

    They are sent every `TICK_S`, and the wait for that counts as the server's. To sleep for less,
    the event loop would have to spin, on a core that the server needs.
    """
    loop = _OpenLoop(port, requests, rate, seconds, read)
    with _no_collection():
        return uvloop.run(loop.run(connections, is_over))


class _OpenLoop:
    """See `open_loop`."""

    def __init__(
        self, port: int, requests: list[bytes], rate: float, seconds: float, read: Read | None
    ) -> None:
        self._port, self._read, self._rate = port, read, rate
        self._source = cycle(requests)
        self._load = Load(seconds)
        self._started = 0.0
        self._pool: list[_Connection] = []
        self._free: list[_Connection] = []
        self._due: deque[float] = deque()  # requests that no connection was free for
        self._renewing: set[asyncio.Task[None]] = set()

    async def run(self, connections: int, is_over: Callable[[], bool]) -> Load:
        """Sends the requests and waits for their answers."""
        self._pool = await _connect(self._port, connections, self._answered, self._read)
        self._free = list(self._pool)
        issued = await self._send_all(is_over)
        await self._wait_for(issued)
        for connection in self._pool:
            connection.close()
        self._load.failed = issued - len(self._load.latencies)
        return self._load

    async def _send_all(self, is_over: Callable[[], bool]) -> int:
        """Sends requests until the end; returns how many were due."""
        self._started = started = time.perf_counter()
        count, issued = int(self._rate * self._load.seconds), 0
        while issued < count and not is_over():
            reached = min(count, int((time.perf_counter() - started) * self._rate) + 1)
            self._due.extend(started + number / self._rate for number in range(issued, reached))
            issued = reached
            while self._free and self._due:
                self._send(self._free.pop(), self._due.popleft())
            await asyncio.sleep(TICK_S)
        if issued < count:
            self._load.seconds = time.perf_counter() - started
        return issued

    async def _wait_for(self, count: int) -> None:
        give_up = time.perf_counter() + PATIENCE_S
        while len(self._load.latencies) + self._load.failed < count:
            if time.perf_counter() >= give_up:
                return
            await asyncio.sleep(0.01)

    def _answered(self, connection: _Connection, status: int) -> None:
        now = time.perf_counter()
        late = now >= self._started + self._load.seconds
        self._load.count(status, now - connection.since, late)
        if self._due:
            self._send(connection, self._due.popleft())
        else:
            self._free.append(connection)

    def _send(self, connection: _Connection, since: float) -> None:
        if connection.is_stale():
            task = asyncio.create_task(self._renew(connection, since))
            self._renewing.add(task)
            task.add_done_callback(self._renewing.discard)
        else:
            connection.send(next(self._source), since)

    async def _renew(self, connection: _Connection, since: float) -> None:
        """Sends a request over a new connection in place of a stale one."""
        connection.close()
        self._pool.remove(connection)
        self._pool.extend(await _connect(self._port, 1, self._answered, self._read))
        self._pool[-1].send(next(self._source), since)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Turns the garbage collector off: a full collection here takes tens of milliseconds, which
    would count as the server's."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


async def _connect(
    port: int,
    count: int,
    answered: Callable[[_Connection, int], None],
    read: Read | None = None,
) -> list[_Connection]:
    loop = asyncio.get_running_loop()
    pairs = [
        await loop.create_connection(partial(_Connection, answered, read), "127.0.0.1", port)
        for _ in range(count)
    ]
    return [protocol for _, protocol in pairs]
