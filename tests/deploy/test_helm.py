"""The Helm chart: four sets of values give manifests that Kubernetes and the service take."""

import json
import shutil
import subprocess
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from cli.config import parse
from cli.refresh import Refresh
from cli.serve import Serve
from service.http.api_keys import KeyScope, scope_of
from service.observability.metrics import Metrics

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy/helm/recgpt"
SETS = sorted(path.stem for path in (ROOT / "deploy/helm/values").glob("*.yaml"))
VERSIONS = ("1.33", "1.37")
OPERATORS = {"ScaledObject", "ServiceMonitor"}
"""Kinds that operators define, for which Kubernetes has no schema."""
SELECTOR = {
    "app.kubernetes.io/name": "recgpt",
    "app.kubernetes.io/instance": "shop",
    "app.kubernetes.io/component": "recall",
}

ADMIN_SERVICE = "shop-recgpt-admin"

Manifest = dict[str, Any]


@cache
def helm() -> str:
    """Returns the path of helm: the one that `make test` fetched, or one on PATH."""
    fetched = ROOT / "build/tools/helm"
    found = str(fetched) if fetched.exists() else shutil.which("helm")
    if not found:
        pytest.skip("no helm: `make build/tools/helm` fetches it")
    return found


def run_helm(*words: str) -> subprocess.CompletedProcess[str]:
    command = [helm(), *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


@cache
def rendered(values: str, *settings: str) -> tuple[Manifest, ...]:
    """Returns the manifests of a set of values."""
    sets = [word for setting in settings for word in ("--set", setting)]
    file = f"deploy/helm/values/{values}.yaml"
    ended = run_helm("template", "shop", str(CHART), "-n", "shop", "-f", file, *sets)
    assert ended.returncode == 0, ended.stderr
    return tuple(m for m in yaml.safe_load_all(ended.stdout) if m)


def one(values: str, kind: str, *settings: str) -> Manifest:
    """Returns the only manifest of a kind, apart from the Service for administration."""
    found = [m for m in rendered(values, *settings) if m["kind"] == kind]
    (manifest,) = [m for m in found if m["metadata"]["name"] != ADMIN_SERVICE]
    return manifest


def pods(values: str) -> list[Manifest]:
    """Returns the templates of all pods: those of the service, and those of the refresh."""
    specs = [m["spec"] for m in rendered(values) if "spec" in m]
    jobs = [spec["jobTemplate"]["spec"] for spec in specs if "jobTemplate" in spec]
    return [spec["template"] for spec in [*specs, *jobs] if "template" in spec]


def containers(pod: Manifest) -> list[Manifest]:
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


def recall(values: str, *settings: str) -> Manifest:
    (container,) = one(values, "Deployment", *settings)["spec"]["template"]["spec"]["containers"]
    return dict(container)


def test_there_are_sets_for_cpu_and_gpu_and_for_every_source_of_bundles() -> None:
    assert len(SETS) == 4
    sources = set()
    for name in SETS:
        spec = one(name, "Deployment")["spec"]["template"]["spec"]
        (volume,) = [v for v in spec["volumes"] if v["name"] == "bundles"]
        sources |= set(volume) - {"name"}
    assert sources == {"persistentVolumeClaim", "emptyDir", "image"}
    assert [n for n in SETS if "nvidia.com/gpu" in recall(n)["resources"]["limits"]] == ["gpu"]


@pytest.mark.parametrize("name", SETS)
def test_lint_has_nothing_to_say(name: str) -> None:
    ended = run_helm("lint", "--strict", str(CHART), "-f", f"deploy/helm/values/{name}.yaml")
    assert ended.returncode == 0, ended.stdout


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", SETS)
def test_kubernetes_takes_the_manifests(name: str, version: str) -> None:
    for manifest in rendered(name):
        if manifest["kind"] not in OPERATORS:
            kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.parametrize("name", SETS)
def test_pods_meet_the_restricted_profile_of_pod_security(name: str) -> None:
    for pod in pods(name):
        security = pod["spec"]["securityContext"]
        assert security["runAsNonRoot"]
        assert security["runAsUser"] > 0
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod["spec"])
        assert pod["spec"]["automountServiceAccountToken"] is False
        allowed = {"configMap", "emptyDir", "image", "persistentVolumeClaim"}
        assert all(set(v) - {"name"} <= allowed for v in pod["spec"]["volumes"])
        for container in containers(pod):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert "memory" in container["resources"]["limits"]


@pytest.mark.parametrize("name", SETS)
def test_the_user_is_that_of_the_image(name: str) -> None:
    assert "USER 10001:10001" in (ROOT / "Dockerfile").read_text()
    for pod in pods(name):
        security = pod["spec"]["securityContext"]
        assert {security[key] for key in ("runAsUser", "runAsGroup", "fsGroup")} == {10001}


