import asyncio
import json
import random
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from in_process_worker import Answers, InProcessWorker

from service.batcher import STORE_PAUSE, Batcher
from service.errors import DeadlinePassed, NotReady, QueueFull, ServiceError
from service.history.events import HistoryEvent
from service.history.store import HistoryStore, StoreUnavailable
from service.observability.metrics import Metrics
from service.recall.recaller import Recaller
from service.recall.types import BatchResult, EncodedCandidates, Query, StageSeconds
from service.settings import ServeSettings
from service.waiting import Answer, Waiting

pytestmark = pytest.mark.anyio


class Computing:
    """Stands in for the Recaller if a test must hold it up, or make it fail."""

    def __init__(self, refuse: Callable[[Query], bool] = lambda query: False) -> None:
        self.batches: list[list[str]] = []
        self.threads: set[str] = set()
        self.go = threading.Event()
        self.go.set()
        self._refuse = refuse

    def recall_json(self, queries: Sequence[Query]) -> tuple[list[EncodedCandidates], StageSeconds]:
        self.batches.append([query.user_id for query in queries])
        self.threads.add(threading.current_thread().name)
        assert self.go.wait(10)
        if any(map(self._refuse, queries)):
            raise RuntimeError("poison")
        answers = [
            EncodedCandidates(
                b"[]",
                np.array([ord(item[-1:]) for item in q.history], np.int64),
                unknown_items=0,
                cold=not q.history,
            )
            for q in queries
        ]
        return answers, {"model": 0.001, "search": 0.001, "merge": 0.001}


class Store:
    """Stands in for the HistoryStore: counts its reads, and fails when told to."""

    def __init__(self) -> None:
        self.reads: list[list[str]] = []
        self.failing: Exception | None = None

    async def read(self, users: Sequence[str]) -> list[list[bytes]]:
        self.reads.append(list(users))
        await self.ping()
        return [[f"item of {user}".encode()] for user in users]

    async def ping(self) -> None:
        if self.failing:
            raise self.failing


@asynccontextmanager
async def batcher(
    recaller: Answers, store: object, max_batch: int = 16, **settings: int
) -> AsyncIterator[tuple[Batcher, Metrics]]:
    metrics = Metrics()
    chosen = ServeSettings(artifacts=Path("."), store="", **settings)
    worker = InProcessWorker(recaller, max_batch)
    running = Batcher(worker, store, metrics, chosen)  # type: ignore[arg-type]
    running.start()
    yield running, metrics
    await running.drain()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


async def stored(running: Batcher, user: str, k: int = 100) -> Answer:
    """Recalls for a user whose history is in the store."""
    return await running.recall(Query(user, (), k=k), read_history=True)


def users(count: int) -> list[str]:
    return [f"u{i}" for i in range(count)]


async def test_what_waits_becomes_one_batch_with_one_read() -> None:
    worker, store = Computing(), Store()
    async with batcher(worker, store) as (running, metrics):
        worker.go.clear()
        calls = [asyncio.create_task(stored(running, u)) for u in users(1)]
        await until(lambda: worker.batches)
        calls += [asyncio.create_task(stored(running, u)) for u in users(9)[1:]]
        await until(lambda: running.queue_length() == 8)
        worker.go.set()
        answers = await asyncio.gather(*calls)
    assert [a.found.rows.tolist() for a in answers] == [[ord(f"{i}")] for i in range(9)]
    assert worker.batches == [["u0"], [f"u{i}" for i in range(1, 9)]]
    assert store.reads == worker.batches
    assert len(worker.threads) == 1
    assert threading.current_thread().name not in worker.threads
    assert metrics.registry.get_sample_value("recgpt_batch_size_sum") == 9
    assert set(answers[0].seconds) == {"queue", "store", "model", "search", "merge"}


async def test_a_stored_history_goes_before_the_items_of_the_query() -> None:
    worker = Computing()
    async with batcher(worker, Store()) as (running, _):
        answer = await running.recall(Query("u0", ["x", "y"]), read_history=True)
    assert answer.found.rows.tolist() == [ord(last) for last in "0xy"]


