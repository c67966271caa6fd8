"""The deployment files agree with the service and with each other."""

import fnmatch
import json
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli.config import parse
from cli.demo import Demo
from cli.experiment import ExperimentSimulate
from cli.main import COMMANDS, command_class
from cli.refresh import Refresh
from cli.serve import Serve
from service.experiments.config import read_experiments
from service.observability.metrics import (
    EVENT_TYPES,
    FALLBACKS,
    ROUTES,
    STAGES,
    ItemFigures,
    Metrics,
)
from service.settings import ServeSettings

ROOT = Path(__file__).resolve().parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text())
STAGES_OF_BUILD = re.split(r"^(?=FROM )", DOCKERFILE, flags=re.MULTILINE)[1:]
PROMETHEUS = ROOT / "deploy" / "prometheus"
DASHBOARD = json.loads((ROOT / "deploy/grafana/dashboards/recgpt.json").read_text())


def arguments(stage: str, instruction: str) -> list[str]:
    return re.findall(rf"^{instruction} +(.+?) *$", stage, flags=re.MULTILINE)


def stage_of(service: dict[str, Any]) -> str:
    """Returns the stage of the Dockerfile that a service's image is built from."""
    target = service["build"].get("target")
    if target is None:
        return STAGES_OF_BUILD[-1]
    return next(s for s in STAGES_OF_BUILD if s.splitlines()[0].endswith(f" AS {target}"))


def metric_names() -> set[str]:
    """Returns every name under which Prometheus can query one of our metrics."""
    names = {"up"} | {rule["record"] for rule in rules() if "record" in rule}
    suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"], "gauge": [""]}
    metrics = Metrics()
    metrics.items = lambda: ItemFigures(0, 0, 0, 0, 0.0)
    for family in metrics.registry.collect():
        names |= {family.name + suffix for suffix in suffixes[family.type]}
    return names


def rules() -> list[dict[str, Any]]:
    """Returns the rules of all files that Prometheus reads: recorded series and alerts."""
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    return [
        rule
        for name in config["rule_files"]
        for group in yaml.safe_load((PROMETHEUS / name).read_text())["groups"]
        for rule in group["rules"]
    ]


def expressions() -> list[str]:
    panels = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    assert panels
    return [rule["expr"] for rule in rules()] + panels


def test_the_image_holds_compiled_code_and_containers_can_add_theirs() -> None:
    """The default folder of the cache, which its user owns: filled when the image is built."""
    stage = STAGES_OF_BUILD[-1]
    folder = "/var/cache/recgpt"
    assert f"XDG_CACHE_HOME={folder.rpartition('/')[0]}" in stage
    assert f"install -d -o 10001 -g 10001 -m 700 {folder}" in stage
    assert stage.index("USER 10001") < stage.index("RUN python -m service.precompile")


@pytest.mark.parametrize("expression", expressions())
def test_rules_and_panels_ask_for_metrics_that_exist(expression: str) -> None:
    asked = set(re.findall(r"\b(?:\w+:)?recgpt_[\w:]+|\bup\b", expression))
    assert asked
    assert asked <= metric_names()
    values = {"route": ROUTES, "stage": STAGES, "reason": FALLBACKS, "type": EVENT_TYPES}
    for label, value in re.findall(r'(\w+)="([^"]*)"', expression):
        assert value in values.get(label, [value]), f"{label} never has the value {value}"


def test_prometheus_scrapes_the_service_and_reads_the_rules() -> None:
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    jobs = {
        job["job_name"]: job["static_configs"][0]["targets"] for job in config["scrape_configs"]
    }
    assert jobs == {"recgpt": ["recall:8000"]}
    assert "recall" in SERVICES


def test_every_alert_has_a_section_in_the_runbook() -> None:
    alerts = [rule for rule in rules() if "alert" in rule]
    text = (ROOT / "docs" / "runbook.md").read_text()
    assert re.findall(r"^## (\w+)", text, re.MULTILINE) == [rule["alert"] for rule in alerts]
    for rule in alerts:
        severity = rule["labels"]["severity"]
        assert severity in ("page", "ticket")
        assert f"## {rule['alert']}\n\n*{severity}.* " in text
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["runbook"] == f"docs/runbook.md#{rule['alert'].lower()}"
        assert rule["for"]


