"""Commands that measure: `recgpt evaluate` and its subcommands."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from cli.config import Command, log_above_bars
from model.evaluation.config import ProtocolConfig

if TYPE_CHECKING:
    from service.recall.recaller import Recaller


class Evaluate(Command):
    """Measure an exported bundle on the test split with the service's own recall code.

    example:
      recgpt evaluate --artifacts artifacts --data data --run-dir run
    """

    artifacts: Path = Field(description="folder of the bundles, or one bundle")
    data: Path = Field(description="folder that `recgpt data prepare` wrote")
    run_dir: Path | None = Field(
        None, description="the bundle's run: its pre-trained network is measured as a baseline, too"
    )
    protocol: ProtocolConfig | None = Field(
        None, description="the events to measure with (default: those of the bundle's run)"
    )
    repeats: Literal["never", "allow"] = Field(
        "never", description="whether items of the history are recalled, as in the request"
    )
    offers: Literal["real", "generated"] = Field(
        "real",
        description="offers between interests: real ones first, if the data have some, or "
        "generated ones only, to measure what real ones are worth",
    )
    max_history: int | None = Field(
        None,
        ge=1,
        description="newest items of a history that the network reads, as `recgpt serve "
        "--max-history` has it (default: as many as in training)",
    )
    out: Path | None = Field(None, description="JSON file for the figures")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where the model runs")

    def run(self) -> None:
        """Prints the table. Raises ValueError if the figures differ from the trainer's."""
        from model.artifact.versions import find_bundle
        from model.data.dataset import Dataset, popularity
        from model.evaluation.metrics import check_equal, evaluate_outcomes, format_figures
        from model.evaluation.protocols import splits
        from model.evaluation.reference import popular_recall
        from model.files import check_output, write_json
        from service.offline import of_trained_users, service_recall
        from service.recall.recaller import Recaller

        check_output(self.out)
        with log_above_bars():
            dataset = of_trained_users(Dataset.load(self.data), find_bundle(self.artifacts))
            if self.offers == "generated":
                dataset = dataset.without_offers()
            recaller = Recaller.load(self.artifacts, self.device, max_history=self.max_history)
            protocol = self.protocol or recaller.manifest.protocol
            parts = splits(dataset, protocol)
            counts_V, repeats = popularity(parts.training()), self.repeats == "allow"
            recalls = {"popularity": popular_recall(counts_V, repeats)}
            with tempfile.TemporaryDirectory() as folder:
                if self.run_dir:
                    pretrained = self._pretrained(Path(folder))
                    baseline = service_recall(pretrained, dataset, repeats)
                    recalls["pre-trained, one interest"] = baseline
                recalls["recgpt"] = service_recall(recaller, dataset, repeats)
                outcome = recaller.manifest.recall.outcome
                figures = evaluate_outcomes(recalls, dataset, parts.test, outcome)
        print(format_figures(figures))
        if self.out:
            write_json(self.out, {"version": recaller.version, "figures": figures})
        as_trained = self.repeats == "never" and self.offers == "real" and not self.max_history
        if recaller.manifest.metrics and as_trained and protocol == recaller.manifest.protocol:
            compared = check_equal(figures, recaller.manifest.metrics)
            print(f"equal to the trainer's figures to four decimals: {', '.join(compared)}")

    def _pretrained(self, folder: Path) -> "Recaller":
        """Exports the run's pre-trained network to `folder` and loads it."""
        from model.training.run import ONE_INTEREST, load_run
        from service.offline import export_bundle
        from service.recall.recaller import Recaller

        assert self.run_dir is not None
        config, trained_on, model = load_run(self.run_dir, stage="pretrain")
        recall = ONE_INTEREST.model_copy(update={"outcome": config.recall.outcome})
        exported = export_bundle(folder, trained_on, model, recall, {})
        return Recaller.load(exported, self.device, max_history=self.max_history)


