"""Damaged logs: each is prepared, or refused in words that name the file or what to do."""

import random
import shutil
from pathlib import Path

import polars as pl
import pytest
from mutations import EXAMPLES, MUTATIONS, Mutation, Record
from preparing import run, write

ROWS = [(f"u{i % 7}", f"item {i % 5}", 1_700_000_000 + i, 1 + i % 5) for i in range(60)]
NAMES = ["user_id", "item_id", "timestamp", "rating"]


def sources(folder: Path) -> dict[str, bytes]:
    """A sound log in each format."""
    frame = pl.DataFrame(ROWS, NAMES, orient="row")
    frame.write_csv(folder / "log.csv", quote_style="always")
    frame.write_csv(folder / "log.tsv", separator="\t")
    frame.write_parquet(folder / "log.parquet")
    frame.write_ndjson(folder / "log.jsonl")
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


@pytest.mark.parametrize("mutate", MUTATIONS)
def test_a_damaged_log_is_prepared_or_refused(
    tmp_path: Path, mutate: Mutation, record_property: Record
) -> None:
    record_property("cases", EXAMPLES)
    chance = random.Random(mutate.__name__)
    (tmp_path / "sound").mkdir()
    sound = sources(tmp_path / "sound")
    prepared = 0
    for number in range(EXAMPLES):
        name = chance.choice(sorted(sound))
        data = sound[name]
        for _ in range(chance.randrange(1, 4)):
            data = mutate(chance, data or b"x")
        source = write(tmp_path / str(number) / name, data)
        try:
            report, dataset = run(source)
        except ValueError:
            pass
        else:
            prepared += 1
            assert len(dataset.events) <= len(ROWS) + 100, data
            assert report.malformed or len(dataset.events), data
        shutil.rmtree(source.parent)
        shutil.rmtree(tmp_path / f"{number}-out", ignore_errors=True)
    assert prepared or mutate.__name__ not in ("flip", "extend")