@pytest.mark.parametrize(
    "words",
    [
        ["check", "config", "--syntax-only", "deploy/prometheus/prometheus.yml"],
        ["check", "rules", "deploy/prometheus/recorded.yml", "deploy/prometheus/alerts.yml"],
        ["test", "rules", "tests/deploy/alerts.promtool.yml"],
    ],
    ids=" ".join,
)
def test_promtool_accepts_the_rules_and_they_alert_when_they_should(words: list[str]) -> None:
    if not shutil.which("promtool"):
        pytest.skip("no promtool on PATH (Debian: prometheus)")
    ended = subprocess.run(["promtool", *words], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_promtool_accepts_the_expressions_of_the_dashboard(tmp_path: Path) -> None:
    """Grafana is not at hand, so each expression is checked as the rule of a recorded series."""
    if not shutil.which("promtool"):
        pytest.skip("no promtool on PATH (Debian: prometheus)")
    targets = [target for panel in DASHBOARD["panels"] for target in panel["targets"]]
    recorded = [{"record": f"panel:{n}", "expr": t["expr"]} for n, t in enumerate(targets)]
    file = tmp_path / "dashboard.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": recorded}]}))
    ended = subprocess.run(["promtool", "check", "rules", file], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_panels_of_the_dashboard_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        columns = range(place["x"], place["x"] + place["w"])
        cells = {(x, y) for x in columns for y in range(place["y"], place["y"] + place["h"])}
        assert not cells & taken, panel["title"]
        assert max(columns) < 24
        taken |= cells


def test_grafana_finds_prometheus_and_the_dashboard() -> None:
    folder = ROOT / "deploy/grafana/provisioning"
    sources = yaml.safe_load((folder / "datasources/prometheus.yml").read_text())["datasources"]
    assert {s["uid"] for s in sources} == {p["datasource"]["uid"] for p in DASHBOARD["panels"]}
    assert sources[0]["url"] == "http://prometheus:9090"
    provider = yaml.safe_load((folder / "dashboards/recgpt.yml").read_text())["providers"][0]
    mounted = [volume.split(":")[1] for volume in SERVICES["grafana"]["volumes"]]
    assert provider["options"]["path"] in mounted
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_checked_pinned_and_local(name: str) -> None:
    service = SERVICES[name]
    image, _, tag = service["image"].partition(":")
    assert tag
    assert tag != "latest"
    assert ("build" in service) == (image in ("recgpt", "recgpt-load"))
    if name in ("train", "refresh", "crowd"):  # these serve nothing
        assert service["healthcheck"] == {"disable": True}
        waits = SERVICES["recall"]["depends_on"]["train"]["condition"]
        assert waits == "service_completed_successfully"
    else:
        assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")
    for port in service.get("ports", []):
        assert port.startswith(("${PUBLISH_ADDRESS:-127.0.0.1}:${", "127.0.0.1:${ADMIN_PORT"))
    for volume in service.get("volumes", []):
        source = volume.split(":")[0]
        assert (ROOT / source).exists() if source.startswith(".") else source in COMPOSE["volumes"]
    assert "no-new-privileges:true" in service.get("security_opt", []) or name == "grafana"


def test_compose_1_29_can_load_it() -> None:
    """Compose 1.29 rejects `name` and nested defaults; Compose v2 warns about `version`."""
    assert {key for key in COMPOSE if not key.startswith("x-")} == {"services", "volumes"}
    assert not re.search(r"\$\{[^}]*\$\{", (ROOT / "docker-compose.yml").read_text())


@pytest.mark.parametrize("name", [name for name in SERVICES if "build" in SERVICES[name]])
def test_built_images_take_the_arguments_and_are_hardened(name: str) -> None:
    service = SERVICES[name]
    build_stages = "\n".join(STAGES_OF_BUILD) if name != "locust" else stage_of(service)
    declared = {argument.partition("=")[0] for argument in arguments(build_stages, "ARG")}
    assert set(service["build"]["args"]) <= declared
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", arguments(stage_of(service), "USER")[-1])
    writable = [v for v in service["volumes"] if not v.endswith(":ro")]
    compiled = ["compiled:/var/cache/recgpt"]
    both = ["recgpt:/data", *compiled]
    assert writable == {"train": both, "refresh": both, "recall": compiled}.get(name, [])


def test_the_refresh_is_a_command_that_exists() -> None:
    """Its options are parsed as in the container, and the schedule is a variable."""
    (script,) = SERVICES["refresh"]["command"]
    (line,) = [line for line in script.splitlines() if "recgpt" in line]
    words = line.split()
    assert words[:2] == ["recgpt", "refresh"]
    command = parse(Refresh, "refresh", [*words[2:], "--artifacts", "/data/artifacts"])
    assert isinstance(command, Refresh)
    assert command.log == Path("/data/raw/ml-100k.inter")
    assert SERVICES["recall"]["environment"]["RECGPT_LOG_EVENTS"] == "true"
    assert "REFRESH_SECONDS" in script
    assert SERVICES["refresh"]["profiles"] == ["refresh"]


def test_the_playground_has_users_and_experiments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its files fit each other: options, mounted experiments, the arm with the planted effect."""
    crowd = SERVICES["crowd"]
    assert crowd["command"][:2] == ["experiment", "simulate"]
    simulate = parse(ExperimentSimulate, "experiment simulate", crowd["command"][2:])
    assert isinstance(simulate, ExperimentSimulate)
    assert simulate.endless
    assert (simulate.url, str(simulate.events)) == ("http://recall:8000", "/data/data")
    experiments = read_experiments(ROOT / "deploy/playground/experiments.toml").root
    assert set(simulate.lift) <= set(experiments["interests"].arms)
    assert {name for name in SERVICES if "playground" in SERVICES[name].get("profiles", [])} == {
        "crowd",
        "grafana",
    }
    (mounted,) = [v for v in SERVICES["recall"]["volumes"] if v.startswith("./deploy/playground:")]
    start = (ROOT / "deploy/playground/start.sh").read_text()
    assert f"RECGPT_EXPERIMENTS={mounted.split(':')[1]}/experiments.toml" in start
    for script in ("start.sh", "report.sh"):
        subprocess.run(["bash", "-n", ROOT / "deploy/playground" / script], check=True)
    (line,) = re.findall(r"make demo ARGS='(.*)'", start)
    demo = parse(Demo, "demo", line.split())
    assert isinstance(demo, Demo)
    assert demo.experiments
    assert (ROOT / demo.experiments).exists()
    report = (ROOT / "deploy/playground/report.sh").read_text().replace("\\\n", " ")
    for line in re.findall(r"^recgpt (.+)$", report, re.MULTILINE):
        name = max((n for n in COMMANDS if line.startswith(n)), key=len)
        monkeypatch.setenv("RECGPT_STORE", "redis://redis:6379/0")
        monkeypatch.setenv("RECGPT_EXPERIMENTS", "experiments.toml")
        parse(command_class(name), name, line.removeprefix(name).split())


def test_dockerfile_ends_without_root_or_tools() -> None:
    final = STAGES_OF_BUILD[-1]
    assert final.index("\nRUN ") < final.index("\nUSER ")
    assert not re.search(r"pip install|apt-get|curl", final)
    assert "HEALTHCHECK" in final
    assert arguments(final, "ENTRYPOINT") == ['["recgpt"]']
    for stage in STAGES_OF_BUILD:
        image = stage.split()[1]
        assert image == "python:3.11-slim-bookworm"


def test_dependencies_are_installed_before_the_code_is_copied() -> None:
    builder = next(stage for stage in STAGES_OF_BUILD if " AS builder" in stage)
    install = builder.index("-r requirements.txt")
    assert builder.index("COPY pyproject.toml constraints.txt") < install
    assert install < builder.index("COPY *.md")


def test_image_gets_the_whole_project_and_nothing_else() -> None:
    """The image copies all packages of pyproject.toml, and .dockerignore lets them through."""
    copied = [
        source
        for stage in STAGES_OF_BUILD
        for words in arguments(stage, "COPY")
        if not words.startswith("--from")
        for source in words.split()[:-1]
    ]
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    packages = {name.removesuffix("*") for name in setuptools["packages"]["find"]["include"]}
    assert packages <= set(copied)
    lines = (ROOT / ".dockerignore").read_text().split()
    kept = [line[1:] for line in lines if line.startswith("!")]
    for source in copied:
        for path in ROOT.glob(source):
            name = str(path.relative_to(ROOT))
            markdown = source == "*.md"  # of these only README.md, which the package needs
            assert markdown or any(fnmatch.fnmatch(name, keep) for keep in kept), name
    assert {"README.md", "pyproject.toml", "LICENSE"} <= set(kept)


def test_every_file_of_a_package_is_installed() -> None:
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    packed = setuptools["package-data"]
    for package in (name.removesuffix("*") for name in setuptools["packages"]["find"]["include"]):
        patterns = packed["*"] + packed.get(package, [])
        for file in (ROOT / package).rglob("*"):
            if file.is_file() and file.suffix not in (".py", ".pyc"):
                name = file.relative_to(ROOT / package)
                assert any(name.match(pattern) for pattern in patterns), file


def container_environment(name: str) -> dict[str, str]:
    words = " ".join(arguments(stage_of(SERVICES[name]), "ENV")).split()
    return dict(word.split("=", 1) for word in words) | SERVICES[name]["environment"]


def test_compose_starts_the_commands_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flags and environment of `train` and `recall` are what the command line takes."""
    for name in ("train", "recall"):
        assert SERVICES[name]["command"][0] in COMMANDS
        for key, value in container_environment(name).items():
            if key.startswith("RECGPT_"):
                monkeypatch.setenv(key, value)
        if name == "train":
            demo = parse(Demo, "demo", SERVICES["train"]["command"][1:])
            assert isinstance(demo, Demo)
            assert not demo.serve
    serve = parse(Serve, "serve", SERVICES["recall"]["command"][1:])
    assert isinstance(serve, ServeSettings)
    assert demo.store == serve.store == "redis://redis:6379/0"
    assert serve.artifacts == demo.dir / "artifacts"
    assert (serve.host, serve.port) == ("0.0.0.0", 8000)
    longest = serve.grace_seconds + serve.drain_seconds
    assert int(SERVICES["recall"]["stop_grace_period"].rstrip("s")) > longest


def test_ci_script_is_bash() -> None:
    subprocess.run(["bash", "-n", ROOT / ".ci" / "run"], check=True)
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
