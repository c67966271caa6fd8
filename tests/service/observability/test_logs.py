"""A reader of the log that is slow, hangs or has left harms nobody."""

import io
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from service.observability import logs
from service.observability.logs import PIECE_BYTES, ImpatientHandler, without_wait

FULL = Path("/dev/full")


@contextmanager
def pipe() -> Iterator[tuple[logging.Logger, ImpatientHandler, int]]:
    """A logger that writes to a pipe, its handler, and the pipe's other end."""
    read, write = os.pipe()
    os.set_blocking(read, False)
    with open(write, "w") as stream:
        handler = ImpatientHandler(stream)
        handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
        logger = logging.Logger("test")
        logger.addHandler(handler)
        yield logger, handler, read


def received(read: int) -> bytes:
    """All that is in the pipe."""
    found = b""
    with suppress(BlockingIOError):
        while data := os.read(read, 1 << 16):
            found += data
    return found


def test_lines_arrive_while_they_are_read() -> None:
    with pipe() as (logger, handler, read):
        logger.warning("é\ud800")
        logger.info("x" * 10_000)
        found = received(read).decode().splitlines()
        assert found == ["WARNING é\\ud800", "INFO " + "x" * 10_000]
        assert handler.lost == 0


def test_what_a_full_pipe_has_no_room_for_is_lost_and_told() -> None:
    with pipe() as (logger, handler, read):
        for _ in range(1000):
            logger.info("x" * 1000)
        lost = handler.lost
        assert 0 < lost < 1000
        found = received(read)
        logger.info("after")
        found += received(read)
        lines = found.decode().splitlines()
        whole = [line for line in lines if line == "INFO " + "x" * 1000]
        assert len(whole) == 1000 - lost
        assert lines[-2:] == [
            f"WARNING {lost} lines were lost: the log had no room for them",
            "INFO after",
        ]
        assert handler.lost == 0


def test_a_line_that_was_cut_off_does_not_spoil_the_next() -> None:
    with pipe() as (logger, handler, read):
        logger.info("x" * 1_000_000)
        assert handler.lost == 1
        received(read)
        logger.info("after")
        assert received(read).startswith(b"\nWARNING 1 lines were lost")


def test_room_that_another_process_takes_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pipe() as (_, shared, read), without_wait(shared.stream) as stream:
        assert os.get_blocking(shared.stream.fileno())
        handler = ImpatientHandler(stream)
        record = logging.makeLogRecord({"msg": "x" * (PIECE_BYTES - 1)})  # a line break ends it
        while not handler.lost:
            handler.emit(record)
        monkeypatch.setattr(logs, "_has_room", lambda file: True)  # there was, a moment ago
        writing = threading.Thread(target=handler.emit, args=(record,))
        writing.start()
        writing.join(30)
        waits = writing.is_alive()
        received(read)
        writing.join()
        assert not waits
        assert handler.lost > 1


def test_only_a_pipe_is_opened_once_more(tmp_path: Path) -> None:
    with (tmp_path / "log").open("a") as file:
        assert without_wait(file) is file
    text = io.StringIO()
    assert without_wait(text) is text


def test_nobody_needs_to_read() -> None:
    with pipe() as (logger, handler, read):
        os.close(read)
        logger.info("alone")
        assert handler.lost == 1


@pytest.mark.skipif(not FULL.exists(), reason="this system has no device that is always full")
def test_a_full_disk_does_not_hide_how_many_lines_are_lost() -> None:
    with FULL.open("w") as stream:
        handler = ImpatientHandler(stream)
        for _ in range(3):
            handler.emit(logging.makeLogRecord({"msg": "hello"}))
        assert handler.lost == 3


def test_a_stream_that_is_no_file_is_written_to() -> None:
    handler = ImpatientHandler(stream := io.StringIO())
    handler.emit(logging.makeLogRecord({"msg": "hello"}))
    assert stream.getvalue() == "hello\n"
