import json
import os
import re
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from preparing import histories, malformed, run, write
from pydantic import ValidationError

from model.data import prepare as module
from model.data.arrays import new_array
from model.data.config import PrepareConfig
from model.data.dataset import Dataset
from model.data.prepare import prepare

PUBLIC_DATA = Path(os.environ.get("RECGPT_PUBLIC_DATA", "raw"))


LOG = {
    "user_id": ["b", "a", "b", "a", "b"],
    "item_id": ["x", "y", "y", "x", "x"],
    "timestamp": [30, 20, 10, 20, 30],
}
ORDERED = {"b": ["y", "x", "x"], "a": ["y", "x"]}  # ties in the order of the log, repeats kept


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".inter", ".parquet"])
def test_formats_by_suffix(tmp_path: Path, suffix: str) -> None:
    path, table = tmp_path / f"log{suffix}", pl.DataFrame(LOG)
    if suffix == ".parquet":
        table.write_parquet(path)
    else:
        table.write_csv(path, separator="," if suffix == ".csv" else "\t")
    report, dataset = run(path)
    assert histories(dataset) == ORDERED
    assert dataset.name == "log"
    assert dataset.items.schema == {"item_id": pl.String, "count": pl.UInt32}
    assert dict(dataset.items.rows()) == {"x": 3, "y": 2}
    assert (report.rows, report.usable, report.events, report.malformed) == (5, 5, 5, {})
    assert (report.users, report.items, report.shortest, report.longest) == (2, 2, 2, 3)
    assert report.mean == 2.5


def test_lines(tmp_path: Path) -> None:
    report, dataset = run(write(tmp_path / "log.txt", "7 3 1  3\n\n8\n9 1 2 \r\n7 5"))
    assert histories(dataset) == {"7": ["3", "1", "3", "5"], "9": ["1", "2"]}
    assert malformed(report) == {"blank line": 1, "no items in the line": 1}
    assert report.malformed["no items in the line"].examples == ["log.txt:3: 8"]


def test_named_columns(tmp_path: Path) -> None:
    log = write(tmp_path / "log.csv", "who,what,when,user_id\na,x,2,u\na,y,1,u\n")
    names = {"user_column": "who", "item_column": "what", "time_column": "when"}
    assert histories(run(log, **names)[1]) == {"a": ["y", "x"]}
    with pytest.raises(ValueError, match=r"no column 'whom'.*who, what, when, user_id"):
        run(log, **(names | {"user_column": "whom"}), overwrite=True)
    with pytest.raises(ValueError, match=r"which column is the item.*--item-column"):
        run(log, user_column="who", time_column="when", overwrite=True)
    with pytest.raises(ValueError, match=r"which column is the time.*--time-column.*--in-order"):
        run(log, user_column="who", item_column="what", overwrite=True)


def test_column_that_stands_twice(tmp_path: Path) -> None:
    log = write(tmp_path / "log.csv", "user,item,time,item\na,x,2,u\n")
    with pytest.raises(ValueError, match=r"'item' .* twice"):
        run(log)


def test_rows_in_order_of_time(tmp_path: Path) -> None:
    log = write(tmp_path / "log.csv", "user,item,time\na,x,2\nb,x,9\na,y,1\n")
    assert histories(run(log, in_order=True)[1]) == {"a": ["x", "y"], "b": ["x"]}
    with pytest.raises(ValueError, match="--in-order reads no time"):
        run(log, in_order=True, time_column="time", overwrite=True)


MALFORMED = [
    (b"", "blank line"),
    (b"a,\xff\xfe,1", "not UTF-8, or U+FFFD in place of what was not"),
    (b"a,x", "too few fields"),
    (b"a,x,1,2", "too many fields"),
    (b",x,1", "no user id"),
    (b"a, ,1", "no item id"),
    (b"a," + b"i" * 513 + b",1", "item id longer than 512 characters"),
    (b"u" * 513 + b",x,1", "user id longer than 512 characters"),
    (b"a,x,", "no time"),
    (b"a,x,soon", "time is neither a number nor an ISO date"),
    (b"a,x,2024-13-01", "time is neither a number nor an ISO date"),
    (b"a,x,nan", "time is not finite"),
    (b"a,x,-inf", "time is not finite"),
]


@pytest.mark.parametrize("quoted", [False, True])
def test_malformed_rows_are_counted_with_examples(tmp_path: Path, quoted: bool) -> None:
    last = b'a,"y",2\n' if quoted else b"a,y,2\n"
    lines = b"user,item,time\r\na,x,1\r\n" + b"".join(line + b"\n" for line, _ in MALFORMED) + last
    report, dataset = run(write(tmp_path / "log.csv", lines))
    assert histories(dataset) == {"a": ["x", "y"]}
    assert (report.rows, report.usable) == (15, 2)
    assert report.malformed.keys() == {reason for _, reason in MALFORMED}
    for number, (line, reason) in enumerate(MALFORMED, start=3):
        text = line.decode(errors="replace")[:100]
        assert f"log.csv:{number}: {text}" in report.malformed[reason].examples
    assert sum(malformed(report).values()) == len(MALFORMED)


