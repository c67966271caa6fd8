"""The load generator counts answers truly, and the benchmark compares answers before speed."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from loadtest.serving import generator
from loadtest.serving.generator import closed_loop, open_loop, post
from loadtest.serving.same_answers import differ

GOOD = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
REQUEST = post("/recall", b"{}")


@contextmanager
def serving(*delays: float | None) -> Iterator[int]:
    """A server that answers each connection's n-th request after the n-th delay; None: never."""
    listening, port = threading.Event(), 0
    loop = asyncio.new_event_loop()
    ended = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            for delay in delays:
                if not await reader.read(len(REQUEST)):
                    break
                await asyncio.sleep(3600 if delay is None else delay)
                writer.write(GOOD)
                await writer.drain()
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def serve() -> None:
        nonlocal port
        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        listening.set()
        await ended.wait()
        server.close()

    def run() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(serve())

    thread = threading.Thread(target=run)
    thread.start()
    assert listening.wait(10)
    yield port
    loop.call_soon_threadsafe(ended.set)
    thread.join()


def test_answers_after_the_end_are_no_part_of_the_rate() -> None:
    with serving(0, 1.5) as port:
        load = closed_loop(port, [REQUEST], connections=8, seconds=1)
    assert load.rate == 8
    assert load.late == 8
    assert len(load.latencies) == 16
    assert load.percentile_ms(100) >= 1500
    assert load.failed == 0


def test_answers_that_never_come_have_failed() -> None:
    with serving(0, None) as port:
        load = closed_loop(port, [REQUEST], connections=3, seconds=0.5, patience_s=0.1)
    assert len(load.latencies) == 3
    assert load.failed == 3


def test_a_broken_connection_is_a_failure() -> None:
    with serving(0) as port:
        load = closed_loop(port, [REQUEST], connections=3, seconds=5)
    assert len(load.latencies) == 3
    assert load.failed == 3


def test_a_latency_counts_from_when_the_request_was_due() -> None:
    with serving(0.3, 0, 0, 0) as port:
        load = open_loop(port, [REQUEST], rate=20, seconds=0.2, connections=1)
    assert len(load.latencies) == 4
    # The last one was due 0.15 s after the first, whose answer took 0.3 s.
    assert min(load.latencies) >= 0.14
    assert load.failed == 0


def test_an_open_loop_connects_again_where_a_connection_is_idle_or_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(generator, "IDLE_S", 0.02)
    with serving(0, None) as port:  # a second request on a connection would fail
        load = open_loop(port, [REQUEST], rate=20, seconds=0.5, connections=1)
    assert (len(load.latencies), load.failed) == (10, 0)
    monkeypatch.setattr(generator, "IDLE_S", 60)
    with serving(0) as port:
        load = open_loop(port, [REQUEST], rate=20, seconds=0.5, connections=1)
    assert (len(load.latencies), load.failed) == (10, 0)


def test_an_open_loop_reads_answers_and_ends_when_it_is_over() -> None:
    read: list[tuple[bytes, bytes]] = []
    with serving(*[0] * 10) as port:
        load = open_loop(
            port,
            [REQUEST],
            rate=100,
            seconds=3600,
            read=lambda *pair: read.append(pair),
            is_over=lambda: len(read) >= 3,
        )
    assert len(load.latencies) == len(read) >= 3
    assert set(read) == {(REQUEST, b"{}")}
    assert load.failed == 0
    assert load.seconds < 3600


Item = dict[str, Any]


def item(name: str, score: float, interest: int = 0) -> Item:
    return {"item_id": name, "score": score, "interest": interest}


ANSWER = [item("a", 5.0), item("b", 4.0), item("c", 3.0), item("d", 9.0, interest=1)]


@pytest.mark.parametrize(
    "other",
    [
        ANSWER,
        [item("a", 5.00001), *ANSWER[1:]],
        [*ANSWER[:2], item("x", 3.00001), ANSWER[3]],  # tied for the last place
    ],
)
def test_answers_are_the_same_up_to_ties(other: list[Item]) -> None:
    assert differ(ANSWER, other) is None


def test_tied_items_may_change_places() -> None:
    tied = [item("a", 5.0), item("b", 5.0), item("c", 3.0)]
    assert differ(tied, [tied[1], tied[0], tied[2]]) is None


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (ANSWER[:3], "differ in number"),
        ([*ANSWER[:3], item("d", 9.0, interest=0)], "differ in number"),
        ([item("a", 5.1), *ANSWER[1:]], "place 0"),
        ([ANSWER[1], ANSWER[0], *ANSWER[2:]], "place 0"),
        ([item("x", 5.0), *ANSWER[1:]], "item a"),  # right scores, wrong items
    ],
)
def test_differences_are_found(other: list[Item], difference: str) -> None:
    assert difference in str(differ(ANSWER, other))
