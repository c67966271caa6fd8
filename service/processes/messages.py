"""The messages between front ends and the engine, over a local stream socket.

A stream has no message boundaries, so each message is a frame: the length of its body in four
bytes (little-endian), then the body, a msgpack value. The engine speaks first: it greets every
front end that connects with what it serves. From then on the front end sends questions, a list of
queries each, without waiting for answers, and the engine answers them in the order in which they
came, so that no message needs a number. An answer holds candidates that are JSON already, or is
empty if the batch failed. Between questions the front end sends updates of items, which are not
answered. A trial of the index has a connection of its own, since it is answered when no question
waits. Ids of items cross as msgpack arrays inside of msgpack, which the engine reads only where
it looks them up, in compiled code.
"""

import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgpack
import numpy as np

from model.kinds import Kind
from service.recall.live_items import ItemUpdate
from service.recall.served_bundle import ServedBundle
from service.recall.trials import Trial, TrialResult
from service.recall.types import (
    BatchResult,
    EncodedCandidates,
    FilterResult,
    Query,
    VarietyResult,
    pack_ids,
)

LENGTH = struct.Struct("<I")
FIXED_MAP = 0x80
"""The upper half of the byte with which msgpack begins a small map."""
BINARY = 0xC4
"""The byte with which msgpack begins short binary data."""
ITEMS_A_FRAME = 1000
"""Items of one update, so that the engine can beat between updates."""
MAX_BODY = 1 << 30
"""Bytes of the largest body; a longer one is a sign of another protocol."""


class RecallFailed(Exception):
    """The engine could not compute a batch; its log has the details."""


class Greeting(NamedTuple):
    """An engine's first message to a front end that connects."""

    metadata: str
    """Path of the folder with the metadata of the bundle's items: see `ItemMetadata`."""
    version: str
    max_interests: int
    """Interests that the bundle's network can generate for a user."""
    max_batch: int
    """The most queries that the engine computes at once."""
    ids: str
    """Path of the folder with the table of the items' ids: see `IdTable`."""
    kinds: dict[str, Kind]
    """The kind of each attribute of the items."""
    actions: list[str]
    """The types of events that the network reads as feedback."""
    outcomes: list[str]
    """Those of them that a recall can ask for."""
    folder: str = ""
    """Path of the bundle."""
    interests: int = 1
    """Interests of a recall that names no number."""


class FrameReader:
    """Puts frames together from the pieces in which a stream delivers them."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Returns the bodies that are complete now. Raises ValueError for another protocol."""
        self._buffer += data
        complete = []
        while len(self._buffer) >= LENGTH.size:
            end = LENGTH.size + body_length(self._buffer)
            if len(self._buffer) < end:
                break
            complete.append(bytes(self._buffer[LENGTH.size : end]))
            del self._buffer[:end]
        return complete


def body_length(head: bytes | bytearray) -> int:
    """Returns the length that a frame's head announces. Raises ValueError if it is absurd."""
    (length,) = LENGTH.unpack_from(head)
    if length > MAX_BODY:
        raise ValueError("not a frame of this protocol")
    return int(length)


def encode_greeting(greeting: Greeting) -> bytes:
    """Returns the frame with which an engine greets."""
    return _frame(greeting)


def decode_greeting(body: bytes) -> Greeting:
    """Returns the greeting in the body of a frame."""
    return Greeting(*msgpack.unpackb(body))


def encode_question(queries: Sequence[Query]) -> bytes:
    """Returns the frame that asks for a batch."""
    return _frame(
        [
            (
                query.user_id,
                pack_ids(query.history),
                pack_ids(query.exclude),
                query.k,
                query.interests,
                query.repeat_after_days,
                query.explain,
                query.filter,
                query.actions and pack_ids(query.actions),
                query.outcome,
                query.variety,
                query.offers and pack_ids(query.offers),
            )
            for query in queries
        ]
    )


def decode_question(body: bytes) -> list[Query]:
    """Returns the queries in the body of a frame; their ids stay packed."""
    return [Query(*fields) for fields in msgpack.unpackb(body)]


def encode_updates(update: ItemUpdate) -> bytes:
    """Returns frames that tell the engine of items, a limited number of them in each."""
    changes = list(update.changes.items())
    parts = [dict(changes[i : i + ITEMS_A_FRAME]) for i in range(0, len(changes), ITEMS_A_FRAME)]
    first, *rest = parts or [{}]
    told = {"hidden": update.hidden, "changes": first, "popular": update.popular}
    frames = [_frame(told)]
    return b"".join([*frames, *(_frame({"hidden": None, "changes": part}) for part in rest)])


def is_update(body: bytes) -> bool:
    """Returns whether a front end's message is an update: a map, where a question is an array."""
    return body[0] & 0xF0 == FIXED_MAP


def decode_update(body: bytes) -> ItemUpdate:
    """Returns the update in the body of a frame."""
    return ItemUpdate(**msgpack.unpackb(body))


def encode_trial(trial: Trial) -> bytes:
    """Returns the frame that asks for a trial: packed once more, to be told from a question."""
    return _frame(msgpack.packb(trial))


def is_trial(body: bytes) -> bool:
    """Returns whether a front end's message is a trial."""
    return body[0] == BINARY


def decode_trial(body: bytes) -> Trial:
    """Returns the trial in the body of a frame."""
    return Trial(*msgpack.unpackb(msgpack.unpackb(body)))


def encode_trial_result(result: TrialResult) -> bytes:
    """Returns the frame that answers a trial."""
    return _frame(result)


def decode_trial_result(body: bytes) -> TrialResult:
    """Returns the result in the body of a frame. Raises RecallFailed if the trial failed."""
    content = msgpack.unpackb(body)
    if not content:
        raise RecallFailed("the engine's log has the details")
    return TrialResult(*content)


def encode_result(result: BatchResult) -> bytes:
    """Returns the frame that answers a question. Raises ValueError if it is too large."""
    answers = [
        (
            one.json,
            one.rows.astype(np.int32).tobytes(),
            one.unknown_items,
            one.cold,
            one.explanation,
            one.filter,
            one.variety,
        )
        for one in result.answers
    ]
    return _frame([answers, result.seconds, result.batch_size])


def encode_failure() -> bytes:
    """Returns the frame that answers a question whose batch failed."""
    return _frame([])


def decode_result(body: bytes, bundle: ServedBundle | None = None) -> BatchResult:
    """Returns the result of an engine that serves this bundle, from the body of a frame.

    Raises RecallFailed if it is a failure.
    """
    content = msgpack.unpackb(body)
    if not content:
        raise RecallFailed("the engine's log has the details")
    answers, *about = content
    encoded = [
        EncodedCandidates(
            json,
            np.frombuffer(rows, np.int32),
            unknown_items,
            cold,
            explanation,
            FilterResult(*effect) if effect else None,
            VarietyResult(*variety) if variety else None,
        )
        for json, rows, unknown_items, cold, explanation, effect, variety in answers
    ]
    seconds, batch_size = about
    return BatchResult(encoded, seconds, batch_size, bundle)


def _frame(content: Any) -> bytes:
    body: bytes = msgpack.packb(content)
    if len(body) > MAX_BODY:
        raise ValueError(f"a message of {len(body)} bytes is too large: the limit is {MAX_BODY}")
    return LENGTH.pack(len(body)) + body
