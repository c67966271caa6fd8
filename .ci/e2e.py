"""Bring docker-compose.yml up on a Docker engine, check it from outside, take it down again.

    make e2e

Uses the engine and client of the environment (DOCKER_HOST, PATH). Project name and image tag
are its own and the engine chooses the ports, so the run collides with nothing else. Everything but
the builder's cache is removed at the end. Exits with 1 if a check fails.
"""

import re
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import httpx
from compose import Failed, Project

USER = "196"
EXPECTED = "the engine is started again"
"""The error that the service logs because a check kills its engine."""
BUILD_AND_TRAIN_SECONDS = 45 * 60
PROBES = {"/healthz": 200, "/readyz": 200, "/readyz?strict=1": 503}
"""Status of each probe while Redis is stopped."""
COMPLAINT = re.compile(
    r"Traceback \(most recent call last\)|\b(ERROR|CRITICAL|FATAL)\b|\blevel=(error|fatal)\b"
)
"""Lines that no log may contain, in the formats of Python, Redis and Prometheus."""


def recall(service: str) -> dict[str, Any]:
    """Returns the answer to a recall for the user, which must be a full one."""
    body = {"user_id": USER, "k": 10, "with_metadata": True}
    response = httpx.post(f"{service}/recall", json=body, timeout=10)
    if response.status_code != 200:
        raise Failed(f"POST /recall: {response.status_code} {response.text[:500]}")
    answer: dict[str, Any] = response.json()
    if answer["degraded"]:
        raise Failed(f"the answer is degraded: {answer}")
    return answer


def check_started(project: Project) -> None:
    """All containers are healthy without another step, and training succeeded."""
    for service in ("redis", "recall", "prometheus"):
        deadline = time.monotonic() + 120
        while (health := project.state(service)["State"]["Health"]["Status"]) != "healthy":
            if time.monotonic() > deadline:
                raise Failed(f"{service} is {health}")
            time.sleep(1)
    code = project.state("train")["State"]["ExitCode"]
    if code != 0:
        raise Failed(f"train ended with exit code {code}")


def check_recall(project: Project) -> None:
    """A recall returns ten films, with titles, that the user has not seen."""
    items = recall(project.url("recall", 8000))["items"]
    offered = [item["item_id"] for item in items]
    if len(set(offered)) != 10:
        raise Failed(f"ten different items wanted, got {offered}")
    untitled = [i["item_id"] for i in items if not (i["metadata"] or {}).get("title")]
    if untitled:
        raise Failed(f"no title: {untitled}")
    seen = history(project)
    if not seen:
        raise Failed(f"Redis has no history of user {USER}")
    if set(seen) & set(offered):
        raise Failed(f"seen already: {set(seen) & set(offered)}")


def history(project: Project) -> list[str]:
    """Returns the user's history from Redis, newest item first."""
    words = ("exec", "-T", "redis", "redis-cli", "--raw", "LRANGE", f"h:{USER}", "0", "-1")
    return [entry.partition("\t")[0] for entry in project.compose(*words).splitlines()]


def check_events(project: Project) -> None:
    """An event changes the next recall, which does not return that item again."""
    service = project.url("recall", 8000)
    before = [item["item_id"] for item in recall(service)["items"]]
    event = {"user_id": USER, "item_id": before[0], "type": "click"}
    response = httpx.post(f"{service}/events", json={"events": [event]}, timeout=10)
    if not response.is_success:
        raise Failed(f"POST /events: {response.status_code} {response.text[:500]}")
    after = [item["item_id"] for item in recall(service)["items"]]
    if before[0] in after:
        raise Failed(f"{before[0]} was clicked and is returned again: {after}")
    if len(after) != 10 or after == before:
        raise Failed(f"the recall did not change: {before}, {after}")
    if history(project)[0] != before[0]:
        raise Failed(f"{before[0]} is not the newest item in Redis: {history(project)[:3]}")


