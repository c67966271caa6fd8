"""The whole loop: serve, experiment, report, refresh, and the next version without a restart."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
import refreshing
from redis_server import RedisServer
from running_service import service

from cli.main import main
from model.artifact.versions import served_version

EXPERIMENTS = "[lists.arms.plain]\n[lists.arms.lifted]\n"
USERS, LIFT = 150, 5


def test_events_of_an_experiment_become_the_next_version(
    tmp_path: Path, redis_server: RedisServer, capsys: pytest.CaptureFixture[str]
) -> None:
    redis_server.flush()
    site = refreshing.make(tmp_path / "site")
    first = served_version(site.artifacts)
    experiments, held_out, log = (
        tmp_path / name for name in ("experiments.toml", "held-out.parquet", "log")
    )
    experiments.write_text(EXPERIMENTS)
    write_held_out(held_out)
    settings = {"RECGPT_EXPERIMENTS": str(experiments)}
    with service(site.artifacts, redis_server.url, tmp_path, **settings) as running:
        url = f"http://127.0.0.1:{running.port}"
        simulate = ["experiment", "simulate", "--url", url, "--events", str(held_out)]
        main([*simulate, "--lift", f"lifted={LIFT}", "--visits", "2", "--position-bias", "0.5"])
        running.client.post("/events", json={"events": organic_events()}).raise_for_status()
        out = capsys.readouterr().out
        assert f"{USERS} users" in out
        running.wait_until(lambda: int(redis_server.command("XLEN", "exposures")) >= USERS)
        main(["events", "export", "--store", redis_server.url, "--out", str(log)])
        report = ["experiment", "report", "--experiments", str(experiments), "--name", "lists"]
        report += ["--exposures", str(log / "exposures"), "--events", str(log / "events")]
        main([*report, "--out", str(tmp_path / "report.html")])
        assert "Ship lifted: it is better in click (+" in capsys.readouterr().out
        refresh = ["refresh", "--artifacts", str(site.artifacts), "--work", str(tmp_path / "work")]
        refresh += ["--log", str(site.log), "--store", redis_server.url, "--gate.min-cases", "20"]
        refresh += ["--gate.lost-items", "1", "--gate.coverage-loss", "0.9"]
        refresh += ["--min-user-events", "0", "--min-item-events", "0", "--pretrain.epochs", "2"]
        refresh += ["--pretrain.sampling", "windows", "--gate.recall-loss", "0.9"]
        main(refresh)
        assert "is the served version now" in capsys.readouterr().out
        second = served_version(site.artifacts)
        assert second != first
        running.wait_until(lambda: running.recall(user_id="u1", k=3)["version"] == second)
        assert running.process.poll() is None


def write_held_out(file: Path) -> None:
    """The items that simulated users like: neighbours of each other in the walks."""
    pl.DataFrame(
        [
            (f"u{user}", f"i{(user + step) % refreshing.ITEMS}")
            for user in range(USERS)
            for step in range(0, 60, 2)
        ],
        schema=["user_id", "item_id"],
        orient="row",
    ).write_parquet(file)


def organic_events() -> list[dict[str, object]]:
    """Events of two days that no recall is behind."""
    now = datetime.now(UTC)
    return [
        {
            "user_id": f"u{user}",
            "item_id": f"i{(user + hour) % refreshing.ITEMS}",
            "timestamp": (now - timedelta(hours=hour)).timestamp(),
        }
        for user in range(refreshing.USERS)
        for hour in (1, 6, 26, 32)
    ]
