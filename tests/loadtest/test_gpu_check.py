"""The check for a GPU: steps with a time limit, one page, and figures that can be made here."""

import json
import sys
import time
from pathlib import Path

import pytest

from loadtest.gpu import parity, search
from loadtest.gpu.check import STEPS, Step, check

WRITE = """
import json, sys
from pathlib import Path
figures = {"items": 5, "rows": [{"device": sys.argv[sys.argv.index("--device") + 1], "rate": 0.5}]}
Path(sys.argv[sys.argv.index("--out") + 1]).write_text(json.dumps(figures))
"""
FAIL = WRITE + 'raise SystemExit("broken: no such kernel")'
HANG = (
    WRITE
    + """
import subprocess, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("child", child.pid, flush=True)
time.sleep(600)
"""
)


def step(name: str, program: str, limit_s: float = 60) -> Step:
    return Step(name, f"Step {name}", limit_s, ["-c", program], [])


def alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return status != "Z"


def test_steps_that_fail_or_hang_do_not_stop_the_others(tmp_path: Path) -> None:
    steps = [step("a", FAIL), step("b", HANG, limit_s=5), step("c", WRITE)]
    check(steps, dry_run=True, budget_s=60, out=tmp_path)
    report = json.loads((tmp_path / "gpu-check.json").read_text())
    results = report["steps"]
    assert [results[name]["status"] for name in "abc"] == ["failed", "timed out", "passed"]
    assert all(results[name]["figures"]["items"] == 5 for name in "abc")
    child = int((tmp_path / "b.log").read_text().split()[1])
    for _ in range(100):  # the kernel takes a moment
        if not alive(child):
            break
        time.sleep(0.05)
    assert not alive(child)


def test_the_page_says_what_ran_where(tmp_path: Path) -> None:
    check([step("a", FAIL), step("c", WRITE)], dry_run=True, budget_s=60, out=tmp_path)
    page = (tmp_path / "gpu-check.md").read_text()
    assert "This is a dry run on the CPU" in page
    assert "| Step a | cpu | failed |" in page
    assert "| Step c | cpu | passed |" in page
    assert "broken: no such kernel" in page
    assert "| cpu | 0.5 |" in page


def test_no_step_starts_after_the_budget(tmp_path: Path) -> None:
    report = check([step("a", WRITE)], dry_run=True, budget_s=0, out=tmp_path)
    assert report["steps"]["a"]["status"] == "not started"
    assert "| Step a | cpu | not started | 0 |" in (tmp_path / "gpu-check.md").read_text()


def test_the_steps_fit_into_eight_minutes() -> None:
    assert sum(one.limit_s for one in STEPS) <= 480


def test_both_engines_agree_on_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "parity.json"
    small = ["--items", "200", "--width", "16", "--queries", "24"]
    monkeypatch.setattr(sys, "argv", ["parity", "--device", "cpu", *small, "--out", str(out)])
    parity.main()
    rows = json.loads(out.read_text())["rows"]
    assert [row["search"] for row in rows] == ["product", "faiss"]
    for row in rows:
        assert row["same items of the first interest"] == 1
        assert row["share of the items"] > 0.95
        assert row["largest score difference"] < 1e-4


def test_searches_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "search.json"
    small = ["--items", "300", "--lists", "--width", "16", "--batches", "1", "4"]
    words = ["search", "--device", "cpu", *small, "--seconds", "0", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", words)
    search.main()
    rows = json.loads(out.read_text())["rows"]
    assert [(row["search"], row["recall"]) for row in rows] == [("product", 1), ("faiss", 1)]
    assert all(row["ms, batch 4"] > 0 for row in rows)