def test_few_examples_over_all_files(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    write(folder / "1.csv", "user,item,time\n" + "a,x\n" * 3)
    write(folder / "2.csv", "user,item,time\n" + "b,x\n" * 30 + "a,x,1\n")
    bad = run(folder)[0].malformed["too few fields"]
    assert bad.count == 33
    assert bad.examples == [f"1.csv:{n}: a,x" for n in (2, 3, 4)] + [
        f"2.csv:{n}: b,x" for n in (2, 3)
    ]


def test_malformed_parquet_rows(tmp_path: Path) -> None:
    table = {"user": ["a", None, "a"], "item": [1, 2, None], "time": [1.0, 2.0, float("inf")]}
    pl.DataFrame(table).write_parquet(tmp_path / "log.parquet")
    report, dataset = run(tmp_path / "log.parquet")
    assert histories(dataset) == {"a": ["1"]}
    assert malformed(report) == {"no user id": 1, "no item id": 1}
    assert report.malformed["no user id"].examples == ["log.parquet:2: ,2,2.0"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("log.csv", "user,item,time\n", "there is no row in it"),
        ("log.csv", "", "does not start with a line of column names"),
        ("log.txt", "", "there is no row in it"),
        ("log.csv", "user,item,time\na,x\n,x,1\n", "none of its 2 rows is usable\n.*no user id"),
        ("log.csv", "user;item;time\na;x;1\n", "which column is the user.*user;item;time"),
        ("log.dat", "user,item\n", "suffix does not tell the format"),
        ("log.parquet", "PAR1 no", "can't be read as Parquet"),
    ],
)
def test_nothing_usable(tmp_path: Path, name: str, content: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.compile(message, re.DOTALL)):
        run(write(tmp_path / "in" / name, content))
    assert not (tmp_path / "in-out" / name).exists()


def test_damaged_parquet(tmp_path: Path) -> None:
    table = pl.DataFrame(LOG)
    table.write_parquet(tmp_path / "log.parquet", compression="uncompressed")
    content = bytearray((tmp_path / "log.parquet").read_bytes())
    content[4:60] = b"\xff" * 56  # the first page; the footer stays whole
    write(tmp_path / "log.parquet", bytes(content))
    with pytest.raises(ValueError, match=r"log\.parquet can't be read to its end"):
        run(tmp_path / "log.parquet")


def brute_k_core(
    events: list[tuple[int, int]], min_user: int, min_item: int
) -> list[tuple[int, int]]:
    users, items = [user for user, _ in events], [item for _, item in events]
    kept = [
        (user, item)
        for user, item in events
        if users.count(user) >= min_user and items.count(item) >= min_item
    ]
    return kept if len(kept) == len(events) else brute_k_core(kept, min_user, min_item)


@pytest.mark.parametrize(("min_user", "min_item"), [(5, 5), (7, 2), (2, 8)])
def test_k_core_reaches_the_fixed_point(tmp_path: Path, min_user: int, min_item: int) -> None:
    rng = np.random.default_rng(3)
    events = list(zip(*rng.integers(0, 40, (2, 300)).tolist(), strict=True))
    expected = brute_k_core(events, min_user, min_item)
    assert 0 < len(expected) < len(events)
    lines = "".join(f"{user},{item},1\n" for user, item in events)
    log = write(tmp_path / "log.csv", "user,item,time\n" + lines)
    report, dataset = run(log, min_user_events=min_user, min_item_events=min_item)
    found = [(int(u), int(i)) for u, items in histories(dataset).items() for i in items]
    assert sorted(found) == sorted(expected)
    assert report.events == len(expected) == dataset.items["count"].sum()
    assert report.usable == len(events)


def test_k_core_of_users_alone(tmp_path: Path) -> None:
    log = write(tmp_path / "log.txt", "a x y\nb x\nc z\nd y x y\n")
    _, dataset = run(log, min_user_events=2)
    assert histories(dataset) == {"a": ["x", "y"], "d": ["y", "x", "y"]}
    assert dataset.item_ids == ["x", "y"]


def test_k_core_that_leaves_nothing(tmp_path: Path) -> None:
    log = write(tmp_path / "log.txt", "a x y\nb x\n")
    with pytest.raises(ValueError, match=r"no user is left who has 5 events.*--min-user-events"):
        prepare(PrepareConfig(input=log, out=tmp_path / "out"))
    assert not list(tmp_path.glob(".out*"))


