from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from preparing import histories, run, write


def test_integer_and_string_ids_are_one(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    numbers = pl.DataFrame({"user": [7, 7], "item": [1, 2], "time": [1, 2]})
    numbers.write_parquet(folder / "1.parquet")
    strings = pl.DataFrame({"user": ["7"], "item": ["1"], "time": [3.5]})
    strings.with_columns(pl.col("item").cast(pl.Categorical)).write_parquet(folder / "2.parquet")
    assert histories(run(folder)[1]) == {"7": ["1", "2", "1"]}


def test_ids_of_512_characters_are_kept(tmp_path: Path) -> None:
    user, item = "ü" * 512, "i" * 512
    _, dataset = run(write(tmp_path / "log.csv", f"user,item,time\n{user},{item},1\n"))
    assert histories(dataset) == {user: [item]}


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ({"user": [1.5]}, "column 'user' has the type Float64: ids must be strings or int"),
        ({"item": [[1]]}, r"column 'item' has the type List"),
        ({"time": [True]}, "column 'time' has the type Boolean: times must be"),
    ],
)
def test_parquet_types_that_cannot_be(
    tmp_path: Path, column: dict[str, list[Any]], message: str
) -> None:
    pl.DataFrame({"user": [1], "item": [1], "time": [1]} | column).write_parquet(tmp_path / "l.pq")
    with pytest.raises(ValueError, match=message):
        run(tmp_path / "l.pq")


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["nan", "NULL", "None", "ann"], "3 user ids look like missing values: 'nan', 'NULL', 'N"),
        (["\\N", "N/A", "<NA>", "-1", "ann"], "4 user ids look like missing values"),
        (["1.23457E+11", "ann"], "1 user ids look like numbers that a spreadsheet has rounded"),
        ([" ann", "ann "], "2 user ids have spaces around them: ' ann', 'ann '"),
        (["a\x00b", "ann"], r"1 user ids hold control characters: 'a\x00b'"),
        (["7.0", "8.0"], "all user ids look like integers written as floats: '7.0', '8.0'"),
    ],
)
def test_odd_ids_are_kept_and_told(tmp_path: Path, ids: list[str], message: str) -> None:
    """They may be real; that is for people to say."""
    table = pl.DataFrame({"user": ids, "item": ["x"] * len(ids), "time": [1] * len(ids)})
    table.write_parquet(tmp_path / "log.parquet")
    report, dataset = run(tmp_path / "log.parquet")
    assert dataset.user_ids == ids
    (hint,) = report.hints
    assert message in hint
    assert f"look again: {hint}" in str(report)


def test_usual_ids_need_no_hint(tmp_path: Path) -> None:
    ids = ["Nancy", "nullable", "7", "7.0", "-12", "a b", "ünï", "2E5", "none of them"]
    log = write(tmp_path / "log.csv", "user,item,time\n" + "".join(f"{i},{i},1\n" for i in ids))
    assert run(log)[0].hints == []


@pytest.mark.parametrize("values", [[b"x"], [1.5], [True], [date(2024, 1, 1)], [[1]], [{"a": 1}]])
@pytest.mark.parametrize("role", ["user", "item"])
def test_types_that_cannot_be_ids_are_refused_by_name(
    tmp_path: Path, values: list[Any], role: str
) -> None:
    table = {"user": ["a"], "item": ["x"], "time": [1]} | {role: values}
    pl.DataFrame(table).write_parquet(tmp_path / "log.parquet")
    with pytest.raises(ValueError, match=rf"log\.parquet: the column '{role}' has the type"):
        run(tmp_path / "log.parquet")


def test_bytes_in_a_column_that_is_not_read_do_no_harm(tmp_path: Path) -> None:
    table = {"user": ["a", None], "item": ["x", "y"], "time": [1, 2], "raw": [b"\xff", b"\x00"]}
    pl.DataFrame(table).write_parquet(tmp_path / "log.parquet")
    report, dataset = run(tmp_path / "log.parquet")
    assert report.malformed["no user id"].examples == ["log.parquet:2: ,y,2"]
    assert histories(dataset) == {"a": ["x"]}
