"""The figures of `loadtest.serving.bench` as a summary, a table and a chart."""

import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

Figures = dict[str, Any]
NAMES = {
    "naive": "naive service, 1 worker",
    "naive_2_workers": "naive service, 2 workers",
    "ours": "ours",
    "empty_fastapi": "empty endpoint, FastAPI",
    "empty_asgi": "empty endpoint, uvicorn alone",
}


def summary(rounds: list[Figures]) -> Figures:
    """Returns the medians over the rounds, and the ratios that the project aims at.

    {"rps", "rps_per_cpu_second": by contender,
     "ours_over": {contender: {"machine", "cpu"}}: ratios of those two,
     "p99_half_load_ms": {"ours", "naive"}: at half of the own peak,
     "four_interests_over_one": {"pipeline", "http"}, "engine_over_floor": at batch 64,
     "details": all medians by contender}
    """
    medians = _median(rounds)
    rps = {name: medians[name]["rps"] for name in NAMES}
    per_cpu = {name: 1000 / medians[name]["cpu_ms_per_request"] for name in NAMES}
    pipeline, ours = medians["pipeline"], medians["ours"]
    return {
        "rps": rps,
        "rps_per_cpu_second": per_cpu,
        "ours_over": {
            name: {
                "machine": rps["ours"] / rps[name],
                "cpu": per_cpu["ours"] / per_cpu[name],
            }
            for name in NAMES
            if name != "ours"
        },
        "p99_half_load_ms": {
            name: medians[name]["open"]["0.5"]["p99_ms"] for name in ("ours", "naive")
        },
        "four_interests_over_one": {
            "pipeline": pipeline["one_interest_rps"] / pipeline["four_rps"],
            "http": ours["interests_rps"]["1"] / ours["interests_rps"]["4"],
        },
        "engine_over_floor": medians["engine"]["batches"]["64"]["over_floor"],
        "details": medians,
    }


def _median(rounds: list[Any]) -> Any:
    """Returns the median of numbers, or of the values of dictionaries with the same keys."""
    if isinstance(rounds[0], dict):
        return {key: _median([one[key] for one in rounds]) for key in rounds[0]}
    return statistics.median(rounds)


def table(report: Figures) -> str:
    """Returns the report as Markdown."""
    lines = [
        f"`{report['command']}`",
        "",
        f"{report['machine']}; Python {report['python']}; {report['date']}; commit "
        f"{report['commit']}. Before anything was measured, "
        f"{report['same_answers']['share']:.1%} of {report['same_answers']['users']} users got the "
        "same candidates from ours and from the naive service, up to ties.",
        "",
        *_servers(report),
        "",
        *_ratios(report),
        "",
        *_engine(report["details"]["engine"]["batches"]),
    ]
    return "\n".join(lines)


def _servers(report: Figures) -> Iterator[str]:
    details = report["details"]
    shares = list(details["ours"]["open"])
    yield (
        "| | requests/s | by wrk | CPU ms a request | requests per CPU second | MB | "
        + " | ".join(f"p50 / p99 at {float(share):.0%}" for share in shares)
        + " |"
    )
    yield "|---" * (6 + len(shares)) + "|"
    for name, label in NAMES.items():
        one = details[name]
        cells = [
            label,
            f"{one['rps']:,.0f}",
            f"{one['wrk_rps']:,.0f}" if "wrk_rps" in one else "",
            f"{one['cpu_ms_per_request']:.2f}",
            f"{report['rps_per_cpu_second'][name]:,.0f}",
            f"{one['memory_mb']:.0f}",
        ]
        loads = one.get("open", {})
        cells += [
            f"{loads[share]['p50_ms']:.1f} / {loads[share]['p99_ms']:.1f}" if loads else ""
            for share in shares
        ]
        yield "| " + " | ".join(cells) + " |"
    bare = f"| bare pipeline, no HTTP | {details['pipeline']['pipeline_rps']:,.0f} |"
    yield bare + " |" * (4 + len(shares))


def _ratios(report: Figures) -> Iterator[str]:
    yield "| ours over | per machine | per CPU second |"
    yield "|---|---|---|"
    for name, ratio in report["ours_over"].items():
        yield f"| {NAMES[name]} | {ratio['machine']:.2f} | {ratio['cpu']:.2f} |"
    four = report["four_interests_over_one"]
    yield ""
    yield (
        f"Four interests cost {four['http']:.2f} times one over HTTP and {four['pipeline']:.2f} "
        "times in the bare pipeline."
    )


def _engine(batches: Figures) -> Iterator[str]:
    yield "| batch of the engine without HTTP | µs a request | floor | ratio |"
    yield "|---|---|---|---|"
    for batch, one in batches.items():
        yield (
            f"| {batch} | {one['us_per_request']:.0f} | {one['floor_us']:.0f} | "
            f"{one['over_floor']:.2f} |"
        )


def draw(report: Figures, path: Path) -> None:
    """Writes a chart of the latency against the offered rate."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name in ("naive", "ours"):
        loads = list(report["details"][name]["open"].values())
        rates = [load["offered_rps"] for load in loads]
        for key, style in (("p50_ms", "--"), ("p99_ms", "-")):
            label = f"{name} {key.split('_')[0]}"
            axes.plot(rates, [load[key] for load in loads], style, marker="o", label=label)
    axes.set(xlabel="offered requests/s", ylabel="latency (ms)", yscale="log")
    axes.axhline(20, color="grey", linewidth=0.8)
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)