async def test_batches_are_bounded() -> None:
    worker, store = Computing(), Store()
    async with batcher(worker, store, max_batch=4) as (running, _):
        await asyncio.gather(*(stored(running, u) for u in users(10)))
    assert [len(batch) for batch in worker.batches] == [4, 4, 2]


class Far:
    """Stands in for a worker in another process, which makes its batches itself."""

    def __init__(self, ahead: int, max_batch: int = 16) -> None:
        self.ahead = ahead
        self.max_batch = max_batch
        self.actions: Sequence[bytes] = ()
        self.asked: list[list[str]] = []
        self.go = asyncio.Event()
        self.stages = dict[str, float]()

    async def recall(self, queries: Sequence[Query]) -> BatchResult:
        self.asked.append([query.user_id for query in queries])
        await self.go.wait()
        found = [EncodedCandidates(b"[]", np.zeros(0, np.int64), 0, False) for _ in queries]
        return BatchResult(found, self.stages, 7)

    async def close(self) -> None:
        self.go.set()


async def test_a_worker_that_collects_is_told_while_it_computes_but_not_of_everything() -> None:
    far, metrics = Far(ahead=3, max_batch=2), Metrics()
    settings = ServeSettings(artifacts=Path("."), store="")
    running = Batcher(far, Store(), metrics, settings)  # type: ignore[arg-type]
    running.start()
    calls = [asyncio.create_task(stored(running, user)) for user in users(8)]
    await until(lambda: len(far.asked) == 2 and running.queue_length() == 4)
    await asyncio.sleep(0.02)
    assert far.asked == [["u0", "u1"], ["u2", "u3"]]  # four of them: more than three
    far.stages = {"model": 0.005}
    far.go.set()
    answers = await asyncio.gather(*calls)
    assert [batch[0] for batch in far.asked] == ["u0", "u2", "u4", "u6"]
    assert all(answer.seconds["queue"] >= 0.02 - 0.005 for answer in answers)
    assert metrics.registry.get_sample_value("recgpt_batch_size_sum") == 4 * 7
    await running.drain()


async def test_a_bug_behind_an_answer_is_seen(caplog: pytest.LogCaptureFixture) -> None:
    far = Far(ahead=3)
    far.stages = {"unheard-of": 1.0}
    far.go.set()
    settings = ServeSettings(artifacts=Path("."), store="", deadline_ms=50)
    running = Batcher(far, Store(), Metrics(), settings)  # type: ignore[arg-type]
    running.start()
    assert running.alive()
    with pytest.raises(DeadlinePassed):
        await stored(running, "ann")
    assert not running.alive()
    assert "KeyError: 'unheard-of'" in caplog.text
    await running.drain()


async def test_a_history_in_the_request_needs_no_store() -> None:
    store = Store()
    async with batcher(Computing(), store) as (running, _):
        given = Query("ann", ["a", "b"])
        empty = Query("bob", [])
        answers = [await running.recall(given), await running.recall(empty)]
    assert store.reads == []
    assert [a.found.rows.tolist() for a in answers] == [[ord("a"), ord("b")], []]
    assert [a.degraded_reason for a in answers] == [None, "no_history"]


@pytest.mark.parametrize("failure", [StoreUnavailable("gone"), TypeError("a bug")])
async def test_a_store_that_fails_degrades_only_those_who_need_it(failure: Exception) -> None:
    store = Store()
    store.failing = failure
    async with batcher(Computing(), store) as (running, metrics):
        needs, given = await asyncio.gather(
            stored(running, "ann"),
            running.recall(Query("bob", ["b"])),
        )
        assert needs.degraded_reason == "store_unavailable"
        assert given.degraded_reason is None
        again = await stored(running, "ann")
        assert again.degraded_reason == "store_unavailable"
        await asyncio.sleep(2 * STORE_PAUSE)
        await stored(running, "ann")
        assert len(store.reads) == 1  # no recall waits for a store that is known to fail
        assert running.alive()
        store.failing = None
        async with asyncio.timeout(10):
            while running.skips_store():
                await asyncio.sleep(0.01)
        assert not (await stored(running, "ann")).degraded_reason
    labels = {"reason": "store_unavailable"}
    assert (metrics.registry.get_sample_value("recgpt_fallbacks_total", labels) or 0) >= 3


