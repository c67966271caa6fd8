import numpy as np
import pytest

from model.evaluation.bootstrap import paired_difference


def test_the_interval_holds_the_true_difference() -> None:
    """The interval covers a true difference of 10 % in about 95 of 100 samples."""
    rng = np.random.default_rng(0)
    inside = 0
    for seed in range(100):
        old = rng.random(800) < 0.5
        new = old & (rng.random(800) < 0.8) | ~old & (rng.random(800) < 0.3)
        found = paired_difference(new.astype(float), old.astype(float), np.arange(800), seed)
        assert found.low < found.relative < found.high
        inside += found.low <= 0.1 <= found.high
    assert 88 <= inside <= 100


def test_the_same_figures_do_not_differ() -> None:
    figures = np.random.default_rng(0).random(50)
    assert paired_difference(figures, figures, np.arange(50)) == pytest.approx((0, 0, 0))


def test_cases_of_a_user_are_drawn_together() -> None:
    """A user's many cases alike tell as little as one."""
    rng = np.random.default_rng(1)
    old, new = (rng.random(40) for _ in range(2))
    once = paired_difference(new, old, np.arange(40))
    many = paired_difference(np.repeat(new, 9), np.repeat(old, 9), np.repeat(np.arange(40), 9))
    assert many == pytest.approx(once)
    apart = paired_difference(np.repeat(new, 9), np.repeat(old, 9), np.arange(360))
    assert apart.high - apart.low < 0.5 * (once.high - once.low)


def test_there_must_be_something_to_compare_with() -> None:
    with pytest.raises(ValueError, match="all zero"):
        paired_difference(np.ones(3), np.zeros(3), np.arange(3))
