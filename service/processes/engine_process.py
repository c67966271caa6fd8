"""The engine's process: owns model and index, starts front ends, and answers what they ask.

    client ─HTTP─► front end ─┐
                              ├─ local sockets ─► one batch of all that waits ─► Recaller
    client ─HTTP─► front end ─┘

A front end that dies is started again. When this process ends, however it does, they end too.
"""

import logging
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from service.observability.shared_counters import ROW_BYTES
from service.processes.frontend import FrontEndConfig
from service.processes.messages import Frames, answer, failure, read_question
from service.recall.recaller import Recaller
from service.recall.types import BatchResult, Query
from service.settings import ServeSettings

log = logging.getLogger(__name__)

PATIENCE = 5.0  # seconds for a front end to take an answer, or to end after it hung up


@dataclass(eq=False, slots=True)
class _FrontEnd:
    row: int
    process: subprocess.Popen[bytes]
    connection: socket.socket
    frames: Frames = field(default_factory=Frames)
    greeted: bool = False


@dataclass(frozen=True, slots=True)
class _Question:
    front_end: _FrontEnd
    queries: list[Query]
    since: float


class Hub:
    """Front ends around a Recaller."""

    def __init__(
        self, settings: ServeSettings, recaller: Recaller, listeners: Sequence[socket.socket]
    ) -> None:
        """A listening socket for each front end, which the next one there inherits too."""
        self._settings = settings
        self._recaller = recaller
        self._listeners = listeners
        self._board = tempfile.TemporaryFile()  # noqa: SIM115 — open as long as this process
        os.truncate(self._board.fileno(), settings.http_workers * ROW_BYTES)
        self._selector = selectors.DefaultSelector()
        self._front_ends: set[_FrontEnd] = set()
        self._asked: deque[_Question] = deque()
        self._draining = False

    def run(self) -> None:
        """Answer until SIGTERM or SIGINT and until the front ends have drained.

        Raises ChildProcessError where a front end can't be started.
        """
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, self._drain)
        try:
            for row in range(self._settings.http_workers):
                self._start(row)
            while self._front_ends:
                self._listen(timeout=0 if self._asked else None)
                if self._asked:
                    self._answer(self._batch())
        finally:
            for front_end in self._front_ends:
                front_end.process.kill()

    def _drain(self, *_: object) -> None:
        self._draining = True
        for front_end in self._front_ends:
            front_end.process.terminate()

    def _start(self, row: int) -> None:
        ours, theirs = socket.socketpair()
        ours.settimeout(PATIENCE)
        config = FrontEndConfig(
            settings=self._settings,
            bundle=self._recaller.bundle.absolute(),
            version=self._recaller.version,
            max_interests=self._recaller.max_interests,
            listener=self._listeners[row].fileno(),
            connection=theirs.fileno(),
            board=self._board.fileno(),
            row=row,
        )
        process = subprocess.Popen(
            [sys.executable, "-m", "service.processes.frontend"],
            stdin=subprocess.PIPE,  # the store's URL may hold a password: no argument
            pass_fds=(config.listener, config.connection, config.board),
            start_new_session=True,  # Ctrl-C is for this process, which tells them
        )
        assert process.stdin
        with theirs, process.stdin as pipe:
            pipe.write(config.model_dump_json().encode())
        front_end = _FrontEnd(row, process, ours)
        self._front_ends.add(front_end)
        self._selector.register(ours, selectors.EVENT_READ, front_end)
        if self._draining:  # the signal came meanwhile
            process.terminate()

    def _listen(self, timeout: float | None) -> None:
        """Take in what was asked; wait where nothing was."""
        for key, _ in self._selector.select(timeout):
            front_end: _FrontEnd = key.data
            try:
                data = front_end.connection.recv(1 << 20)
            except OSError:
                data = b""
            if not data:
                self._ended(front_end)
            for body in front_end.frames.feed(data):
                front_end.greeted = True
                if queries := read_question(body):
                    self._asked.append(_Question(front_end, queries, time.perf_counter()))

    def _ended(self, front_end: _FrontEnd) -> None:
        """Its process has ended, or does: start another one, unless all are to end."""
        self._front_ends.remove(front_end)
        self._selector.unregister(front_end.connection)
        front_end.connection.close()
        try:
            status = front_end.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            front_end.process.kill()
            status = front_end.process.wait()
        if self._draining:
            return
        if not front_end.greeted:
            raise ChildProcessError(f"a front end could not start (status {status}): see above")
        log.error("a front end ended and is started again", extra={"status": status})
        self._start(front_end.row)

    def _batch(self) -> list[_Question]:
        """What waits, up to the largest batch."""
        batch = [self._asked.popleft()]
        room = self._settings.max_batch - len(batch[0].queries)
        while self._asked and len(self._asked[0].queries) <= room:
            batch.append(self._asked.popleft())
            room -= len(batch[-1].queries)
        return batch

    def _answer(self, batch: Sequence[_Question]) -> None:
        started = time.perf_counter()
        try:
            queries = [query for question in batch for query in question.queries]
            found, seconds = self._recaller.recall_json(queries)
        except Exception:
            if len(batch) > 1:  # one bad query must not fail another front end's
                for question in batch:
                    self._answer([question])
                return
            log.exception("a batch of %d failed", len(batch[0].queries))
            _reply(batch[0].front_end, None)
            return
        begin = 0
        for question in batch:
            end = begin + len(question.queries)
            told = 0 if begin else len(queries)
            waited = started - question.since
            _reply(question.front_end, BatchResult(found[begin:end], seconds, told, waited))
            begin = end


def _reply(front_end: _FrontEnd, computed: BatchResult | None) -> None:
    """Send; one that does not listen is ended, which `Hub._listen` will see."""
    try:
        said = answer(computed) if computed else failure()
    except ValueError:
        log.exception("an answer was not sent")
        said = failure()  # the front end asks for one recall after the other then
    try:
        front_end.connection.sendall(said)
    except OSError:
        front_end.process.kill()
