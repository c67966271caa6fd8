import json
import re
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from preparing import histories, run, write
from pydantic_core import to_json


def test_recbole_header_and_metadata(tmp_path: Path) -> None:
    header = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    log = write(tmp_path / "ml.inter", header + "196\t242\t3\t881250949\n196\t1\t3\t5\n")
    items = write(
        tmp_path / "ml.item",
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
        '1\t"Toy" Story\t1995\tAnimation Children\'s\n'
        "242\tCérémonie, La\t\tDrama\n2\tOther\t1995\tAction\n242\tAgain\t1\tDrama\n",
    )
    report, dataset = run(log, items=items, genres_column="class")
    assert histories(dataset) == {"196": ["1", "242"]}
    assert dataset.items.columns == ["item_id", "count", "title", "release_year", "genres"]
    assert sorted(dataset.items.rows()) == [
        ("1", 1, '"Toy" Story', 1995, ["Animation", "Children's"]),
        ("242", 1, "Cérémonie, La", None, ["Drama"]),
    ]
    assert report.metadata is not None
    assert (report.metadata.rows, report.metadata.repeated, report.metadata.without) == (4, 1, 0)


def test_parquet_metadata_keeps_its_types(tmp_path: Path) -> None:
    log = write(tmp_path / "log.txt", "a 1 2 3\n")
    pl.DataFrame({"id": [1, 2], "label": ["One", ""], "price": [1.5, 2], "tags": [["p"], []]}).pipe(
        lambda items: items.write_parquet(tmp_path / "items.parquet")
    )
    names = {"item_id_column": "id", "title_column": "label", "genres_column": "tags"}
    _, dataset = run(log, items=tmp_path / "items.parquet", **names)
    assert dataset.items.columns == ["item_id", "count", "title", "price", "genres"]
    assert dataset.items.rows() == [
        ("1", 1, "One", 1.5, ["p"]),
        ("2", 1, None, 2.0, []),
        ("3", 1, None, None, None),
    ]


def test_genres_are_split_at_bars_or_spaces(tmp_path: Path) -> None:
    log = write(tmp_path / "log.txt", "a 1 2 3\n")
    bars = write(tmp_path / "b.csv", "item,genres\n1,Film Noir| Crime\n2,Science Fiction\n3,\n")
    dataset = run(log, items=bars, genres_column="genres")[1]
    assert dataset.items["genres"].to_list() == [["Film Noir", "Crime"], ["Science Fiction"], None]
    spaces = write(tmp_path / "s.csv", "item,genres\n1,Noir  Crime\n")
    dataset = run(log, items=spaces, genres_column="genres", overwrite=True)[1]
    assert dataset.items["genres"].to_list() == [["Noir", "Crime"], None, None]


@pytest.mark.parametrize(
    ("header", "options", "message"),
    [
        ("item,title,title", {}, "twice"),
        ("item,count", {}, "rename the columns 'count'"),
        ("sku,title", {}, r"which column is the item's id.*--item-id-column.*sku, title"),
        ("item,title", {"genres_column": "kind"}, "no column 'kind'"),
        ("item,name,title", {"title_column": "name"}, "rename the columns 'title'"),
    ],
)
def test_metadata_columns(
    tmp_path: Path, header: str, options: dict[str, str], message: str
) -> None:
    log = write(tmp_path / "log.txt", "a x y\n")
    items = write(tmp_path / "items.csv", header + "\n")
    with pytest.raises(ValueError, match=message):
        run(log, items=items, **options)


def test_metadata_columns_without_a_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no --items file"):
        run(write(tmp_path / "log.txt", "a x y\n"), title_column="title")


