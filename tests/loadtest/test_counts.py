"""The record of long runs of fuzzers and kills."""

import json
import sys
from pathlib import Path

import pytest

from loadtest.reliability import counts, crash


def run(monkeypatch: pytest.MonkeyPatch, folder: Path, *words: str) -> str:
    monkeypatch.setattr(sys, "argv", ["counts", "--out", str(folder), *words])
    counts.main()
    return (folder / "reliability.md").read_text()


def test_a_fuzzer_says_how_many_cases_it_has_tried() -> None:
    found = counts.fuzz(counts.FUZZERS["logs"], examples=2)
    assert found["cases"] == 12


def test_a_fuzzer_that_finds_something_is_not_recorded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "test_broken.py"
    broken.write_text("def test_broken():\n    assert False\n")
    fuzzer = counts.FUZZERS["logs"]._replace(file=str(broken))
    monkeypatch.setitem(counts.FUZZERS, "logs", fuzzer)
    with pytest.raises(SystemExit):
        run(monkeypatch, tmp_path, "logs")
    assert not (tmp_path / "counts.json").exists()


def test_parts_are_added_to_those_of_earlier_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(crash, "prepare", lambda folder, chance: None)
    for part in ("export", "service"):
        monkeypatch.setitem(
            crash.PARTS, part, lambda folder, chance, times, name=part: f"no {name}"
        )
    page = run(monkeypatch, tmp_path, "export", "--times", "30")
    assert "| `kill -9`, export | 30 | ≥ 50 of 3 kinds: **missed** | no export |" in page
    page = run(monkeypatch, tmp_path, "service", "--times", "20")
    assert "| `kill -9`, export | 30 | ≥ 50 of 3 kinds | no export |" in page
    assert "| `kill -9`, service | 20 | ≥ 50 of 3 kinds | no service |" in page
    assert json.loads((tmp_path / "counts.json").read_text())["export"]["cases"] == 30
    assert run(monkeypatch, tmp_path) == page


def test_an_unknown_part_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run(monkeypatch, tmp_path, "sleep")
    assert "no part is named sleep" in capsys.readouterr().err
