"""A TCP proxy between the service and Redis that harms the replies on their way."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

Fault = Callable[[bytes, asyncio.StreamWriter], Awaitable[bytes]]
"""Returns what the client gets in place of a piece of the replies; may close the connection."""


async def unharmed(data: bytes, client: asyncio.StreamWriter) -> bytes:
    return data


def late(seconds: float) -> Fault:
    async def fault(data: bytes, client: asyncio.StreamWriter) -> bytes:
        await asyncio.sleep(seconds)
        return data

    return fault


def cut(after: int) -> Fault:
    """Sends the first bytes of a reply and closes the connection."""

    async def fault(data: bytes, client: asyncio.StreamWriter) -> bytes:
        client.write(data[:after])
        await client.drain()
        client.close()
        return b""

    return fault


def garbled(chance: random.Random) -> Fault:
    """Changes one byte of each piece."""

    async def fault(data: bytes, client: asyncio.StreamWriter) -> bytes:
        at = chance.randrange(len(data))
        return data[:at] + bytes([data[at] ^ (1 << chance.randrange(8))]) + data[at + 1 :]

    return fault


def one_behind(first: bytes) -> Fault:
    """Sends an unasked reply first, so that each later one arrives in place of the next."""
    sent = False

    async def fault(data: bytes, client: asyncio.StreamWriter) -> bytes:
        nonlocal sent
        before, sent = (b"" if sent else first), True
        return before + data

    return fault


def replaced(reply: bytes) -> Fault:
    """Sends another reply in place of each piece."""

    async def fault(data: bytes, client: asyncio.StreamWriter) -> bytes:
        return reply

    return fault


class FaultProxy:
    """Forwards connections to a port of this machine; `fault` may be set at any time."""

    def __init__(self, port: int) -> None:
        self.fault: Fault = unharmed
        self.url = ""
        self._to = port
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/0"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        ends = [writer]
        try:
            with suppress(OSError, asyncio.CancelledError):
                to_reader, to_writer = await asyncio.open_connection("127.0.0.1", self._to)
                ends.append(to_writer)
                await asyncio.gather(
                    self._forward(reader, to_writer), self._forward(to_reader, writer, harm=True)
                )
        finally:
            for end in ends:
                end.close()
            self._tasks.discard(task)

    async def _forward(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, harm: bool = False
    ) -> None:
        while data := await reader.read(1 << 16):
            writer.write(await self.fault(data, writer) if harm else data)
            await writer.drain()
        writer.close()
