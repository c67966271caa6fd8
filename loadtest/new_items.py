"""Are items that are added to an artifact recalled? Cut some out of a data set, add them, count.

    python loadtest/new_items.py cut --data data --out cut
    recgpt train --data cut/data --out cut/run
    recgpt export --run-dir cut/run --artifacts cut/artifacts
    recgpt items add --artifacts cut/artifacts --events cut/recent.parquet --in-order
    python loadtest/new_items.py score --cut cut --artifacts cut/artifacts --out cut/score.json

`cut` takes all events of items drawn from those of middling popularity out of the data. Half of the
users who had one are the evidence: their whole histories are the log `recent.parquet`. In the other
half's histories, every event of such an item is a case: the events before it are the history.
"""

import argparse
from pathlib import Path

import numpy as np
import polars as pl

from model.data import Dataset
from model.prepare import PrepareConfig, prepare


def cut(data: Path, out: Path, items: int, seed: int, fewest: int, most: int) -> None:
    """Write OUT/data, recent.parquet, cases.parquet (user_id, history, target), items.parquet."""
    dataset = Dataset.load(data)
    rng = np.random.default_rng(seed)
    counts_V = np.bincount(dataset.events, minlength=dataset.catalogue)
    middling = np.flatnonzero((counts_V >= fewest) & (counts_V <= most))
    new = np.sort(rng.choice(middling, items, replace=False))
    witness_U = rng.random(dataset.users) < 0.5
    users_N = np.repeat(np.arange(dataset.users), np.diff(dataset.offsets))
    new_N = np.isin(dataset.events, new)
    touched_U = np.bincount(users_N, weights=new_N, minlength=dataset.users) > 0
    log = pl.DataFrame(
        {
            "user_id": pl.Series(dataset.user_ids).gather(users_N),
            "item_id": pl.Series(dataset.item_ids).gather(np.asarray(dataset.events)),
        }
    )
    out.mkdir(parents=True, exist_ok=True)
    log.filter(pl.Series(~new_N)).write_parquet(out / "log.parquet")
    log.filter(pl.Series((touched_U & witness_U)[users_N])).write_parquet(out / "recent.parquet")
    about = dataset.items.drop("count")
    about[new].write_parquet(out / "items.parquet")
    about.write_parquet(out / "all-items.parquet")
    _write_cases(dataset, new_N, np.flatnonzero(touched_U & ~witness_U), out / "cases.parquet")
    prepare(
        PrepareConfig(
            input=out / "log.parquet",
            in_order=True,
            items=out / "all-items.parquet" if about.width > 1 else None,
            out=out / "data",
            min_user_events=0,
            min_item_events=0,
            name=f"{dataset.name}-cut",
            overwrite=True,
        )
    )


def _write_cases(
    dataset: Dataset,
    new_N: np.ndarray[tuple[int], np.dtype[np.bool_]],
    users: np.ndarray[tuple[int], np.dtype[np.int64]],
    path: Path,
) -> None:
    ids = np.array(dataset.item_ids, dtype=object)
    rows = []
    for user in users.tolist():
        history = ids[dataset.history(user)].tolist()
        new_L = new_N[dataset.offsets[user] : dataset.offsets[user + 1]]
        rows += [
            (dataset.user_ids[user], history[:at], history[at])
            for at in np.flatnonzero(new_L).tolist()
            if not new_L[:at].all()  # something known comes before
        ]
    pl.DataFrame(rows, schema=["user_id", "history", "target"], orient="row").write_parquet(path)


def main() -> None:
    """See the top of the file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    cutting = commands.add_parser("cut")
    cutting.add_argument("--data", type=Path, required=True, help="prepared data set")
    cutting.add_argument("--out", type=Path, required=True, help="folder for what is cut")
    cutting.add_argument("--items", type=int, default=200, help="how many items are new")
    cutting.add_argument("--seed", type=int, default=1, help="of the draw")
    cutting.add_argument("--fewest", type=int, default=10, help="events of a new item, at least")
    cutting.add_argument("--most", type=int, default=50, help="events of a new item, at most")
    given = parser.parse_args()
    if given.command == "cut":
        cut(given.data, given.out, given.items, given.seed, given.fewest, given.most)


if __name__ == "__main__":
    main()
