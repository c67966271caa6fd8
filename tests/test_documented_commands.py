"""The commands of the documents run, page by page and in the order of the page.

The folder of a page holds what the page takes for granted: a log, a bundle, certificates. Commands
that cannot run here are listed with the reason.
"""

import re
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import tiny
from certificates import make_certificates
from documented import Shell, missing, shell_commands
from redis_server import RedisServer

from loadtest.experiments.simulated import simulated
from model.artifact.versions import served_version
from model.data.config import PrepareConfig
from model.data.dataset import Dataset
from model.data.prepare import prepare
from service.offline import export_bundle

ROOT = Path(__file__).resolve().parents[1]
NEEDS_MLFLOW = "it needs an MLflow server; tests/model/artifact/test_registry.py has a folder"
NOT_RUN = {
    """curl -s localhost:8000/recall -H 'content-type: application/json' -d '{"cursor": "…"}'""": (
        "its cursor is a placeholder; tests/service/http/test_pages.py turns pages"
    ),
    "make demo": "it trains for minutes; `make e2e` runs it in containers",
    "make test": "it runs this test",
    "make setup": "it made the environment of this test",
    "make playground": "it needs a Docker engine; `make e2e` runs its users and experiments",
    ".venv/bin/pre-commit install": "it changes the hooks of the checkout",
    "rm -rf .venv": "it replaces the environment",
    ".venv/bin/pip ": "it replaces the environment",
    "docker-compose ": "it needs a Docker engine; `make e2e` runs it",
    "docker ": "it needs a Docker engine; `make e2e` runs it",
    "helm ": "it needs a cluster; tests/deploy/test_helm.py renders the same values",
    "kubectl ": "it needs a cluster",
    "pip install 'recgpt[tracing]'": "the package is not published; the tests have the extra",
    "pip install ./deploy/client/python": "it builds a package; tests/deploy/client imports it",
    "recgpt train --data data --out run-gpu": "it needs a GPU",
    "export MLFLOW_TRACKING_URI": NEEDS_MLFLOW,
    "recgpt publish --bundle build/shop-": NEEDS_MLFLOW,
    "recgpt rollback --artifacts artifacts --registry": NEEDS_MLFLOW,
    "recgpt follow ": NEEDS_MLFLOW,
    "torchrun ": "it takes both cores; tests/model/training/test_distributed.py runs two processes",
}
"""How a command begins that is not run, and why."""
PAGES = [ROOT / "CONTRIBUTING.md", ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES += [ROOT / "deploy/client/python/README.md"]
WITH_COMMANDS = [page for page in PAGES if list(shell_commands(page.read_text(encoding="utf-8")))]
ITEMS = ["242", "302", "286", "384", "585", "63", *map(str, range(1001, 1055))]
USERS = [str(number) for number in range(100, 220)]
DAYS = 12
START = datetime(2026, 3, 1, tzinfo=UTC)
GENRES = ("Comedy", "Romance", "Film-Noir")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def reason_against(command: str) -> str | None:
    """Returns why a command is not run."""
    return next((NOT_RUN[start] for start in NOT_RUN if command.startswith(start)), None)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of walks over films, its data set, and a bundle."""
    folder = tmp_path_factory.mktemp("documented")
    rng = np.random.default_rng(0)
    walks = [
        (user, ITEMS[(first + day) % len(ITEMS)], START + timedelta(days=day, seconds=at))
        for at, (user, first) in enumerate(zip(USERS, rng.integers(0, 60, len(USERS)), strict=True))
        for day in range(DAYS)
    ]
    events = pl.DataFrame(walks, schema=["uid", "sku", "ts"], orient="row")
    events.write_parquet(folder / "events.parquet")
    renamed = events.rename({"uid": "user_id", "sku": "item_id", "ts": "timestamp"})
    renamed.with_columns(pl.col("timestamp").dt.epoch("s")).write_csv(folder / "log.csv")
    films = [
        f"{item},Film {item},{GENRES[row % 3]}|Drama,{1970 + row % 30},4.5,true"
        for row, item in enumerate(ITEMS)
    ]
    header = "sku,name,genres,release_year,price,in_stock"
    (folder / "products.csv").write_text("\n".join([header, *films]) + "\n")
    prepare(
        PrepareConfig(
            input=folder / "events.parquet",
            user_column="uid",
            item_column="sku",
            time_column="ts",
            items=folder / "products.csv",
            item_id_column="sku",
            title_column="name",
            out=folder / "data",
            name="films",
        )
    )
    dataset = Dataset.load(folder / "data")
    model = tiny.gpt(catalogue=dataset.catalogue, users=dataset.users)
    export_bundle(folder / "artifacts", dataset, model, tiny.RECALL, {})
    return folder


def own_logs(shell: Shell) -> None:
    """Only the logs: the page makes the rest. Two films are new."""
    for made in ("data", "artifacts"):
        shutil.rmtree(shell.folder / made)
    (shell.folder / "new.csv").write_text("item_id,title\n9001,Film 9001\n")
    newest = START + timedelta(days=DAYS)
    week = [(user, item, newest) for user in USERS[:20] for item in ("9001", "9002", "302")]
    columns = ["user_id", "item_id", "timestamp"]
    pl.DataFrame(week, schema=columns, orient="row").write_parquet(
        shell.folder / "last-week.parquet"
    )


def operated(shell: Shell) -> None:
    """Another bundle to publish, keys, and a port for administrators."""
    dataset = Dataset.load(shell.folder / "data")
    other = tiny.gpt(catalogue=dataset.catalogue, users=dataset.users, seed=1)
    export_bundle(shell.folder / "build", dataset, other, tiny.RECALL, {})
    version = str(served_version(shell.folder / "build"))
    shell.replaced["movies-20260105-120000-0a1b2c3d"] = version
    secret = "0123456789abcdef"
    shell.environment |= {
        "SECRET": secret,
        "RECGPT_API_KEYS": f"jobs:admin:{secret}",
        "RECGPT_ADMIN_PORT": str(shell.admin_port),
        "RECGPT_GATE__MIN_CASES": "20",
        "RECGPT_GATE__RECALL_LOSS": "0.9",
        "RECGPT_GATE__COVERAGE_LOSS": "0.9",
        "RECGPT_PRETRAIN__SAMPLING": "windows",
    }


def secured(shell: Shell) -> None:
    """Certificates."""
    certificates = make_certificates(shell.folder)
    shutil.copy(certificates.authority, shell.folder / "clients.pem")


def experimented(shell: Shell) -> None:
    """The demo's folder, the page's file of experiments, logs, and users who have been answered."""
    for part in ("data", "artifacts"):
        shutil.copytree(shell.folder / part, shell.folder / "demo" / part, symlinks=True)
    (shell.folder / "demo" / "store").mkdir()
    shell.run("recgpt history load --data demo/data --store embedded:demo/store/histories")
    page = (ROOT / "docs/experiments.md").read_text(encoding="utf-8")
    file = shell.folder / "experiments.toml"
    file.write_text(re.findall(r"```toml\n(# experiments.toml\n.*?)```", page, re.DOTALL)[0])
    _, events = simulated(500)
    events.write_parquet(shell.folder / "events.parquet")
    pairs = [(user, item) for user in USERS for item in ITEMS[::3]]
    taken = pl.DataFrame(pairs, schema=["user_id", "item_id"], orient="row")
    taken.write_parquet(shell.folder / "held-out.parquet")
    shell.environment["RECGPT_EXPERIMENTS"] = str(file)
    for user in USERS[:40]:
        body = f'{{"user_id": "{user}", "k": 5}}'
        shell.run(f"curl localhost:8000/recall -H 'content-type: application/json' -d '{body}'")
    event = '{"user_id": "101", "item_id": "302", "type": "click", "request_id": "r"}'
    event = f'{{"events": [{event}]}}'
    shell.run(f"curl localhost:8000/events -H 'content-type: application/json' -d '{event}'")


PREPARED: dict[str, Callable[[Shell], None]] = {
    "docs/experiments.md": experimented,
    "docs/operate.md": operated,
    "docs/security.md": secured,
    "docs/your-logs.md": own_logs,
}


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=name_of)
def test_commands_run(page: Path, world: Path, tmp_path: Path, redis_server: RedisServer) -> None:
    commands = list(shell_commands(page.read_text(encoding="utf-8")))
    commands = [command for command in commands if not reason_against(command)]
    if not commands:
        pytest.skip("no command of it can run here: NOT_RUN says why")
    if absent := missing(["bash", "curl", "openssl", "redis-cli"]):
        pytest.skip(f"not on PATH: {absent}")
    redis_server.flush()
    folder = tmp_path / "page"
    shutil.copytree(world, folder, symlinks=True)
    with Shell(folder, redis_server.url) as shell:
        if name_of(page) != "docs/your-logs.md":
            shell.run("recgpt history load --data data --store redis://localhost:6379/0")
        PREPARED.get(name_of(page), lambda shell: None)(shell)
        for command in commands:
            shell.run(command)
        shell.stop()


def test_commands_that_are_not_run_are_in_a_page() -> None:
    commands = [c for page in PAGES for c in shell_commands(page.read_text(encoding="utf-8"))]
    for start in NOT_RUN:
        assert any(command.startswith(start) for command in commands), start
