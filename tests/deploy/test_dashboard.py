"""Every panel of the dashboard, asked of a real Prometheus that scrapes a real service.

No Grafana is at hand for the tests. Prometheus answers the expressions of the panels as it would
answer Grafana's, and the labels in the legends have to be those of the answers.
"""

import json
import math
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import refreshing
import yaml
from redis_server import RedisServer, free_port
from running_service import Service, service

from model.artifact.versions import served_version

ROOT = Path(__file__).resolve().parents[2]
DASHBOARD = json.loads((ROOT / "deploy/grafana/dashboards/recgpt.json").read_text())
TARGETS: list[dict[str, str]] = [t for panel in DASHBOARD["panels"] for t in panel["targets"]]
RED = {"all": [{"field": "colour", "in": ["red"]}]}
PURPLE = {"all": [{"field": "colour", "in": ["purple"]}]}

Series = list[dict[str, Any]]


@contextmanager
def prometheus(folder: Path, port_of_service: int) -> Iterator[httpx.Client]:
    """Prometheus with the project's rules, which scrapes the service every second."""
    config = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(ROOT / "deploy/prometheus" / name) for name in config["rule_files"]]
    config["scrape_configs"][0]["static_configs"] = [{"targets": [f"127.0.0.1:{port_of_service}"]}]
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{free_port()}"
    command = ["prometheus", f"--config.file={file}", f"--storage.tsdb.path={folder / 'series'}"]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen([*command, f"--web.listen-address={address}"], stderr=log)
    try:
        with httpx.Client(base_url=f"http://{address}", timeout=30) as client:
            yield client
    finally:
        process.terminate()
        process.wait(timeout=60)


def asked(client: httpx.Client, expression: str) -> Series:
    """Returns the series that an expression gives now; none while Prometheus starts."""
    with suppress(httpx.TransportError):
        answer = client.get("/api/v1/query", params={"query": expression})
        if answer.is_success:
            found: Series = answer.json()["data"]["result"]
            return [one for one in found if not math.isnan(float(one["value"][1]))]
    return []


def make_traffic(running: Service) -> None:
    """Sends one request of every kind that the dashboard shows."""
    post = running.client.post
    post("/recall", json={"user_id": "u1", "k": 5}).raise_for_status()
    post("/recall", json={"user_id": "u1", "k": 5, "filter": RED}).raise_for_status()
    post("/recall", json={"user_id": "u1", "k": 5, "filter": PURPLE}).raise_for_status()
    post("/recall", json={"user_id": "nobody", "k": 5}).raise_for_status()
    post("/recall/batch", json={"requests": [{"user_id": "u2"}] * 4}).raise_for_status()
    click = {"user_id": "u3", "item_id": "i7", "type": "click"}
    post("/events", json={"events": [click]}).raise_for_status()
    assert post("/recall", json={"k": 0}).status_code == 422


@pytest.mark.skipif(not shutil.which("prometheus"), reason="no prometheus on PATH")
def test_every_panel_shows_the_traffic(tmp_path: Path, redis_server: RedisServer) -> None:
    redis_server.flush()
    site = refreshing.make(tmp_path / "site")
    version = served_version(site.artifacts)
    experiments = tmp_path / "experiments.toml"
    experiments.write_text(f'[e.arms.a]\nversion = "{version}"\n[e.arms.b]\nversion = "{version}"')
    settings = {"RECGPT_EXPERIMENTS": str(experiments)}
    with (
        service(site.artifacts, redis_server.url, tmp_path, **settings) as running,
        prometheus(tmp_path, running.port) as client,
    ):
        running.client.put("/items/i3/hidden").raise_for_status()
        empty = {target["expr"] for target in TARGETS}

        def all_shown() -> bool:
            make_traffic(running)
            empty.difference_update([one for one in empty if asked(client, one)])
            return not empty

        try:
            running.wait_until(all_shown)
        except AssertionError as error:
            raise AssertionError(f"these show nothing: {empty}") from error
        for target in TARGETS:
            labels = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            for one in asked(client, target["expr"]):
                assert labels <= set(one["metric"]), (target, one["metric"])
        broken = [
            rule
            for group in client.get("/api/v1/rules").json()["data"]["groups"]
            for rule in group["rules"]
            if rule["health"] != "ok"
        ]
        assert not broken


def test_targets_of_a_panel_have_legends_of_their_own() -> None:
    """Two series of a panel with the same legend cannot be told apart."""
    for panel in DASHBOARD["panels"]:
        legends = [target["legendFormat"] for target in panel["targets"]]
        assert len(legends) == len(set(legends)), panel["title"]
        assert [target["refId"] for target in panel["targets"]] == list("ABCDEFGH"[: len(legends)])