def check_without_redis(project: Project) -> None:
    """Without Redis the service stays ready and returns popular items; with it, full answers."""
    service = project.url("recall", 8000)
    project.compose("stop", "redis")
    probes = {path: httpx.get(f"{service}{path}", timeout=10).status_code for path in PROBES}
    body = {"user_id": USER, "k": 10}
    answer = httpx.post(f"{service}/recall", json=body, timeout=10).json()
    project.compose("start", "redis")
    if probes != PROBES:
        raise Failed(f"without Redis the probes answer {probes}, not {PROBES}")
    if answer["degraded_reason"] != "store_unavailable" or len(answer["items"]) != 10:
        raise Failed(f"without Redis the answer is {answer}")
    deadline = time.monotonic() + 60
    while httpx.get(f"{service}/readyz?strict=1", timeout=10).status_code != 200:
        if time.monotonic() > deadline:
            raise Failed("Redis is back, and the service does not use it")
        time.sleep(1)
    recall(service)


def check_engine_is_replaced(project: Project) -> None:
    """An engine that is killed is replaced, and a recall that was sent meanwhile is answered."""
    service = project.url("recall", 8000)
    version = recall(service)["version"]
    kill = (
        "import os, pathlib, signal\n"
        "for file in pathlib.Path('/proc').glob('[0-9]*/comm'):\n"
        "    if file.read_text() == 'recgpt-engine\\n':\n"
        "        os.kill(int(file.parent.name), signal.SIGKILL)\n"
        "        print(file.parent.name)\n"
    )
    killed = project.compose("exec", "-T", "recall", "python", "-c", kill).split()
    if len(killed) != 1:
        raise Failed(f"one engine expected, killed {killed}")
    deadline = time.monotonic() + 60
    body = {"user_id": USER, "k": 10}
    while httpx.post(f"{service}/recall", json=body, timeout=60).status_code != 200:
        if time.monotonic() > deadline:
            raise Failed("no recall is answered a minute after the engine was killed")
        time.sleep(1)
    if recall(service)["version"] != version:
        raise Failed("the engine that replaced another one serves another version")


def check_confined(project: Project) -> None:
    """The service has no root, no capability, and writes only to its cache."""
    config = project.state("recall")["Config"]
    if not re.fullmatch(r"[1-9]\d*(:[1-9]\d*)?", config["User"]):
        raise Failed(f"the image's user is {config['User']!r}, not a number above 0")
    probe = (
        "import os, pathlib; status = pathlib.Path('/proc/1/status').read_text().split('\\n')\n"
        "print(*(line for line in status if line.startswith(('Uid', 'CapBnd', 'NoNewPrivs'))))\n"
        "print(*(f for f in ('/', '/data', '/opt/recgpt') if os.access(f, os.W_OK)), sep=',')\n"
    )
    lines = project.compose("exec", "-T", "recall", "python", "-c", probe).splitlines()
    words = lines[0].split()
    if words[:2] == ["Uid:", "0"] or int(words[words.index("CapBnd:") + 1], 16) != 0:
        raise Failed(f"process 1 has rights it does not need: {lines[0]}")
    if words[-1] != "1" or lines[1]:
        raise Failed(f"new privileges possible, or writable: {lines}")


def check_prometheus(project: Project) -> None:
    """Prometheus scrapes the service, has the recalls' histograms, and its rules are healthy."""
    url = project.url("prometheus", 9090)
    deadline = time.monotonic() + 60
    wanted = {
        'up{job="recgpt"}': 1.0,
        "recgpt_ready": 1.0,
        'recgpt_requests_total{route="/recall",status="200"}': 3.0,
        'recgpt_request_seconds_count{route="/recall"}': 3.0,
        'recgpt_request_seconds_bucket{route="/recall",le="+Inf"}': 3.0,
        'recgpt_stage_seconds_count{stage="model"}': 1.0,
        'recgpt_stage_seconds_count{stage="search"}': 1.0,
    }
    while missing := {q: v for q, least in wanted.items() if (v := value(url, q)) < least}:
        if time.monotonic() > deadline:
            raise Failed(f"less than expected: {missing}, wanted {wanted}")
        time.sleep(1)
    groups = httpx.get(f"{url}/api/v1/rules", timeout=10).json()["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    bad = [
        rule["name"] for rule in rules if rule["health"] == "err" or rule.get("state") == "firing"
    ]
    if not rules or bad:
        raise Failed(f"{len(rules)} alert rules, broken or firing: {bad}")


def value(url: str, query: str) -> float:
    """Returns the value of a query with one result, or -1 if there is none."""
    response = httpx.get(f"{url}/api/v1/query", params={"query": query}, timeout=10).json()
    result = response["data"]["result"]
    return float(result[0]["value"][1]) if result else -1.0


