"""Values of attributes as text in the store ↔ as JSON, by their kinds (`model.kinds`).

kind         text in a hash of the store         JSON
category     the name                            string
categories   names with `|` between them         list of strings
number       decimal digits                      number
time         ISO 8601 (without a zone: UTC),     ISO 8601
             or seconds since 1970
flag         true, yes, 1 or false, no, 0        boolean
text         any text                            string

Front ends import this module, so it loads no library that computes.
"""

import math
from datetime import UTC, datetime
from typing import Any

from model.kinds import FALSE_WORDS, TRUE_WORDS, Kind

Value = str | int | float | bool | list[str]

MAX_TEXT = 10_000
"""Characters of the longest text that is a value."""
MAX_NAMES = 100
"""Names in the longest list."""


def value_of(kind: Kind, text: str) -> Value:
    """Returns the value of a text in the store, for JSON. Raises ValueError if it is no value."""
    if len(text) > MAX_TEXT:
        raise ValueError(f"has more than {MAX_TEXT:,} characters")
    if kind in ("category", "text"):
        return text
    if kind == "categories":
        return _names([name.strip() for name in text.split("|") if name.strip()])
    bare = text.strip()
    if kind == "number":
        return _number(bare)
    if kind == "time":
        return _time(bare)
    word = bare.lower()
    if word not in TRUE_WORDS + FALSE_WORDS:
        raise ValueError("is no flag: write true or false")
    return word in TRUE_WORDS


def text_of(kind: Kind, value: Any) -> str:
    """Returns the text for the store of a value in JSON.

    Raises ValueError if it is of another kind; the message follows the name of the attribute.
    """
    if kind == "categories":
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            raise ValueError("must be a list of strings")
        if any("|" in name or not name.strip() for name in value):
            raise ValueError("must have no empty name and no name with a |")
        text = "|".join(value)
    elif kind == "flag":
        if not isinstance(value, bool):
            raise ValueError("must be true or false")
        text = "true" if value else "false"
    elif kind == "number" or (kind == "time" and not isinstance(value, str)):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(
                "must be a number" if kind == "number" else "must be ISO 8601 or a number"
            )
        text = repr(value)
    elif isinstance(value, str):
        text = value
    else:
        raise ValueError("must be a string")
    value_of(kind, text)
    return text


def engine_value(kind: Kind, value: Value) -> Value:
    """Returns the value as the engine compares it: a time in seconds since 1970."""
    if kind != "time":
        return value
    assert isinstance(value, str)
    return _moment(value).timestamp()


def _names(names: list[str]) -> list[str]:
    if len(names) > MAX_NAMES:
        raise ValueError(f"has more than {MAX_NAMES} names")
    return names


def _number(text: str) -> int | float:
    try:
        if "_" in text:  # Python takes it for a separator
            raise ValueError
        number = float(text)
        if not math.isfinite(number):
            raise ValueError
        return int(text) if text.lstrip("+-").isdecimal() and abs(number) < 2**53 else number
    except ValueError:
        raise ValueError("is no finite number") from None


def _time(text: str) -> str:
    """Returns the time in ISO 8601: a date as it stands, else a datetime in UTC."""
    try:
        if len(text) == len("2026-01-02") and "-" in text:
            return datetime.fromisoformat(text).date().isoformat()
        try:
            moment = datetime.fromtimestamp(_number(text), UTC)
        except ValueError:
            moment = _moment(text)
        return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        raise ValueError("is no time: write ISO 8601, or seconds since 1970") from None


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