@pytest.mark.parametrize("name", SETS)
def test_selectors_find_the_pods_of_the_service_and_no_others(name: str) -> None:
    deployment = one(name, "Deployment")["spec"]
    template = deployment["template"]
    selectors = [
        deployment["selector"]["matchLabels"],
        one(name, "Service")["spec"]["selector"],
        one(name, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        *(s["labelSelector"]["matchLabels"] for s in template["spec"]["topologySpreadConstraints"]),
    ]
    for selector in selectors:
        assert selector == SELECTOR
        assert selector.items() <= template["metadata"]["labels"].items()
    for pod in pods(name):
        if pod is not template:
            assert not SELECTOR.items() <= pod["metadata"]["labels"].items()


@pytest.mark.parametrize("name", SETS)
def test_ports_lead_to_the_one_that_the_service_listens_on(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    container = recall(name)
    port, *admin = container["ports"]
    assert port == {"name": "http", "containerPort": 8000}
    assert bool(admin) == (name == "everything")
    assert served(container, monkeypatch).port == 8000
    (outside,) = one(name, "Service")["spec"]["ports"]
    assert outside["targetPort"] == "http"
    probes = [container[f"{kind}Probe"] for kind in ("startup", "liveness", "readiness")]
    assert {probe["httpGet"]["port"] for probe in probes} == {"http"}


def test_a_port_for_administration_has_a_service_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    container = recall("everything")
    settings = served(container, monkeypatch)
    assert (settings.admin_host, settings.admin_port) == ("0.0.0.0", 8001)
    _, port = container["ports"]
    assert port == {"name": "admin", "containerPort": 8001}
    services = [m for m in rendered("everything") if m["kind"] == "Service"]
    (found,) = [m for m in services if m["metadata"]["name"] == ADMIN_SERVICE]
    assert found["spec"]["selector"] == SELECTOR
    assert [one["targetPort"] for one in found["spec"]["ports"]] == ["admin"]
    clients, operators = one("everything", "NetworkPolicy")["spec"]["ingress"]
    assert [port["port"] for port in clients["ports"]] == ["http"]
    assert [port["port"] for port in operators["ports"]] == ["admin"]
    assert operators["from"]
    closed = one("everything", "NetworkPolicy", "admin.from=null")["spec"]["ingress"]
    assert closed == [clients]  # nobody, as an empty `from` would be everybody
    assert served(recall("cpu"), monkeypatch).admin_port is None


def served(container: Manifest, monkeypatch: pytest.MonkeyPatch) -> Serve:
    """Returns the settings of `recgpt serve` that a container's arguments and environment give."""
    for variable in container["env"]:
        monkeypatch.setenv(variable["name"], variable["value"])
    if "envFrom" in container:
        monkeypatch.setenv("RECGPT_STORE", "redis://from-the-secret")
    command, *words = container["args"]
    assert command == "serve"
    settings = parse(Serve, "serve", words)
    assert isinstance(settings, Serve)
    return settings


@pytest.mark.parametrize("name", SETS)
def test_the_service_takes_arguments_and_environment(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = served(recall(name), monkeypatch)
    assert settings.host == "0.0.0.0"
    assert settings.artifacts == Path("/data/artifacts")
    assert settings.device == ("cuda" if name == "gpu" else "auto")
    if name == "everything":
        assert (settings.http_workers, settings.standby, settings.watch) == (4, True, True)
        assert settings.scenarios == Path("/etc/recgpt/scenarios.toml")


@pytest.mark.parametrize("name", SETS)
def test_a_pod_has_the_time_to_serve_on_and_to_finish(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = one(name, "Deployment")["spec"]["template"]["spec"]
    settings = served(recall(name), monkeypatch)
    before = recall(name)["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert before >= 5
    needed = before + settings.grace_seconds + settings.drain_seconds
    assert spec["terminationGracePeriodSeconds"] > needed
    strategy = one(name, "Deployment")["spec"]["strategy"]["rollingUpdate"]
    assert strategy["maxUnavailable"] == (1 if name == "gpu" else 0)


def test_no_pre_stop_leaves_the_hook_out() -> None:
    assert "lifecycle" not in recall("cpu", "preStopSeconds=0")
    spec = one("cpu", "Deployment", "preStopSeconds=0")["spec"]["template"]["spec"]
    assert spec["terminationGracePeriodSeconds"] == 30


@pytest.mark.parametrize("name", SETS)
def test_probes_ask_what_they_mean_and_need_no_key(name: str) -> None:
    container = recall(name)
    paths = {
        kind: container[f"{kind}Probe"]["httpGet"]["path"]
        for kind in ("startup", "liveness", "readiness")
    }
    # without ?strict=1, because a Redis that is away must not take every pod out of the Service
    assert paths == {"startup": "/readyz", "liveness": "/healthz", "readiness": "/readyz"}
    assert {scope_of("GET", path) for path in paths.values()} == {KeyScope.OPEN}
    startup = container["startupProbe"]
    assert startup["failureThreshold"] * startup["periodSeconds"] == 300


@pytest.mark.parametrize("name", SETS)
def test_every_mount_has_a_volume_and_the_service_cannot_write_bundles(name: str) -> None:
    for pod in pods(name):
        volumes = {volume["name"] for volume in pod["spec"]["volumes"]}
        for container in containers(pod):
            mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
            assert set(mounts) <= volumes
            assert mounts["bundles"]["mountPath"] == "/data"
            assert mounts["bundles"].get("readOnly", False) == (container["name"] == "recall")


def test_the_files_are_those_of_the_values() -> None:
    files = one("everything", "ConfigMap")["data"]
    assert set(files) == {"event-types.toml", "scenarios.toml"}
    changed = one("everything", "Deployment", r"files.event-types\.toml=[skip]")
    unchanged = one("everything", "Deployment", r"files.scenarios\.toml=[home]")
    expected = one("everything", "Deployment")["spec"]["template"]["metadata"]
    assert changed["spec"]["template"]["metadata"] != expected  # read at the start only: restart
    assert unchanged["spec"]["template"]["metadata"] == expected


def test_options_of_large_installations_are_wired_to_the_service() -> None:
    name = one("everything", "Deployment")["metadata"]["name"]
    scaled = one("everything", "ScaledObject")["spec"]
    assert scaled["scaleTargetRef"]["name"] == name
    assert "replicas" not in one("everything", "Deployment")["spec"]  # KEDA's, not the chart's
    metrics = {family.name for family in Metrics().registry.collect()}
    query = scaled["triggers"][0]["metadata"]["query"]
    assert query.split("(")[1].split("{")[0] in metrics
    (endpoint,) = one("everything", "ServiceMonitor")["spec"]["endpoints"]
    assert endpoint["port"] == one("everything", "Service")["spec"]["ports"][0]["name"]
    assert endpoint["authorization"]["credentials"] == {"name": "recgpt-scraper", "key": "secret"}
    policy = one("everything", "NetworkPolicy")["spec"]
    assert policy["ingress"][0]["ports"][0]["port"] == recall("everything")["ports"][0]["name"]
    for pod in pods("everything"):
        selected = policy["podSelector"]["matchLabels"].items()
        assert selected <= pod["metadata"]["labels"].items()


def test_the_refresh_is_a_command_that_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    job = one("everything", "CronJob")["spec"]
    assert job["concurrencyPolicy"] == "Forbid"
    (container,) = job["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    monkeypatch.setenv("RECGPT_STORE", "redis://from-the-secret")
    monkeypatch.setenv("RECGPT_ARTIFACTS", "/data/artifacts")
    settings = parse(Refresh, "refresh", container["args"])
    assert isinstance(settings, Refresh)
    assert settings.work == Path("/data/refresh")
    assert "--log-events" in recall("everything")["args"]


@pytest.mark.parametrize(("code", "expected"), [(0, 0), (1, 1), (3, 3), (4, 0), (5, 5)])
def test_nothing_new_is_no_failure_of_the_refresh(code: int, expected: int, tmp_path: Path) -> None:
    """The command of the container is run with a stand-in for `recgpt`."""
    job = one("everything", "CronJob")["spec"]["jobTemplate"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    stand_in = tmp_path / "recgpt"
    stand_in.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/given\nexit {code}\n')
    stand_in.chmod(0o755)
    words = [*container["command"], *container["args"]]
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    assert subprocess.run(words, env=environment).returncode == expected
    assert (tmp_path / "given").read_text().split() == ["refresh", *container["args"]]
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["values"] == [3, 5]


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("replica=3", "additional properties 'replica' not allowed"),
        ("store=embedded:/data/store", "/store"),
        ("options.grace-seconds=30", "invalid propertyName 'grace-seconds'"),
        ("store=", "store: give the URL of a Redis"),
        ("bundle.source=init", "bundle.init.image"),
        ("bundle.source=image", "bundle.image.reference"),
        ("refresh.enabled=true,bundle.source=init,bundle.init.image=a", "bundle.source: pvc"),
    ],
)
def test_wrong_values_are_refused_with_their_name(setting: str, words: str) -> None:
    ended = run_helm("template", "shop", str(CHART), "--set", setting)
    assert ended.returncode != 0
    assert words in ended.stderr


def test_the_chart_is_of_this_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert chart["appVersion"] == project["version"]
    assert "dependencies" not in chart
    described = json.loads((CHART / "values.schema.json").read_text())["properties"]
    assert set(yaml.safe_load((CHART / "values.yaml").read_text())) <= set(described)