def check_second_up(project: Project) -> None:
    """A second `up` does not train again and keeps the stored histories."""
    version, newest = recall(project.url("recall", 8000))["version"], history(project)[0]
    project.compose("up", "-d", timeout=300)
    check_started(project)
    if recall(project.url("recall", 8000))["version"] != version:
        raise Failed("the second `up` made another artifact")
    if history(project)[0] != newest:
        raise Failed("the second `up` replaced the stored history")


def check_playground(project: Project) -> None:
    """The playground's users visit, and the report on its experiment has exposures to look at."""
    project.environment |= {"RECGPT_EXPERIMENTS": "/etc/recgpt/experiments.toml"}
    project.compose("--profile", "playground", "up", "-d", "crowd", timeout=300)
    url, began = project.url("prometheus", 9090), time.monotonic()
    wanted = (
        "increase(recgpt_events_total[1m]) > 0",
        "increase(recgpt_filtered_recalls_total[1m]) > 0",
    )
    while not all(value(url, query) > 0 for query in wanted):
        if time.monotonic() > began + 90:
            raise Failed("no clicks of simulated users, or no recalls with a filter")
        time.sleep(1)
    export = ("recgpt", "events", "export", "--out", "/tmp/log")
    written = project.compose("exec", "-T", "recall", *export)
    if not re.search(r"[1-9]\d* exposures", written):
        raise Failed(f"no exposures: {written}")


def check_stop(project: Project) -> None:
    """Every container stops by itself with success, and no log holds an error."""
    project.compose("stop", "--timeout", "40", timeout=200)
    codes = {s: project.state(s)["State"]["ExitCode"] for s in ("train", "recall", "redis")}
    codes |= {s: project.state(s)["State"]["ExitCode"] for s in ("prometheus", "crowd")}
    bad = {s: code for s, code in codes.items() if code not in ((0,) if s == "train" else (0, 143))}
    if bad:
        raise Failed(f"exit codes: {bad}")
    lines = project.compose("logs", "--no-color").splitlines()
    complaints = [line for line in lines if COMPLAINT.search(line) and EXPECTED not in line]
    if complaints or not any("recall" in line for line in lines):
        raise Failed(f"{len(lines)} lines of logs, complaints:\n" + "\n".join(complaints[:20]))


CHECKS: tuple[Callable[[Project], None], ...] = (
    check_started,
    check_recall,
    check_events,
    check_without_redis,
    check_engine_is_replaced,
    check_confined,
    check_prometheus,
    check_second_up,
    check_playground,
    check_stop,
)


def main() -> int:
    """Brings the project up, checks it, takes it down; returns the exit code."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    project = Project()
    failed = 0
    try:
        start(project)
        for check in CHECKS:
            began = time.monotonic()
            try:
                check(project)
            except (Failed, httpx.HTTPError, KeyError, IndexError, ValueError) as error:
                failed += 1
                print(
                    f"FAILED  {check.__doc__}\n        {type(error).__name__}: {error}", flush=True
                )
            else:
                print(f"ok      {check.__doc__}  ({time.monotonic() - began:.0f} s)", flush=True)
        if failed:
            print(project.compose("logs", "--no-color", "--tail", "40"))
    except Failed as error:
        failed += 1
        print(f"FAILED  {error}", flush=True)
    finally:
        project.down()
    print(f"{len(CHECKS) - failed} passed, {failed} failed")
    return 1 if failed else 0


def start(project: Project) -> None:
    """Runs `docker-compose up -d --build`. Raises Failed, with the logs, if that fails."""
    project.compose("config", "-q")
    began = time.monotonic()
    print("building, training, starting: some minutes …", flush=True)
    project.compose("build", timeout=BUILD_AND_TRAIN_SECONDS)
    built = time.monotonic()
    try:
        project.compose("up", "-d", timeout=BUILD_AND_TRAIN_SECONDS)
    except Failed as error:
        logs = project.compose("logs", "--no-color", "--tail", "40")
        raise Failed(f"{error}\n{logs}") from error
    print(
        f"built in {built - began:.0f} s, up in {time.monotonic() - built:.0f} s more", flush=True
    )


if __name__ == "__main__":
    sys.exit(main())
