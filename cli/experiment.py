"""Commands of experiments: `recgpt experiment plan` and `report`, `recgpt events export`."""

from pathlib import Path

from pydantic import AwareDatetime, Field

from cli.config import Command
from service.experiments.config import Experiment
from service.experiments.team_draft import INTERLEAVED


class ExportEvents(Command):
    """Write exposures and events of experiments from the store to Parquet, each entry once.

    It goes on behind the last part in the folder: run it every hour, and again after a crash. An
    embedded store can be read while no service runs.

    example:
      recgpt events export --store redis://localhost:6379/0 --out log
    """

    store: str = Field(description="redis://host:port/db or embedded:PATH")
    out: Path = Field(description="folder of the parts, new or of an earlier export")

    def run(self) -> None:
        """Writes the parts. Raises ValueError if the store cannot be used."""
        import asyncio

        from service.experiments.export import export_log
        from service.history.store import HistoryStore, StoreUnavailable

        async def export() -> dict[str, int]:
            store = HistoryStore.open(self.store, timeout_ms=10_000)
            try:
                return await export_log(store, self.out)
            finally:
                await store.close()

        try:
            written = asyncio.run(export())
        except StoreUnavailable as error:
            raise ValueError(str(error)) from error
        print(", ".join(f"{count:,} {stream}" for stream, count in written.items()), "written")


class ExperimentPlan(Command):
    """Tell how many users, and days, an experiment takes to find a difference.

    Mean and deviation of the metric over users are measured in a log of events, or given.

    examples:
      recgpt experiment plan --events events.parquet --metric click --days 14 --effect 0.03
      recgpt experiment plan --mean 1.8 --deviation 3.1 --effect 0.03 --users-per-day 20000
    """

    events: Path | None = Field(None, description="Parquet file: user_id, type, at, request_id")
    metric: str = Field("click", description="type of the events that are counted")
    days: float = Field(14, gt=0, description="length of the experiment to measure the log for")
    mean: float | None = Field(None, gt=0, description="mean of the metric over users")
    deviation: float | None = Field(None, gt=0, description="its standard deviation")
    effect: float = Field(0.03, gt=0, description="relative difference to be found")
    arms: int = Field(2, ge=2, le=20, description="number of arms, the control included")
    power: float = Field(0.8, gt=0.5, lt=1, description="probability to find the difference")
    alpha: float = Field(0.05, gt=0, lt=0.5, description="probability to find one by chance")
    users_per_day: int | None = Field(
        None, ge=1, description="new users of the experiment a day, to tell how long it takes"
    )

    def run(self) -> None:
        """Prints the size. Raises ValueError if the metric is neither measured nor given."""
        from service.experiments.plan import figures_of, plan
        from service.experiments.totals import read_events

        correlation = 0.0
        if self.events:
            events = read_events(self.events)
            mean, deviation, correlation = figures_of(events, self.metric, self.days)
        elif self.mean and self.deviation:
            mean, deviation = self.mean, self.deviation
        else:
            raise ValueError("give --events, or both --mean and --deviation")
        found = plan(mean, deviation, self.effect, self.arms, self.power, self.alpha, correlation)
        print(
            f"{self.metric}: mean {mean:.4g}, standard deviation {deviation:.4g}, correlation with "
            f"the time before {correlation:.2f}"
        )
        print(
            f"A difference of {self.effect:.1%} is found with a probability of {self.power:.0%} "
            f"among {found.users:,} users, {found.users // self.arms:,} an arm"
        )
        if self.users_per_day:
            print(f"That takes {found.users / self.users_per_day:.1f} days")


class ExperimentSimulate(Command):
    """Let simulated users visit the running service, to try a report before real ones come.

    Users recall and click over HTTP. Their tastes are fitted on held-out events, which no version
    of the experiment was trained on; the click model is described in docs/experiments.md. A data
    set will do where only the traffic matters.

    examples:
      recgpt experiment simulate --events held-out.parquet --users 2000 --lift four=1.3
      recgpt experiment simulate --events demo/data --rate 5 --endless
    """

    url: str = Field(
        "http://127.0.0.1:8000", pattern=r"^https?://", description="address of the service"
    )
    events: Path = Field(
        description="Parquet file, or folder: user_id, item_id; not trained on. Or a data set"
    )
    users: int | None = Field(None, ge=1, description="number of users (default: all)")
    visits: float = Field(3, ge=1, le=1000, description="mean number of recalls of a user")
    k: int = Field(20, ge=1, le=1000, description="items that a recall shows")
    position_bias: float = Field(
        1, ge=0, le=10, description="b: the item at position p is looked at with p^-b"
    )
    lift: dict[str, float] = Field(
        {}, description="planted effects, as in ARM=1.3: the factor of click probabilities"
    )
    seed: int = Field(1, ge=0, lt=2**62, description="seed of all random numbers")
    rate: float | None = Field(
        None, gt=0, description="mean number of recalls a second (default: as many as are answered)"
    )
    endless: bool = Field(
        False, description="let the users come again and again, until the command is stopped"
    )

    def run(self) -> None:
        """Prints recalls and clicks of each arm. Raises ValueError if the service can't be used."""
        from service.experiments.click_model import ClickModel, read_taken
        from service.experiments.simulation import Simulation

        model = ClickModel.fit(read_taken(self.events), self.position_bias)
        users = list(model.user_rows)[: self.users]
        simulation = Simulation(self.url, self.visits, self.k, self.lift, self.seed, self.rate)
        rounds = (
            simulation.endless(model, users) if self.endless else [simulation.run(model, users)]
        )
        for counts in rounds:
            print(f"{len(users):,} users")
            for name in sorted(name for name in counts if name.startswith("recalls")):
                clicks = counts[name.replace("recalls", "clicks", 1)]
                print(f"{counts[name]:,} {name}, {clicks:,} clicks", flush=True)


