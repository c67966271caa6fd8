from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.processes.messages import (
    LENGTH,
    FrameReader,
    Greeting,
    RecallFailed,
    decode_greeting,
    decode_question,
    decode_result,
    decode_trial,
    decode_trial_result,
    decode_update,
    encode_failure,
    encode_greeting,
    encode_question,
    encode_result,
    encode_trial,
    encode_trial_result,
    encode_updates,
    is_trial,
    is_update,
)
from service.recall.live_items import ItemUpdate
from service.recall.trials import Trial, TrialResult
from service.recall.types import (
    BatchResult,
    EncodedCandidates,
    FilterResult,
    Query,
    VarietyResult,
    pack_ids,
)


def encoded(*rows: int) -> EncodedCandidates:
    return EncodedCandidates(b"[%b]" % bytes(rows), np.array(rows, dtype=np.int64), 5, not rows)


def test_a_greeting_arrives_as_it_was_sent() -> None:
    greeting = Greeting(
        "/bundles/ü", "v1", 4, 16, "/ids", {"price": "number"}, ["like", "view"], ["like"]
    )
    (body,) = FrameReader().feed(encode_greeting(greeting))
    assert decode_greeting(body) == greeting


def test_questions_arrive_as_they_were_asked() -> None:
    filtered = Query("ann", ["a", "ü"], ["b"], 7, 2, 30.5, True, b'{"all":[]}', variety=b"rules")
    told = Query("ann", ["a"], actions=["like", b"\xc3\xbc"], outcome="like", offers=["ü"])
    queries = [filtered, told, Query("", [], [])]
    (body,) = FrameReader().feed(encode_question(queries))
    assert decode_question(body) == [
        replace(
            query,
            history=pack_ids(query.history),
            exclude=pack_ids(query.exclude),
            actions=pack_ids(query.actions) if query.actions else [],
            offers=pack_ids(query.offers) if query.offers else [],
        )
        for query in queries
    ]


def test_updates_arrive_in_parts_and_are_told_from_questions() -> None:
    changes = {f"i{n}": {"price": n, "tags": ["ü"], "stock": None} for n in range(2500)}
    bodies = FrameReader().feed(encode_updates(ItemUpdate(["a", "ü"], changes)))
    assert all(map(is_update, bodies))
    updates = list(map(decode_update, bodies))
    assert [update.hidden for update in updates] == [["a", "ü"], None, None]
    assert {item: own for update in updates for item, own in update.changes.items()} == changes
    (body,) = FrameReader().feed(encode_updates(ItemUpdate(None, {}, ["b", "a"])))
    assert decode_update(body) == ItemUpdate(None, {}, ["b", "a"])
    (body,) = FrameReader().feed(encode_updates(ItemUpdate(None, {})))
    assert decode_update(body) == ItemUpdate(None, {})
    for count in (1, 100, 100_000):
        (body,) = FrameReader().feed(encode_question([Query("ann", [])] * count))
        assert not is_update(body)


def test_results_arrive_as_they_were_sent() -> None:
    effect = FilterResult(matched=3, exhausted=True, unknown_values=1)
    explained = replace(encoded(1), explanation=b"{}")
    varied = replace(encoded(1), variety=VarietyResult(1.5, 2.0, exhausted=False))
    given = [encoded(2, 0), replace(encoded(), filter=effect), explained, varied]
    (body,) = FrameReader().feed(encode_result(BatchResult(given, {"model": 0.5}, 7)))
    read = decode_result(body)
    assert (read.seconds, read.batch_size) == ({"model": 0.5}, 7)
    for one, two in zip(read.answers, given, strict=True):
        assert one.rows.tolist() == two.rows.tolist()
        assert replace(one, rows=two.rows) == two


def test_trials_and_their_results_arrive_as_they_were_sent() -> None:
    for trial in (Trial(3, 100, None, 1 << 20), Trial(0, 1, 0)):
        (body,) = FrameReader().feed(encode_trial(trial))
        assert is_trial(body)
        assert not is_update(body)
        assert decode_trial(body) == trial
    for asked in (encode_question([Query("a", [])] * 300), encode_updates(ItemUpdate([], {}))):
        assert not any(map(is_trial, FrameReader().feed(asked)))
    result = TrialResult(b"\x00" * 4, b"\x01" * 4, 0.5, "ivf", 9, 3, 2, 1)
    (body,) = FrameReader().feed(encode_trial_result(result))
    assert decode_trial_result(body) == result
    (body,) = FrameReader().feed(encode_failure())
    with pytest.raises(RecallFailed):
        decode_trial_result(body)


def test_a_failure_arrives_as_an_error() -> None:
    (body,) = FrameReader().feed(encode_failure())
    with pytest.raises(RecallFailed):
        decode_result(body)


@settings(deadline=None)
@given(st.lists(st.binary(max_size=300), max_size=5), st.data())
def test_frames_may_come_in_any_pieces(bodies: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(LENGTH.pack(len(body)) + body for body in bodies)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    frames = FrameReader()
    pieces = [stream[begin:end] for begin, end in pairwise([0, *cuts, len(stream)])]
    assert [body for piece in pieces for body in frames.feed(piece)] == bodies


def test_another_protocol_is_noticed() -> None:
    with pytest.raises(ValueError, match="not a frame"):
        FrameReader().feed(b"\xff" * 8)
