"""`recgpt demo`: MovieLens 100K from the download to the service, in minutes on two cores."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from pydantic import Field

from cli.bundle import Export
from cli.config import Command, log_above_bars
from cli.evaluate import Evaluate
from cli.serve import LoadHistory
from model.data.config import PrepareConfig
from model.network.config import GPTConfig
from model.training.config import PretrainConfig, TrainConfig
from service.settings import ServeSettings


class Demo(Command):
    """Fetch MovieLens 100K, train on it, evaluate, export, load the histories and serve.

    Results of an earlier call in --dir are used again; a call that was stopped is continued.

    examples:
      recgpt demo --dir demo
      recgpt demo --dir demo --no-serve
    """

    dir: Path = Field(Path("demo"), description="folder for all results")
    serve: bool = Field(True, description="serve when all is ready")
    host: str = Field("127.0.0.1", description="address to serve on")
    port: int = Field(8000, ge=1, le=65535, description="port to serve on")
    store: str | None = Field(None, description="store of histories (default: embedded in --dir)")
    experiments: Path | None = Field(None, description="TOML file of experiments on recalls")
    crowd: float | None = Field(
        None,
        gt=0,
        le=1000,
        description="let simulated users visit, with this mean number of recalls a second; needs "
        "--experiments",
    )

    def run(self) -> None:
        """Runs the other commands one after another."""
        if self.crowd and not self.experiments:
            raise ValueError("--crowd takes part in experiments: name a file with --experiments")
        artifacts = self.dir / "artifacts"
        store = self.store or f"embedded:{self.dir / 'store' / 'histories'}"
        self._make(artifacts)
        LoadHistory(data=self.dir / "data", store=store).run()
        if not self.serve:
            print(f"ready: recgpt serve --artifacts {artifacts} --store {store} --explorer")
            return
        from service.server import serve

        address = f"http://{self.host}:{self.port}"
        print(invitation(address), flush=True)
        with crowd(address, self.dir / "data", self.crowd) if self.crowd else nullcontext():
            serve(
                ServeSettings(
                    artifacts=artifacts,
                    store=store,
                    host=self.host,
                    port=self.port,
                    explorer=True,
                    experiments=self.experiments,
                )
            )

    def _make(self, artifacts: Path) -> None:
        """Makes data set, run, bundle and figures, as far as they are not there."""
        from model.data.fetch import fetch_ml_100k
        from model.data.prepare import prepare
        from model.evaluation.metrics import format_figures
        from model.training.run import train

        raw, data, run_dir = self.dir / "raw", self.dir / "data", self.dir / "run"
        table = self.dir / "evaluation.json"
        if not (raw / "ml-100k.item").exists():
            fetch_ml_100k(raw)
        with log_above_bars():
            if not (data / "dataset.json").exists():
                print(prepare(demo_data(raw, data)))
            if not (run_dir / "metrics.json").exists():
                train(demo_training(data, run_dir))
        if not (artifacts / "current").exists():
            Export(run_dir=run_dir, artifacts=artifacts).run()
        if not table.exists():
            Evaluate(artifacts=artifacts, data=data, run_dir=run_dir, out=table).run()
        else:
            print(format_figures(json.loads(table.read_text(encoding="utf-8"))["figures"]))


def demo_data(raw: Path, data: Path) -> PrepareConfig:
    """Returns how MovieLens 100K is prepared."""
    return PrepareConfig(
        input=raw / "ml-100k.inter",
        items=raw / "ml-100k.item",
        genres_column="class",
        item_kinds={"release_year": "number"},
        out=data,
        name="ml-100k",
    )


def demo_training(data: Path, run: Path) -> TrainConfig:
    """Returns how the demo trains: by the defaults, but one network of width 64, and windows.

    Histories of MovieLens are long: a sample of every prefix would take many times as long.
    """
    return TrainConfig(
        data=data,
        out=run,
        resume=True,
        model=GPTConfig.single(64),
        pretrain=PretrainConfig(sampling="windows", batch_size=16, epochs=30),
    )


def invitation(address: str) -> str:
    """Returns where the service will be, and what to try there."""
    body = json.dumps({"user_id": "196", "k": 10, "with_metadata": True})
    return f"""\
The explorer, in a moment: {address}/explorer#user=196&interests=4
  1. Choose a film and send the event "like": the interests move, and new films are marked.
  2. Compare two settings: 4 interests beside 1, or with the filter
     {json.dumps({"all": [{"field": "genres", "in": ["Comedy"]}]})}
  3. Remove films from the history, or add one: only the page changes, not the store.
The API is described at {address}/docs. From a shell:
  curl -s {address}/recall -H 'content-type: application/json' -d '{body}'
"""


@contextmanager
def crowd(address: str, data: Path, rate: float) -> Iterator[None]:
    """Lets simulated users visit the service in the background, `rate` recalls a second."""
    options = ["--url", address, "--events", str(data), "--rate", str(rate), "--endless"]
    command = [sys.executable, "-m", "cli", "experiment", "simulate", *options]
    process = subprocess.Popen(command)
    try:
        yield
    finally:
        process.terminate()
        process.wait()
