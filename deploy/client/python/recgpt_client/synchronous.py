"""The client for threads."""

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Any, Self, Unpack

import httpx

from recgpt_client import requests
from recgpt_client.answers import Accepted, Item, Ready, Recall, StoredEvent
from recgpt_client.errors import RecGPTError
from recgpt_client.event_queue import Event
from recgpt_client.policy import Attempts, Policy, answer_of, transport_error
from recgpt_client.requests import Answer, RecallFields, Request

MAX_HEDGED = 32
"""Threads for requests that may be sent twice."""


class Client:
    """Asks the service; may be used by several threads at once.

    Every operation raises ServiceError, ServiceUnavailable or DeadlineExceeded.
    """

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        policy: Policy | None = None,
        http: httpx.Client | None = None,
    ) -> None:
        """Takes the address of the service, and one of its keys if it has any.

        `http` brings a client of httpx with settings of its own, such as a proxy or certificates.
        """
        self._policy = policy or Policy()
        self._http = http or httpx.Client()
        self._url = url.rstrip("/")
        self._key = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._threads: ThreadPoolExecutor | None = None
        if self._policy.hedge_after is not None:
            self._threads = ThreadPoolExecutor(MAX_HEDGED, "recgpt-hedge")

    def recall(self, *, timeout: float | None = None, **fields: Unpack[RecallFields]) -> Recall:
        """Returns candidates."""
        return self.send(requests.recall(fields), timeout)

    def recall_batch(
        self, several: Sequence[RecallFields], *, timeout: float | None = None
    ) -> list[Recall]:
        """Returns candidates for several users, up to 256, in order."""
        return self.send(requests.recall_batch(several), timeout)

    def pages(
        self, *, timeout: float | None = None, **fields: Unpack[RecallFields]
    ) -> Iterator[Recall]:
        """Yields the pages of a recall with `page_size`, asking for each when it is needed."""
        page = self.recall(timeout=timeout, **fields)
        yield page
        with_metadata = fields.get("with_metadata", False)
        while page.cursor is not None:
            following = RecallFields(cursor=page.cursor, with_metadata=with_metadata)
            page = self.send(requests.recall(following), timeout)
            yield page

    def send_events(self, sent: Sequence[Event], *, timeout: float | None = None) -> Accepted:
        """Stores events, up to 1,000; those that were not stored are in `errors`."""
        return self.send(requests.events(sent), timeout)

    def history(self, user_id: str, *, timeout: float | None = None) -> list[StoredEvent]:
        """Returns what the store has of a user, oldest event first."""
        return self.send(requests.history(user_id), timeout)

    def delete_user(self, user_id: str, *, timeout: float | None = None) -> bool:
        """Deletes what the store has of a user; returns whether there was anything."""
        return self.send(requests.delete_user(user_id), timeout)

    def item(self, item_id: str, *, timeout: float | None = None) -> Item:
        """Returns an item as it is now."""
        return self.send(requests.item(item_id), timeout)

    def change_item(
        self, item_id: str, attributes: Mapping[str, Any], *, timeout: float | None = None
    ) -> Item:
        """Changes attributes of an item; None brings the bundle's value back."""
        return self.send(requests.change_item(item_id, attributes), timeout)

    def hide(self, item_id: str, *, timeout: float | None = None) -> Item:
        """Hides an item: a second later no answer has it."""
        return self.send(requests.set_hidden(item_id, True), timeout)

    def show(self, item_id: str, *, timeout: float | None = None) -> Item:
        """Shows a hidden item again."""
        return self.send(requests.set_hidden(item_id, False), timeout)

    def ready(self, *, timeout: float | None = None) -> Ready:
        """Returns what is served; raises ServiceError with the status 503 if recalls are not."""
        return self.send(requests.ready(), timeout)

    def send(self, request: Request[Answer], timeout: float | None = None) -> Answer:
        """Returns the answer to a request, which is sent again as the policy says."""
        attempts = Attempts(request, self._policy, timeout)
        while True:
            try:
                return self._try(request, attempts)
            except RecGPTError as error:
                pause = attempts.pause_after(error)
            time.sleep(pause)

    def close(self) -> None:
        """Closes the connections."""
        if self._threads:
            self._threads.shutdown(wait=False, cancel_futures=True)
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _try(self, request: Request[Answer], attempts: Attempts) -> Answer:
        after = self._policy.hedge_after
        if self._threads is None or after is None or not request.can_hedge:
            return self._once(request, attempts)
        first = self._threads.submit(self._once, request, attempts)
        wait([first], timeout=min(after, attempts.remaining()))
        if first.done():
            return first.result()
        second = self._threads.submit(self._once, request, attempts)
        return _first_answer([first, second])

    def _once(self, request: Request[Answer], attempts: Attempts) -> Answer:
        try:
            response = self._http.request(
                request.method,
                self._url + request.path,
                content=request.content(),
                headers=self._key | attempts.headers(),
                timeout=attempts.remaining(),
            )
        except httpx.HTTPError as error:
            raise transport_error(error) from error
        return answer_of(request, response)


def _first_answer(copies: list[Future[Answer]]) -> Answer:
    """Returns the first answer; raises the last error if there is none."""
    waiting = set(copies)
    while True:
        done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
        for copy in done:
            if not copy.exception() or not waiting:
                return copy.result()