def test_bytes_become_text_or_are_left_out_by_name(tmp_path: Path) -> None:
    """JSON has no bytes, so that no answer of the service could hold them."""
    items = tmp_path / "items.parquet"
    pl.DataFrame(
        {
            "item": [b"x", b"y"],  # as some writers mark strings
            "title": [b"X", None],
            "image": [b"\xff\xd8", b""],
            "images": [[b"a"], []],
            "size": [{"raw": b"a", "width": 1}, None],
            "price": [1.5, float("nan")],
        }
    ).with_columns(pl.col("item").cast(pl.String)).write_parquet(items)
    report, dataset = run(write(tmp_path / "log.txt", "a x y\n"), items=items)
    assert dataset.items.columns == ["item_id", "count", "title", "price"]
    assert dataset.items["title"].to_list() == ["X", None]
    assert report.metadata
    for name in ("image", "images", "size"):
        assert f"the column '{name}' is left out: values of the type" in str(report)


@pytest.mark.parametrize(
    "values",
    [
        [date(2024, 1, 1)],
        [datetime(2024, 1, 1, 2)],
        [time(1, 2)],
        [timedelta(seconds=5)],
        [Decimal("1.50")],
        [2**100],
        [[1.5, None]],
        [{"a": {"b": ["c"]}}],
        [None],
        pl.Series(["a"], dtype=pl.Categorical),
        pl.Series([[1, 2]], dtype=pl.Array(pl.Int8, 2)),
    ],
)
def test_every_other_type_can_be_json(tmp_path: Path, values: Any) -> None:
    items = tmp_path / "items.parquet"
    pl.DataFrame({"item": ["x"], "value": values}).write_parquet(items)
    _, dataset = run(write(tmp_path / "log.txt", "a x\n"), items=items)
    json.loads(to_json(dataset.items["value"].to_list()))


@pytest.mark.parametrize("name", ["", "Unnamed: 0"])
def test_a_column_of_row_numbers_is_left_out_and_told(tmp_path: Path, name: str) -> None:
    items = write(tmp_path / "items.csv", f"{name},item,title\n0,x,X\n1,y,Y\n")
    report, dataset = run(write(tmp_path / "log.txt", "a x y\n"), items=items)
    assert dataset.items.columns == ["item_id", "count", "title"]
    assert re.search(r"items\.csv: column 1 .* is left out", str(report))


def test_the_table_of_items_is_looked_at_before_the_log_is_read(tmp_path: Path) -> None:
    items = write(tmp_path / "items.csv", "sku,title\nx,X\n")
    with pytest.raises(ValueError, match="which column is the item's id"):
        run(write(tmp_path / "log.csv", "user,item,time\n,,\n"), items=items)


def test_a_table_that_describes_no_item_of_the_log_is_told(tmp_path: Path) -> None:
    items = write(tmp_path / "items.csv", "item,title\n7.0,Seven\n8.0,Eight\n")
    report, _ = run(write(tmp_path / "log.txt", "a 007 008\n"), items=items)
    assert "none of the rows of" in str(report)
    assert "items.csv describes an item of the log: its ids are such as '7.0', '8.0'" in str(report)
    assert "the log's such as '007', '008'" in str(report)


def test_dates_that_have_no_iso_form_are_missing_and_told(tmp_path: Path) -> None:
    log = write(tmp_path / "log.txt", "a x y\n")
    far = pl.Series([2**61, 1_700_000_000_000]).cast(pl.Datetime("ms"))
    days = pl.Series([2**31 - 1, None], dtype=pl.Int32).cast(pl.Date)
    table = pl.DataFrame({"item": ["x", "y"], "far": far, "days": days})
    table.write_parquet(tmp_path / "items.parquet")
    report, dataset = run(log, items=tmp_path / "items.parquet")
    assert dataset.items["far"].null_count() == 1
    assert dataset.items["days"].null_count() == 2
    assert report.metadata
    told = [hint.partition("the column ")[2] for hint in report.metadata.hints]
    assert told == [
        "'far' has 1 dates beyond the years 1 to 9999: they are missing now",
        "'days' has 1 dates beyond the years 1 to 9999: they are missing now",
    ]
