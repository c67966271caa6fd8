"""Are items that are added to a bundle recalled? Cuts some out of a data set, adds them, counts.

    python -m loadtest.quality.new_items cut --data data --out cut
    recgpt train --data cut/data --out cut/run
    recgpt export --run-dir cut/run --artifacts cut/artifacts
    recgpt items add --artifacts cut/artifacts --events cut/recent.parquet --in-order
    python -m loadtest.quality.new_items score --cut cut --artifacts cut/artifacts \
        --out cut/score.json

`cut` draws items of medium popularity and takes all their events out of the data. Half of the users
who had such an item are the evidence: their whole histories are the log `recent.parquet`. In the
histories of the other half, every event of such an item is a case, with the events before it as the
history.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from index.build import build_index
from model.artifact.additions import Additions, NewItems, extended_bundle
from model.artifact.bundle import Artifact, load_artifact, read_item_vectors
from model.artifact.manifest import read_manifest
from model.artifact.versions import find_bundle
from model.data.config import PrepareConfig
from model.data.dataset import Dataset
from model.data.prepare import prepare
from model.evaluation.metrics import evaluate, format_figures
from model.evaluation.protocols import splits
from model.files import write_json
from service.offline import service_recall
from service.recall.recaller import Recaller
from service.recall.types import Query

Lists = Callable[[pl.DataFrame, int], list[list[str]]]
"""Takes cases and k; returns k item ids for each case, best first."""


def cut(data: Path, out: Path, items: int, seed: int, fewest: int, most: int) -> None:
    """Writes OUT/data, recent.parquet, cases.parquet (user_id, history, target), items.parquet."""
    dataset = Dataset.load(data)
    rng = np.random.default_rng(seed)
    counts_V = np.bincount(dataset.events, minlength=dataset.catalogue)
    medium = np.flatnonzero((counts_V >= fewest) & (counts_V <= most))
    new = np.sort(rng.choice(medium, items, replace=False))
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
    dataset: Dataset, new_N: NDArray[np.bool_], users: NDArray[np.int64], path: Path
) -> None:
    """Writes every event of these users with a new item that has a known item before it."""
    ids = np.array(dataset.item_ids, dtype=object)
    rows = []
    for user in users.tolist():
        history = ids[dataset.history(user)].tolist()
        new_L = new_N[dataset.offsets[user] : dataset.offsets[user + 1]]
        rows += [
            (dataset.user_ids[user], history[:at], history[at])
            for at in np.flatnonzero(new_L).tolist()
            if not new_L[:at].all()
        ]
    pl.DataFrame(rows, schema=["user_id", "history", "target"], orient="row").write_parquet(path)


def score(cut: Path, artifacts: Path, trained: Path | None) -> dict[str, Any]:
    """Returns recall of the cases' targets, and the test figures of all other items.

    {"cases", "version", "addition": the manifest's report,
     "new": {"added" | "random vectors" | "popularity" | "trained": {"recall@20", …}},
     "known": {"before" | "after" the addition: the figures of `recgpt evaluate`}}
    """
    dataset = Dataset.load(cut / "data")
    folder = find_bundle(artifacts)
    added = Recaller.load(folder)
    if not added.manifest.additions:
        raise ValueError(f"{added.version} has no added items: run `recgpt items add` first")
    base = load_artifact(artifacts / added.manifest.additions[-1]["base"])
    before = Recaller.load(base.folder)
    cases = pl.read_parquet(cut / "cases.parquet")
    new = {
        "added": _recall(_items_of(added), cases),
        "random vectors": _recall(_items_of(_at_random(base, folder, cut)), cases),
        "popularity": _recall(_popular(folder), cases),
    }
    if trained:
        new["trained"] = _recall(_items_of(Recaller.load(trained)), cases)
    split = splits(dataset).test
    return {
        "cases": cases.height,
        "version": added.version,
        "addition": added.manifest.additions[-1],
        "new": new,
        "known": {
            "before": evaluate(service_recall(before, dataset), dataset, split),
            "after": evaluate(service_recall(added, dataset), dataset, split),
        },
    }


def _recall(lists: Lists, cases: pl.DataFrame) -> dict[str, float]:
    """Returns the share of the cases whose target is in a list of k."""
    figures = {}
    for k in (20, 50, 100, 200):
        hits = [
            target in found
            for part in cases.iter_slices(256)
            for target, found in zip(part["target"], lists(part, k), strict=True)
        ]
        figures[f"recall@{k}"] = float(np.mean(hits))
    return figures


def _items_of(recaller: Recaller) -> Lists:
    """Returns the service's answers to unknown users."""

    def lists(cases: pl.DataFrame, k: int) -> list[list[str]]:
        answers, _ = recaller.recall([Query("", history, k=k) for history in cases["history"]])
        return [recaller.ids_of(answer) for answer in answers]

    return lists


def _popular(folder: Path) -> Lists:
    """Returns the most popular items of a bundle; added items count by their events in the log."""
    order = np.argsort(-np.load(folder / "popularity.npy"), kind="stable")
    ids = pl.read_parquet(folder / "items.parquet")["item_id"].gather(order).to_list()

    def lists(cases: pl.DataFrame, k: int) -> list[list[str]]:
        seen = [set(history) for history in cases["history"]]
        return [[item for item in ids[: k + len(s)] if item not in s][:k] for s in seen]

    return lists


def _at_random(base: Artifact, added: Path, scratch: Path) -> Recaller:
    """Returns the bundle `added` with random vectors of the same lengths for the new items."""
    old = base.items.height
    vectors_ND = read_item_vectors(added)[old:]
    drawn_ND = np.random.default_rng(0).normal(size=vectors_ND.shape)
    drawn_ND *= (np.linalg.norm(vectors_ND, axis=1) / np.linalg.norm(drawn_ND, axis=1))[:, None]
    table = pl.read_parquet(added / "items.parquet")[old:]
    report = Additions(**read_manifest(added).additions[-1])
    new = NewItems(table, drawn_ND.astype(np.float32), base.manifest.item_kinds, report)
    with extended_bundle(scratch / "random", base, new) as (folder, version):
        build_index(read_item_vectors(folder), folder)
    return Recaller.load(scratch / "random" / version)


def main() -> None:
    """Runs `cut` or `score`; the top of the file says what they do."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    cutting = commands.add_parser("cut")
    cutting.add_argument("--data", type=Path, required=True, help="prepared data set")
    cutting.add_argument("--out", type=Path, required=True, help="folder for the parts")
    cutting.add_argument("--items", type=int, default=200, help="how many items are new")
    cutting.add_argument("--seed", type=int, default=1, help="of the draw")
    cutting.add_argument("--fewest", type=int, default=10, help="events of a new item, at least")
    cutting.add_argument("--most", type=int, default=50, help="events of a new item, at most")
    scoring = commands.add_parser("score")
    scoring.add_argument("--cut", type=Path, required=True, help="folder that `cut` wrote")
    scoring.add_argument("--artifacts", type=Path, required=True, help="where items were added")
    scoring.add_argument("--trained", type=Path, help="artifacts of a run on the whole data")
    scoring.add_argument("--out", type=Path, help="JSON file for the figures")
    given = parser.parse_args()
    if given.command == "cut":
        cut(given.data, given.out, given.items, given.seed, given.fewest, given.most)
        return
    figures = score(given.cut, given.artifacts, given.trained)
    print(format_figures(figures["new"]))
    print(format_figures(figures["known"]))
    if given.out:
        write_json(given.out, figures)


if __name__ == "__main__":
    main()
