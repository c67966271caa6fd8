"""The loop of the engine, over real sockets and with a stand-in for the Recaller."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

from index.formats import Kind
from model.data.dataset import Dataset
from model.network.gpt import GPT
from service.observability.service_status import ServiceStatus
from service.offline import export_bundle
from service.processes import engine_process
from service.processes.child import EngineConfig
from service.processes.engine_process import (
    MAX_FAILED_PROBES,
    PROBE,
    EngineBroken,
    EngineLoop,
    load,
)
from service.processes.engine_starter import can_fork
from service.processes.messages import (
    FrameReader,
    Greeting,
    RecallFailed,
    decode_greeting,
    decode_result,
    decode_trial_result,
    encode_question,
    encode_trial,
    encode_updates,
)
from service.recall.live_items import ItemUpdate
from service.recall.recaller import Recaller
from service.recall.trials import Trial, TrialResult
from service.recall.types import BatchResult, EncodedCandidates, Query, StageSeconds
from service.settings import ServeSettings

GREETING = Greeting("/bundles/v1", "v1", 4, 4, "/bundles/v1", {}, [], [])


class Computing:
    """Answers with as many bytes as `k`; refuses users named `bad`."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.updates: list[tuple[list[str] | None, Mapping[str, object]]] = []
        self.trials: list[int] = []
        self.broken = False

    def try_index(self, trial: Trial) -> TrialResult:
        if trial.interest < 0:
            raise RuntimeError("poison")
        self.trials.append(trial.interest)
        return TrialResult(b"", b"", 0.0, "exact", trial.interest, 0, 0, 0)

    def update_items(
        self,
        hidden: list[str] | None,
        changes: Mapping[str, object],
        popular: list[str] | None = None,
    ) -> None:
        if changes == {"bad": {}}:
            raise RuntimeError("poison")
        self.updates.append((None if hidden is None else sorted(hidden), changes))

    def recall_json(self, queries: Sequence[Query]) -> tuple[list[EncodedCandidates], StageSeconds]:
        self.batches.append([query.user_id for query in queries])
        if self.broken or any(query.user_id == "bad" for query in queries):
            raise RuntimeError("poison")
        empty = np.zeros(0, np.int64)
        answers = [EncodedCandidates(b"x" * query.k, empty, 0, False) for query in queries]
        return answers, {"model": 0.5}


class Engine:
    """An engine's loop, turned by the test, and its front ends."""

    def __init__(self, folder: Path) -> None:
        self.recaller = Computing()
        self.status = ServiceStatus()
        self._path = str(folder / "engine")
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self._path)
        self._listener.listen()
        self._loop = EngineLoop(self.recaller, GREETING, self._listener, self.status)  # type: ignore[arg-type]
        self._open: list[socket.socket] = []

    def turn(self, times: int = 1) -> None:
        for _ in range(times):
            self._loop.turn(0)

    def connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(self._path)
        connection.settimeout(10)
        self._open.append(connection)
        self.turn()
        (body,) = FrameReader().feed(connection.recv(1 << 16))
        assert decode_greeting(body) == GREETING
        return connection

    def close(self) -> None:
        self._loop.close()
        for each in self._open:
            each.close()


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = Engine(tmp_path)
    yield engine
    engine.close()


def question(*users: str, k: int = 1) -> bytes:
    return encode_question([Query(user, [], k=k) for user in users])


def results(connection: socket.socket, count: int) -> list[BatchResult]:
    frames, bodies = FrameReader(), list[bytes]()
    while len(bodies) < count:
        bodies += frames.feed(connection.recv(1 << 20))
    return [decode_result(body) for body in bodies]


def test_all_that_waits_is_one_batch(engine: Engine) -> None:
    one, two = engine.connect(), engine.connect()
    one.sendall(question("a", "b"))
    two.sendall(question("c") + question("d"))
    engine.turn()
    assert sorted(engine.recaller.batches[0]) == ["a", "b", "c", "d"]
    answers = [*results(one, 1), *results(two, 2)]
    assert [len(answer.answers) for answer in answers] == [2, 1, 1]
    assert sorted(answer.batch_size for answer in answers) == [0, 0, 4]  # one of them reports it


