import pytest
from hypothesis import given
from hypothesis import strategies as st
from id_strategies import IDS

from service.history.entries import (
    DAY_SECONDS,
    StoredEvent,
    decode_entry,
    encode_entry,
    encode_item,
    read_history,
)
from service.history.event_types import DEFAULT_TYPES, EventType, EventTypes
from service.history.events import HistoryEvent

NOW = 1_764_000_000.0
TIMES = st.none() | st.floats(0, 1e11).map(lambda time: round(time, 3))
NUMBERS = st.none() | st.floats(-1e9, 1e9).map(lambda number: round(number, 3))


@given(IDS.filter(bool), st.sampled_from(["click", "like", "my_type"]), TIMES, NUMBERS, NUMBERS)
def test_an_entry_gives_back_the_event(
    item: str, kind: str, time: float | None, value: float | None, watch: float | None
) -> None:
    event = HistoryEvent("ann", item, kind, time, "r", value, watch)
    stored = decode_entry(encode_entry(event, NOW))
    assert stored.item.decode() == item
    assert stored.type.decode() == kind
    assert stored.time == pytest.approx(NOW if time is None else time, abs=1e-3)
    assert stored.value == (value if value is None else pytest.approx(value, abs=1e-3))
    assert stored.watch_seconds == (watch if watch is None else pytest.approx(watch, abs=1e-3))


@given(IDS.filter(bool))
def test_an_item_alone_is_its_own_entry(item: str) -> None:
    entry = encode_item(item)
    assert decode_entry(entry) == StoredEvent(item.encode())
    assert entry == item.encode() or "\t" in item


@pytest.mark.parametrize(
    ("entry", "stored"),
    [
        (b"242", StoredEvent(b"242")),
        (b"242\tlike", StoredEvent(b"242", b"like")),
        (b"242\tlike\t17", StoredEvent(b"242", b"like", 17.0)),
        (b"242\t\t17\t-2.5", StoredEvent(b"242", b"", 17.0, -2.5)),
        (b"242\tview\t17\t\t90", StoredEvent(b"242", b"view", 17.0, None, 90.0)),
        (b"242\tview\t17\t1\t2\tmore", StoredEvent(b"242", b"view", 17.0, 1.0, 2.0)),
        (b"242\tlike\tnoon\tnan\tinf", StoredEvent(b"242", b"like")),
        (b"\tlike\t17\t\t\ta\tb", StoredEvent(b"a\tb", b"like", 17.0)),
        (b"\tb", StoredEvent(b"\tb")),
        (b"\xff\tlike", StoredEvent(b"\xff", b"like")),
        (b"", StoredEvent(b"")),
    ],
)
def test_entries_of_other_programs_are_read(entry: bytes, stored: StoredEvent) -> None:
    assert decode_entry(entry) == stored


def read(*entries: str, types: EventTypes = DEFAULT_TYPES) -> tuple[list[str], list[str]]:
    """The items that the network reads, and those that are excluded; entries are newest first."""
    found = read_history([entry.encode() for entry in entries], types, NOW)
    return [item.decode() for item in found.items], [item.decode() for item in found.excluded]


def test_events_of_types_without_effects_are_the_history() -> None:
    assert read() == ([], [])
    assert read("b", "a") == (["a", "b"], [])
    assert read("c\tnew_type", "b\tclick\t17", "a") == (["a", "b", "c"], [])
    assert read("c", "\tclick\t17\t\t\ta\tb", "a") == (["a", "a\tb", "c"], [])


def test_a_dislike_excludes_its_item_and_what_came_before() -> None:
    assert read("b\tdislike\t17", "c", "b", "a") == (["a", "c"], ["b"])
    assert read("x\tdislike", "a") == (["a"], ["x"])


def test_a_later_event_lifts_a_dislike() -> None:
    assert read("b\tlike\t18", "b\tdislike\t17", "b\tclick\t16") == (["b", "b"], [])


def test_a_skip_excludes_for_a_day() -> None:
    recent, old = NOW - 0.9 * DAY_SECONDS, NOW - 1.1 * DAY_SECONDS
    assert read(f"b\tskip\t{recent}", "a") == (["a"], ["b"])
    assert read(f"b\tskip\t{old}", "a") == (["a"], [])
    assert read("b\tskip", "a") == (["a"], ["b"])  # its time is not known


def test_a_type_may_enter_the_history_and_exclude() -> None:
    purchase = EventType(exclude_days=30)
    types = EventTypes(by_name={**DEFAULT_TYPES.by_name, "purchase": purchase})
    entries = ("a\tview", f"a\tpurchase\t{NOW}", "b\tpurchase\t17")
    assert read(*entries, types=types) == (["b", "a", "a"], ["a"])


def test_a_network_that_knows_types_reads_all_events_of_them() -> None:
    entries = ["d", "c\tview", "b\tdislike", "a\tlike\t17", "b\tlike\t3", "c\tskip\t9"]
    lines = [entry.encode() for entry in entries]
    plain = read_history(lines, DEFAULT_TYPES, NOW)
    assert (list(plain.items), list(plain.excluded)) == ([b"a", b"c", b"d"], [b"b"])
    assert list(plain.actions) == []
    found = read_history(lines, DEFAULT_TYPES, NOW, actions={b"like", b"dislike"})
    assert list(found.items) == [b"b", b"a", b"b", b"c", b"d"]
    assert list(found.actions) == [b"like", b"like", b"dislike", b"view", b""]
    assert list(found.excluded) == [b"b"]  # as without
    later = read_history([b"b\tlike", b"b\tdislike"], DEFAULT_TYPES, NOW, actions={b"dislike"})
    assert list(later.actions) == [b"dislike", b"like"]
    assert list(later.excluded) == []  # the like lifts the dislike


def test_items_are_repeated_some_days_after_their_latest_event() -> None:
    def ago(days: float) -> str:
        return f"click\t{NOW - days * DAY_SECONDS}"

    entries = [f"a\t{ago(1)}", f"b\t{ago(40)}", "c", f"a\t{ago(50)}", f"d\tdislike\t{ago(60)}"]
    found = read_history([e.encode() for e in entries], DEFAULT_TYPES, NOW, repeat_after_days=30)
    assert list(found.items) == [b"a", b"c", b"b", b"a"]
    assert sorted(found.excluded) == [b"a", b"c", b"d"]  # nobody knows when c was


def test_an_entry_without_a_type_is_a_click() -> None:
    for click, expected in (
        (EventType(exclude_days=1), (["a"], ["a"])),
        (EventType(history=False, weight=0), (["a"], [])),
    ):
        changed = EventTypes(by_name={**DEFAULT_TYPES.by_name, "click": click})
        assert read("a", types=changed) == expected


def test_custom_types_may_be_kept_out_of_the_history() -> None:
    no_custom = EventTypes(
        by_name={**DEFAULT_TYPES.by_name, "custom": EventType(history=False, weight=0)}
    )
    assert read("c\tnew_type", "b\tclick\t17", "a", types=no_custom) == (["a", "b"], [])


@given(st.lists(st.tuples(IDS.filter(bool), st.sampled_from(["", "click", "like", "odd"]))))
def test_the_quick_look_reads_what_decoding_each_entry_reads(
    events: list[tuple[str, str]],
) -> None:
    entries = [
        encode_entry(HistoryEvent("ann", item, kind), NOW) if kind else encode_item(item)
        for item, kind in events
    ]
    assert list(read_history(entries, DEFAULT_TYPES, NOW).items) == [
        decode_entry(entry).item for entry in reversed(entries)
    ]