async def test_one_bad_query_does_not_fail_its_neighbours() -> None:
    worker = Computing(refuse=lambda query: query.user_id == "u3")
    async with batcher(worker, Store()) as (running, _):
        outcomes = await asyncio.gather(
            *(stored(running, u) for u in users(6)), return_exceptions=True
        )
        assert running.alive()
    failed = [i for i, outcome in enumerate(outcomes) if isinstance(outcome, Exception)]
    assert failed == [3]
    assert type(outcomes[3]) is ServiceError


async def test_one_history_that_cannot_be_taken_harms_no_other(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    take = Waiting.set_history

    def fail(waiting: Waiting, *args: object) -> None:
        if waiting.query.user_id == "bad":
            raise RuntimeError("poison")
        take(waiting, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Waiting, "set_history", fail)
    async with batcher(Computing(), Store()) as (running, _):
        recalls = [stored(running, user) for user in ("ann", "bad", "bob")]
        answers = await asyncio.gather(*recalls, return_exceptions=True)
        assert [type(answer) for answer in answers] == [Answer, ServiceError, Answer]
        assert running.alive()
    assert "poison" in caplog.text


async def test_a_bug_that_ends_a_task_is_told(caplog: pytest.LogCaptureFixture) -> None:
    class Short(Store):
        async def read(self, users: Sequence[str]) -> list[list[bytes]]:
            return []

    failures: list[BaseException] = []
    async with batcher(Computing(), Short(), deadline_ms=50) as (running, _):
        running.on_failure = failures.append
        with pytest.raises(DeadlinePassed):
            await stored(running, "ann")
        assert not running.alive()
    assert [type(failure) for failure in failures] == [ValueError]
    assert "answered no more" in caplog.text


async def test_more_than_the_queue_holds_is_refused() -> None:
    worker = Computing()
    async with batcher(worker, Store(), queue_limit=2, max_batch=1) as (running, _):
        worker.go.clear()
        calls = [asyncio.create_task(stored(running, u)) for u in users(1)]
        await until(lambda: worker.batches and not running.queue_length())
        calls += [asyncio.create_task(stored(running, u)) for u in users(2)]
        await until(lambda: running.queue_length() == 2)
        with pytest.raises(QueueFull):
            await stored(running, "late")
        worker.go.set()
        assert len(await asyncio.gather(*calls)) == 3


async def test_who_gave_up_makes_room_in_the_queue() -> None:
    worker = Computing()
    async with batcher(worker, Store(), queue_limit=2, max_batch=1) as (running, _):
        worker.go.clear()
        calls = [asyncio.create_task(stored(running, u)) for u in users(1)]
        await until(lambda: worker.batches and not running.queue_length())
        left = [asyncio.create_task(stored(running, u)) for u in users(2)]
        await until(lambda: running.queue_length() == 2)
        for call in left:
            call.cancel()
        await until(lambda: running.queue_length() == 0)
        calls.append(asyncio.create_task(stored(running, "late")))
        await until(lambda: running.queue_length() == 1)
        worker.go.set()
        assert len(await asyncio.gather(*calls)) == 2
    assert worker.batches == [["u0"], ["late"]]


async def test_who_waits_too_long_is_told_and_not_computed() -> None:
    worker = Computing()
    async with batcher(worker, Store(), deadline_ms=50, max_batch=1) as (running, _):
        worker.go.clear()
        outcomes = await asyncio.gather(
            *(stored(running, u) for u in users(4)), return_exceptions=True
        )
        assert all(isinstance(outcome, DeadlinePassed) for outcome in outcomes)
        worker.go.set()
    assert worker.batches == [["u0"]]


@pytest.mark.parametrize(("patience", "seconds"), [(None, 600), (300.0, 300)])
async def test_a_recall_expires_at_its_deadline(
    patience: float | None, seconds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the clock of the loop, which goes forward when the test says so."""
    loop, offsets = asyncio.get_running_loop(), [0.0]
    now = loop.time
    monkeypatch.setattr(loop, "time", lambda: now() + offsets[-1])
    far, settings = Far(ahead=3), ServeSettings(artifacts=Path("."), store="", deadline_ms=600_000)
    running = Batcher(far, Store(), Metrics(), settings)  # type: ignore[arg-type]
    running.start()
    recall = asyncio.create_task(running.recall(Query("ann", []), patience=patience))
    await until(lambda: far.asked)
    for share, expired in ((0.8, False), (1.2, True)):
        offsets.append(share * seconds)
        for _ in range(9):
            await asyncio.sleep(0)  # a turn of the loop
        assert recall.done() == expired
    assert isinstance(recall.exception(), DeadlinePassed)
    await running.drain()


async def test_a_recall_may_bring_its_own_deadline() -> None:
    worker = Computing()
    async with batcher(worker, Store(), max_batch=1) as (running, _):
        worker.go.clear()
        calls = [asyncio.create_task(stored(running, "u0"))]
        await until(lambda: worker.batches)
        with pytest.raises(DeadlinePassed, match="within 20 ms"):
            await running.recall(Query("hasty", []), patience=0.02)
        assert not running.queue_length()
        worker.go.set()
        await asyncio.gather(*calls)
    assert worker.batches == [["u0"]]


async def test_no_recall_is_counted_after_its_end() -> None:
    """Whether it is answered, fails, expires, or its caller gives up."""
    chance = random.Random(0)
    worker = Computing(refuse=lambda query: query.user_id.endswith("7"))
    async with batcher(worker, Store(), max_batch=4) as (running, _):
        for _ in range(10):
            recalls = [
                asyncio.create_task(
                    running.recall(
                        Query(user, []),
                        read_history=chance.random() < 0.5,
                        patience=chance.choice((0.001, 10.0)),
                        client=chance.choice(("", "one", "two")),
                    )
                )
                for user in users(20)
            ]
            await asyncio.sleep(0.001 * chance.random())
            for recall in chance.sample(recalls, 5):
                recall.cancel()
            outcomes = await asyncio.gather(*recalls, return_exceptions=True)
            errors = (ServiceError, asyncio.CancelledError)
            assert all(isinstance(outcome, (Answer, *errors)) for outcome in outcomes)
        await until(lambda: not running._outstanding)
        assert running._admission.under_way == 0
        assert not running._admission._by_client
        assert not running._unanswered
        assert running.queue_length() == 0
        assert running.alive()


async def test_several_recalls_are_accepted_or_refused_together() -> None:
    worker = Computing()
    async with batcher(worker, Store(), queue_limit=2, max_batch=1) as (running, _):
        worker.go.clear()
        some = [(Query(user, []), True) for user in users(9)]
        call = asyncio.create_task(running.recall_all(some))
        await until(lambda: running.queue_length() > 2)
        with pytest.raises(QueueFull):
            await running.recall_all(some[:1])
        worker.go.set()
        assert len(await call) == 9


async def test_what_arrives_faster_than_it_is_answered_is_refused() -> None:
    """By the predicted wait, and without a limit to the length of the queue."""
    worker = Far(ahead=0, max_batch=1)
    settings = ServeSettings(artifacts=Path("."), store="", queue_limit=1_000_000)
    running = Batcher(worker, Store(), Metrics(), settings)  # type: ignore[arg-type]
    running.start()
    assert running.has_room(arriving=100_000)
    first = asyncio.create_task(stored(running, "u0"))
    await until(lambda: worker.asked)
    await asyncio.sleep(
        0.01
    )  # so long takes a recall at least: 25 of them a quarter of the deadline
    worker.go.set()
    await first
    assert not running.has_room(arriving=25)
    assert running.has_room()
    await running.drain()


CALLS = st.tuples(
    st.sampled_from(["stored", "given", "poison", "leaves", "hurried"]), st.integers(0, 3)
)


@settings(max_examples=30, deadline=None)
@given(st.lists(CALLS, max_size=30), st.integers(1, 4), st.sets(st.integers(0, 30)))
def test_whatever_happens_each_recall_ends_and_nothing_is_left(
    calls: list[tuple[str, int]], max_batch: int, failing: set[int]
) -> None:
    """Recalls come with pauses, some leave, some are bad, and the store fails at times."""

    async def happens() -> None:
        store = Store()
        worker = Computing(lambda query: query.user_id == "poison")
        async with batcher(worker, store, max_batch, deadline_ms=60_000) as (running, _):
            tasks = []
            for number, (kind, turns) in enumerate(calls):
                store.failing = StoreUnavailable("down") if number in failing else None
                query = Query(kind if kind == "poison" else f"u{number}", (), k=1)
                patience = 1e-9 if kind == "hurried" else None
                recall = running.recall(query, kind in ("stored", "leaves"), patience)
                tasks.append(asyncio.create_task(recall))
                for _ in range(turns):
                    await asyncio.sleep(0)
                if kind == "leaves":
                    tasks[-1].cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            for number, ((kind, _), answer) in enumerate(zip(calls, ended, strict=True)):
                expected = {
                    "poison": ServiceError,
                    "leaves": asyncio.CancelledError | Answer,
                    "hurried": DeadlinePassed | Answer,
                }.get(kind, Answer)
                assert isinstance(answer, expected | QueueFull), (kind, answer)
                if isinstance(answer, Answer) and answer.degraded_reason is None:
                    assert answer.found.rows.tolist() == [ord(f"{number}"[-1])]
            assert (running.queue_length(), running._admission.under_way) == (0, 0)
            assert not running._unanswered
            assert running.alive()

    asyncio.run(happens())


async def test_drain_answers_what_was_accepted() -> None:
    worker = Computing()
    async with batcher(worker, Store(), max_batch=2) as (running, _):
        worker.go.clear()
        calls = [asyncio.create_task(stored(running, u)) for u in users(7)]
        await until(lambda: worker.batches)
        draining = asyncio.create_task(running.drain())
        await until(lambda: running.draining)
        with pytest.raises(NotReady):
            await stored(running, "late")
        worker.go.set()
        await draining
        assert len([await call for call in calls]) == 7
        assert not running.alive()


async def test_a_real_recaller_behind_a_real_store(artifacts: Path, tmp_path: Path) -> None:
    recaller = Recaller.load(artifacts, "cpu")
    recaller.warm_up()
    store = HistoryStore.open(f"embedded:{tmp_path / 'histories'}")
    known, other = recaller.item_ids[:2], recaller.item_ids[2]
    events = (("u1", known[0]), ("u1", known[1]), ("u2", "unheard-of"))
    await store.append([HistoryEvent(user, item) for user, item in events])
    async with batcher(recaller, store) as (running, metrics):
        warm, unknown, new = await asyncio.gather(
            *(stored(running, u, k=40) for u in ("u1", "u2", "u3"))
        )
        await store.append([HistoryEvent("u1", other)])
        after = await stored(running, "u1", k=40)
    before, then = ({one["item_id"] for one in json.loads(a.found.json)} for a in (warm, after))
    assert before == set(recaller.item_ids) - set(known)
    assert then == before - {other}
    assert [a.degraded_reason for a in (warm, unknown, new)] == [
        None,
        "unknown_items",
        "no_history",
    ]
    assert metrics.registry.get_sample_value("recgpt_unknown_items_total") == 1
    await store.close()
