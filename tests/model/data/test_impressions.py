"""Impressions of a log, which become the offers before the next events."""

import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from preparing import histories, run, write

from model.data import prepare as module
from model.data.dataset import Dataset
from model.training.cross_fit import of_half

LOG = """user,item,time,type
a,p,1,impression
a,x,2,click
a,p,3,impression
a,y,3,impression
a,q,4,impression
a,p,4,impression
a,y,5,buy
b,y,6,click
a,gone,7,impression
a,x,8,impression
b,p,9,impression
nobody,x,9,impression
a,p,10,click
b,q,10,click
a,q,11,impression
"""
"""`gone` has no event, and nor has `nobody`."""


def prepared(path: Path, **options: object) -> tuple[module.Report, Dataset]:
    return run(path, action_column="type", offer_action="impression", **options)


def offers(dataset: Dataset) -> dict[str, list[list[str]]]:
    """The offers before each event of each user."""
    assert dataset.offers is not None
    rows_NM = dataset.offers.before(np.arange(len(dataset.events)))
    names = [[dataset.item_ids[row] for row in rows if row >= 0] for rows in rows_NM.tolist()]
    of_users = zip(dataset.user_ids, dataset.offsets[:-1], dataset.offsets[1:], strict=True)
    return {user: names[first:end] for user, first, end in of_users}


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_impressions_become_the_offers_of_the_next_event(tmp_path: Path, suffix: str) -> None:
    log = write(tmp_path / "log.csv", LOG)
    if suffix == "parquet":
        log = tmp_path / "log.parquet"
        pl.read_csv(tmp_path / "log.csv").write_parquet(log)
    report, dataset = prepared(log)
    assert histories(dataset) == {"a": ["x", "y", "p"], "b": ["y", "q"]}
    assert dataset.action_names == ("buy", "click")
    # the newest first, each once, and neither y, which was taken, nor items without an event
    assert offers(dataset) == {"a": [["p"], ["p", "q"], ["x"]], "b": [[], ["p"]]}
    assert (report.usable, report.events) == (15, 5)
    assert report.impressions is not None
    assert (report.impressions.rows, report.impressions.offers) == (10, 5)
    assert report.impressions.left_out == {
        "user or item not in the data set": 2,
        "after the user's last event": 1,
        "taken, the item of the next event": 1,
        "shown again before the next event": 1,
    }
    assert re.search(r"^impressions +10$.*^offers +5$", str(report), re.MULTILINE | re.DOTALL)


def test_rows_in_order_have_their_impressions_in_order(tmp_path: Path) -> None:
    log = write(tmp_path / "log.csv", LOG)
    _, timed = prepared(log)
    _, ordered = prepared(log, in_order=True, overwrite=True)
    assert offers(ordered) == offers(timed)


def test_the_newest_seven_are_offers(tmp_path: Path) -> None:
    rows = ["user,item,time,type", *(f"a,{item},{item},click" for item in range(12))]
    rows += [f"b,{item},{20 + item},impression" for item in range(10)] + ["b,11,40,click"]
    report, dataset = prepared(write(tmp_path / "log.csv", "\n".join(rows)))
    assert offers(dataset)["b"] == [["9", "8", "7", "6", "5", "4", "3"]]
    assert report.impressions is not None
    assert report.impressions.left_out == {"older than the newest 7": 3}


def test_impressions_count_for_no_k_core(tmp_path: Path) -> None:
    shown = "".join(f"c,x,{time},impression\n" for time in range(9))
    log = write(tmp_path / "log.csv", LOG + shown)
    _, dataset = prepared(log, min_user_events=3)
    assert histories(dataset) == {"a": ["x", "y", "p"]}
    assert offers(dataset) == {"a": [["p"], ["p"], ["x"]]}  # q is not in the catalogue


def slow_offers(rows: list[tuple[int, ...]]) -> dict[str, list[list[str]]]:
    """The rule written out, on rows in order of time."""
    catalogue = {item for _, item, _, is_event in rows if is_event}
    found: dict[str, list[list[str]]] = {}
    since: dict[int, list[int]] = {}
    for user, item, _, is_event in rows:
        if is_event:
            met = [one for one in since.pop(user, []) if one != item and one in catalogue]
            newest = list(dict.fromkeys(reversed(met)))[:7]
            found.setdefault(str(user), []).append([str(one) for one in newest])
        else:
            since.setdefault(user, []).append(item)
    return found


