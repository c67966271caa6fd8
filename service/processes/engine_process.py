"""The engine process: it owns network, vectors and index, and answers what front ends ask.

    client ─HTTP─► front end ─┐
                              ├─ local stream sockets ─► EngineLoop ─► Recaller
    client ─HTTP─► front end ─┘

The supervisor starts it, with the socket that it listens on, and replaces it if it ends or hangs.
"""

import logging
import os
import selectors
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

import faiss
import torch
from threadpoolctl import threadpool_limits

from index.kernels.code_cache import log_compiled
from model.artifact.id_table import has_ids, write_ids
from service.observability.logs import configure_logs
from service.observability.service_status import ServiceStatus
from service.processes.child import (
    EngineConfig,
    Report,
    Supervision,
    freeze_loaded,
    name_process,
)
from service.processes.messages import (
    FrameReader,
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
from service.recall.metadata_encoder import read_metadata
from service.recall.recaller import Recaller
from service.recall.trials import Trial
from service.recall.types import BatchResult, Query

log = logging.getLogger(__name__)

LOWEST_PRIORITY = 19
IDLE_SECONDS = 0.25
"""Longest turn of an idle loop; the heartbeat is of every turn."""
RECEIVE_BYTES = 1 << 20
PROBE = Query("", [])
"""A query that every engine can answer."""
FAILING_SECONDS = 1.0
"""Time without a batch that succeeded after which a failed one is followed by a probe."""
MAX_FAILED_PROBES = 3
"""Probes in a row after whose failure the engine ends, so that another one takes its place."""


class EngineBroken(Exception):
    """The engine computes nothing any more."""


@dataclass(eq=False, slots=True)
class FrontEnd:
    """A front end as the engine sees it."""

    connection: socket.socket
    frames: FrameReader = field(default_factory=FrameReader)
    unsent: bytearray = field(default_factory=bytearray)
    """Answers for which its socket had no room; `EngineLoop` sends them when it has."""
    hidden: frozenset[str] = frozenset()
    """The items that it knows to be hidden."""


@dataclass(frozen=True, slots=True)
class Question:
    """A micro-batch of a front end that waits to be computed."""

    front_end: FrontEnd
    queries: list[Query]


class EngineLoop:
    """Computes all that waits as one batch, one batch after another.

    Front ends send micro-batches, because a read of the store and a message are shared by the
    recalls in them. The loop joins the micro-batches of all front ends, because a computation for
    16 queries takes little longer than for one. It never waits for a front end, so that one that
    hangs does not hold up the others, nor the heartbeat.
    """

    def __init__(
        self, recaller: Recaller, greeting: Greeting, listener: socket.socket, status: ServiceStatus
    ) -> None:
        self._recaller = recaller
        self._greeting = greeting
        self._status = status
        self._listener = listener
        self._listener.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ)
        self._waiting: deque[Question] = deque()
        self._trials: deque[tuple[FrontEnd, Trial]] = deque()
        self._hidden: frozenset[str] = frozenset()
        self._succeeded = time.monotonic()
        self._failed_probes = 0

    def run(self) -> None:
        """Answers until SIGTERM ends the process. Raises EngineBroken if every batch fails."""
        while True:
            self.turn(IDLE_SECONDS)

    def close(self) -> None:
        """Hangs up, and listens no more."""
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
        self._selector.close()

    def turn(self, seconds: float) -> None:
        """Beats, receives, and computes a batch; waits if there is none, up to this time.

        A trial of the index is made when no question waits, so that no recall waits for two.
        """
        self._status.beat()
        self._receive(0 if self._waiting or self._trials else seconds)
        if self._waiting:
            self._compute(self._next_batch())
        elif self._trials:
            self._try_index(*self._trials.popleft())
        elif self._failed_probes:
            self._probe()

    def _receive(self, timeout: float) -> None:
        for key, events in self._selector.select(timeout):
            if key.fileobj is self._listener:
                self._accept()
                continue
            front_end: FrontEnd = key.data
            if events & selectors.EVENT_WRITE:
                self._flush(front_end)
            if events & selectors.EVENT_READ:
                self._read(front_end)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:  # it has ended already
            return
        connection.setblocking(False)
        front_end = FrontEnd(connection)
        self._selector.register(connection, selectors.EVENT_READ, front_end)
        self._send(front_end, encode_greeting(self._greeting))

    def _read(self, front_end: FrontEnd) -> None:
        if front_end.connection.fileno() == -1:
            return
        try:
            data = front_end.connection.recv(RECEIVE_BYTES)
        except BlockingIOError:  # the kernel had announced data that there are not
            return
        except OSError:
            data = b""
        if not data:
            self._disconnect(front_end)
            return
        for body in front_end.frames.feed(data):
            if is_update(body):
                self._update(front_end, decode_update(body))
            elif is_trial(body):
                self._trials.append((front_end, decode_trial(body)))
            else:
                self._waiting.append(Question(front_end, decode_question(body)))

    def _update(self, front_end: FrontEnd, update: ItemUpdate) -> None:
        """Changes items before the next batch.

        An item is hidden as long as any front end says so: one that is late does not show it again.
        """
        if update.hidden is not None:
            front_end.hidden = frozenset(update.hidden)
        connected = [key.data for key in self._selector.get_map().values() if key.data]
        hidden = frozenset[str]().union(*{one.hidden for one in connected})
        try:
            self._recaller.update_items(
                None if hidden == self._hidden else list(hidden), update.changes, update.popular
            )
        except Exception:
            log.exception("items were not changed")
        else:
            self._hidden = hidden

    def _disconnect(self, front_end: FrontEnd) -> None:
        """Forgets a front end that has ended, and what it asked."""
        self._selector.unregister(front_end.connection)
        front_end.connection.close()
        self._waiting = deque(q for q in self._waiting if q.front_end is not front_end)
        self._trials = deque(one for one in self._trials if one[0] is not front_end)

    def _next_batch(self) -> list[Question]:
        """Takes the oldest questions, as many as one batch holds."""
        batch = [self._waiting.popleft()]
        room = self._greeting.max_batch - len(batch[0].queries)
        while self._waiting and len(self._waiting[0].queries) <= room:
            batch.append(self._waiting.popleft())
            room -= len(batch[-1].queries)
        return batch

    def _compute(self, batch: Sequence[Question]) -> None:
        try:
            queries = [query for question in batch for query in question.queries]
            answers, seconds = self._recaller.recall_json(queries)
        except Exception:
            if len(batch) > 1:  # one bad query must not fail another front end's
                for question in batch:
                    self._compute([question])
                return
            log.exception("a batch of %d failed", len(batch[0].queries))
            self._send(batch[0].front_end, encode_failure())
            self._probe()
            return
        self._note_success()
        begin = 0
        for question in batch:
            end = begin + len(question.queries)
            size = 0 if begin else len(queries)
            result = BatchResult(answers[begin:end], seconds, size)
            self._reply(question.front_end, result)
            begin = end

    def _try_index(self, front_end: FrontEnd, trial: Trial) -> None:
        try:
            frame = encode_trial_result(self._recaller.try_index(trial))
        except Exception:
            log.exception("a trial of the index failed")
            frame = encode_failure()
        self._send(front_end, frame)

    def _probe(self) -> None:
        """Finds out whether a batch failed by its queries, or whether every one fails."""
        if time.monotonic() - self._succeeded < FAILING_SECONDS:
            return
        try:
            self._recaller.recall_json([PROBE])
        except Exception as error:
            self._failed_probes += 1
            if self._failed_probes == MAX_FAILED_PROBES:
                raise EngineBroken("every batch fails, and so do probes") from error
        else:
            self._note_success()

    def _note_success(self) -> None:
        self._succeeded, self._failed_probes = time.monotonic(), 0

    def _reply(self, front_end: FrontEnd, result: BatchResult) -> None:
        try:
            frame = encode_result(result)
        except ValueError:
            log.exception("an answer was not sent")
            frame = encode_failure()  # the front end asks for one recall after the other then
        self._send(front_end, frame)

    def _send(self, front_end: FrontEnd, frame: bytes) -> None:
        """Sends as much as the socket has room for now; `_flush` sends the rest."""
        if front_end.connection.fileno() == -1:  # it ended while its batch was computed
            return
        if front_end.unsent:
            front_end.unsent += frame
            return
        sent = self._write(front_end, frame)
        if sent < len(frame):
            front_end.unsent += frame[sent:]
            both = selectors.EVENT_READ | selectors.EVENT_WRITE
            self._selector.modify(front_end.connection, both, front_end)

    def _flush(self, front_end: FrontEnd) -> None:
        del front_end.unsent[: self._write(front_end, front_end.unsent)]
        if not front_end.unsent and front_end.connection.fileno() != -1:
            self._selector.modify(front_end.connection, selectors.EVENT_READ, front_end)

    def _write(self, front_end: FrontEnd, data: bytes | bytearray) -> int:
        """Returns the number of bytes that are done with."""
        try:
            return front_end.connection.send(data)
        except BlockingIOError:
            return 0
        except OSError:
            self._disconnect(front_end)
            return len(data)


