"""Events in the background: batches, the bound, and what happens to events that fail."""

import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from recgpt_client import AsyncClient, AsyncEventSender, Client, Event, EventSender, Policy
from recgpt_client import event_sender as module
from recgpt_client.event_queue import EventQueue

pytestmark = pytest.mark.anyio

NEVER = 1000.0  # seconds


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE", 0.001)


class Store:
    """A stand-in for the service that takes batches, and answers as it was told."""

    def __init__(self, *refusals: tuple[int, dict[str, Any]]) -> None:
        self._refusals: Iterator[tuple[int, dict[str, Any]]] = iter(refusals)
        self.batches: list[list[str]] = []
        self.times: set[float] = set()

    def __call__(self, request: httpx.Request) -> httpx.Response:
        events = json.loads(request.read())["events"]
        self.batches.append([event["item_id"] for event in events])
        self.times |= {event["timestamp"] for event in events}
        status, body = next(self._refusals, (200, {}))
        taken = {"accepted": len(events), "stored": len(events)}
        return httpx.Response(status, json=body | taken if status < 300 else body)


def client_of(store: Store) -> Client:
    http = httpx.Client(transport=httpx.MockTransport(store))
    return Client("http://test", policy=Policy(attempts=1), http=http)


def problem(*where: str) -> dict[str, Any]:
    errors = [{"where": place, "problem": "wrong"} for place in where]
    return {"detail": "wrong", "request_id": "r", "errors": errors}


def sent_by_thread(store: Store, items: str, **options: Any) -> EventSender:
    """Sends an event for each letter, and returns the sender, which has ended."""
    with client_of(store) as client:
        events = EventSender(client, interval=NEVER, **options)
        for item in items:
            assert events.add(Event("u", item))
        assert events.close()
    return events


async def sent_by_task(store: Store, items: str, **options: Any) -> AsyncEventSender:
    http = httpx.AsyncClient(transport=httpx.MockTransport(store))
    async with AsyncClient("http://test", policy=Policy(attempts=1), http=http) as client:
        async with AsyncEventSender(client, interval=NEVER, **options) as events:
            for item in items:
                assert events.add(Event("u", item))
            assert await events.flush()
        assert not events.add(Event("u", "late"))
    return events


async def sent(store: Store, items: str, way: str) -> EventSender | AsyncEventSender:
    return await sent_by_task(store, items) if way == "task" else sent_by_thread(store, items)


ways = pytest.mark.parametrize("way", ["thread", "task"])


@ways
async def test_events_go_out_together_and_in_order(way: str) -> None:
    store = Store()
    sender = await sent(store, "abcde", way)
    assert "".join(item for batch in store.batches for item in batch) == "abcde"
    assert len(store.times) == 5
    assert (sender.dropped, sender.failed) == (0, 0)


@ways
async def test_a_service_that_is_away_loses_nothing(way: str) -> None:
    store = Store((503, problem()), (429, problem()))
    sender = await sent(store, "ab", way)
    assert store.batches[-1][-1] == "b"
    assert {"a", "b"} <= {item for batch in store.batches[2:] for item in batch}
    assert sender.failed == 0


@ways
async def test_a_wrong_event_does_not_keep_the_others_back(
    way: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store((422, problem("events.0.item_id")))
    sender = await sent(store, "a", way)
    assert sender.failed == 1
    assert "1 events were not stored: events.0.item_id: wrong" in caplog.text


def test_a_full_batch_goes_out_without_waiting() -> None:
    store, arrived = Store(), threading.Event()

    def arrive(request: httpx.Request) -> httpx.Response:
        arrived.set()
        return store(request)

    http = httpx.Client(transport=httpx.MockTransport(arrive))
    with Client("http://test", http=http) as client:
        events = EventSender(client, max_batch=2, interval=NEVER)
        events.add(Event("u", "a"))
        events.add(Event("u", "b"))
        assert arrived.wait(30)
        assert events.close()
    assert store.batches == [["a", "b"]]


def test_a_closed_sender_takes_nothing() -> None:
    sender = sent_by_thread(Store(), "a")
    assert not sender.add(Event("u", "b"))


def test_flush_says_so_if_it_takes_too_long() -> None:
    with client_of(Store(*[(503, problem())] * 1000)) as client:
        events = EventSender(client, interval=NEVER)
        events.add(Event("u", "a"))
        assert not events.flush(timeout=0.01)
        events.close(timeout=0.01)


def queue_of(items: str, max_waiting: int = 8, max_batch: int = 4) -> EventQueue:
    queue = EventQueue(max_waiting, max_batch)
    for item in items:
        queue.put(Event("u", item, timestamp=1.0))
    return queue


def ids(queue: EventQueue) -> str:
    found = ""
    while len(queue):
        found += "".join(event.item_id for event in queue.take())
    return found


def test_the_queue_is_bounded_and_counts_what_found_no_room() -> None:
    queue = queue_of("abcdefghij")
    assert queue.dropped == 2
    assert ids(queue) == "abcdefgh"


def answered(queue: EventQueue, status: int, *where: str) -> bool:
    """Takes a batch, and settles it with the answer that a service would give."""
    batch = queue.take()
    stored = len(batch) - len(where)
    body = problem(*where) | {"accepted": stored, "stored": stored}
    response = httpx.Response(status, json=body)
    http = httpx.Client(transport=httpx.MockTransport(lambda _: response))
    with Client("http://test", policy=Policy(attempts=1), http=http) as client:
        outcome: Any
        try:
            outcome = client.send_events(batch)
        except Exception as error:
            outcome = error
    return queue.settle(batch, outcome)


def test_what_is_refused_beside_others_is_sent_once_more() -> None:
    queue = queue_of("abcdef")
    assert answered(queue, 207, "events.1", "events.3")
    assert queue.failed == 0
    assert answered(queue, 207, "events.0")  # b once more; d, e, f are stored
    assert queue.failed == 1
    assert ids(queue) == ""


def test_an_event_that_fails_for_good_is_taken_out_of_its_batch() -> None:
    queue = queue_of("abcdef")
    assert not answered(queue, 422, "events.1.item_id", "events.2.value")
    assert queue.failed == 2
    assert ids(queue) == "adef"


def test_a_batch_that_is_refused_without_reasons_is_not_sent_forever() -> None:
    queue = queue_of("abcdef")
    assert not answered(queue, 403)
    assert queue.failed == 4
    assert ids(queue) == "ef"


@pytest.mark.parametrize("bounds", [(10, 0), (10, 1001), (5, 10)])
def test_bounds_that_the_service_does_not_take_are_refused(bounds: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="max_"):
        EventQueue(*bounds)
