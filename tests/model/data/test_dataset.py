import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from model.data.dataset import (
    Dataset,
    held_out_users,
    training_view,
)

HISTORIES = {"ann": [0, 1, 2, 0], "bob": [3, 1], "cy": [2], "dee": [1, 2, 3]}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A prepared data set, written by hand: four users, four items, ten events."""
    lengths = [len(history) for history in HISTORIES.values()]
    events = np.concatenate(list(HISTORIES.values())).astype(np.int32)
    np.save(tmp_path / "events.npy", events)
    np.save(tmp_path / "offsets.npy", np.cumsum([0, *lengths]))
    counts = pl.Series(np.bincount(events), dtype=pl.UInt32)
    pl.DataFrame({"item_id": list("pqrs"), "count": counts, "title": ["P", "Q", None, "S"]}).pipe(
        lambda items: items.write_parquet(tmp_path / "items.parquet")
    )
    pl.DataFrame({"user_id": list(HISTORIES)}).write_parquet(tmp_path / "users.parquet")
    about = {"format": 1, "name": "tiny", "users": 4, "items": 4, "events": 10, "report": {}}
    (tmp_path / "dataset.json").write_text(json.dumps(about))
    return tmp_path


def test_load(directory: Path) -> None:
    dataset = Dataset.load(directory)
    assert (dataset.name, dataset.users, dataset.catalogue) == ("tiny", 4, 4)
    assert dataset.item_ids == ["p", "q", "r", "s"]
    assert dataset.user_ids == list(HISTORIES)
    assert dataset.items["title"].to_list() == ["P", "Q", None, "S"]
    assert [dataset.history(u).tolist() for u in range(4)] == list(HISTORIES.values())
    assert dataset.history(0).dtype == np.int32
    assert isinstance(dataset.events, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        dataset.history(0)[0] = 3


def test_first_events(directory: Path) -> None:
    dataset = Dataset.load(directory)
    part = dataset.first_events(np.array([2, 0, 1, 3]))
    assert [part.history(user).tolist() for user in range(4)] == [[0, 1], [], [2], [1, 2, 3]]
    assert part.user_ids == dataset.user_ids
    assert part.catalogue == 4
    assert part.times is None


def with_times(directory: Path, kind: str = "clock") -> np.ndarray:
    """Adds times to a data set; returns them."""
    times = np.arange(10) * 1000 + 5
    np.save(directory / "times.npy", times)
    about = json.loads((directory / "dataset.json").read_text())
    (directory / "dataset.json").write_text(json.dumps(about | {"format": 2, "times": kind}))
    return times


def test_times(directory: Path) -> None:
    times = with_times(directory)
    dataset = Dataset.load(directory)
    assert dataset.clock
    assert dataset.times is not None
    assert dataset.times.tolist() == times.tolist()
    some = dataset.of_users(np.array([1, 3])).first_events(np.array([1, 2]))
    assert some.times is not None
    assert some.times.tolist() == [4005, 7005, 8005]
    with_times(directory, "relative")
    assert not Dataset.load(directory).clock


def test_times_must_fit(directory: Path) -> None:
    with_times(directory)
    np.save(directory / "times.npy", np.arange(9))
    with pytest.raises(ValueError, match=r"times\.npy has 9 rows where dataset\.json says 10"):
        Dataset.load(directory)
    (directory / "times.npy").unlink()
    with pytest.raises(ValueError, match=r"times\.npy is missing"):
        Dataset.load(directory)


def test_no_directory(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"not a prepared data set.*recgpt data prepare"):
        Dataset.load(tmp_path / "none")


@pytest.mark.parametrize("file", ["items.parquet", "users.parquet", "events.npy", "offsets.npy"])
def test_missing_file(directory: Path, file: str) -> None:
    (directory / file).unlink()
    with pytest.raises(ValueError, match=rf"{file} is missing.*recgpt data prepare"):
        Dataset.load(directory)


@pytest.mark.parametrize(
    "file", ["dataset.json", "items.parquet", "users.parquet", "events.npy", "offsets.npy"]
)
@pytest.mark.parametrize("kept", [0, 0.5])
def test_truncated_file(directory: Path, file: str, kept: float) -> None:
    content = (directory / file).read_bytes()
    (directory / file).write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(ValueError, match=rf"{file} is damaged"):
        Dataset.load(directory)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 3}, "not of format 2"),
        ({"name": 7}, "'name' is missing or of a wrong type"),
        ({"items": 5}, r"items\.parquet has 4 rows where dataset\.json says 5"),
        ({"users": 3}, r"users\.parquet has 4 rows where dataset\.json says 3"),
        ({"events": 9}, r"events\.npy has 10 rows where dataset\.json says 9"),
    ],
)
def test_description_that_does_not_fit(
    directory: Path, change: dict[str, object], message: str
) -> None:
    about = json.loads((directory / "dataset.json").read_text())
    (directory / "dataset.json").write_text(json.dumps(about | change))
    with pytest.raises(ValueError, match=message):
        Dataset.load(directory)


@pytest.mark.parametrize(
    ("file", "array", "message"),
    [
        ("events.npy", np.arange(10, dtype=np.int64), "not a flat int32 array"),
        ("events.npy", np.full(10, 4, dtype=np.int32), "not in items.parquet"),
        ("events.npy", np.full(10, -1, dtype=np.int32), "not in items.parquet"),
        ("offsets.npy", np.array([0, 4, 6, 7, 9]), "does not fit events.npy"),
        ("offsets.npy", np.array([0, 6, 4, 7, 10]), "does not fit events.npy"),
    ],
)
def test_arrays_that_do_not_fit(
    directory: Path, file: str, array: np.ndarray, message: str
) -> None:
    np.save(directory / file, array)
    with pytest.raises(ValueError, match=rf"{file}.*{message}"):
        Dataset.load(directory)


def test_tables_that_do_not_fit(directory: Path) -> None:
    pl.DataFrame({"user_id": ["a", "b", "a", "c"]}).write_parquet(directory / "users.parquet")
    with pytest.raises(ValueError, match=r"users\.parquet has missing or repeated ids"):
        Dataset.load(directory)
    pl.DataFrame({"user_id": [1, 2, 3, 4]}).write_parquet(directory / "users.parquet")
    with pytest.raises(ValueError, match=r"users\.parquet has no column 'user_id' of type String"):
        Dataset.load(directory)


def test_arrays_are_never_unpickled(directory: Path) -> None:
    np.save(directory / "events.npy", np.array([{}] * 10, dtype=object))
    with pytest.raises(ValueError, match=r"events\.npy is damaged"):
        Dataset.load(directory)


def test_some_users_alone_keep_their_histories(directory: Path) -> None:
    dataset = Dataset.load(directory)
    part = dataset.of_users(np.array([3, 0]))
    assert part.user_ids == ["dee", "ann"]
    assert [part.history(u).tolist() for u in range(2)] == [HISTORIES["dee"], HISTORIES["ann"]]
    assert part.item_ids == dataset.item_ids
    assert dataset.of_users(np.array([], dtype=np.int64)).users == 0


def test_held_out_users_are_in_no_part_of_training(directory: Path) -> None:
    dataset = Dataset.load(directory)
    held_out = held_out_users(dataset, 0.5, seed=1)
    assert held_out.tolist() == held_out_users(dataset, 0.5, seed=1).tolist()
    assert len(held_out) == 2
    view = training_view(dataset, 0.5, seed=1)
    assert set(view.user_ids) == set(dataset.user_ids) - {dataset.user_ids[u] for u in held_out}
    assert len(view.events) == sum(len(HISTORIES[user]) for user in view.user_ids)
    assert training_view(dataset, 0.0, seed=1) is dataset
    draws = {tuple(held_out_users(dataset, 0.5, seed).tolist()) for seed in range(20)}
    assert len(draws) > 1