def load(config: EngineConfig, folder: Path) -> tuple[Recaller, Greeting]:
    """Loads the served bundle and computes its first, slow batches; writes its items' metadata.

    Raises ArtifactError if the bundle cannot be used, ValueError if the device cannot.
    """
    settings = config.settings
    # By default both use every core that they see, and spin while one of them is late.
    torch.set_num_threads(settings.threads)
    faiss.omp_set_num_threads(settings.threads)
    recaller = Recaller.load(
        config.artifacts, settings.device, settings.gpu_search, settings.max_history
    )
    recaller.warm_up()
    if settings.explorer and recaller.trials:
        recaller.trials.warm_up()
    log_compiled()
    read_metadata(recaller.bundle).save(folder)
    greeting = Greeting(
        metadata=str(folder),
        version=recaller.version,
        max_interests=recaller.max_interests,
        max_batch=settings.max_batch or recaller.preferred_batch,
        ids=str(recaller.bundle.absolute() if has_ids(recaller.bundle, "item") else folder),
        kinds=recaller.kinds,
        actions=recaller.manifest.actions,
        outcomes=recaller.outcomes,
        folder=str(recaller.bundle.absolute()),
        interests=recaller.interests_of(None),
    )
    if greeting.ids == str(folder):  # in bundles of before
        write_ids(folder, "item", recaller.item_ids)
    return recaller, greeting


