"""The comparison of an experiment's arms, and the verdict in one sentence.

In this order: are users split as configured; is the planned end reached; is the primary metric
better beyond chance; does a guardrail break. The statistics are tea-tasting's: Welch's test, CUPED
with a user's own figures before the experiment, the delta method for ratios.
"""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from statistics import NormalDist

import numpy as np
import tea_tasting as tt
from pydantic import BaseModel
from tea_tasting.experiment import ExperimentResult
from tea_tasting.metrics.mean import MeanResult

from service.experiments.metric import Metric
from service.experiments.plan import early_look
from service.experiments.sequence import half_width
from service.experiments.totals import Totals

SAMPLE_RATIO = 0.001
"""The p-value below which the split of users is wrong, so that nothing can be compared."""


class Question(BaseModel, frozen=True):
    """The decision that an experiment is for, with its rules; to be fixed before it starts."""

    experiment: str
    weights: dict[str, float]
    """The arms and their configured weights; the first is the control."""
    primary: str = "click"
    secondary: tuple[str, ...] = ()
    guardrails: tuple[str, ...] = ()
    """Metrics of which more is worse."""
    margin: float = 0.01
    """The relative increase of a guardrail that is still accepted."""
    alpha: float = 0.05
    days: float | None = None
    """The planned length; None: it is over."""
    sequential: bool = False
    """Whether the intervals hold at every look; else there is one look, at the planned end."""


class Comparison(BaseModel, frozen=True):
    """A metric of an arm beside the control's. Intervals are of 1 - alpha."""

    metric: str
    control: float
    treatment: float
    relative: float
    """The relative difference of treatment to control."""
    lower: float
    upper: float
    """The interval of the relative difference."""
    p_value: float | None
    """Adjusted among the secondary metrics; None for a sequence, which has none."""


class ArmReport(BaseModel, frozen=True):
    """All comparisons of an arm with the control."""

    arm: str
    primary: Comparison
    secondary: list[Comparison]
    guardrails: list[Comparison]
    verdict: str


class ExperimentReport(BaseModel, frozen=True):
    """The outcome of an experiment."""

    question: Question
    since: datetime
    until: datetime
    users: dict[str, int]
    mixed_users: int
    """Users who saw two arms, and are left out."""
    versions: dict[str, list[str]]
    """The versions that answered each arm. An arm of several was changed by a publication."""
    sample_ratio_p: float
    problem: str
    """The reason why there is no verdict; empty if there is one."""
    arms: list[ArmReport]


def analyse(question: Question, totals: Totals) -> ExperimentReport:
    """Compares every arm with the control. Raises ValueError if one has less than two users."""
    users = {arm: totals.users.filter(arm=arm).height for arm in question.weights}
    few = [arm for arm, count in users.items() if count < 2]
    if few:
        raise ValueError(f"the arm {few[0]} has {users[few[0]]} users: at least two are needed")
    p_value = _sample_ratio(question, totals)
    problem = _problem(question, totals, p_value)
    control, *treatments = question.weights
    return ExperimentReport(
        question=question,
        since=totals.since,
        until=totals.until,
        users=users,
        mixed_users=totals.mixed_users,
        versions=totals.versions,
        sample_ratio_p=p_value,
        problem=problem,
        arms=[_arm(question, totals, control, arm, len(treatments), problem) for arm in treatments],
    )


def _sample_ratio(question: Question, totals: Totals) -> float:
    """Returns the probability of a split as uneven as this, if users are assigned as configured."""
    control, *treatments = question.weights
    values = []
    for arm in treatments:
        pair = {name: question.weights[name] for name in (control, arm)}
        result = _experiment({"ratio": tt.SampleRatio(dict(pair))}, totals, control, arm)
        values.append(float(result["ratio"].pvalue))
    return min(1.0, min(values) * len(values))  # Bonferroni


def _problem(question: Question, totals: Totals, p_value: float) -> str:
    if p_value < SAMPLE_RATIO:
        return (
            f"users are not split as configured (p = {p_value:.2g}), so no metric can be trusted: "
            "look for lost exposures, bots, or an arm that fails"
        )
    if question.days is None or question.sequential:
        return ""
    words = early_look(totals.since, totals.until, question.days)
    return f"{words} (or plan for looks: --sequential)" if words else ""