def update(hidden: list[str] | None, **changes: dict[str, Any]) -> bytes:
    return encode_updates(ItemUpdate(hidden, changes))


def test_an_update_comes_before_the_batch_that_waits(engine: Engine) -> None:
    one = engine.connect()
    one.sendall(question("a") + update(["i1"], i2={"price": 3}))
    engine.turn()
    assert engine.recaller.updates == [(["i1"], {"i2": {"price": 3}})]
    assert engine.recaller.batches == [["a"]]


def test_an_item_is_hidden_as_long_as_any_front_end_says_so(engine: Engine) -> None:
    one, two = engine.connect(), engine.connect()
    steps = [
        (one, ["i1"], ["i1"]),
        (two, ["i1", "i2"], ["i1", "i2"]),
        (two, ["i1", "i2"], None),  # nothing new
        (one, [], None),  # the second still says so
        (two, ["i2"], ["i2"]),
    ]
    for connection, hidden, _ in steps:
        connection.sendall(update(hidden))
        engine.turn()
    assert [hidden for hidden, _ in engine.recaller.updates] == [told for _, _, told in steps]
    two.close()
    engine.turn()
    one.sendall(update(None, i3={"price": 3}))
    engine.turn()
    assert engine.recaller.updates[-1] == ([], {"i3": {"price": 3}})


