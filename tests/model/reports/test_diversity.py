import numpy as np
import polars as pl
import pytest

from model.reports.diversity import diversities, genre_vectors


def test_diversity_is_that_of_the_genres() -> None:
    items = pl.DataFrame({"genres": [["a"], ["a"], ["b"], ["a", "b"], None]})
    vectors = genre_vectors(items, "genres")
    assert vectors is not None
    lists = np.array([[0, 1, -1], [0, 2, 4], [0, 1, 2], [4, -1, -1]])
    assert diversities(lists, vectors) == pytest.approx([0, 1, 2 / 3, 0], abs=1e-6)
    assert diversities(np.array([[0, 3]]), vectors) == pytest.approx([1 - 2**-0.5], abs=1e-6)
    assert genre_vectors(items, "brand") is None
    assert genre_vectors(items.select(genres=pl.lit("a")), "genres") is None
