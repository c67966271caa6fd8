import numpy as np
import polars as pl
import pytest

from model.artifact.neighbours import MOST_NEIGHBOURS, alike, as_vectors, beside, features, named

CATALOGUE = pl.DataFrame(
    {
        "row": pl.Series([0, 1, 2, 3], dtype=pl.UInt32),
        "item_id": list("abcd"),
        "count": [9, 1, 1, 50],
        "title": ["Red wine", "White wine", "Lip balm", None],
        "brand": ["Acme", "Acme", "Bee", "Bee"],
        "genres": [["drink"], ["drink"], ["care"], ["care", "gift"]],
    }
)


def new(**columns: list[object]) -> pl.DataFrame:
    return pl.DataFrame(columns).with_row_index("new")


def pairs(evidence: pl.DataFrame) -> dict[tuple[int, int], float]:
    return {(a, b): pytest.approx(weight) for a, b, weight in evidence.rows()}


def test_named_neighbours_count_as_often_as_they_are_named() -> None:
    items = new(item_id=["x", "y", "z"], neighbours=[["a", "b", "a"], ["nobody"], None])
    assert pairs(named(items, CATALOGUE)) == {(0, 0): 2, (0, 1): 1}
    assert named(new(item_id=["x"]), CATALOGUE).height == 0


def test_items_beside_weigh_by_distance_and_only_within_a_user() -> None:
    events = pl.DataFrame(
        {
            "user": ["u"] * 6 + ["v"] * 2,
            "item_id": ["a", "b", "x", "y", "c", "a", "d", "x"],
        }
    )
    items = new(item_id=["x", "y"])
    assert pairs(beside(items, CATALOGUE, events)) == {
        (0, 0): 1 / 2 + 1 / 3,
        (0, 1): 1,
        (0, 2): 1 / 2,
        (0, 3): 1,
        (1, 0): 1 / 3 + 1 / 2,
        (1, 1): 1 / 2,
        (1, 2): 1,
    }
    assert beside(items, CATALOGUE, events[:0]).height == 0


def test_only_the_strongest_neighbours_stay() -> None:
    many = MOST_NEIGHBOURS + 5
    catalogue = pl.DataFrame({"row": range(many), "item_id": [f"i{n}" for n in range(many)]})
    ids = [f"i{n}" for n in range(many) for _ in range(n + 1)]
    evidence = named(new(item_id=["x"], neighbours=[ids]), catalogue)
    assert sorted(evidence["row"].to_list()) == list(range(5, many))


def test_features_are_values_elements_and_words() -> None:
    items = CATALOGUE[:1].with_columns(price=pl.lit(3.5), year=pl.lit(1999))
    found = set(features(items, "row")["feature"])
    assert found == {"title=red", "title=wine", "brand=Acme", "genres=drink", "year=1999"}


def test_items_with_shared_attributes_are_alike_the_rarer_the_more() -> None:
    items = new(
        item_id=["x", "y", "z"],
        title=["Wine of gold", None, "Nothing known"],
        genres=[["drink"], ["gift", "care"], []],
    )
    found = alike(items, CATALOGUE)
    by_item = {n: found.filter(pl.col("new") == n) for n in range(3)}
    assert by_item[0]["row"].to_list() == [0, 1]  # both share all, the more popular counts more
    assert by_item[1]["row"].to_list() == [3, 2]
    assert by_item[2].height == 0
    assert (found["weight"] > 0).all()


def test_what_everything_has_tells_nothing() -> None:
    same = CATALOGUE.select("row", "item_id", "count", kind=pl.lit("thing"))
    assert alike(new(item_id=["x"], kind=["thing"]), same).height == 0


def test_a_vector_points_between_its_neighbours_and_has_their_length() -> None:
    vectors = np.array([[3, 0], [0, 1], [5, 5]], dtype=np.float32)
    evidence = pl.DataFrame({"new": [0, 0, 1], "row": [0, 1, 2], "weight": [1.0, 3.0, 7.0]})
    found = as_vectors(evidence, vectors, 2, length=0.5)
    assert found.dtype == np.float32
    assert found[0, 0] == pytest.approx(found[0, 1])  # 1/4 of (3, 0), 3/4 of (0, 1)
    assert np.linalg.norm(found[0]) == pytest.approx(0.5 * (3 / 4 + 3 / 4))
    assert found[1] == pytest.approx([2.5, 2.5])