class ExperimentReportCommand(Command):
    """Compare the arms of an experiment: an HTML page with the verdict, and JSON beside it.

    The metrics are types of events, counted for each user on items that the experiment's recalls
    offered: click, click/exposure (for each recall), watch.value (the sum of values).

    example:
      recgpt experiment report --experiments experiments.toml --name interests \\
        --exposures log/exposures --events log/events --days 14 --out report.html
    """

    experiments: Path = Field(description="TOML file of the experiments")
    name: str = Field(description="name of the experiment")
    exposures: Path = Field(
        description="Parquet file, or folder of parts: experiment, arm, user_id, request_id, at"
    )
    events: Path = Field(
        description="Parquet file, or folder of parts: user_id, type, at, request_id, value"
    )
    out: Path = Field(description="HTML page to write; the JSON gets the same name")
    primary: str = Field("click", description="the metric that decides")
    secondary: list[str] = Field(["click/exposure"], description="metrics that inform")
    guardrails: list[str] = Field([], description="metrics of which more is worse")
    margin: float = Field(0.01, ge=0, description="accepted relative increase of a guardrail")
    alpha: float = Field(0.05, gt=0, lt=0.5, description="probability of a difference by chance")
    since: AwareDatetime | None = Field(
        None,
        description="start of the experiment, as in 2026-03-01T08:00Z (default: its first exposure "
        "in the files)",
    )
    days: float | None = Field(
        None, gt=0, description="planned length; later exposures do not count (default: it is over)"
    )
    sequential: bool = Field(
        False, description="intervals that hold at every look, which are wider"
    )
    within_hours: float = Field(
        24, gt=0, description="an event counts if it came within this time after the recall"
    )

    def run(self) -> None:
        """Writes the page and prints the verdict."""
        from datetime import timedelta

        from model.files import check_output, write_json
        from service.experiments.analysis import Question, analyse
        from service.experiments.config import read_experiments
        from service.experiments.metric import Metric
        from service.experiments.page import write_experiment_page
        from service.experiments.totals import read_events, read_exposures, user_totals

        check_output(self.out)
        experiment = read_experiments(self.experiments).root.get(self.name)
        if not experiment:
            raise ValueError(f"{self.experiments} has no experiment {self.name}")
        if experiment.interleave:
            self._report_interleaving(experiment)
            return
        if self.sequential and not self.days:
            raise ValueError("--sequential needs --days: the intervals are narrowest at that end")
        question = Question(
            experiment=self.name,
            weights={arm: settings.weight for arm, settings in experiment.arms.items()},
            primary=self.primary,
            secondary=tuple(self.secondary),
            guardrails=tuple(self.guardrails),
            margin=self.margin,
            alpha=self.alpha,
            days=self.days,
            sequential=self.sequential,
        )
        names = (self.primary, *self.secondary, *self.guardrails)
        totals = user_totals(
            read_exposures(self.exposures, self.name, experiment.users),
            read_events(self.events),
            [Metric.parse(name) for name in names],
            within=timedelta(hours=self.within_hours),
            since=self.since,
            days=None if self.sequential else self.days,
        )
        report = analyse(question, totals)
        write_experiment_page(report, self.out)
        write_json(self.out.with_suffix(".json"), report)
        for arm in report.arms:
            print(arm.verdict)
        print(f"the report is {self.out}")

    def _report_interleaving(self, experiment: Experiment) -> None:
        """Writes the page of an interleaved experiment and prints the verdict."""
        from datetime import timedelta

        from model.files import write_json
        from service.experiments.interleaving import (
            analyse_interleaving,
            write_interleaving_page,
        )
        from service.experiments.totals import read_events, read_exposures

        if self.sequential or self.guardrails:
            raise ValueError(
                "an interleaved experiment is looked at once, and has no guardrails: omit "
                "--sequential and --guardrails"
            )
        (control, one), (treatment, two) = experiment.arms.items()
        report = analyse_interleaving(
            self.name,
            (control, treatment),
            read_exposures(self.exposures, self.name).filter(arm=INTERLEAVED),
            read_events(self.events),
            self.primary,
            self.alpha,
            timedelta(hours=self.within_hours),
            (one.version, two.version) if one.version and two.version else None,
            self.days,
            self.since,
        )
        write_interleaving_page(report, self.out)
        write_json(self.out.with_suffix(".json"), report)
        print(report.verdict)
        print(f"the report is {self.out}")
