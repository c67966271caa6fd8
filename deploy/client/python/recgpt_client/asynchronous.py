"""The client for asyncio."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, Unpack

import httpx

from recgpt_client import requests
from recgpt_client.answers import Accepted, Item, Ready, Recall, StoredEvent
from recgpt_client.errors import DeadlineExceeded, RecGPTError
from recgpt_client.event_queue import Event
from recgpt_client.policy import Attempts, Policy, answer_of, transport_error
from recgpt_client.requests import Answer, RecallFields, Request


class AsyncClient:
    """Asks the service from one event loop.

    Every operation raises ServiceError, ServiceUnavailable or DeadlineExceeded.
    """

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        policy: Policy | None = None,
        http: httpx.AsyncClient | None = None,
    ) -> None:
        """Takes the address of the service, and one of its keys if it has any.

        `http` brings a client of httpx with settings of its own, such as a proxy or certificates.
        """
        self._policy = policy or Policy()
        self._http = http or httpx.AsyncClient()
        self._url = url.rstrip("/")
        self._key = {"authorization": f"Bearer {api_key}"} if api_key else {}

    async def recall(
        self, *, timeout: float | None = None, **fields: Unpack[RecallFields]
    ) -> Recall:
        """Returns candidates."""
        return await self.send(requests.recall(fields), timeout)

    async def recall_batch(
        self, several: Sequence[RecallFields], *, timeout: float | None = None
    ) -> list[Recall]:
        """Returns candidates for several users, up to 256, in order."""
        return await self.send(requests.recall_batch(several), timeout)

    async def pages(
        self, *, timeout: float | None = None, **fields: Unpack[RecallFields]
    ) -> AsyncIterator[Recall]:
        """Yields the pages of a recall with `page_size`, asking for each when it is needed."""
        page = await self.recall(timeout=timeout, **fields)
        yield page
        with_metadata = fields.get("with_metadata", False)
        while page.cursor is not None:
            following = RecallFields(cursor=page.cursor, with_metadata=with_metadata)
            page = await self.send(requests.recall(following), timeout)
            yield page

    async def send_events(self, sent: Sequence[Event], *, timeout: float | None = None) -> Accepted:
        """Stores events, up to 1,000; those that were not stored are in `errors`."""
        return await self.send(requests.events(sent), timeout)

    async def history(self, user_id: str, *, timeout: float | None = None) -> list[StoredEvent]:
        """Returns what the store has of a user, oldest event first."""
        return await self.send(requests.history(user_id), timeout)

    async def delete_user(self, user_id: str, *, timeout: float | None = None) -> bool:
        """Deletes what the store has of a user; returns whether there was anything."""
        return await self.send(requests.delete_user(user_id), timeout)

    async def item(self, item_id: str, *, timeout: float | None = None) -> Item:
        """Returns an item as it is now."""
        return await self.send(requests.item(item_id), timeout)

    async def change_item(
        self, item_id: str, attributes: Mapping[str, Any], *, timeout: float | None = None
    ) -> Item:
        """Changes attributes of an item; None brings the bundle's value back."""
        return await self.send(requests.change_item(item_id, attributes), timeout)

    async def hide(self, item_id: str, *, timeout: float | None = None) -> Item:
        """Hides an item: a second later no answer has it."""
        return await self.send(requests.set_hidden(item_id, True), timeout)

    async def show(self, item_id: str, *, timeout: float | None = None) -> Item:
        """Shows a hidden item again."""
        return await self.send(requests.set_hidden(item_id, False), timeout)

    async def ready(self, *, timeout: float | None = None) -> Ready:
        """Returns what is served; raises ServiceError with the status 503 if recalls are not."""
        return await self.send(requests.ready(), timeout)

    async def send(self, request: Request[Answer], timeout: float | None = None) -> Answer:
        """Returns the answer to a request, which is sent again as the policy says."""
        attempts = Attempts(request, self._policy, timeout)
        while True:
            try:
                return await self._try(request, attempts)
            except RecGPTError as error:
                pause = attempts.pause_after(error)
            await asyncio.sleep(pause)

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def _try(self, request: Request[Answer], attempts: Attempts) -> Answer:
        after = self._policy.hedge_after
        if after is None or not request.can_hedge:
            return await self._once(request, attempts)
        copies = {asyncio.create_task(self._once(request, attempts))}
        try:
            done, _ = await asyncio.wait(copies, timeout=min(after, attempts.remaining()))
            if done:
                return done.pop().result()
            copies.add(asyncio.create_task(self._once(request, attempts)))
            return await _first_answer(copies)
        finally:
            for copy in copies:
                copy.cancel()
            await asyncio.gather(*copies, return_exceptions=True)

    async def _once(self, request: Request[Answer], attempts: Attempts) -> Answer:
        remaining = attempts.remaining()
        try:
            async with asyncio.timeout(remaining):  # httpx bounds each read, not their sum
                response = await self._http.request(
                    request.method,
                    self._url + request.path,
                    content=request.content(),
                    headers=self._key | attempts.headers(),
                    timeout=remaining,
                )
        except TimeoutError as error:
            raise DeadlineExceeded(f"no answer within {remaining:g} s") from error
        except httpx.HTTPError as error:
            raise transport_error(error) from error
        return answer_of(request, response)


async def _first_answer(copies: set[asyncio.Task[Answer]]) -> Answer:
    """Returns the first answer; raises the last error if there is none."""
    waiting = copies
    while True:
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for copy in done:
            if not copy.exception() or not waiting:
                return copy.result()
