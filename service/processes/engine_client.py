"""The engine process as a front end sees it; `engine_process` is the other side."""

import asyncio
import socket
from collections import deque
from collections.abc import Callable, Sequence

from service.processes.messages import LENGTH, frame, question, read_answer
from service.recall.types import BatchResult, Query


class Remote:
    """Asks the engine's process, which makes batches of all that has come by then."""

    def __init__(self, connection: socket.socket, max_batch: int) -> None:
        """`max_batch`: see `service.batcher.Worker`."""
        self._connection = connection
        self.max_batch = max_batch
        self.ahead = 2 * max_batch
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter
        self._listening: asyncio.Task[None]
        self._asked: deque[asyncio.Future[bytes]] = deque()
        self.lost = False
        """Whether the engine's process is gone."""
        self.on_loss: Callable[[], None] = lambda: None

    async def start(self) -> None:
        """Greet the engine's process; `on_loss` is called should it end."""
        self._reader, self._writer = await asyncio.open_connection(sock=self._connection)
        self._writer.write(frame([]))
        self._listening = asyncio.create_task(self._listen())

    async def recall(self, queries: Sequence[Query]) -> BatchResult:
        """See `service.batcher.Worker`."""
        if self.lost:
            raise ConnectionError("the engine's process is gone")
        asked = question(queries)
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._asked.append(answer)
        self._writer.write(asked)
        return read_answer(await answer)

    async def close(self) -> None:
        """Leave the engine's process."""
        self._listening.cancel()
        self._writer.close()

    async def _listen(self) -> None:
        try:
            while True:
                (length,) = LENGTH.unpack(await self._reader.readexactly(LENGTH.size))
                body = await self._reader.readexactly(length)
                answer = self._asked.popleft()
                if not answer.done():
                    answer.set_result(body)
        except (OSError, EOFError):
            self.lost = True
            for answer in self._asked:
                if not answer.done():
                    answer.set_exception(ConnectionError("the engine's process is gone"))
            self.on_loss()
