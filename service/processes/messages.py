"""What a front-end process and the engine's process say to each other over a local socket.

A frame is its length in four bytes and a msgpack value. A front end greets with an empty list, then
asks with lists of queries, which are answered in their order: by candidates, in JSON already, or by
what failed.
"""

import struct
from collections.abc import Sequence
from typing import Any

import msgpack
import numpy as np

from service.recall.types import BatchResult, EncodedCandidates, Query, pack_ids

LENGTH = struct.Struct("<I")
LONGEST = 1 << 30  # bytes of a frame


class RecallFailed(Exception):
    """The engine could not answer a batch; its log has the details."""


def frame(content: Any) -> bytes:
    """A value as it goes over the socket. Raises ValueError where it is too large."""
    body: bytes = msgpack.packb(content)
    if len(body) > LONGEST:
        raise ValueError(f"a batch of {len(body)} bytes is too large for one message")
    return LENGTH.pack(len(body)) + body


class Frames:
    """Puts together what comes in pieces."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The bodies that are complete now."""
        self._buffer += data
        complete = []
        while len(self._buffer) >= LENGTH.size:
            (length,) = LENGTH.unpack_from(self._buffer)
            end = LENGTH.size + length
            if length > LONGEST:
                raise ValueError("not a frame of ours")
            if len(self._buffer) < end:
                break
            complete.append(bytes(self._buffer[LENGTH.size : end]))
            del self._buffer[:end]
        return complete


def question(queries: Sequence[Query]) -> bytes:
    """The frame that asks for a batch."""
    return frame(
        [[q.user_id, pack_ids(q.history), pack_ids(q.exclude), q.k, q.interests] for q in queries]
    )


def read_question(body: bytes) -> list[Query]:
    """The queries of a frame, whose ids stay as they came; none in a greeting."""
    return [Query(*fields) for fields in msgpack.unpackb(body)]


def answer(computed: BatchResult) -> bytes:
    """The frame that answers a question."""
    found = [
        (one.json, one.rows.astype(np.int32).tobytes(), one.unknown_items, one.cold)
        for one in computed.answers
    ]
    return frame([found, computed.seconds, computed.batch_size, computed.queue_seconds])


def failure() -> bytes:
    """The frame that says that a batch failed."""
    return frame([])


def read_answer(body: bytes) -> BatchResult:
    """What `answer` was given. Raises RecallFailed."""
    said = msgpack.unpackb(body)
    if not said:
        raise RecallFailed("the engine's log has the details")
    found, *about = said
    encoded = [
        EncodedCandidates(items, np.frombuffer(rows, np.int32), unknown, cold)
        for items, rows, unknown, cold in found
    ]
    return BatchResult(encoded, *about)