def test_ordering_in_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    rows = rng.integers(0, 12, (500, 3))
    log = tmp_path / "log.parquet"
    pl.DataFrame(rows, schema=["user", "item", "time"], orient="row").write_parquet(log)
    expected: dict[str, list[str]] = {}
    for user, item, _ in sorted(rows.tolist(), key=lambda row: int(row[2])):  # stable
        expected.setdefault(str(user), []).append(str(item))
    monkeypatch.setattr(module, "EVENTS_A_PASS", 90)  # some passes of two users, some of one
    _, dataset = run(log)
    assert histories(dataset) == expected
    monkeypatch.setattr(module, "EVENTS_A_PASS", 1)  # a user is never split
    _, dataset = run(log, overwrite=True)
    assert histories(dataset) == expected


def test_same_result_every_time(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    rows = rng.integers(0, 300, (3000, 3))
    log = tmp_path / "log.parquet"
    pl.DataFrame(rows, schema=["user", "item", "time"], orient="row").write_parquet(log)
    files = []
    for name in ("one", "two"):
        run(log, out=tmp_path / name)
        files.append({f.name: f.read_bytes() for f in (tmp_path / name).iterdir()})
    assert files[0] == files[1]
    assert set(files[0]) == {"dataset.json"} | {
        f"{stem}{suffix}"
        for stem, suffix in (
            ("items", ".parquet"),
            ("users", ".parquet"),
            ("events", ".npy"),
            ("offsets", ".npy"),
            ("times", ".npy"),
        )
    }


def test_output_is_replaced_only_when_asked_and_complete(tmp_path: Path) -> None:
    good = write(tmp_path / "good.txt", "a x y\n")
    out = tmp_path / "out"
    run(good, out=out)
    with pytest.raises(ValueError, match="exists already"):
        run(good, out=out)
    bad = write(tmp_path / "bad.txt", "a\n")
    with pytest.raises(ValueError, match="none of its 1 rows"):
        run(bad, out=out, overwrite=True)
    assert Dataset.load(out).name == "good"
    run(write(tmp_path / "new.txt", "a x y\n"), out=out, overwrite=True, name="mine")
    assert Dataset.load(out).name == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.txt", "good.txt", "new.txt", "out"]


def test_output_within_the_input(tmp_path: Path) -> None:
    write(tmp_path / "logs" / "a.csv", "user,item,time\na,x,1\n")
    with pytest.raises(ValueError, match="lies in the input"):
        run(tmp_path / "logs", out=tmp_path / "logs" / "out")


def test_other_files_are_never_replaced(tmp_path: Path) -> None:
    log = write(tmp_path / "log.txt", "a x y\n")
    write(tmp_path / "home" / "letter.txt", "dear")
    with pytest.raises(ValueError, match="holds other files than a data set"):
        run(log, out=tmp_path / "home", overwrite=True)
    out = tmp_path / "out"
    run(log, out=out)
    (out / "run").mkdir()  # as after `recgpt train --data out --out out/run`
    with pytest.raises(ValueError, match="other files than a data set, such as run"):
        run(log, out=out, overwrite=True)
    (out / "run").rmdir()
    inside = write(out / "log.txt", "a x y\n")
    with pytest.raises(ValueError, match=r"log\.txt lies in .*out"):
        run(inside, out=out, overwrite=True)
    with pytest.raises(ValueError, match=r"log\.txt lies in .*out"):
        run(log, out=out, items=inside, overwrite=True)
    assert inside.exists()


def test_name(tmp_path: Path) -> None:
    assert run(write(tmp_path / "my log (1).txt", "a x\n"))[1].name == "my-log-1"
    with pytest.raises(ValidationError):
        PrepareConfig(input=tmp_path, out=tmp_path, name="../elsewhere")


def test_report(tmp_path: Path) -> None:
    log = write(tmp_path / "log.csv", "user,item,time\na,x,1\na,y,1\nb,x,1\na\n")
    items = write(tmp_path / "items.csv", "item,name\nx,X\n,Y\n")
    report, dataset = run(log, items=items, min_user_events=2)
    about = json.loads((tmp_path.parent / f"{tmp_path.name}-out/log.csv/dataset.json").read_text())
    assert about["report"] == report.model_dump()
    assert about["report"]["malformed"] == {
        "too few fields": {"count": 1, "examples": ["log.csv:5: a"]}
    }
    assert dataset.items["title"].to_list() == ["X", None]
    text = re.sub(" +", " ", str(report)).splitlines()
    for line in ("rows read 4", "usable 3", "after the k-core 2", "users 1", "items 2"):
        assert line in text
    assert "events a user 2 to 2, mean 2.0" in text
    assert "items without metadata 1" in text
    assert "malformed, too few fields:" in text
    assert " log.csv:5: a" in text
    assert "malformed, metadata, no item id:" in text
    assert " items.csv:3: ,Y" in text


@pytest.mark.parametrize(
    ("file", "users", "items", "events", "shortest", "longest"),
    [
        ("Beauty.txt", 22_363, 12_101, 198_502, 5, 204),
        ("Sports_and_Outdoors.txt", 35_598, 18_357, 296_337, 5, 296),
        ("Toys_and_Games.txt", 19_412, 11_924, 167_597, 5, 550),
        ("Yelp.txt", 30_431, 20_033, 316_354, 5, 350),
    ],
)
def test_public_data_sets(
    tmp_path: Path, file: str, users: int, items: int, events: int, shortest: int, longest: int
) -> None:
    if not (PUBLIC_DATA / file).exists():
        pytest.skip(f"the public data sets are not here: {PUBLIC_DATA}")
    report = prepare(PrepareConfig(input=PUBLIC_DATA / file, out=tmp_path / "out"))
    assert (report.users, report.items, report.events) == (users, items, events)
    assert (report.shortest, report.longest, report.malformed) == (shortest, longest, {})
    lines = (PUBLIC_DATA / file).read_text(encoding="utf-8").splitlines()
    found = [
        " ".join([user, *row]) for user, row in histories(Dataset.load(tmp_path / "out")).items()
    ]
    assert found == lines


def test_times_are_kept_in_seconds(tmp_path: Path) -> None:
    times = [1_700_000_030, 1_700_000_020, 1_700_000_010, 1_700_000_020, 1_700_000_031]
    expected = [1_700_000_010, 1_700_000_030, 1_700_000_031, *[1_700_000_020] * 2]
    for unit, per_second in (("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9)):
        written = [time * per_second + per_second // 2 for time in times]
        path = tmp_path / unit / "log.parquet"
        path.parent.mkdir()
        pl.DataFrame(LOG | {"timestamp": written}).write_parquet(path)
        _, dataset = run(path)
        assert histories(dataset) == ORDERED
        assert dataset.times is not None
        assert dataset.times.tolist() == expected
        assert dataset.clock


def test_small_numbers_count_as_seconds(tmp_path: Path) -> None:
    pl.DataFrame(LOG).write_csv(tmp_path / "log.csv")
    _, dataset = run(tmp_path / "log.csv")
    assert dataset.times is not None
    assert dataset.times.tolist() == [10, 30, 30, 20, 20]


def test_dates_are_seconds(tmp_path: Path) -> None:
    days = [date(2024, 5, 3), date(2024, 5, 2), date(2024, 5, 1), date(2024, 5, 2)]
    table = pl.DataFrame(LOG | {"timestamp": [*days, date(2024, 5, 3)]})
    table.write_parquet(tmp_path / "log.parquet")
    _, dataset = run(tmp_path / "log.parquet")
    first = int(datetime(2024, 5, 1, tzinfo=UTC).timestamp())
    assert dataset.times is not None
    assert ((dataset.times - first) / 86_400).tolist() == [0, 2, 2, 1, 1]


def test_without_times_there_are_none(tmp_path: Path) -> None:
    _, dataset = run(write(tmp_path / "log.txt", "a x y\nb y\n"))
    assert (dataset.times, dataset.clock) == (None, False)
    pl.DataFrame(LOG).write_csv(tmp_path / "log.csv")
    _, dataset = run(tmp_path / "log.csv", in_order=True)
    assert (dataset.times, dataset.clock) == (None, False)


def test_lines_with_gaps(tmp_path: Path) -> None:
    lines = "a x y x\t0 86400 0\nb y\t7\nc x y\t0\nd x\nf x y\t0 late\ng x y\t0 -5\n\n"
    report, dataset = run(write(tmp_path / "log.txt", lines), format="gaps")
    assert histories(dataset) == {"a": ["x", "y", "x"], "b": ["y"]}
    assert dataset.times is not None
    assert dataset.times.tolist() == [0, 86_400, 86_400, 7]
    assert not dataset.clock
    assert malformed(report) == {
        "blank line": 1,
        "not as many seconds as items": 3,
        "seconds are no number from 0 up": 4,
    }


def test_gaps_have_no_columns(tmp_path: Path) -> None:
    log = write(tmp_path / "log.txt", "a x\t0\n")
    with pytest.raises(ValueError, match="lines, which have no columns"):
        run(log, format="gaps", user_column="user")


def test_arrays_have_their_room_before_they_are_filled(tmp_path: Path) -> None:
    """A write to a page for which the disk has no room would kill the process."""
    array = new_array(tmp_path / "events.npy", np.int64, 1 << 17)
    assert (tmp_path / "events.npy").stat().st_blocks * 512 >= array.nbytes