def test_an_update_that_fails_harms_no_recall(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    one = engine.connect()
    one.sendall(update(["i1"], bad={}) + question("a"))
    engine.turn()
    assert "items were not changed" in caplog.text
    assert engine.recaller.batches == [["a"]]
    one.sendall(update(["i1"]))  # tried again
    engine.turn()
    assert engine.recaller.updates == [(["i1"], {})]


def test_data_that_do_not_come_end_no_connection(engine: Engine) -> None:
    one = engine.connect()
    (front_end,) = (key.data for key in engine._loop._selector.get_map().values() if key.data)
    engine._loop._read(front_end)  # nothing was sent
    one.sendall(question("a"))
    engine.turn()
    assert len(results(one, 1)) == 1


def trial_of(connection: socket.socket) -> TrialResult:
    (body,) = FrameReader().feed(connection.recv(1 << 16))
    return decode_trial_result(body)


def test_a_trial_of_the_index_comes_after_all_questions(engine: Engine) -> None:
    one, two = engine.connect(), engine.connect()
    two.sendall(encode_trial(Trial(1, 10, None)) + encode_trial(Trial(2, 10, None)))
    one.sendall(question("a", "b", "c") + question("d", "e"))
    engine.turn(2)
    assert engine.recaller.batches == [["a", "b", "c"], ["d", "e"]]
    assert not engine.recaller.trials
    engine.turn()
    assert engine.recaller.trials == [1]
    one.sendall(question("f"))
    engine.turn()
    assert (engine.recaller.batches[-1], engine.recaller.trials) == (["f"], [1])
    assert trial_of(two).items == 1
    engine.turn()
    assert trial_of(two).items == 2


def test_a_trial_that_fails_harms_nobody(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    one = engine.connect()
    one.sendall(encode_trial(Trial(-1, 10, None)))
    engine.turn()
    with pytest.raises(RecallFailed):
        trial_of(one)
    assert "a trial of the index failed" in caplog.text
    one.sendall(encode_trial(Trial(1, 10, None)) + encode_trial(Trial(2, 10, None)))
    engine.turn()
    one.close()  # it does not wait for the second answer
    engine.turn(2)
    assert engine.recaller.trials == [1]


def test_a_batch_is_bounded(engine: Engine) -> None:
    one = engine.connect()
    one.sendall(question("a", "b", "c") + question("d", "e") + question("f"))
    engine.turn(2)
    assert engine.recaller.batches == [["a", "b", "c"], ["d", "e", "f"]]


def test_one_bad_query_does_not_fail_another_front_end_s(engine: Engine) -> None:
    one, two = engine.connect(), engine.connect()
    one.sendall(question("a"))
    two.sendall(question("bad"))
    engine.turn()
    assert len(results(one, 1)[0].answers) == 1
    with pytest.raises(RecallFailed):
        results(two, 1)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every failed batch is followed by a probe."""
    monkeypatch.setattr(engine_process, "FAILING_SECONDS", 0.0)


@pytest.mark.usefixtures("impatient")
def test_an_engine_that_fails_every_batch_ends(engine: Engine) -> None:
    engine.recaller.broken = True
    one = engine.connect()
    one.sendall(question("a"))
    engine.turn()
    with pytest.raises(RecallFailed):
        results(one, 1)
    engine.turn(MAX_FAILED_PROBES - 2)  # also without another question
    with pytest.raises(EngineBroken):
        engine.turn()


@pytest.mark.usefixtures("impatient")
def test_an_engine_whose_probe_succeeds_stays(engine: Engine) -> None:
    one = engine.connect()
    for _ in range(2 * MAX_FAILED_PROBES):
        one.sendall(question("bad"))
        engine.turn()
        with pytest.raises(RecallFailed):
            results(one, 1)
    engine.recaller.broken = True
    one.sendall(question("a"))
    engine.turn(MAX_FAILED_PROBES - 1)
    engine.recaller.broken = False  # in time
    engine.turn(MAX_FAILED_PROBES)
    assert engine.recaller.batches[-1] == [PROBE.user_id]


def test_a_result_that_is_too_large_is_a_failure(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.processes.messages.MAX_BODY", 100)
    one = engine.connect()
    one.sendall(question("a", k=10))
    engine.turn()
    assert results(one, 1)[0].answers[0].json == b"x" * 10
    one.sendall(question("a", k=1000))
    engine.turn()
    with pytest.raises(RecallFailed):
        results(one, 1)


def test_a_front_end_that_does_not_read_holds_nobody_up(engine: Engine) -> None:
    stuck, other = engine.connect(), engine.connect()
    sizes = [3_000_000, 5, 2_000_000]
    for size in sizes:
        stuck.sendall(question("a", k=size))
        engine.turn()
    other.sendall(question("b"))
    engine.turn()
    assert len(results(other, 1)[0].answers) == 1
    frames, bodies = FrameReader(), list[bytes]()
    while len(bodies) < len(sizes):  # it reads at last
        bodies += frames.feed(stuck.recv(1 << 20))
        engine.turn()
    assert [len(decode_result(body).answers[0].json) for body in bodies] == sizes


def test_a_front_end_that_left_is_not_computed_for(engine: Engine) -> None:
    gone, other = engine.connect(), engine.connect()
    gone.sendall(question("a", "b", "c", "d") + question("e") + question("f"))
    engine.turn()  # computes the first question
    gone.close()
    other.sendall(question("g"))
    engine.turn(3)
    assert engine.recaller.batches[0] == ["a", "b", "c", "d"]
    assert ["g"] in engine.recaller.batches
    assert ["f"] not in engine.recaller.batches
    assert len(results(other, 1)[0].answers) == 1


def test_every_turn_beats(engine: Engine) -> None:
    assert engine.status.beat_age == float("inf")
    engine.turn()
    first = engine.status.last_beat
    assert first > 0
    engine.turn()
    assert engine.status.last_beat > first
    assert engine.status.beat_age < 10


def test_the_settings_choose_device_search_and_length_of_histories(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[object] = []

    def refuse(*arguments: object) -> None:
        loaded.extend(arguments)
        raise ValueError("no such device")

    monkeypatch.setattr(Recaller, "load", refuse)
    settings = ServeSettings(
        artifacts=tmp_path,
        store="embedded:x",
        device="cuda:1",
        gpu_search="faiss",
        max_history=20,
    )
    config = EngineConfig(settings=settings, artifacts=tmp_path, listener=0, status=0)
    with pytest.raises(ValueError, match="no such device"):
        load(config, tmp_path)
    assert loaded == [tmp_path, "cuda:1", "faiss", 20]


@pytest.mark.parametrize("cpus", [1, 2])
def test_loading_beside_another_engine_yields_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cpus: int
) -> None:
    loading: list[tuple[int, int]] = []

    def refuse(*_: object) -> None:
        loading.append((os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0)))
        raise ValueError("stop")

    monkeypatch.setattr(engine_process, "load", refuse)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(cpus))
    settings = ServeSettings(artifacts=tmp_path, store="embedded:x")
    config = EngineConfig(
        settings=settings, artifacts=tmp_path, listener=0, status=0, beside_another=True
    )
    with pytest.raises(ValueError, match="stop"):
        engine_process._load_beside(config, tmp_path)
    usual = os.sched_getscheduler(0)
    policy = os.SCHED_IDLE if cpus > 1 else usual
    assert loading == [(policy, engine_process.LOWEST_PRIORITY)]
    assert os.getpriority(os.PRIO_PROCESS, 0) == 0, "only the thread that loads yields"


LOADING_BESIDE = """
import os, sys, threading, time
from pathlib import Path
import numpy as np
import scipy.linalg.blas
from threadpoolctl import threadpool_limits
from service.processes import engine_process
from service.processes.child import EngineConfig
from service.settings import ServeSettings

def load(config, folder):
    loading.append(str(threading.get_native_id()))
    threadpool_limits(2, user_api="blas")  # as the network does
    scipy.linalg.blas.sgemm(1.0, np.ones((500, 500), np.float32), np.ones((500, 500), np.float32))

loading, engine_process.load = [], load
settings = ServeSettings(artifacts=Path(), store="", threads=2)
config = EngineConfig(
    settings=settings, artifacts=Path(), listener=0, status=0, beside_another=True
)
if child := os.fork():  # as the preloader forks engines, which leaves all threads behind
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
engine_process._load_beside(config, Path())
while loading[0] in (threads := os.listdir("/proc/self/task")):
    time.sleep(0.001)
print([os.getpriority(os.PRIO_PROCESS, int(one)) for one in threads], flush=True)
os._exit(0)
"""


@pytest.mark.skipif(
    not can_fork("cpu") or os.cpu_count() == 1, reason="engines are not forked, or load as others"
)
def test_threads_of_products_do_not_yield_for_ever() -> None:
    """They outlive the thread that loads, and every batch waits for them."""
    script = [sys.executable, "-W", "ignore", "-c", LOADING_BESIDE]
    priorities = json.loads(subprocess.check_output(script))
    assert len(priorities) > 1
    assert set(priorities) == {os.getpriority(os.PRIO_PROCESS, 0)}


VARIED_QUERIES = """
import gc, itertools, sys
from pathlib import Path
from numba.core.dispatcher import Dispatcher
from service.recall.live_items import ItemUpdate
from service.recall.recaller import Recaller
from service.recall.types import Query, pack_ids

recaller = Recaller.load(Path(sys.argv[1]), "cpu")
recaller.warm_up()
loops = [each for each in gc.get_objects() if isinstance(each, Dispatcher)]
warm = {str(loop): len(loop.signatures) for loop in loops}
items = recaller.item_ids
lists = [[], items[:1], items[:30], ["unknown"], ["unknown", items[3]]]
queries = [
    Query(user, pack_ids(history), pack_ids(exclude), k, interests)
    for user, history, exclude, k, interests in itertools.product(
        ["u1", "unknown"], lists, lists, [1, 10, 2000], [None, 1, 2, 4]
    )
]
for query in queries:
    recaller.recall_json([query])
recaller.recall_json(queries[:16])
recaller.recall_json(queries)
assert sum(warm.values()) > 3, warm
assert {str(loop): len(loop.signatures) for loop in loops} == warm
"""


@pytest.mark.parametrize("kind", ["exact", "ivf"])
def test_nothing_is_compiled_after_the_warm_up(
    kind: Kind, dataset: Dataset, model: GPT, tmp_path: Path
) -> None:
    """An engine does not beat while it compiles, and would be killed for it."""
    bundle = export_bundle(tmp_path, dataset, model, tiny.RECALL, {}, kind, index_recall=0.01)
    subprocess.run([sys.executable, "-c", VARIED_QUERIES, str(bundle)], check=True)
