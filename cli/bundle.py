"""Commands that make bundles: `recgpt export`, `recgpt items add`."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from cli.config import Command, log_above_bars
from cli.versions import published
from model.artifact.config import AddConfig


class Export(Command):
    """Write a trained run as an immutable bundle with its index, and make it the served version.

    example:
      recgpt export --run-dir run --artifacts artifacts
    """

    run_dir: Path = Field(description="folder that `recgpt train` wrote")
    artifacts: Path = Field(description="folder of the bundles")
    index: Literal["auto", "exact", "ivf"] = Field(
        "auto",
        description="exact search (exact), approximate search of inverted lists (ivf), or the "
        "faster of the two, as measured on this catalogue (auto)",
    )
    index_recall: float = Field(
        0.98, gt=0, le=1, description="share of the exact hits that an approximate index must find"
    )

    def run(self) -> None:
        """Writes the bundle and prints its folder."""
        from model.training.run import load_run, read_figures
        from service.offline import export_bundle

        with log_above_bars():
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
                config.protocol,
            )
        print(published(folder))


class AddItems(Command, AddConfig):
    """Add items that are new since training to the served bundle, without retraining.

    The vector of a new item is the mean of known items' vectors: of those that --items names as its
    `neighbours`, else those beside it in --events, else those with the same attributes or title
    words.

    examples:
      recgpt items add --artifacts artifacts --items new.csv
      recgpt items add --artifacts artifacts --events last-week.parquet
    """

    out: Path | None = Field(None, description="JSON file for the account of all rows")

    def run(self) -> None:
        """Writes the new version and prints an account of all rows."""
        from model.files import check_output, write_json
        from service.offline import add_items

        check_output(self.out)
        with log_above_bars():
            folder, report = add_items(self)
        print(report)
        print(published(folder))
        if self.out:
            write_json(self.out, report)
