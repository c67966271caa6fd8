"""Do a GPU and the CPU give the same candidates?

    python -m loadtest.gpu.parity --device cuda --out parity.json

The same queries are answered by the CPU's compiled engine and by the GPU's, with either search.
Float16 products and another order of additions may swap items of nearly equal scores, and a swap at
the top changes the next interest. So the first interest's items are compared by themselves.
"""

import argparse
import tempfile
from pathlib import Path
from statistics import fmean as mean
from typing import Any, get_args

import torch

from loadtest.gpu.synthetic import dataset_of, export_untrained
from model.artifact.bundle import load_artifact
from model.artifact.versions import find_bundle
from model.data.dataset import Dataset
from model.files import write_json
from service.recall.gpu.backend import GpuBackend
from service.recall.recaller import Recaller
from service.recall.types import Candidates, Query
from service.settings import GpuSearch


def main() -> None:
    """Writes the figures of each search as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda", help="cpu runs the GPU's code on CPU tensors")
    parser.add_argument("--items", type=int, default=12_000)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--queries", type=int, default=512)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        artifacts = Path(folder) / "artifacts"
        dataset = dataset_of(Path(folder) / "data", options.items, options.queries)
        export_untrained(artifacts, dataset, options.width)
        expected = Recaller.load(artifacts, "cpu").recall(queries_of(dataset))[0]
        rows = []
        for search in get_args(GpuSearch):
            found = compared(artifacts, options.device, search, dataset, expected)
            rows.append({"search": search} | found)
            figures = {"items": options.items, "queries": len(expected), "rows": rows}
            write_json(options.out, figures)


def queries_of(dataset: Dataset) -> list[Query]:
    """Returns a query per user, of three lengths and with up to four interests."""
    return [
        Query(
            user_id,
            [dataset.item_ids[row] for row in dataset.history(user)],
            k=(10, 100, 200)[user % 3],
            interests=1 + user % 4,
        )
        for user, user_id in enumerate(dataset.user_ids)
    ]


def compared(
    artifacts: Path, device: str, search: GpuSearch, dataset: Dataset, expected: list[Candidates]
) -> dict[str, Any]:
    """Returns how far the answers agree, or why that search is not available."""
    artifact = load_artifact(find_bundle(artifacts))
    try:
        backend = GpuBackend(artifact, torch.device(device), search)
    except ValueError as error:
        return {"skipped": str(error)}
    found, _ = Recaller(artifact, backend).recall(queries_of(dataset))
    pairs = list(zip(found, expected, strict=True))
    return {
        "same list": mean(one.rows.tolist() == two.rows.tolist() for one, two in pairs),
        "same items of the first interest": mean(
            set(first(one)) == set(first(two)) for one, two in pairs
        ),
        "share of the items": mean(overlap(one, two) for one, two in pairs),
        "largest score difference": max(score_difference(one, two) for one, two in pairs),
    }


def first(answer: Candidates) -> list[int]:
    """Returns the rows that the first interest recalled."""
    rows: list[int] = answer.rows[answer.interests == 0].tolist()
    return rows


def overlap(one: Candidates, two: Candidates) -> float:
    """Returns the share of the first answer's items that the second one has, too."""
    return len({*one.rows.tolist()} & {*two.rows.tolist()}) / len(one.rows)


def score_difference(one: Candidates, two: Candidates) -> float:
    """Returns the largest difference of the scores of items that the first interest recalled."""
    left, right = (
        dict(zip(first(answer), answer.scores.tolist(), strict=False)) for answer in (one, two)
    )
    return max((abs(left[row] - right[row]) for row in left.keys() & right.keys()), default=0.0)


if __name__ == "__main__":
    main()
