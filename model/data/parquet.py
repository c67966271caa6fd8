"""Reads Parquet files by their paths as they stand.

By default polars takes brackets in a path for a pattern, and `name=value` folders for columns.
"""

from pathlib import Path

import polars as pl

UNREADABLE = (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException)
"""The errors that a damaged file may cause: polars' reader of Parquet gives up in several ways."""


def scan(files: Path | list[Path], row_number: str | None = None) -> pl.LazyFrame:
    """Returns the rows of the files, one file after another, to be read when they are needed."""
    return pl.scan_parquet(files, glob=False, hive_partitioning=False, row_index_name=row_number)


def read(file: Path) -> pl.DataFrame:
    """Returns the table in the file. Raises one of UNREADABLE if it can't be read."""
    return pl.read_parquet(file, glob=False, hive_partitioning=False)
