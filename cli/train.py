"""Commands that make a run and show it: `recgpt train`, `recgpt report`."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import CliPositionalArg

from cli.config import Command, log_above_bars
from model.training.config import TrainConfig


class Train(Command, TrainConfig):
    """Train a RecGPT; checkpoints, curves and figures go to --out.

    Prompt-tuning is a second stage, --stages both.

    examples:
      recgpt train --data data --out run
      recgpt train --data data --out run --resume
      recgpt train --data data --out run --model.dim 128 --pretrain.sampling windows
      torchrun --nproc-per-node 2 --no-python recgpt train --data data --out run
    """

    def run(self) -> None:
        """Trains, and prints the test figures; of several processes only the first has them."""
        from model.evaluation.metrics import format_figures
        from model.training.run import train

        with log_above_bars():
            figures = train(self)
        if figures:
            print(format_figures(figures))


class Report(Command):
    """Write a training run as one HTML page: figures, curves, what each interest recalls.

    examples:
      recgpt report run
      recgpt report run --out report.html
    """

    run_dir: CliPositionalArg[Path] = Field(description="folder that `recgpt train` writes")
    out: Path | None = Field(None, description="the page (default: report.html in the run)")

    def run(self) -> None:
        """Writes the page."""
        from model.files import check_output
        from model.reports.report import write_report

        out = self.out or self.run_dir / "report.html"
        check_output(out)
        write_report(self.run_dir, out)
        print(f"{out} is ready: open it in a browser")
