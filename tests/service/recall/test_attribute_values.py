"""Values of attributes as text in the store and as JSON."""

from typing import Any

import pytest

from model.kinds import Kind
from service.recall.attribute_values import MAX_NAMES, MAX_TEXT, engine_value, text_of, value_of


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("category", "Acme", "Acme"),
        ("text", "", ""),
        ("categories", "a| b |", ["a", "b"]),
        ("categories", "", []),
        ("number", " 3 ", 3),
        ("number", "-1.5e3", -1500.0),
        ("number", "12345678901234567890", 12345678901234567890.0),
        ("time", "2026-01-02", "2026-01-02"),
        ("time", "2026-01-02T10:00:00+02:00", "2026-01-02T08:00:00Z"),
        ("time", "2026-01-02 10:00", "2026-01-02T10:00:00Z"),
        ("time", "86400.5", "1970-01-02T00:00:00.500000Z"),
        ("flag", "Yes", True),
        ("flag", "0", False),
    ],
)
def test_text_of_the_store_is_read(kind: Kind, text: str, value: Any) -> None:
    found = value_of(kind, text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("number", ""),
        ("number", "3,99"),
        ("number", "nan"),
        ("number", "1e999"),
        ("number", "1_000"),
        ("time", "soon"),
        ("time", "1e300"),
        ("time", "20-1-2026x"),
        ("time", "2026-13-01"),
        ("flag", "2"),
        ("flag", ""),
        ("text", "x" * (MAX_TEXT + 1)),
        ("categories", "|".join(map(str, range(MAX_NAMES + 1)))),
    ],
)
def test_other_text_is_no_value(kind: Kind, text: str) -> None:
    with pytest.raises(ValueError, match=r"^(is no|has more than) "):
        value_of(kind, text)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("category", "Acme"),
        ("categories", ["a", "b"]),
        ("categories", []),
        ("number", 3),
        ("number", 0.1),
        ("number", 1e-9),
        ("time", "2026-01-02T08:00:00Z"),
        ("flag", True),
        ("flag", False),
        ("text", "any | text"),
    ],
)
def test_what_json_brings_is_what_is_read(kind: Kind, value: Any) -> None:
    assert value_of(kind, text_of(kind, value)) == value


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        ("number", "3", "must be a number"),
        ("number", True, "must be a number"),
        ("number", float("inf"), "is no finite number"),
        ("flag", 1, "must be true or false"),
        ("category", 3, "must be a string"),
        ("category", ["a"], "must be a string"),
        ("categories", "a", "must be a list of strings"),
        ("categories", ["a", 1], "must be a list of strings"),
        ("categories", ["a|b"], "no name with a |"),
        ("categories", [" "], "no empty name"),
        ("time", False, "ISO 8601 or a number"),
        ("time", "soon", "is no time"),
        ("text", "x" * (MAX_TEXT + 1), "more than 10,000 characters"),
    ],
)
def test_json_of_another_kind_is_refused(kind: Kind, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("|", r"\|")):
        text_of(kind, value)


def test_the_engine_compares_times_in_seconds() -> None:
    assert engine_value("time", "1970-01-02") == 86_400
    assert engine_value("time", "1970-01-01T00:00:01Z") == 1
    assert engine_value("number", 3) == 3
