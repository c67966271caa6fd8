"""Trials of an index: exact hits in parts, and those of a number of lists."""

from pathlib import Path

import numpy as np
import pytest

from index.build import build_index, vectors_sha256
from index.formats import Kind
from index.search import load_index
from service.recall import index_trials
from service.recall.index_trials import IndexTrials
from service.recall.trials import MAX_SCANNED, Trial, best_of, share_found, trial_depths

VECTORS = np.random.default_rng(2).normal(size=(3000, 8)).astype(np.float32)
SAMPLE = np.random.default_rng(1).normal(size=(5, 8)).astype(np.float32)
HITS = 20


def trials(kind: Kind, folder: Path, sample: bool = True) -> IndexTrials:
    build_index(VECTORS, folder, kind, target=0.5, queries_BD=SAMPLE if sample else None)
    return IndexTrials(load_index(folder, VECTORS, vectors_sha256(VECTORS)), VECTORS, folder)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_trials, "PART_ITEMS", 1100)


def exact_rows(found: IndexTrials, interest: int) -> list[int]:
    parts = [found.make(Trial(interest, HITS, None, begin)) for begin in range(0, 3000, 1100)]
    rows: list[int] = best_of(parts, HITS).tolist()
    return rows


@pytest.mark.parametrize("kind", ["exact", "ivf"])
def test_parts_of_the_exact_search_give_the_exact_hits(kind: Kind, tmp_path: Path) -> None:
    found = trials(kind, tmp_path)
    for interest, query in enumerate(SAMPLE):
        assert exact_rows(found, interest) == np.argsort(-(VECTORS @ query))[:HITS].tolist()
    assert exact_rows(found, len(SAMPLE)) == exact_rows(found, 0)  # the sample begins again


def test_an_exact_index_has_one_depth_which_finds_all(tmp_path: Path) -> None:
    found = trials("exact", tmp_path)
    about = found.make(Trial(0, HITS, None))
    assert (about.kind, about.items, about.lists, about.sample) == ("exact", 3000, 0, 5)
    assert trial_depths(about) == [0]
    assert share_found(found.make(Trial(0, HITS, 0)), best_of([about], HITS)) < 1  # of one part
    exact = np.array(exact_rows(found, 0), np.int32)
    assert share_found(found.make(Trial(0, HITS, 0)), exact) == 1


def test_more_lists_find_more(tmp_path: Path) -> None:
    found = trials("ivf", tmp_path)
    about = found.make(Trial(0, HITS, None))
    depths = trial_depths(about)
    assert about.kind == "ivf"
    assert depths == sorted(set(depths))
    assert {1, 2, about.served_lists, about.lists} <= set(depths)
    exact = np.array(exact_rows(found, 0), np.int32)
    shares = [share_found(found.make(Trial(0, HITS, lists)), exact) for lists in depths]
    assert shares[0] < shares[-1] == 1
    served = found.make(Trial(0, HITS, 0))  # as a recall does
    of_lists = found.make(Trial(0, HITS, about.served_lists))
    assert served.rows == of_lists.rows


def test_a_trial_of_a_large_catalogue_searches_a_bounded_part_of_it(tmp_path: Path) -> None:
    about = trials("ivf", tmp_path).make(Trial(0, HITS, None))
    large = about._replace(items=100 * MAX_SCANNED, lists=32_768, served_lists=500)
    assert max(trial_depths(large)) == 500
    assert max(trial_depths(large._replace(served_lists=20))) == 327


def test_without_a_sample_nothing_is_searched(tmp_path: Path) -> None:
    about = trials("exact", tmp_path, sample=False).make(Trial(0, HITS, None))
    assert (about.sample, about.rows, about.seconds) == (0, b"", 0.0)
