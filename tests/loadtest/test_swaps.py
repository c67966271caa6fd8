"""The benchmark of changes of version finds what must not happen."""

import json

from loadtest.reliability.report import Figures
from loadtest.reliability.swaps import Answers, bars

LATENCIES = {
    "seconds": 60.0,
    "answers": 1000,
    "failed": 0,
    "statuses": {"200": 1000},
    "p99_ms": 10.0,
}
FIGURES: Figures = {
    "swaps": 12,
    "without": LATENCIES,
    "during": LATENCIES | {"p99_ms": 19.0},
    "versions": 2,
    "wrong": 0,
    "swap_s": [5.0] * 12,
    "memory_mb": [900.0] * 9 + [1000.0, 1010.0, 1049.0],
}


def answer(version: str, first: int) -> bytes:
    items = [{"item_id": f"i{n}"} for n in range(first, first + 10)]
    return json.dumps({"version": version, "items": items}).encode()


def missed(**changes: object) -> list[str]:
    return [bar.name.partition(": ")[2] for bar in bars(FIGURES | changes) if not bar.holds]


def test_an_answer_must_be_one_of_the_version_that_it_names() -> None:
    answers = Answers()
    answers.learn(b"request", answer("old", 0))
    answers.learn(b"request", answer("new", 100))
    answers.compare(b"request", answer("old", 0))
    answers.compare(b"request", answer("new", 101))  # a near tie
    assert (answers.wrong, answers.versions) == (0, {"old": 1, "new": 1})
    answers.compare(b"request", answer("old", 100))  # of the other one
    answers.compare(b"request", answer("third", 0))
    answers.compare(b"another request", answer("old", 0))
    assert answers.wrong == 3


def test_failures_are_told_by_status() -> None:
    statuses = {"200": 998, "429": 2}
    (bar, *_) = bars(FIGURES | {"during": LATENCIES | {"failed": 2, "statuses": statuses}})
    assert (bar.value, bar.holds) == ("2 (2 x 429)", False)


def test_every_bar_can_be_missed() -> None:
    assert missed() == []
    assert missed(during=LATENCIES | {"failed": 1}) == ["failed of 1,000 answers"]
    assert missed(wrong=1) == ["answers of neither version"]
    assert missed(versions=1) == ["answers of neither version"]
    assert missed(during=LATENCIES | {"p99_ms": 21.0}) == ["p99"]
    assert missed(memory_mb=[900.0] * 11 + [950.0]) == ["memory after the last"]
