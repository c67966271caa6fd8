"""The verdict on simulated experiments: without a difference, with one, and with mistakes."""

from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy.stats import binomtest

from loadtest.experiments.simulated import START, simulated
from service.experiments.analysis import Comparison, ExperimentReport, Question, analyse
from service.experiments.metric import Metric
from service.experiments.page import forest, write_experiment_page
from service.experiments.plan import figures_of, plan
from service.experiments.sequence import half_width
from service.experiments.totals import read_exposures, user_totals

EVEN = {"a": 1.0, "b": 1.0}
METRICS = ("click", "click/exposure", "degraded/exposure", "click.value")


def report(exposures: pl.DataFrame, events: pl.DataFrame, **about: object) -> ExperimentReport:
    question = Question.model_validate(
        {
            "experiment": "e",
            "weights": EVEN,
            "secondary": ("click/exposure", "click.value"),
            "guardrails": ("degraded/exposure",),
        }
        | about
    )
    metrics = [Metric.parse(name) for name in (*METRICS, *question.guardrails)]
    return analyse(question, user_totals(exposures, events, metrics))


def test_a_planted_difference_is_found_and_shipped() -> None:
    found = report(*simulated(8000, effect=0.3))
    (arm,) = found.arms
    assert found.problem == ""
    assert arm.verdict.startswith("Ship b: it is better in click (+")
    assert arm.primary.lower < 0.3 < arm.primary.upper
    assert [one.metric for one in arm.secondary] == ["click/exposure", "click.value"]
    assert all(one.lower > 0 for one in arm.secondary)
    assert arm.primary.control == pytest.approx(0.9, rel=0.1)  # 9 recalls, clicked in 10 %


def test_a_guardrail_that_is_zero_for_everybody_stops_nothing() -> None:
    exposures, events = simulated(8000, effect=0.3)
    found = report(exposures.with_columns(degraded=pl.lit(False)), events)
    (guardrail,) = found.arms[0].guardrails
    assert (guardrail.control, guardrail.treatment) == (0, 0)
    assert found.arms[0].verdict.startswith("Ship b")


def test_a_worse_arm_is_not_shipped() -> None:
    (arm,) = report(*simulated(8000, effect=-0.3)).arms
    assert arm.verdict.startswith("Keep a: b is worse in click (-")


def test_chance_is_no_difference() -> None:
    (arm,) = report(*simulated(4000, seed=1)).arms
    assert "do not differ beyond chance" in arm.verdict


def test_the_control_is_the_first_arm() -> None:
    (arm,) = report(*simulated(8000, effect=0.3), weights={"b": 1.0, "a": 1.0}).arms
    assert arm.arm == "a"
    assert arm.primary.relative == pytest.approx(1 / 1.3 - 1, abs=0.08)


def test_a_wrong_split_gives_no_verdict() -> None:
    found = report(*simulated(8000, effect=0.3, share_b=0.45))
    assert found.sample_ratio_p < 0.001
    assert "not split as configured" in found.problem
    assert found.arms[0].verdict.startswith("No verdict: users are not split")


def test_a_split_by_weight_is_as_configured() -> None:
    found = report(*simulated(8000, share_b=0.75), weights={"a": 1.0, "b": 3.0})
    assert found.sample_ratio_p > 0.001


def test_before_the_planned_end_there_is_no_verdict_unless_looks_are_planned() -> None:
    exposures, events = simulated(8000, effect=0.3)
    early = exposures.filter(pl.col("at") < START + timedelta(days=7))
    (waiting,) = report(early, events, days=14.0).arms
    assert "runs until 2026-03-15" in waiting.verdict
    (looked,) = report(early, events, days=14.0, sequential=True).arms
    (fixed,) = report(early, events).arms
    assert looked.verdict.startswith("Ship b")
    assert looked.primary.p_value is None
    assert looked.primary.lower < fixed.primary.lower < fixed.primary.upper < looked.primary.upper


def test_a_broken_guardrail_stops_the_ship() -> None:
    exposures, events = simulated(8000, effect=0.3)
    worse = exposures.with_columns(
        degraded=pl.col("degraded") | ((pl.col("arm") == "b") & (pl.int_range(pl.len()) % 10 == 0))
    )
    (arm,) = report(worse, events).arms
    assert "breaks a guardrail: degraded/exposure" in arm.verdict
    assert not arm.verdict.startswith("Ship")


