from datetime import date, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from preparing import histories, malformed, run, write


@pytest.mark.parametrize(
    "times",  # in order, all of them different
    [
        ["-3", "0", "+7", " 8 ", "8.5", "1e3"],
        ["2023-12-31", "2024-01-01 00:00:00.5", "2024-01-01T00:01", "2024-01-01T00:01:01Z"],
        ["2024-01-01T02:00:00+02:00", "2024-01-01T00:00:01", "2024-01-01T00:00:02+0000"],
        ["1700000000000000001", "1700000000000000002", "1700000000000000003"],
        ["0", "1970-01-01T00:00:01", "2"],  # dates are seconds since 1970
        [datetime(2024, 1, 1, 0, 0, 0, 1), datetime(2024, 1, 1, 0, 0, 0, 2)],
        [date(2024, 1, 1), date(2024, 1, 2)],
        [0.25, 0.5],
        [2**60, 2**60 + 1, 2**60 + 2],
    ],
)
def test_times(tmp_path: Path, times: list[Any]) -> None:
    items = [str(number) for number in range(len(times))]
    table = pl.DataFrame({"user": ["a"] * len(times), "item": items, "time": times}).reverse()
    path = tmp_path / "log.parquet"
    table.write_parquet(path)
    report, dataset = run(path)
    assert histories(dataset) == {"a": items}
    assert report.malformed == {}


def test_equal_times_in_different_forms_are_ties(tmp_path: Path) -> None:
    log = "user,item,time\na,1,5.0\na,2,5\na,3,1970-01-01T00:00:05Z\na,4,5\na,5,4\n"
    _, dataset = run(write(tmp_path / "log.csv", log))
    assert histories(dataset) == {"a": ["5", "1", "2", "3", "4"]}


SECOND = 1_700_000_000


def hints(tmp_path: Path, times: list[Any]) -> list[str]:
    table = pl.DataFrame({"user": ["a"] * len(times), "item": ["x"] * len(times), "time": times})
    table.write_parquet(tmp_path / "log.parquet")
    return run(tmp_path / "log.parquet", overwrite=True)[0].hints


@pytest.mark.parametrize(
    "times",
    [
        [SECOND, SECOND - 86_400 * 3000],
        [SECOND * 1000, SECOND * 1000 + 1],
        [SECOND * 10**6, SECOND * 10**6 + 1],
        [SECOND * 10**9, SECOND * 10**9 + 1],
        [0, 1, 2, 500, 10**6],
        list(range(10**7, SECOND, 10**7)),  # a counter that grows past the size of a time
        [-5.5, 3.5],
        [datetime(1995, 1, 1), datetime(2024, 1, 1)],
    ],
)
def test_plain_times_need_no_hint(tmp_path: Path, times: list[Any]) -> None:
    assert hints(tmp_path, times) == []


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (
            [SECOND, SECOND + 60, (SECOND + 1) * 1000, (SECOND + 2) * 10**6],
            "a mixture of units: 2 like seconds (2023-11-14 22:13 to 2023-11-14 22:14), "
            "1 like milliseconds (2023-11-14 22:13 to 2023-11-14 22:13), "
            "1 like microseconds (2023-11-14 22:13 to 2023-11-14 22:13). Events are in the order",
        ),
        ([0, SECOND], "1 like numbers below 100,000,000 (0 to 0), 1 like seconds"),
        ([-1, SECOND], "1 like numbers below 100,000,000 (-1 to -1), 1 like seconds"),
        (
            [2023, 2024, SECOND * 10**9],
            "2 like numbers below 100,000,000 (2023 to 2024), 1 ",
        ),
        ([20240131, 19991231], "dates written as numbers, such as 20240131: they are in order"),
        ([202401312359, 199912310000], "dates written as numbers, such as 202401312359"),
        ([SECOND, 4_000_000_000], "the newest time lies in the future: 2096-10-02 07:06"),
    ],
)
def test_odd_times_are_told_with_their_range(
    tmp_path: Path, times: list[int], message: str
) -> None:
    (hint,) = hints(tmp_path, times)
    assert message in hint


def test_the_report_tells_the_range(tmp_path: Path) -> None:
    log = write(tmp_path / "log.csv", f"user,item,time\na,x,{SECOND}\na,y,{SECOND - 86_400}\n")
    report, _ = run(log)
    assert report.times == ["2023-11-13 22:13", "2023-11-14 22:13"]
    assert "2023-11-13 22:13 to 2023-11-14 22:13" in str(report)
    assert run(log, in_order=True, overwrite=True)[0].times is None
    assert run(write(tmp_path / "lines.txt", "a x\n"))[0].times is None


def test_a_column_in_which_no_row_has_a_time(tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    table = pl.DataFrame({"user": ["a"], "item": ["x"], "time": [None]})
    table.write_parquet(folder / "1.parquet")
    table.with_columns(time=1).write_parquet(folder / "2.parquet")
    table.with_columns(item=None, time=1).write_parquet(folder / "3.parquet")
    report, dataset = run(folder)
    assert malformed(report) == {"no time": 1, "no item id": 1}
    assert histories(dataset) == {"a": ["x"]}


FAR_DATES = pl.Series([2**61, SECOND * 1000]).cast(pl.Datetime("ms"))


@pytest.mark.parametrize(
    ("times", "problem"),
    [
        (["99999999999999999999", "1"], "time is too large a number"),
        ([-(2.0**63), 1.0], "time is too large a number"),
        (pl.Series([2**64 - 1, 1], dtype=pl.UInt64), "time is too large a number"),
        (pl.Series([2**63 - 1, 1]), "time is too large a number"),
        (FAR_DATES, "time beyond the years 1 to 9999"),
        (pl.Series([2**31 - 1, 1]).cast(pl.Int32).cast(pl.Date), "time beyond the years 1 to 9999"),
    ],
)
def test_times_that_nothing_means_are_left_out(tmp_path: Path, times: Any, problem: str) -> None:
    table = pl.DataFrame({"user": ["a", "a"], "item": ["x", "y"], "time": times})
    table.write_parquet(tmp_path / "log.parquet")
    report, dataset = run(tmp_path / "log.parquet")
    assert malformed(report) == {problem: 1}
    assert histories(dataset) == {"a": ["y"]}
