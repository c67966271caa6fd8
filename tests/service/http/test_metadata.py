import json

import numpy as np
import polars as pl
import pytest

from service.http.metadata import ItemMetadata
from service.http.schemas import RecallResponse
from service.recall.json_encoder import JsonEncoder
from service.recall.types import Candidates, EncodedCandidates

IDS = ["a", 'quote "', "ü\n", "x" * 256]
METADATA = pl.DataFrame({"title": ["A", None, "Ü", "},\n{"]})


def candidates(rows: list[int], interests: list[int]) -> Candidates:
    scores = np.array([0.1, -1234.56789, float("nan"), -1.5e-7][: len(rows)], dtype=np.float32)
    return Candidates(scores, np.array(rows, int), np.array(interests, np.int8), 0, False)


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

    metadata = ItemMetadata(METADATA)
    about = json.loads(metadata.added_to(encoded))
    assert [item.pop("metadata") for item in about] == list(map(metadata.of, rows))
    assert about == json.loads(encoded.json)
    fields = RecallResponse.model_json_schema()["$defs"]["Candidate"]["properties"]
    assert all(set(item) | {"metadata"} == set(fields) for item in about)


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


def test_only_what_is_known_of_an_item_is_told() -> None:
    metadata = ItemMetadata(METADATA)
    assert [metadata.of(row) for row in range(3)] == [{"title": "A"}, {}, {"title": "Ü"}]
