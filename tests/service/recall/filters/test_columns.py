"""The items that conditions match, column by column."""

from datetime import UTC, date, datetime

import numpy as np
import polars as pl
import pytest

from service.recall.filters import columns as columns_module
from service.recall.filters.columns import AttributeColumns
from service.recall.filters.evaluation import evaluate
from service.recall.filters.form import Condition, canonical_form

ITEMS = pl.DataFrame(
    {
        "item_id": ["a", "b", "c", "d", "e"],
        "count": [5, 4, 3, 2, 1],
        "genres": [["Comedy"], ["Drama", "Comedy"], [], None, [None, "War"]],
        "brand": ["x", "y", None, "x", ""],
        "price": [1.5, float("nan"), None, -2.0, 1e9],
        "year": [1990, 1991, None, 2000, 1990],
        "new": [True, False, None, True, False],
        "day": [date(2020, 1, 1), None, date(1969, 12, 31), date(2026, 1, 1), date(2020, 1, 2)],
        "struct": [{"a": 1}] * 5,
    }
)


@pytest.fixture
def columns() -> AttributeColumns:
    return AttributeColumns.of(ITEMS)


def matching(columns: AttributeColumns, **groups: list[Condition]) -> str:
    """The ids of the items that a filter allows."""
    allowed_V = evaluate(canonical_form(groups), columns).allowed_V
    return "".join(ITEMS["item_id"].filter(pl.Series(allowed_V)))


def seconds(*day: int) -> float:
    return datetime(*day, tzinfo=UTC).timestamp()  # type: ignore[misc,arg-type]


def test_kinds_follow_from_the_types(columns: AttributeColumns) -> None:
    assert columns.kinds == {
        "genres": "categories",
        "brand": "category",
        "price": "number",
        "year": "number",
        "new": "flag",
        "day": "time",
        "struct": "text",
    }


def test_strings_that_nearly_all_differ_are_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns_module, "FEW", 2)
    assert AttributeColumns.of(ITEMS).kinds["brand"] == "text"
    given = AttributeColumns.of(ITEMS, {"brand": "category", "genres": "text"})
    assert (given.kinds["brand"], given.kinds["genres"]) == ("category", "text")
    assert matching(given, all=[{"field": "brand", "in": ["x"]}]) == "ad"
    assert matching(given, all=[{"field": "genres", "in": ["Comedy"]}]) == ""


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ({"field": "genres", "in": ["Comedy"]}, "ab"),
        ({"field": "genres", "in": ["Drama", "War"]}, "be"),
        ({"field": "genres", "in": ["comedy"]}, ""),
        ({"field": "brand", "in": ["x", ""]}, "ade"),
        ({"field": "brand", "in": [""]}, "e"),
        ({"field": "price", "lte": 1.5}, "ad"),
        ({"field": "price", "lt": 1.5}, "d"),
        ({"field": "price", "gt": -2.0, "lte": 1e9}, "ae"),
        ({"field": "price", "gte": 2.0, "lt": 1.0}, ""),
        ({"field": "year", "in": [1990.0, 2000.0]}, "ade"),
        ({"field": "year", "in": [1990.0], "gt": 1990.0}, ""),
        ({"field": "new", "in": [True]}, "ad"),
        ({"field": "new", "in": [False]}, "be"),
        ({"field": "day", "gte": seconds(2020, 1, 1), "lt": seconds(2020, 1, 2)}, "a"),
        ({"field": "day", "lt": 0.0}, "c"),
        ({"field": "unheard-of", "in": ["x"]}, ""),
        ({"field": "struct", "in": ["x"]}, ""),
        ({"field": "item_id", "in": ["a"]}, ""),
    ],
)
def test_a_condition_matches_the_items_with_such_a_value(
    columns: AttributeColumns, condition: Condition, expected: str
) -> None:
    assert matching(columns, all=[condition]) == expected
    others = "".join(item for item in "abcde" if item not in expected)
    assert matching(columns, none=[condition]) == others  # a missing value passes
    assert matching(columns, any=[condition]) == expected


def test_groups_are_joined(columns: AttributeColumns) -> None:
    comedy, x = {"field": "genres", "in": ["Comedy"]}, {"field": "brand", "in": ["x"]}
    cheap = {"field": "price", "lt": 0.0}
    assert matching(columns, all=[comedy, x]) == "a"
    assert matching(columns, any=[x, cheap, comedy], none=[cheap]) == "ab"
    assert matching(columns, all=[x], any=[comedy, cheap], none=[comedy]) == "d"


def test_values_that_no_item_has_are_counted(columns: AttributeColumns) -> None:
    condition = {"field": "genres", "in": ["Comedy", "Comdy", "Wra"]}
    number = {"field": "price", "in": [77.0]}
    form = canonical_form({"all": [condition], "none": [number]})
    found = evaluate(form, columns)
    assert found.unknown_values == 2
    assert found.fields == {"genres", "price"}


def test_equal_filters_have_one_form() -> None:
    one = {"field": "a", "in": ["y", "x", "y"], "gt": None}
    other = {"in": ["x", "y"], "field": "a"}
    bound = {"lt": 2.0, "field": "b", "gt": 1.0}
    assert canonical_form({"all": [one, bound]}) == canonical_form({"all": [bound, other, one]})
    assert canonical_form({"all": [one], "any": []}) == canonical_form({"all": [other]})
    assert canonical_form({"all": [one]}) != canonical_form({"any": [one]})
    assert canonical_form({"all": [{"field": "a", "in": ["\ud800"]}]})  # a lone surrogate


def test_values_change(columns: AttributeColumns) -> None:
    columns.set(0, "genres", ["War", "New"])
    columns.set(1, "genres", None)
    columns.set(2, "brand", "new")
    columns.set(3, "price", None)
    columns.set(2, "price", 7)
    columns.set(2, "new", True)
    columns.set(1, "day", "2020-01-01T12:00:00Z")
    assert matching(columns, all=[{"field": "genres", "in": ["Comedy", "Drama"]}]) == ""
    assert matching(columns, all=[{"field": "genres", "in": ["War"]}]) == "ae"
    assert matching(columns, all=[{"field": "genres", "in": ["New"]}]) == "a"
    assert matching(columns, all=[{"field": "brand", "in": ["new"]}]) == "c"
    assert matching(columns, all=[{"field": "price", "lt": 10.0}]) == "ac"
    assert matching(columns, all=[{"field": "new", "in": [True]}]) == "acd"
    day = {"field": "day", "gte": seconds(2020, 1, 1), "lt": seconds(2020, 1, 2)}
    assert matching(columns, all=[day]) == "ab"


def test_many_changes_are_folded_into_the_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns_module, "FOLD_AT", 3)
    rng = np.random.default_rng(0)
    values: list[list[str]] = [[] for _ in range(50)]
    frame = pl.DataFrame({"tags": pl.Series(values, dtype=pl.List(pl.String))})
    columns = AttributeColumns.of(frame)
    for _ in range(40):
        row, own = int(rng.integers(50)), [f"t{tag}" for tag in rng.integers(5, size=2)]
        columns.set(row, "tags", own)
        values[row] = own
        for tag in ("t0", "t3", "never"):
            form = canonical_form({"all": [{"field": "tags", "in": [tag]}]})
            assert evaluate(form, columns).allowed_V.tolist() == [tag in own for own in values]
        column = columns.get("tags")
        assert column
        assert [set(found) for found in column.values(range(50))] == [set(own) for own in values]
