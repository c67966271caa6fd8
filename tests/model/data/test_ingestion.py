"""Logs held against independent readers: Python's csv for CSV and TSV, pyarrow for Parquet."""

import csv
from collections import Counter
from operator import itemgetter
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from id_strategies import IDS, WRAPPED, is_id
from preparing import histories, malformed, run

from model.data.config import PrepareConfig
from model.data.dataset import Dataset
from model.data.prepare import prepare
from model.ids import MAX_ID_LENGTH

ROWS = st.lists(st.tuples(IDS, IDS), min_size=1, max_size=12)
DELIMITERS = {"csv": ",", "tsv": "\t"}


@pytest.mark.parametrize("kind", DELIMITERS)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    rows=ROWS,
    line_end=st.sampled_from(["\n", "\r\n"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_NONNUMERIC, csv.QUOTE_ALL]),
)
@example(
    rows=[*zip(WRAPPED, reversed(WRAPPED), strict=True)], line_end="\r\n", quoting=csv.QUOTE_MINIMAL
)
def test_fields_are_read_as_the_csv_module_reads_them(
    tmp_path_factory: pytest.TempPathFactory,
    kind: str,
    rows: list[tuple[str, str]],
    line_end: str,
    quoting: Any,
) -> None:
    folder = tmp_path_factory.mktemp(kind)
    log = folder / f"log.{kind}"
    if line_end == "\n":  # before Python 3.13, csv.writer leaves other line ends without quotes
        rows = [(user.replace("\r", "_"), item.replace("\r", "_")) for user, item in rows]
    rows = [*rows, ("plain", "plain")]
    with log.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(
            file, delimiter=DELIMITERS[kind], lineterminator=line_end, quoting=quoting
        )
        writer.writerow(["user", "time", "item"])
        writer.writerows((user, time, item) for time, (user, item) in enumerate(rows))
    with log.open(encoding="utf-8", newline="") as file:
        _, *read = csv.reader(file, delimiter=DELIMITERS[kind], strict=True)
    expected: dict[str, list[str]] = {}
    for user, item in ((user.strip(" \t"), item.strip(" \t")) for user, _, item in read):
        if is_id(user) and is_id(item):
            expected.setdefault(user, []).append(item)
    config = PrepareConfig(
        input=log, out=folder / "data", min_user_events=0, min_item_events=0, name="log"
    )
    report = prepare(config)
    assert (report.rows, report.usable) == (len(rows), sum(map(len, expected.values())))
    dataset = Dataset.load(config.out)
    found = {
        user: [dataset.item_ids[row] for row in dataset.history(number)]
        for number, user in enumerate(dataset.user_ids)
    }
    assert found == expected


@st.composite
def id_columns(draw: st.DrawFn, rows: int) -> pa.Array:
    """Ids of one of the types that ids may have, some of them missing."""
    kind = draw(st.sampled_from(["string", "large_string", "string_view", "dictionary", "integer"]))
    if kind == "integer":
        width = draw(st.sampled_from([pa.int8(), pa.uint8(), pa.int32(), pa.int64(), pa.uint64()]))
        low = 0 if pa.types.is_unsigned_integer(width) else -(2 ** (width.bit_width - 1))
        numbers = st.integers(low, low + 2**width.bit_width - 1) | st.integers(0, 3)
        return pa.array(draw(columns(numbers, rows)), width)
    texts = pa.array(draw(columns(IDS, rows)), pa.string())
    if kind == "dictionary":
        return texts.dictionary_encode()
    return texts.cast(pa.type_for_alias(kind))


@st.composite
def time_columns(draw: st.DrawFn, rows: int) -> pa.Array:
    """Times of one of the types that times may have, some of them missing."""
    kinds = [pa.int32(), pa.int64(), pa.uint32(), pa.float32(), pa.float64(), pa.date32()]
    kinds += [
        pa.timestamp(unit, zone) for unit in ("s", "ms", "us", "ns") for zone in (None, "CET")
    ]
    kind = draw(st.sampled_from(kinds))
    numbers = pa.array(draw(columns(st.integers(0, 20_000), rows)), pa.int32())
    if pa.types.is_timestamp(kind):
        return numbers.cast(pa.int64()).cast(pa.timestamp("s")).cast(kind)
    return numbers.cast(kind)


def columns(values: st.SearchStrategy[Any], rows: int) -> st.SearchStrategy[list[Any]]:
    return st.lists(st.none() | values, min_size=rows, max_size=rows)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(data=st.data(), rows=st.integers(1, 12))
def test_parquet_is_read_as_pyarrow_reads_it(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, rows: int
) -> None:
    folder = tmp_path_factory.mktemp("parquet")
    log = folder / "log.parquet"
    table = pa.table(
        {
            "user": data.draw(id_columns(rows)),
            "item": data.draw(id_columns(rows)),
            "time": data.draw(time_columns(rows)),
        }
    )
    pq.write_table(
        pa.concat_tables([table, table.slice(0, 1)]),
        log,
        row_group_size=data.draw(st.integers(1, 5)),
        use_dictionary=data.draw(st.booleans()),
        compression=data.draw(st.sampled_from(["none", "snappy", "gzip", "zstd", "lz4"])),
        data_page_version=data.draw(st.sampled_from(["1.0", "2.0"])),
    )
    read = pq.read_table(log)
    rows_read = list(
        zip(*(read[name].to_pylist() for name in ("user", "item", "time")), strict=True)
    )
    problems = Counter(problem for row in rows_read if (problem := problem_of(*row)))
    usable = [row for row in rows_read if not problem_of(*row)]
    expected: dict[str, list[str]] = {}
    for user, item, _ in sorted(usable, key=itemgetter(2)):
        expected.setdefault(str(user), []).append(str(item))
    if not usable:
        with pytest.raises(ValueError, match=r"none of its .* rows is usable"):
            run(log)
        return
    report, dataset = run(log)
    assert malformed(report) == problems
    assert (report.rows, report.usable) == (len(rows_read), len(usable))
    assert histories(dataset) == expected


def problem_of(user: str | int | None, item: str | int | None, time: object) -> str | None:
    """Returns the reason for which the row can't be used."""
    for name, one in (("user", user), ("item", item)):
        if one is None or not is_id(str(one)):
            long = len(str(one)) > MAX_ID_LENGTH
            return f"{name} id longer than {MAX_ID_LENGTH} characters" if long else f"no {name} id"
    return "no time" if time is None else None
