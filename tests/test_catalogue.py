import json

import numpy as np
import polars as pl

from service.catalogue import Catalogue
from service.queries import Candidates
from service.schemas import RecallResponse

ITEMS = pl.DataFrame(
    {"item_id": ["a", 'quote "', "ü\n"], "count": [3, 2, 1], "title": ["A", None, "Ü"]}
)


def candidates(rows: list[int], interests: list[int]) -> Candidates:
    scores = np.array([0.1, -1.5e-7, float("nan")][: len(rows)], dtype=np.float32)
    return Candidates(np.array(rows, int), scores, np.array(interests, int), 0, False)


def test_encoded_candidates_are_those_of_the_schema() -> None:
    catalogue = Catalogue("v", 4, ITEMS)
    for rows, interests in (([2, 0, 1], [0, 0, -1]), ([1, 2], [0, 1]), ([], [])):
        found = candidates(rows, interests)
        encoded = json.loads(catalogue.encode(found, with_metadata=False))
        scores = [None if np.isnan(score) else score for score in found.scores.tolist()]
        assert encoded == [
            {"item_id": item, "score": score, "interest": interest}
            for item, score, interest in zip(ITEMS["item_id"][rows], scores, interests, strict=True)
        ]
        about = json.loads(catalogue.encode(found, with_metadata=True))
        assert [item.pop("metadata") for item in about] == list(map(catalogue.metadata, rows))
        assert about == encoded
    fields = RecallResponse.model_json_schema()["$defs"]["Candidate"]["properties"]
    assert set(fields) == {"item_id", "score", "interest", "metadata"}


def test_only_what_is_known_of_an_item_is_told() -> None:
    catalogue = Catalogue("v", 4, ITEMS)
    assert [catalogue.metadata(row) for row in range(3)] == [{"title": "A"}, {}, {"title": "Ü"}]