def test_users_who_saw_two_arms_are_left_out_and_counted() -> None:
    exposures, events = simulated(2000)
    other = exposures.filter(pl.col("user_id").is_in(["u1", "u2"])).with_columns(
        arm=pl.when(pl.col("arm") == "a").then(pl.lit("b")).otherwise(pl.lit("a")),
        request_id=pl.lit("other"),
    )
    found = report(pl.concat([exposures, other]), events)
    assert found.mixed_users == 2
    assert sum(found.users.values()) == 1998


def test_an_arm_that_a_publication_changed_is_told(tmp_path: Path) -> None:
    exposures, events = simulated(2000)
    assert report(exposures, events).versions == {}
    of_arm = pl.when(pl.col("arm") == "a").then(pl.lit("v1")).otherwise(pl.lit("v2"))
    fixed = exposures.with_columns(version=of_arm)
    assert report(fixed, events).versions == {"a": ["v1"], "b": ["v2"]}
    is_changed = (pl.col("arm") == "b") & (pl.int_range(pl.len()) < 20)
    changed = fixed.with_columns(
        version=pl.when(is_changed).then(pl.lit("v0")).otherwise(pl.col("version"))
    )
    found = report(changed, events)
    assert found.versions == {"a": ["v1"], "b": ["v0", "v2"]}
    write_experiment_page(found, tmp_path / "report.html")
    assert "b was answered by 2 versions</b> (v0, v2)" in (tmp_path / "report.html").read_text()


def test_an_event_counts_only_for_the_recall_that_it_names_and_in_time() -> None:
    exposures, _ = simulated(100)
    one, two = exposures[0], exposures.filter(pl.col("user_id") != exposures["user_id"][0])[0]
    user = one["user_id"][0]
    at = one["at"][0]

    def event(request: str | None, after: timedelta) -> dict[str, object]:
        return {"user_id": user, "request_id": request, "type": "click", "at": at + after}

    events = pl.DataFrame(
        [
            event(one["request_id"][0], timedelta(hours=1)),  # the only one that counts
            event(one["request_id"][0], timedelta(hours=25)),
            event(one["request_id"][0], timedelta(hours=-1)),
            event(two["request_id"][0], timedelta(hours=1)),  # of another user's recall
            event(None, timedelta(hours=1)),
            event("unknown", timedelta(hours=1)),
        ],
        schema_overrides={"at": pl.Datetime("us", "UTC"), "request_id": pl.String},
    )
    users = user_totals(exposures, events, [Metric.parse("click")]).users
    assert users.filter(user_id=user)["click"].item() == 1
    assert users["click"].sum() == 1


def test_a_recall_counts_once_however_often_it_is_exposed() -> None:
    """A request that is sent twice has one id, and so have the results of a batch."""
    exposures, events = simulated(2000)
    metrics = [*map(Metric.parse, METRICS)]
    once = user_totals(exposures, events, metrics).users
    later = exposures.with_columns(at=pl.col("at") + timedelta(milliseconds=3))
    assert user_totals(pl.concat([exposures, later]), events, metrics).users.equals(once)


def test_a_clock_that_is_a_little_late_loses_no_event() -> None:
    exposures, events = simulated(2000)
    clicks = events.filter(pl.col("request_id").is_not_null())  # a minute after their recalls
    early = clicks.with_columns(at=pl.col("at") - timedelta(seconds=80))
    users = user_totals(exposures, early, [Metric.parse("click")]).users
    assert users["click"].sum() == clicks.height > 0


def test_a_control_without_the_metric_gives_no_verdict() -> None:
    exposures, events = simulated(500)
    during = events.filter(pl.col("request_id").is_not_null())
    treated = exposures.filter(arm="b")["user_id"].implode()
    for kept in (during.filter(pl.col("user_id").is_in(treated)), events.clear()):
        for planned in ({}, {"days": 14.0, "sequential": True}):
            found = report(exposures, kept, **planned)
            assert found.arms[0].verdict.startswith("No verdict: a has no click")
            drawn = forest([found.arms[0].primary])
            assert (drawn.tone, drawn.bars[0].left) == ("unclear", drawn.zero)


def test_a_metric_that_never_varies_has_a_sequence_too() -> None:
    exposures, events = simulated(500)
    once = exposures.unique("user_id", keep="first", maintain_order=True)
    about: dict[str, object] = {"days": 14.0, "sequential": True, "guardrails": ("exposure",)}
    (guardrail,) = report(once, events, **about).arms[0].guardrails
    assert (guardrail.lower, guardrail.upper) == (0, 0)