def _arm(
    question: Question, totals: Totals, control: str, arm: str, treatments: int, problem: str
) -> ArmReport:
    level = 1 - question.alpha / treatments  # Bonferroni over the arms
    named = {
        name: Metric.parse(name)
        for name in (question.primary, *question.secondary, *question.guardrails)
    }
    metrics = {name: _test(metric, totals, level) for name, metric in named.items()}
    results = _experiment(metrics, totals, control, arm)
    adjusted = _adjusted(results, question.secondary)
    share = _share_of_plan(question, totals)
    found = {
        name: _comparison(name, results[name], adjusted.get(name), question, level, share)
        for name in named
    }
    primary = found[question.primary]
    guardrails = [found[name] for name in question.guardrails]
    return ArmReport(
        arm=arm,
        primary=primary,
        secondary=[found[name] for name in question.secondary],
        guardrails=guardrails,
        verdict=_verdict(question, control, arm, primary, guardrails, problem),
    )


def _test(metric: Metric, totals: Totals, level: float) -> tt.Mean | tt.RatioOfMeans:
    if metric.column not in totals.users.columns:
        raise ValueError(f"{metric.name}: the exposures have no column `{metric.column}`")
    if metric.per_exposure:
        return tt.RatioOfMeans(metric.column, "exposure", confidence_level=level)
    before = metric.before if metric.before in totals.users.columns else None
    if before and not totals.users[before].var():
        before = None  # nothing is known of the time before
    return tt.Mean(metric.column, before, confidence_level=level)


def _experiment(
    metrics: Mapping[str, object], totals: Totals, control: str, arm: str
) -> ExperimentResult:
    pair = totals.users.filter(totals.users["arm"].is_in([control, arm]))
    with np.errstate(divide="ignore", invalid="ignore"):  # one value for all users: no interval
        found = tt.Experiment(dict(metrics), variant="arm").analyze(pair, control=control)
    assert isinstance(found, ExperimentResult)
    return found


def _adjusted(results: ExperimentResult, names: Sequence[str]) -> dict[str, float]:
    """Returns the p-values of secondary metrics, adjusted for their number (Benjamini-Hochberg)."""
    if not names:
        return {}
    rows = tt.adjust_fdr(results, list(names)).to_dicts()
    return {str(row["metric"]): float(row["pvalue_adj"]) for row in rows}


def _share_of_plan(question: Question, totals: Totals) -> float:
    """Returns the part of the planned experiment that has passed; above 1 after its end."""
    if not question.days:
        return 1.0
    passed = (totals.until - totals.since) / timedelta(days=question.days)
    return max(passed, 1e-3)


def _comparison(
    name: str,
    result: MeanResult,
    adjusted: float | None,
    question: Question,
    level: float,
    share: float,
) -> Comparison:
    lower, upper = result.rel_effect_size_ci_lower, result.rel_effect_size_ci_upper
    p_value: float | None = result.pvalue if adjusted is None else adjusted
    if question.sequential and result.control:
        quantile = NormalDist().inv_cdf((1 + level) / 2)
        error = (result.effect_size_ci_upper - result.effect_size_ci_lower) / (2 * quantile)
        # The error at the planned end follows from the number of users, not from what they did.
        width = half_width(error, error * share**0.5, 1 - level) if error > 0 else 0.0
        lower = (result.effect_size - width) / result.control
        upper = (result.effect_size + width) / result.control
        p_value = None
    return Comparison(
        metric=name,
        control=result.control,
        treatment=result.treatment,
        relative=result.rel_effect_size,
        lower=lower,
        upper=upper,
        p_value=p_value,
    )


def _verdict(
    question: Question,
    control: str,
    arm: str,
    primary: Comparison,
    guardrails: Sequence[Comparison],
    problem: str,
) -> str:
    """Returns one sentence."""
    if problem:
        return f"No verdict: {problem}."
    if math.isnan(primary.lower):
        return f"No verdict: {control} has no {primary.metric}, to which {arm} could be compared."
    figures = f"{primary.relative:+.1%}, interval {primary.lower:+.1%} to {primary.upper:+.1%}"
    broken = [one.metric for one in guardrails if one.lower > 0]
    unproven = [one.metric for one in guardrails if one.lower <= 0 and one.upper > question.margin]
    if primary.upper < 0:
        return f"Keep {control}: {arm} is worse in {primary.metric} ({figures})."
    if primary.lower <= 0:
        return f"{arm} and {control} do not differ beyond chance in {primary.metric} ({figures})."
    if broken:
        return (
            f"{arm} is better in {primary.metric} ({figures}), but breaks a guardrail: "
            f"{', '.join(broken)}. Do not ship it as it is."
        )
    ship = f"Ship {arm}: it is better in {primary.metric} ({figures})."
    if unproven:
        ship += f" It is not shown that {', '.join(unproven)} stays within the margin."
    return ship
