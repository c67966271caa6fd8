"""The kinds of attributes: guessed from text, read from Parquet, corrected by an option."""

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from preparing import run, write

from model.data.column_kinds import as_kind, guess_kind, type_columns
from model.data.config import PrepareConfig
from model.data.dataset import Dataset
from model.data.prepare import prepare
from model.kinds import Kind

MIDNIGHT_AND_TEN = [datetime(2026, 1, 2, hour, tzinfo=UTC) for hour in (0, 10)]


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("number", ["3.99", "", "-5", "1e3", ".5", "N/A"]),
        ("category", ["007", "12"]),  # no numbers: they may be codes
        ("category", ["1,000", "2"]),
        ("flag", ["1", "0", "1"]),
        ("number", ["1", "1"]),
        ("flag", ["Yes", "no"]),
        ("flag", ["TRUE", "true"]),
        ("time", ["2026-01-02", "2026-01-03T10:00:00+02:00"]),
        ("categories", ["a|b", "a", None, "c | d"]),
        ("category", ["red", "blue", "red"]),
        ("text", [f"a sentence about item {n}, which goes on and on and on" for n in range(9)]),
        ("text", [f"name {n}" for n in range(300)]),
        ("text", [f"name {n}|{n}" for n in range(300)]),
        ("text", [None, None]),
    ],
)
def test_a_kind_is_guessed_from_text(kind: Kind, values: list[str | None]) -> None:
    assert guess_kind(pl.Series("x", values, pl.String), from_text=True) == kind


def test_a_title_is_text() -> None:
    assert guess_kind(pl.Series("title", ["1984", "2001"]), from_text=True) == "text"


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("number", pl.Series([1, 2])),
        ("number", pl.Series(["1.5"]).cast(pl.Decimal(10, 2))),
        ("flag", pl.Series([True, None])),
        ("time", pl.Series([date(2026, 1, 2)])),
        ("time", pl.Series([datetime(2026, 1, 2)])),
        ("categories", pl.Series([["a"], []])),
        ("categories", pl.Series([[1, 2]])),
        ("category", pl.Series(["1", "2"])),  # its writer chose strings
        ("category", pl.Series(["a"], dtype=pl.Categorical)),
        ("text", pl.Series([[1.5]])),
        ("text", pl.Series([{"a": 1}])),
    ],
)
def test_a_kind_is_that_of_the_type_in_a_parquet_file(kind: Kind, values: pl.Series) -> None:
    assert guess_kind(values.alias("x"), from_text=False) == kind


@pytest.mark.parametrize(
    ("kind", "values", "typed"),
    [
        ("number", ["3", " 4", None], [3, 4, None]),
        ("number", ["3", "007", "4.5"], [3.0, 7.0, 4.5]),
        ("number", [1.5, float("nan"), float("inf")], [1.5, None, None]),
        ("flag", [1, 0, 2], [True, False, None]),
        ("flag", [1.0, 0.0], [True, False]),
        ("time", ["2026-01-02", ""], [date(2026, 1, 2), None]),
        ("time", ["2026-01-02", "2026-01-02T10:00"], MIDNIGHT_AND_TEN),
        ("time", ["2026-01-02T10:00+02:00"], [datetime(2026, 1, 2, 8, tzinfo=UTC)]),
        ("time", [datetime(2026, 1, 2)], [datetime(2026, 1, 2, tzinfo=UTC)]),
        ("time", [86_400, None], [datetime(1970, 1, 2, tzinfo=UTC), None]),
        ("category", [7, None], ["7", None]),
        ("categories", ["a| b|", "", None], [["a", "b"], [], None]),
        ("categories", [[1, 2]], [["1", "2"]]),
        ("text", [{"a": 1}], [{"a": 1}]),
    ],
)  # fmt: skip
def test_values_get_the_type_of_their_kind(kind: Kind, values: Any, typed: Any) -> None:
    assert as_kind(pl.Series("x", values), kind)[0].to_list() == typed


def test_values_that_are_not_of_a_given_kind_are_told() -> None:
    items = pl.DataFrame({"item_id": ["a", "b", "c"], "price": ["3", "free", "-"]})
    typed = type_columns(items, {"price": "number"}, from_text=True)
    assert typed.items["price"].to_list() == [3, None, None]
    (hint,) = typed.hints
    assert "values such as 'free' are not of the kind number: they are missing now" in hint
    nested = pl.DataFrame({"size": [{"a": 1}]})
    with pytest.raises(ValueError, match="--item-kinds size=number: values of type Struct"):
        type_columns(nested, {"size": "number"}, from_text=False)


def test_a_column_with_a_few_values_of_another_kind_is_told() -> None:
    items = pl.DataFrame({"price": ["3"] * 19 + ["free"]})
    typed = type_columns(items, {}, from_text=True)
    assert typed.kinds == {"price": "category"}
    (hint,) = typed.hints
    assert "'free'" in hint
    assert "--item-kinds price=number" in hint


def test_a_data_set_keeps_the_kinds_and_says_them(tmp_path: Path) -> None:
    log = write(tmp_path / "log.txt", "a x y\n")
    items = write(tmp_path / "items.csv", "item,title,price,brand\nx,X,3,7\ny,Y,4.5,8\n")
    report, dataset = run(log, items=items, item_kinds={"brand": "category"})
    assert dataset.kinds == {"title": "text", "price": "number", "brand": "category"}
    assert dataset.items["brand"].to_list() == ["7", "8"]
    assert "attributes: title (text), price (number), brand (category)" in str(report)
    assert "--item-kinds NAME=KIND" in str(report)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"item_kinds": {"prize": "number"}}, "no attribute 'prize'. Its attributes: title, price"),
        ({"item_kinds": {"item_id": "number"}}, "no attribute 'item_id'"),
    ],
)
def test_a_kind_for_no_attribute_is_refused(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    log = write(tmp_path / "log.txt", "a x y\n")
    items = write(tmp_path / "items.csv", "item,title,price\nx,X,3\n")
    with pytest.raises(ValueError, match=message):
        run(log, items=items, **options)
    with pytest.raises(ValueError, match="kinds of item metadata are given, but no --items file"):
        run(log, **options)


def test_a_data_set_without_kinds_is_read_and_a_damaged_one_is_not(tmp_path: Path) -> None:
    log, out = write(tmp_path / "log.txt", "a x y\n"), tmp_path / "out"
    prepare(PrepareConfig(input=log, out=out, min_user_events=0, min_item_events=0))
    file = out / "dataset.json"
    content = file.read_text()
    assert '"kinds": {}' in content
    file.write_text(content.replace('"kinds": {},', ""))
    assert Dataset.load(out).kinds == {}
    file.write_text(content.replace('"kinds": {}', '"kinds": {"x": "y"}'))
    with pytest.raises(ValueError, match="'kinds' are not those of attributes"):
        Dataset.load(out)