def test_users_with_a_fixed_arm_are_no_part_of_the_comparison(tmp_path: Path) -> None:
    exposures, _ = simulated(100)
    exposures.write_parquet(tmp_path / "exposures.parquet")
    users = exposures["user_id"].unique().sort().to_list()
    found = read_exposures(tmp_path / "exposures.parquet", "e", {users[0]: "a"})
    assert found["user_id"].unique().sort().to_list() == users[1:]
    assert read_exposures(tmp_path / "exposures.parquet", "e").height == exposures.height


def test_cuped_narrows_the_interval() -> None:
    exposures, events = simulated(6000)
    with_past = report(exposures, events).arms[0].primary
    during = events.filter(pl.col("at") >= START)
    without = report(exposures, during).arms[0].primary
    assert with_past.upper - with_past.lower < 0.95 * (without.upper - without.lower)


def test_one_in_twenty_experiments_without_a_difference_finds_one() -> None:
    """The full table, of 1,000 experiments, is in docs/results/experiments.md."""
    runs = 150
    found = sum(
        not (one.lower <= 0 <= one.upper)
        for one in (report(*simulated(300, seed=seed)).arms[0].primary for seed in range(runs))
    )
    assert binomtest(found, runs, 0.05).pvalue > 0.01


def test_the_planned_users_find_the_planned_difference() -> None:
    _, events = simulated(20_000)
    during = events.filter(pl.col("at") < START + timedelta(days=14))
    mean, deviation, correlation = figures_of(during, "click", 13.0)
    assert correlation > 0.2
    wanted = plan(mean, deviation, effect=0.5, correlation=0.0)
    assert wanted.users < plan(mean, deviation, effect=0.25).users / 3
    assert plan(mean, deviation, 0.5, correlation=correlation).users < wanted.users
    assert plan(mean, deviation, 0.5, arms=3).users > 1.5 * wanted.users


def test_a_sequence_covers_the_truth_at_all_looks_together() -> None:
    """Intervals for one look exclude the truth sometime in far more than 5 % of the experiments."""
    rng = np.random.default_rng(0)
    runs, looks, a_look = 2000, 40, 50
    sums = rng.normal(size=(runs, looks, a_look)).sum(axis=2).cumsum(axis=1)
    seen = a_look * np.arange(1, looks + 1)
    means, errors = sums / seen, 1 / np.sqrt(seen)
    sequence = np.array([half_width(error, errors[-1]) for error in errors])
    missed = (np.abs(means) > sequence).any(axis=1).mean()
    naive = (np.abs(means) > 1.96 * errors).any(axis=1).mean()
    assert missed <= 0.05
    assert naive > 0.2
    # At the planned end it is three fifths wider than an interval for one look.
    assert 1.96 * errors[-1] < sequence[-1] < 1.6 * 1.96 * errors[-1]


def test_a_sequence_holds_after_the_planned_end_too() -> None:
    """Later looks are as wide as the sequence that was planned, and not planned anew."""
    exposures, events = simulated(8000)
    (at_end,) = report(exposures, events, days=14.0, sequential=True).arms
    (late,) = report(exposures, events, days=1.0, sequential=True).arms
    widths = [one.primary.upper - one.primary.lower for one in (late, at_end)]
    assert widths[0] > 1.05 * widths[1]


def test_the_sequence_is_narrowest_at_the_planned_end() -> None:
    planned = 0.01
    relative = {
        error: half_width(error, planned) / error for error in (0.04, 0.02, 0.01, 0.005, 0.0025)
    }
    assert min(relative, key=lambda error: relative[error]) == planned


@pytest.mark.parametrize("text", ["", "Click", "click/", "exposure.value", "exposure/exposure"])
def test_a_metric_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no metric"):
        Metric.parse(text)


def test_the_drawing_shows_what_is_better_and_what_is_worse() -> None:
    def comparison(lower: float, upper: float) -> Comparison:
        middle = (lower + upper) / 2
        return Comparison(
            metric="x",
            control=1,
            treatment=1 + middle,
            relative=middle,
            lower=lower,
            upper=upper,
            p_value=None,
        )

    up, down, both = comparison(0.1, 0.3), comparison(-0.3, -0.1), comparison(-0.1, 0.1)
    drawn = forest([up, down, both, up, down], guardrails=2)
    meanings = [bar.meaning for bar in drawn.bars]
    assert meanings == ["better", "worse", "unclear", "worse", "better"]
    assert all(170 <= bar.left < bar.middle < bar.right <= 640 for bar in drawn.bars)
    tones = [
        forest([up]).tone,
        forest([up, down], guardrails=1).tone,
        forest([up, up], guardrails=1).tone,  # a guardrail breaks
        forest([down]).tone,
        forest([both, up], guardrails=1).tone,
    ]
    assert tones == ["good", "good", "bad", "bad", "unclear"]
