"""Findings of `recgpt doctor`: one line each, with its level and what to do."""

from enum import StrEnum
from typing import NamedTuple


class Level(StrEnum):
    """The weight of a finding."""

    OK = "ok"
    WARNING = "warning"
    """The service runs, but slower, less safely or not as expected."""
    PROBLEM = "problem"
    """The service, or a command, fails until this is mended."""


class Finding(NamedTuple):
    """The result of one check."""

    level: Level
    subject: str
    """The part that was checked, such as "store: clock"."""
    text: str
    """The state of that part and, unless the level is ok, what to do. It holds no secrets."""


def ok(subject: str, text: str) -> Finding:
    """Returns a finding that asks for nothing."""
    return Finding(Level.OK, subject, text)


def warning(subject: str, text: str) -> Finding:
    """Returns a finding that should be looked at."""
    return Finding(Level.WARNING, subject, text)


def problem(subject: str, text: str) -> Finding:
    """Returns a finding that must be mended."""
    return Finding(Level.PROBLEM, subject, text)
