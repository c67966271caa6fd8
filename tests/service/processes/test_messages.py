import socket
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from service.processes.engine_process import _FrontEnd, _reply
from service.processes.messages import (
    Frames,
    RecallFailed,
    answer,
    failure,
    frame,
    question,
    read_answer,
    read_question,
)
from service.recall.types import BatchResult, EncodedCandidates, Query, pack_ids


def encoded(*rows: int) -> EncodedCandidates:
    return EncodedCandidates(b"[%b]" % bytes(rows), np.array(rows, dtype=np.int64), 5, not rows)


def test_questions_arrive_as_they_were_asked() -> None:
    queries = [Query("ann", ["a", "ü"], ["b"], 7, 2), Query("", [], [])]
    (body,) = Frames().feed(question(queries))
    assert read_question(body) == [
        replace(query, history=pack_ids(query.history), exclude=pack_ids(query.exclude))
        for query in queries
    ]


def test_answers_arrive_as_they_were_given() -> None:
    given = [encoded(2, 0), encoded(), encoded(1)]
    (body,) = Frames().feed(answer(BatchResult(given, {"model": 0.5}, 7, 0.25)))
    read = read_answer(body)
    assert (read.seconds, read.batch_size, read.queue_seconds) == ({"model": 0.5}, 7, 0.25)
    for one, two in zip(read.answers, given, strict=True):
        assert one.rows.tolist() == two.rows.tolist()
        assert (one.json, one.unknown_items, one.cold) == (two.json, two.unknown_items, two.cold)


def test_a_failure_is_said() -> None:
    (body,) = Frames().feed(failure())
    with pytest.raises(RecallFailed):
        read_answer(body)


def test_an_answer_that_is_too_large_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.processes.messages.LONGEST", 100)
    ours, theirs = socket.socketpair()
    with ours, theirs, subprocess.Popen([sys.executable, "-c", ""]) as process:
        front_end = _FrontEnd(0, process, ours)
        for size in (10, 1000):
            _reply(
                front_end,
                BatchResult([EncodedCandidates(b"x" * size, np.zeros(0, int), 0, False)], {}, 1),
            )
        fits, too_large = Frames().feed(theirs.recv(1 << 16))
    assert read_answer(fits).answers[0].json == b"x" * 10
    with pytest.raises(RecallFailed):
        read_answer(too_large)


def test_frames_may_come_in_any_pieces() -> None:
    stream = b"".join(frame("x" * size) for size in (0, 1, 300))
    whole = Frames().feed(stream)
    assert len(whole) == 3
    frames = Frames()
    assert [body for i in range(len(stream)) for body in frames.feed(stream[i : i + 1])] == whole
    with pytest.raises(ValueError, match="not a frame"):
        Frames().feed(b"\xff" * 8)


def test_a_front_end_does_without_torch() -> None:
    code = "import sys, service.processes.frontend; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
