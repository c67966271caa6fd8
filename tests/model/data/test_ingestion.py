"""Logs in CSV and TSV, held against Python's csv module as an independent reader."""

import csv
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from id_strategies import IDS, WRAPPED, is_id

from model.data.config import PrepareConfig
from model.data.dataset import Dataset
from model.data.prepare import prepare

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
    if kind == "tsv":  # a line that has the right number of tabs is a row, quotes or not
        rows = [(user.replace("\n", "_"), item.replace("\n", "_")) for user, item in rows]
    if line_end == "\n":  # before Python 3.13, csv.writer leaves other line ends without quotes
        rows = [(user.replace("\r", "_"), item.replace("\r", "_")) for user, item in rows]
    rows = [*rows, ("plain", "plain")]
    with log.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(
            file, delimiter=DELIMITERS[kind], lineterminator=line_end, quoting=quoting
        )
        writer.writerow(["user", "item", "time"])
        writer.writerows((*row, time) for time, row in enumerate(rows))
    with log.open(encoding="utf-8", newline="") as file:
        _, *read = csv.reader(file, delimiter=DELIMITERS[kind], strict=True)
    expected: dict[str, list[str]] = {}
    for user, item in ((user.strip(" \t"), item.strip(" \t")) for user, item, _ in read):
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