def _load_beside(config: EngineConfig, folder: Path) -> tuple[Recaller, Greeting]:
    """Loads as `load` does; in a thread that yields to an engine that answers meanwhile."""
    if not config.beside_another:
        return load(config, folder)
    # The threads of matrix products begin here: begun by the other thread they would have its
    # priority for ever, and each product would wait for them.
    threadpool_limits(config.settings.threads, user_api="blas")
    with ThreadPoolExecutor(1, initializer=_lower_priority) as thread:
        return thread.submit(load, config, folder).result()


def _lower_priority() -> None:
    """Lets all other processes compute before this thread, where the system has such threads.

    A thread that is only nice keeps its CPU from looking idle, so that Linux wakes front ends where
    the other engine computes, and they wait for each other. A single CPU has no such choice, and an
    idle thread would hardly ever get it.
    """
    thread = threading.get_native_id()
    with suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, thread, LOWEST_PRIORITY)
        if len(os.sched_getaffinity(0)) > 1:
            os.sched_setscheduler(thread, os.SCHED_IDLE, os.sched_param(0))


def main(listener_file: int | None = None, status_file: int | None = None) -> None:
    """Serves front ends until SIGTERM, or until the supervisor is gone.

    A process that has not inherited the files of its configuration names its own.
    """
    name_process("recgpt-engine")
    supervision = Supervision()
    config = supervision.config(EngineConfig)
    if listener_file is not None and status_file is not None:
        config = config.model_copy(update={"listener": listener_file, "status": status_file})
    configure_logs(config.settings.log_level)
    listener = socket.socket(fileno=config.listener)
    status = ServiceStatus(config.status, config.lane)
    try:
        # The listener's folder is the supervisor's: private, and removed at its end.
        recaller, greeting = _load_beside(config, Path(listener.getsockname()).parent)
    except (ValueError, OSError) as error:
        supervision.fail(error)
    freeze_loaded()
    if config.standby:
        told = threading.Event()
        supervision.on_message(lambda message: told.set())
        log.info("on standby", extra={"version": recaller.version})
        supervision.report(Report(bundle=recaller.bundle.absolute()))
        told.wait()
    with closing(EngineLoop(recaller, greeting, listener, status)) as loop:
        supervision.report(Report(bundle=recaller.bundle.absolute()))
        try:
            loop.run()
        except EngineBroken as error:
            log.critical("the engine ends, so that another one takes its place: %s", error)
            sys.exit(1)


if __name__ == "__main__":
    main()
