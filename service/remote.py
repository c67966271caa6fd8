"""The worker as another process, seen from a front end: see `service.hub` for the other side."""

import asyncio
import socket
from collections.abc import Callable, Sequence

from service.queries import Candidates, Query, StageSeconds
from service.wire import LENGTH, frame, question, read_answer


class Remote:
    """Asks the engine's process, one batch after another."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter
        self._listening: asyncio.Task[None]
        self._answer: asyncio.Future[bytes] | None = None
        self.lost = False
        """Whether the engine's process is gone."""
        self.on_loss: Callable[[], None] = lambda: None

    async def start(self) -> None:
        """Greet the engine's process; `on_loss` is called should it end."""
        self._reader, self._writer = await asyncio.open_connection(sock=self._connection)
        self._writer.write(frame([]))
        self._listening = asyncio.create_task(self._listen())

    async def recall(self, queries: Sequence[Query]) -> tuple[list[Candidates], StageSeconds]:
        """See `service.engine.Worker`."""
        if self.lost:
            raise ConnectionError("the engine's process is gone")
        asked = question(queries)
        self._answer = asyncio.get_running_loop().create_future()
        self._writer.write(asked)
        return read_answer(await self._answer)

    async def close(self) -> None:
        """Leave the engine's process."""
        self._listening.cancel()
        self._writer.close()

    async def _listen(self) -> None:
        try:
            while True:
                (length,) = LENGTH.unpack(await self._reader.readexactly(LENGTH.size))
                body = await self._reader.readexactly(length)
                if self._answer and not self._answer.done():
                    self._answer.set_result(body)
        except (OSError, EOFError):
            self.lost = True
            if self._answer and not self._answer.done():
                self._answer.set_exception(ConnectionError("the engine's process is gone"))
            self.on_loss()
