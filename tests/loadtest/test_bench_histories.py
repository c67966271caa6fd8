"""The benchmark of histories, in small."""

import json
from pathlib import Path

import pytest

from loadtest.serving import bench_histories
from loadtest.serving.bench_engine import Rates


def test_the_table_has_a_ratio_to_the_floor_for_every_length(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {"LENGTHS": (2, 9), "WIDTHS": (8,), "BATCHES": (1, 4), "ITEMS": 200, "GROUPS": 10}
    for name, value in small.items():
        monkeypatch.setattr(bench_histories, name, value)
    monkeypatch.setattr(Rates, "measure", lambda: Rates(1e10, 1e11, 1e10))
    command = ["bench_histories", "--seconds", "0.01", "--k", "5", "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", command)
    bench_histories.main()
    widths = json.loads((tmp_path / "histories.json").read_text())["widths"]
    for length in ("2", "9"):
        for batch in ("1", "4"):
            one = widths["8"][length][batch]
            assert one["over_floor"] == pytest.approx(one["us_per_request"] / one["floor_us"])
    assert widths["8"]["9"]["4"]["floor_us"] > widths["8"]["2"]["4"]["floor_us"]
    assert "| 8 | 9 | " in (tmp_path / "bench.md").read_text()
