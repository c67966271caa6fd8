from pathlib import Path

import numpy as np
import pytest

from model.artifact import id_table
from model.artifact.id_table import IdTable, write_ids

NAMES = ["ann", "bob", "", "ünï", "anna", *(f"user-{row}" for row in range(500))]


def test_every_id_has_its_row_and_others_have_none(tmp_path: Path) -> None:
    write_ids(tmp_path, "user", NAMES)
    table = IdTable(tmp_path, "user")
    assert len(table) == len(NAMES)
    assert [table.get(name) for name in NAMES] == list(range(len(NAMES)))
    assert [table.get(name, -7) for name in ("user-500", "an", "user-1 ", "\ud800")] == [-7] * 4


def test_a_sample_has_ids_with_their_rows_and_is_the_same_every_time(tmp_path: Path) -> None:
    write_ids(tmp_path, "user", NAMES)
    table = IdTable(tmp_path, "user")
    for count in (0, 1, 50, len(NAMES), 9999):
        sample = table.sample(count)
        assert len(dict(sample)) == min(count, len(NAMES))
        assert all(NAMES[row] == name for name, row in sample)
        assert sample == table.sample(count)


def test_ids_of_equal_hash_are_not_confused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(id_table, "_hash", lambda encoded: len(encoded) // 4)
    write_ids(tmp_path, "user", NAMES)
    table = IdTable(tmp_path, "user")
    assert [table.get(name) for name in NAMES] == list(range(len(NAMES)))
    assert table.get("user-500") == table.get("zoe") == -1


def test_nobody_and_files_that_do_not_fit(tmp_path: Path) -> None:
    write_ids(tmp_path, "user", [])
    assert IdTable(tmp_path, "user").get("ann") == -1
    np.save(tmp_path / "user_rows.npy", np.arange(3))
    with pytest.raises(ValueError, match="do not fit"):
        IdTable(tmp_path, "user")