def test_any_log_in_passes_of_any_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    rows = np.column_stack([rng.integers(0, 12, (900, 3)), rng.random(900) < 0.2])
    table = pl.DataFrame(rows, schema=["user", "item", "time", "event"], orient="row")
    kinds = pl.when(pl.col("event") == 1).then(pl.lit("click")).otherwise(pl.lit("impression"))
    table.with_columns(type=kinds).write_parquet(tmp_path / "log.parquet")
    expected = slow_offers(sorted(map(tuple, rows.tolist()), key=lambda row: row[2]))  # stable
    for size in (4_000_000, 150, 1):
        monkeypatch.setattr(module, "EVENTS_A_PASS", size)
        _, dataset = prepared(tmp_path / "log.parquet", overwrite=True)
        assert offers(dataset) == expected


def test_a_column_that_tells_impressions_alone(tmp_path: Path) -> None:
    log = write(tmp_path / "log.csv", "user,item,time,shown\na,x,1,\na,y,2,1\na,z,3,\na,y,4,\n")
    _, dataset = run(log, action_column="shown", offer_action="1")
    assert histories(dataset) == {"a": ["x", "z", "y"]}
    assert offers(dataset) == {"a": [[], ["y"], []]}
    assert dataset.actions is None


def test_options_that_do_not_fit(tmp_path: Path) -> None:
    log = write(tmp_path / "log.csv", LOG)
    with pytest.raises(ValueError, match="--offer-action shown: no row has this action"):
        run(log, action_column="type", offer_action="shown")
    only = write(tmp_path / "only.csv", "user,item,time,type\na,x,1,impression\n")
    with pytest.raises(ValueError, match="--offer-action impression: every row has this action"):
        prepared(only)
    with pytest.raises(ValueError, match="--offer-action is a value of --action-column"):
        run(log, offer_action="impression")
    with pytest.raises(ValueError, match="leave out --like-from"):
        run(log, action_column="time", like_from=4, offer_action="impression")
    assert run(log, action_column="type")[1].offers is None


def test_parts_of_a_data_set_keep_their_offers(tmp_path: Path) -> None:
    _, dataset = prepared(write(tmp_path / "log.csv", LOG))
    assert dataset.offers is not None
    assert isinstance(dataset.offers.rows_O, np.memmap)
    assert offers(dataset.of_users(np.array([1, 0]))) == {
        "b": [[], ["p"]],
        "a": [["p"], ["p", "q"], ["x"]],
    }
    assert offers(dataset.first_events(np.array([2, 1]))) == {"a": [["p"], ["p", "q"]], "b": [[]]}
    assert offers(of_half(dataset, np.array([0, 1]), 1)) == {"a": [], "b": [[], ["p"]]}
    nothing = dataset.of_users(np.array([], dtype=np.int64))
    assert nothing.offers is not None
    assert nothing.offers.before(np.array([-1])).tolist() == [[-1] * 7]
    assert dataset.without_offers().offers is None


@pytest.mark.parametrize(
    ("file", "array", "message"),
    [
        ("offers.npy", np.zeros(4, np.int32), "has 4 rows where dataset.json says 5"),
        ("offers.npy", np.zeros(5, np.int64), "not a flat int32 array"),
        ("offers.npy", np.full(5, 4, np.int32), "not in items.parquet"),
        ("offers.npy", np.full(5, -1, np.int32), "not in items.parquet"),
        ("offer_offsets.npy", np.array([0, 1, 3, 4, 4, 4]), "does not fit offers.npy"),
        ("offer_offsets.npy", np.array([0, 3, 1, 4, 4, 5]), "does not fit offers.npy"),
        ("offer_offsets.npy", np.array([0, 1, 3, 4, 5]), "has 5 rows where dataset.json says 6"),
    ],
)
def test_offers_that_do_not_fit(tmp_path: Path, file: str, array: np.ndarray, message: str) -> None:
    prepared(write(tmp_path / "log" / "log.csv", LOG), out=tmp_path / "data")
    np.save(tmp_path / "data" / file, array)
    with pytest.raises(ValueError, match=rf"{file} .*{message}"):
        Dataset.load(tmp_path / "data")
    (tmp_path / "data" / file).unlink()
    with pytest.raises(ValueError, match=rf"{file} is missing"):
        Dataset.load(tmp_path / "data")
