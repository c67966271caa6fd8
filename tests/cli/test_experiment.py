"""`recgpt experiment`: from files of exposures and events to a page with a verdict."""

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from cli.main import main
from loadtest.experiments.simulated import START, simulated

EXPERIMENTS = "[e.arms.a]\n[e.arms.b]\nrecall = { interests = 4 }\n"


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    exposures, events = simulated(4000, effect=0.4)
    paths = {name: tmp_path / f"{name}.parquet" for name in ("exposures", "events")}
    exposures.write_parquet(paths["exposures"])
    events.write_parquet(paths["events"])
    paths["experiments"] = tmp_path / "experiments.toml"
    paths["experiments"].write_text(EXPERIMENTS)
    return {name: str(path) for name, path in paths.items()}


def words(files: dict[str, str], *more: str) -> list[str]:
    flags = [word for name, path in files.items() for word in (f"--{name}", path)]
    return ["experiment", "report", "--name", "e", *flags, *more]


def test_a_report_is_a_page_and_json(
    files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "report.html"
    main(words(files, "--out", str(out), "--guardrails", "degraded/exposure", "--days", "14"))
    assert "Ship b: it is better in click (+" in capsys.readouterr().out
    page = out.read_text()
    assert "Ship b" in page
    assert "degraded/exposure <small>(guardrail)</small>" in page
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")
    found = json.loads(out.with_suffix(".json").read_text())
    assert found["users"].keys() == {"a", "b"}
    assert found["arms"][0]["primary"]["lower"] > 0


def report_of(files: dict[str, str], out: Path, *more: str) -> dict[str, Any]:
    main(words(files, "--out", str(out), *more))
    text = out.with_suffix(".json").read_text()
    # The order in which threads add numbers up changes the last digits.
    found: dict[str, Any] = json.loads(text, parse_float=lambda number: round(float(number), 9))
    del found["question"]
    return found


def test_what_comes_after_the_planned_end_does_not_count(
    files: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "report.html"
    exposures = pl.read_parquet(files["exposures"])
    cut = str(tmp_path / "cut.parquet")
    exposures.filter(pl.col("at") < exposures["at"].min() + pl.duration(days=7)).write_parquet(cut)
    late = report_of(files, out, "--days", "7")
    in_time = report_of(files | {"exposures": cut}, out)
    assert late["problem"] == ""
    assert datetime.fromisoformat(late["until"]) >= datetime.fromisoformat(in_time.pop("until"))
    assert {name: late[name] for name in in_time} == in_time
    looked = report_of(files, out, "--days", "7", "--sequential")  # may go on
    assert sum(looked["users"].values()) > sum(late["users"].values())


def test_the_start_stays_where_it_was_when_old_parts_are_deleted(
    files: dict[str, str], tmp_path: Path
) -> None:
    """Clicks of the experiment would else be taken for what users did before it."""
    out, start = tmp_path / "report.html", START.isoformat()
    exposures = pl.read_parquet(files["exposures"])
    rest = str(tmp_path / "rest.parquet")
    exposures.filter(pl.col("at") > START + timedelta(days=8)).write_parquet(rest)
    moved = report_of(files | {"exposures": rest}, out, "--days", "14")
    assert moved["arms"][0]["verdict"].startswith("No verdict: the experiment runs until")
    fixed = report_of(files | {"exposures": rest}, out, "--days", "14", "--since", start)
    assert fixed["problem"] == ""
    assert datetime.fromisoformat(fixed["since"]) == START
    events = pl.read_parquet(files["events"])
    kept = events.filter(~pl.col("at").is_between(START, START + timedelta(days=8)))
    kept.write_parquet(files["events"])
    assert report_of(files | {"exposures": rest}, out, "--since", start)["arms"] == fixed["arms"]


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        (["--since", "2027-01-01T00:00Z"], "no exposure is in the planned time"),
        (["--since", "2026-03-01"], "timezone"),
        (["--name", "other"], "has no experiment other"),
        (["--primary", "Click"], "Click is no metric"),
        (["--sequential"], "--sequential needs --days"),
        (["--exposures", "nothing.parquet"], "nothing.parquet can't be read as Parquet"),
    ],
)
def test_what_cannot_be_compared_is_told(
    files: dict[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    problem: str,
) -> None:
    with pytest.raises(SystemExit):
        main([*words(files, "--out", str(tmp_path / "report.html")), *more])
    assert problem in capsys.readouterr().err


def test_options_that_drafts_do_not_have_are_refused(
    files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(files["experiments"]).write_text("[e]\ninterleave = true\n[e.arms.a]\n[e.arms.b]\n")
    out = ["--out", str(tmp_path / "report.html")]
    for more, problem in (
        (["--sequential", "--days", "3"], "omit --sequential and --guardrails"),
        (["--guardrails", "degraded/exposure"], "omit --sequential and --guardrails"),
        ([], "no user of e was shown a draft of both arms"),
    ):
        with pytest.raises(SystemExit):
            main(words(files, *out, *more))
        assert problem in capsys.readouterr().err


def test_a_file_without_a_column_is_refused(
    files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files["events"] = files["exposures"]
    with pytest.raises(SystemExit):
        main(words(files, "--out", str(tmp_path / "report.html")))
    assert "lacks the column type" in capsys.readouterr().err


def test_a_plan_tells_users_and_days(
    files: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    main(["experiment", "plan", "--events", files["events"], "--users-per-day", "1000"])
    measured = capsys.readouterr().out
    assert "click: mean" in measured
    assert "users" in measured
    assert "That takes" in measured
    main(["experiment", "plan", "--mean", "2", "--deviation", "2", "--effect", "0.1"])
    # (1.96 + 0.84)² · (2² + 2 · 1.1 + 2 · 1.1²) / (0.1 · 2)² = 1,692 users an arm
    assert "1,692 an arm" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["experiment", "plan", "--mean", "2"])
    assert "give --events, or both --mean and --deviation" in capsys.readouterr().err
