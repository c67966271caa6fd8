"""The worker as a thread of this process."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from service.recall.recaller import Recaller
from service.recall.types import BatchResult, Query


class Threaded:
    """Runs a Recaller in the one thread that owns it."""

    ahead = 0

    def __init__(self, recaller: Recaller) -> None:
        self._recaller = recaller
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="recall")

    async def start(self) -> None:
        """Nothing to do: the thread starts with the first batch."""

    async def recall(self, queries: Sequence[Query]) -> BatchResult:
        """See `service.batcher.Worker`."""
        loop = asyncio.get_running_loop()
        found, seconds = await loop.run_in_executor(
            self._thread, self._recaller.recall_json, queries
        )
        return BatchResult(found, seconds, len(queries))

    async def close(self) -> None:
        """End the thread."""
        self._thread.shutdown()
