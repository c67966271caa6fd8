"""The recalls of the benchmark of filters over HTTP."""

import json

from loadtest.serving.bench_filter_mix import (
    FILTERS,
    NEW_FILTERS,
    USERS,
    Body,
    mixed,
    new_filters,
)

NAMES = [f"genre {number}" for number in range(18)]
PLAIN: list[Body] = [{"history": [f"i{number}"], "k": 5} for number in range(USERS)]


def forms(bodies: list[Body]) -> set[str]:
    return {json.dumps(sorted(body["filter"]["all"][0]["in"])) for body in bodies}


def test_the_mix_has_as_many_filters_as_it_says() -> None:
    found = mixed(PLAIN, "genres", NAMES)
    assert [body["history"] for body in found] == [body["history"] for body in PLAIN]
    assert FILTERS // 2 < len(forms(found)) <= FILTERS  # some ask for the same single value
    assert all(set(body["filter"]["all"][0]["in"]) <= set(NAMES) for body in found)


def test_new_filters_differ_all() -> None:
    halves = [new_filters(PLAIN, "genres", NAMES, half) for half in range(2)]
    assert [len(half) for half in halves] == [NEW_FILTERS // 2] * 2
    assert len(forms(halves[0] + halves[1])) == NEW_FILTERS
