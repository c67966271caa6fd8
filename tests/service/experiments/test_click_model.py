"""The click model: tastes from held-out events, and fewer looks further down."""

import numpy as np
import polars as pl
import pytest

from service.experiments.click_model import ClickModel

HELD_OUT = pl.DataFrame(
    [
        (f"{taste}{user}", f"{taste}{item}")
        for taste in ("jazz", "rock")
        for user in range(20)
        for item in range(10)
        if (user + item) % 3
    ],
    schema=["user_id", "item_id"],
    orient="row",
)


def test_users_click_what_users_like_them_took() -> None:
    model = ClickModel.fit(HELD_OUT, position_bias=0, rank=2)
    taken, not_taken, other, unknown = model.chances("jazz1", ["jazz0", "jazz2", "rock0", "x"])
    assert taken == pytest.approx(0.67, abs=0.15)
    assert not_taken == pytest.approx(0.67, abs=0.15)
    assert other == pytest.approx(0, abs=0.05)
    assert unknown == 0


def test_positions_further_down_are_looked_at_less() -> None:
    even, biased = (ClickModel.fit(HELD_OUT, bias, rank=2) for bias in (0, 1))
    items = ["jazz0", "jazz1", "jazz2", "rock1"]
    ratio = biased.chances("jazz1", items)[:3] / even.chances("jazz1", items)[:3]
    np.testing.assert_allclose(ratio, [1, 1 / 2, 1 / 3])
    assert len(even.chances("jazz1", [])) == 0


def test_repetitions_and_order_do_not_matter() -> None:
    again = pl.concat([HELD_OUT, HELD_OUT.head(50)])
    items = ["jazz0", "rock3"]
    np.testing.assert_allclose(
        ClickModel.fit(again).chances("rock2", items),
        ClickModel.fit(HELD_OUT).chances("rock2", items),
        atol=1e-9,
    )


def test_too_few_events_are_refused() -> None:
    with pytest.raises(ValueError, match="one user or one item"):
        ClickModel.fit(HELD_OUT.head(3))
