import json
import math
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from service.http.schemas import RecallResponse
from service.recall.item_metadata import ItemMetadata, with_metadata
from service.recall.json_encoder import JsonEncoder
from service.recall.metadata_encoder import encode_metadata
from service.recall.types import Candidates, EncodedCandidates

IDS = ["a", 'quote "', "ü\n", "x" * 256]
METADATA = pl.DataFrame({"title": ["A", None, "Ü", "},\n{"]})


def candidates(rows: list[int], interests: list[int]) -> Candidates:
    scores = np.array([0.1, -1234.56789, float("nan"), -1.5e-7][: len(rows)], dtype=np.float32)
    return Candidates(scores, np.array(rows, int), np.array(interests, np.int8), 0, False)


def about_item(metadata: ItemMetadata, row: int) -> dict[str, Any]:
    about: dict[str, Any] = json.loads(metadata.of(row))
    return about


@pytest.mark.parametrize(
    ("rows", "interests"), [([2, 0, 1, 3], [0, 0, 7, -1]), ([1, 2], [0, 1]), ([3], [8]), ([], [])]
)
def test_encoded_candidates_are_those_of_the_schema(rows: list[int], interests: list[int]) -> None:
    found = candidates(rows, interests)
    encoded = EncodedCandidates(JsonEncoder(IDS).encode(found), found.rows, 0, False)
    items = json.loads(encoded.json)
    assert [item.pop("item_id") for item in items] == [IDS[row] for row in rows]
    assert [item.pop("interest") for item in items] == interests
    written = [np.nan if item["score"] is None else item["score"] for item in items]
    np.testing.assert_allclose(written, found.scores, atol=6e-7, rtol=1e-7)

    metadata = encode_metadata(METADATA)
    about = json.loads(with_metadata(encoded.json, encoded.rows, metadata.of))
    assert [item.pop("metadata") for item in about] == [about_item(metadata, row) for row in rows]
    assert about == json.loads(encoded.json)
    fields = RecallResponse.model_json_schema()["$defs"]["Candidate"]["properties"]
    added_later = {"metadata", "team"}
    assert all(set(item) | added_later == set(fields) for item in about)


def test_scores_have_six_decimals() -> None:
    scores = np.array([0, 2, 0.0000004, 0.9999996, 10, 123456.75, 99999997952, 1e12, -np.inf])
    found = Candidates(scores.astype(np.float32), np.zeros(9, int), np.zeros(9, np.int8), 0, False)
    lines = JsonEncoder(IDS).encode(found).decode().splitlines()
    assert [line.split(":")[2].split(",")[0] for line in lines] == [
        "0.000000",
        "2.000000",
        "0.000000",
        "1.000000",
        "10.000000",
        "123456.750000",
        "99999997952.000000",
        "null",
        "null",
    ]


def test_attributes_that_are_null_are_left_out() -> None:
    metadata = encode_metadata(METADATA)
    assert [about_item(metadata, row) for row in range(3)] == [{"title": "A"}, {}, {"title": "Ü"}]


ANY_TYPE = {
    "flags": pl.Series([[True], None, []]),
    "price": pl.Series([Decimal("1.10"), None, Decimal(2)]),
    "rating": pl.Series([1.5, math.nan, -math.inf]),
    "size": pl.Series([{"cm": 2**60}, {"cm": None}, None]),
    "large": pl.Series([2**100, 0, None], dtype=pl.Int128),
    "kind": pl.Series(["a", "b", None], dtype=pl.Categorical),
    "since": pl.Series([date(2020, 1, 1), None, None]),
    "seen": pl.Series([datetime(2020, 1, 1, tzinfo=UTC), None, None]),
    "opens": pl.Series([time(9, 30), None, None]),
    "lasts": pl.Series([timedelta(days=400), None, None]),
    "text": pl.Series(["ü".encode(), b"", None]),
    "far": pl.Series([2**62, 0, None]).cast(pl.Datetime("us")),
}
NO_JSON = {
    "thumbnail": pl.Series([b"\xff\xd8", b"a", None]),
    "pieces": pl.Series([[b"\xff"], [], None]),
    "nested": pl.Series([{"raw": b"\xff", "n": 1}, None, None]),
    "ages": pl.Series([2**62, 0, None]).cast(pl.Duration("ms")),
    "times": pl.Series([[2**62], [], None]).cast(pl.List(pl.Datetime("us"))),
    "later": pl.Series([2**62, 0, None]).cast(pl.Datetime("ms")),
    "latest": pl.Series([2**31 - 1, 0, None]).cast(pl.Int32).cast(pl.Date),
    "record": pl.Series([{"at": 2**62}, None, None]).cast(pl.Struct({"at": pl.Datetime("ms")})),
}


def test_a_column_of_any_type_is_json_or_left_out_by_name(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """No recall may fail because of a column of the bundle."""
    metadata = encode_metadata(pl.DataFrame(ANY_TYPE | NO_JSON))
    found = candidates([0, 1, 2], [0, 0, 0])
    encoded = EncodedCandidates(JsonEncoder(IDS).encode(found), found.rows, 0, False)
    first, *_ = items = [
        item["metadata"]
        for item in json.loads(with_metadata(encoded.json, encoded.rows, metadata.of))
    ]
    assert {name for item in items for name in item} == ANY_TYPE.keys()
    assert {name: first[name] for name in ("price", "size", "since", "text", "far")} == {
        "price": "1.10",
        "size": {"cm": 2**60},
        "since": "2020-01-01",
        "text": "ü",
        "far": "+148108-07-06 14:00:27.387904",
    }
    assert [item.get("rating", "missing") for item in items] == [1.5, None, None]
    for name in NO_JSON:
        assert repr(name) in caplog.text
    assert len(caplog.records) == len(NO_JSON)


def test_front_ends_map_what_the_engine_wrote(tmp_path: Path) -> None:
    written = encode_metadata(METADATA)
    written.save(tmp_path)
    mapped = ItemMetadata.load(tmp_path)
    encode_metadata(METADATA[::-1]).save(tmp_path)  # an engine that replaces the first one
    for row in range(len(IDS)):
        assert mapped.of(row) == written.of(row)
        assert ItemMetadata.load(tmp_path).of(row) == written.of(len(IDS) - 1 - row)


def test_items_without_attributes_have_empty_metadata(tmp_path: Path) -> None:
    encode_metadata(pl.DataFrame({"none": [None] * 3})).save(tmp_path)
    assert [about_item(ItemMetadata.load(tmp_path), row) for row in range(3)] == [{}, {}, {}]


def test_whole_numbers_are_written_without_a_fraction() -> None:
    items = pl.DataFrame(
        {
            "year": [1993.0, None],
            "price": [5.0, 5.5],
            "far": [2.0**60, 1.0],
            "odd": [math.nan, 1.0],
        }
    )
    metadata = encode_metadata(items)
    assert metadata.of(0) == b'{"year":1993,"price":5.0,"far":1.152921504606847e+18,"odd":null}'
    assert about_item(metadata, 1) == {"price": 5.5, "far": 1.0, "odd": 1.0}
