"""A TCP proxy in front of Redis that refuses, delays and cuts."""

import asyncio
import threading
from contextlib import suppress
from typing import Self

CHUNK = 1 << 16


class Proxy:
    """Forwards connections to a port of this machine, in a thread of its own."""

    def __init__(self, port: int) -> None:
        """Takes the port of the Redis; see `url` for the proxy's own."""
        self.refuse = False
        """Whether new connections are closed at once."""
        self.delay_s = 0.0
        """Delay of each piece of a reply."""
        self.cut = False
        """Whether connections end in the middle of the next reply."""
        self.url = ""
        self._port = port
        self._loop = asyncio.new_event_loop()
        self._open: set[asyncio.StreamWriter] = set()
        self._listens = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        """Listens."""
        self._thread.start()
        self._listens.wait()
        return self

    def __exit__(self, *_: object) -> None:
        """Ends all connections."""
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()

    def hang_up(self) -> None:
        """Ends all connections; new ones are taken if `refuse` allows it."""
        self._loop.call_soon_threadsafe(self._close_all)

    def _close_all(self) -> None:
        for writer in list(self._open):
            writer.transport.abort()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        self._end = asyncio.Event()
        server = await asyncio.start_server(self._forward, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
        self._listens.set()
        await self._end.wait()
        server.close()
        self._close_all()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refuse:
            writer.transport.abort()
            return
        there, to_redis = await asyncio.open_connection("127.0.0.1", self._port)
        self._open |= {writer, to_redis}
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._copy(reader, to_redis))
                both.create_task(self._copy(there, writer, replies=True))
        except* (OSError, EOFError):
            pass
        finally:
            self._open -= {writer, to_redis}
            writer.transport.abort()
            to_redis.transport.abort()

    async def _copy(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, replies: bool = False
    ) -> None:
        while data := await reader.read(CHUNK):
            cutting = replies and self.cut
            if cutting:
                data = data[: len(data) // 2]
            if replies and self.delay_s:
                await asyncio.sleep(self.delay_s)
            writer.write(data)
            with suppress(ConnectionError):
                await writer.drain()
            if cutting:
                writer.close()  # sends what is buffered first
                with suppress(ConnectionError):
                    await writer.wait_closed()
                break
        raise EOFError  # ends the other direction, too
