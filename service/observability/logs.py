"""Logs: one JSON object a line, on standard error.

A reader of logs that hangs must not hang the service: a line for which a full pipe or disk has no
room is lost, and the number of lost lines is told as soon as there is room again.
"""

import io
import logging
import os
import select
import stat
import sys
from contextlib import suppress
from typing import TextIO

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

PIECE_BYTES = select.PIPE_BUF
"""Bytes that a pipe takes without a wait, if it takes any."""


class ImpatientHandler(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes records to a stream, and does not wait for its reader."""

    lost = 0
    """Lines that were lost, and of which no line tells yet."""
    _broken = False  # whether the end of the last line was lost

    def emit(self, record: logging.LogRecord) -> None:
        """Writes a record, or counts it as lost."""
        try:
            file = self.stream.fileno()
        except (io.UnsupportedOperation, ValueError):  # it is no file, or is closed
            super().emit(record)
            return
        try:
            line = self.format(record)
        except Exception:
            self.handleError(record)
            return
        if self.lost and _has_room(file):
            told = {"msg": f"{self.lost} lines were lost: the log had no room for them"}
            warning = {"name": __name__, "levelno": logging.WARNING, "levelname": "WARNING"}
            if self._write(file, self.format(logging.makeLogRecord(warning | told))):
                self.lost = 0
        if not self._write(file, line):
            self.lost += 1

    def _write(self, file: int, line: str) -> bool:
        """Returns whether the whole line was written."""
        data = f"{line}\n".encode(errors="backslashreplace")
        data = b"\n" + data if self._broken else data
        written = 0
        try:
            while written < len(data) and _has_room(file):
                written += os.write(file, data[written : written + PIECE_BYTES])
        except OSError:  # nobody reads it, its disk is full, or another process took the room
            pass
        self._broken = 0 < written < len(data) or (self._broken and not written)
        return written == len(data)


def _has_room(file: int) -> bool:
    """Returns whether a piece can be written at once; of a file that fails the write tells more."""
    poll = select.poll()
    poll.register(file, select.POLLOUT)
    return bool(poll.poll(0))


def without_wait(stream: TextIO) -> TextIO:
    """Returns a stream to the same pipe whose writes never wait; the stream itself if it is none.

    There may be room when a process looks, and none when it writes, because another one was faster.
    The pipe is opened once more: the mode of the stream is that of all programs which share it.
    """
    with suppress(OSError):  # it is no file, the pipe is another user's, or this is not Linux
        file = stream.fileno()
        if stat.S_ISFIFO(os.fstat(file).st_mode):
            return os.fdopen(os.open(f"/proc/self/fd/{file}", os.O_WRONLY | os.O_NONBLOCK), "w")
    return stream


def configure_logs(level: str) -> None:
    """Sends the records of every logger through one JSON handler."""
    handler = ImpatientHandler(without_wait(sys.stderr))
    handler.setFormatter(
        JsonFormatter(
            "{asctime}{levelname}{name}{message}",
            style="{",
            reserved_attrs=[*RESERVED_ATTRS, "color_message"],  # uvicorn's, for terminals
            rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
        )
    )
    root = logging.getLogger()
    for former in list(root.handlers):
        root.removeHandler(former)
    root.addHandler(handler)
    root.setLevel(level.upper())
    for chatty in ("asyncio", "faiss"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
