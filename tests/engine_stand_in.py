"""Engines without a bundle, for tests of the front end's side."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np

from service.processes.messages import (
    LENGTH,
    Greeting,
    decode_question,
    decode_trial,
    decode_update,
    encode_failure,
    encode_greeting,
    encode_result,
    encode_trial_result,
    is_trial,
    is_update,
)
from service.recall.live_items import ItemUpdate
from service.recall.trials import TrialResult
from service.recall.types import BatchResult, EncodedCandidates


class Engine:
    """Engines that answer with the user's own id, each on the connection after the last one's.

    `lives` are the numbers of answers after which the first engines hang up.
    """

    def __init__(self, path: Path, greeting: Greeting) -> None:
        self._path = path
        self.greeting = greeting
        self.lives: list[int] = []
        self.asked: list[list[str]] = []
        self.told: list[tuple[int, ItemUpdate]] = []
        """Updates, each after the number of questions before it."""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with await asyncio.start_unix_server(self._serve, self._path):
            yield

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers = self.lives.pop(0) if self.lives else 1_000_000
        writer.write(encode_greeting(self.greeting))
        while True:
            try:
                (length,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
                body = await reader.readexactly(length)
            except asyncio.IncompleteReadError:
                break
            if is_update(body):
                self.told.append((len(self.asked), decode_update(body)))
                continue
            if is_trial(body):
                if not answers:
                    break
                answers -= 1
                items = decode_trial(body).interest
                writer.write(
                    encode_trial_result(TrialResult(b"", b"", 0.0, "exact", items, 0, 0, 0))
                )
                continue
            queries = decode_question(body)
            self.asked.append([query.user_id for query in queries])
            if not answers:
                break
            answers -= 1
            found = [EncodedCandidates(q.user_id.encode(), np.zeros(0), 0, False) for q in queries]
            failed = queries[0].user_id == "bad"
            writer.write(encode_failure() if failed else encode_result(BatchResult(found, {}, 1)))
        writer.close()