class EvaluateNewUsers(Command):
    """Compare users that a run held out with the same users in a run that trained with them.

    example:
      recgpt train --data data --out run
      recgpt train --data data --out run-held-out --hold-out-users 0.1
      recgpt evaluate new-users --held-out run-held-out --full run
    """

    held_out: Path = Field(description="run that held users out of training")
    full: Path = Field(description="run on the same data that trained with all users")
    out: Path | None = Field(
        None, description="the figures (default: new-users.json in --full, for its report)"
    )

    def run(self) -> None:
        """Prints the comparison and writes its figures."""
        from model.evaluation.metrics import format_figures
        from model.files import check_output, write_json
        from model.reports.new_users import compare_new_users

        out = self.out or self.full / "new-users.json"
        check_output(out)
        with log_above_bars():
            found = compare_new_users(self.held_out, self.full)
        by_history = {f"newest items given: {n}": f for n, f in found["by_history"].items()}
        print(f"{found['cases']:,} test cases of {found['held_out_users']:,} held-out users")
        print(format_figures(found["figures"] | by_history))
        print("new users against the same users with a row of their own, ± standard error:")
        for name, difference in found["difference"].items():
            relative, error = difference["relative"], difference["standard_error"]
            print(f"  {name:<8}{relative:>+8.1%} ± {error:.1%}")
        write_json(out, found)


class EvaluateInterests(Command):
    """Measure what two and more interests recall against one, at the same length of list.

    example:
      recgpt evaluate interests --run-dir run
    """

    run_dir: Path = Field(description="folder that `recgpt train` wrote")
    interests: int = Field(4, ge=1, le=8, description="largest number of interests to measure")
    genres_column: str = Field("genres", description="list column of the items, for diversity")
    out: Path | None = Field(
        None, description="the figures (default: interests.json in the run, for its report)"
    )

    def run(self) -> None:
        """Prints the tables and writes their figures."""
        from model.files import check_output, write_json
        from model.reports.interests import compare_interests, format_interests

        out = self.out or self.run_dir / "interests.json"
        check_output(out)
        with log_above_bars():
            found = compare_interests(self.run_dir, self.interests, self.genres_column)
        print(format_interests(found))
        write_json(out, found)


class EvaluateRuns(Command):
    """Compare two runs on the same data, case by case, with confidence intervals.

    example:
      recgpt evaluate runs --new run-sets --old run --protocol.split next-set --protocol.targets day
    """

    new: Path = Field(description="run that may be better")
    old: Path = Field(description="run on the same data to compare it with")
    protocol: ProtocolConfig | None = Field(
        None, description="the events to measure with (default: those of --new)"
    )
    interests: int | None = Field(
        None, ge=1, le=8, description="interests to generate (default: as many as each run serves)"
    )
    out: Path | None = Field(None, description="JSON file for the figures")

    def run(self) -> None:
        """Prints the table."""
        from model.files import check_output, write_json
        from model.reports.comparison import compare_runs, format_comparison

        check_output(self.out)
        with log_above_bars():
            found = compare_runs(self.new, self.old, self.protocol, self.interests)
        print(format_comparison(found))
        if self.out:
            write_json(self.out, found)


class EvaluateInputs(Command):
    """Measure what a network makes of feedback, users and real offers: it is told otherwise.

    example:
      recgpt evaluate inputs --run-dir run
    """

    run_dir: Path = Field(description="folder that `recgpt train` wrote")
    split: Literal["validation", "test"] = Field(
        "test", description="cases to measure; validation, to choose the guidance of a recall by"
    )
    out: Path | None = Field(None, description="JSON file for the figures")

    def run(self) -> None:
        """Prints the table."""
        from model.files import check_output, write_json
        from model.reports.inputs import measure_inputs
        from model.reports.variants import format_variants

        check_output(self.out)
        with log_above_bars():
            found = measure_inputs(self.run_dir, self.split)
        print(format_variants(found))
        if self.out:
            write_json(self.out, found)


class EvaluateRounds(Command):
    """Measure what feedback brings in a second recall, behind a list that the user was shown.

    The items of the list that the user met later are told to the network with what the user did.

    example:
      recgpt evaluate rounds --run-dir run --protocol.split next-set --protocol.targets 20
    """

    run_dir: Path = Field(description="folder that `recgpt train` wrote")
    protocol: ProtocolConfig | None = Field(
        None,
        description="the events to measure with, several for a case (default: those of the run)",
    )
    shown: int = Field(20, ge=1, le=1000, description="length of the first list")
    out: Path | None = Field(None, description="JSON file for the figures")

    def run(self) -> None:
        """Prints the tables."""
        from model.files import check_output, write_json
        from model.reports.rounds import measure_rounds
        from model.reports.variants import format_variants

        check_output(self.out)
        with log_above_bars():
            found = measure_rounds(self.run_dir, self.protocol, self.shown)
        print(format_variants(found))
        if self.out:
            write_json(self.out, found)
