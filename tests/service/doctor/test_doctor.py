"""`recgpt doctor`: a line for each state that it knows, against real files and a real Redis."""

import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import tiny
from redis_server import RedisServer

from cli import main as cli
from index.kernels.code_cache import OFF, VARIABLE, cache_folder
from model.artifact.versions import find_bundle
from service.doctor import machine
from service.doctor.findings import Finding, Level
from service.doctor.folders import check_bundle, check_data

NOBODY = 65534


@pytest.fixture
def bundle(artifacts: Path, tmp_path: Path) -> Path:
    """A copy of the bundle, to be damaged."""
    return shutil.copytree(find_bundle(artifacts), tmp_path / "bundle")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A prepared data set, to be damaged."""
    tiny.walks(tmp_path / "walks")
    return tmp_path / "walks" / "data"


@contextmanager
def as_nobody() -> Iterator[None]:
    """Gives up root's right to read everything, if there is one."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(before)


def doctor(*words: str | Path) -> int:
    try:
        cli.main(["doctor", *map(str, words)])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def unwell(findings: list[Finding]) -> list[tuple[Level, str]]:
    return [(level, subject) for level, subject, _ in findings if level is not Level.OK]


def test_a_healthy_installation_has_no_problem(
    artifacts: Path, data: Path, redis_server: RedisServer, capsys: pytest.CaptureFixture[str]
) -> None:
    redis_server.flush()
    assert doctor("--artifacts", artifacts, "--data", data, "--store", redis_server.url) == 0
    lines = capsys.readouterr().out.splitlines()
    subjects = {line[9:26].strip() for line in lines if line.startswith("ok ")}
    assert subjects >= {"python", "torch", "faiss", "numba", "redis client", "clock", "bundle"}
    assert subjects >= {"index", "data set", "store", "store: events", "store: role"}
    assert subjects >= {"store: eviction", "store: mode", "store: clock"}
    assert lines[-1].startswith("problems: 0")
    assert redis_server.command("DBSIZE") == "0"  # nothing was written


def test_without_options_the_machine_is_checked() -> None:
    words = [sys.executable, "-m", "cli", "doctor"]
    shown = subprocess.run(words, capture_output=True, text=True, check=True)
    assert "processor" in shown.stdout
    assert "store" not in shown.stdout


def test_every_damaged_file_of_a_bundle_is_named(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("popularity.npy", "items.parquet"):
        content = bytearray((bundle / name).read_bytes())
        content[-1] ^= 1
        (bundle / name).write_bytes(content)
    assert doctor("--artifacts", bundle) == 1
    out = capsys.readouterr().out
    problems = [line for line in out.splitlines() if line.startswith("problem  bundle")]
    assert len(problems) == 2
    assert all("checksum" in line and "copy the bundle again" in line for line in problems)


@pytest.mark.parametrize("content", [None, "{", '{"format": 1}'])
def test_a_manifest_that_cannot_be_used_is_a_problem(bundle: Path, content: str | None) -> None:
    (bundle / "manifest.json").unlink()
    if content:
        (bundle / "manifest.json").write_text(content)
    assert unwell(check_bundle(bundle)) == [(Level.PROBLEM, "bundle")]


def test_an_index_of_other_vectors_is_a_problem(bundle: Path) -> None:
    """The index is not what the manifest was sealed with, but its checksum is forged."""
    index = json.loads((bundle / "index.json").read_text()) | {"vectors_sha256": "0" * 64}
    content = json.dumps(index).encode()
    (bundle / "index.json").write_bytes(content)
    manifest = json.loads((bundle / "manifest.json").read_text())
    entry = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    manifest["files"]["index.json"] = entry
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    assert unwell(check_bundle(bundle)) == [(Level.PROBLEM, "index")]


def test_a_bundle_that_this_user_may_not_read_is_a_problem(artifacts: Path) -> None:
    with tempfile.TemporaryDirectory() as above:  # pytest's folders are closed to others
        Path(above).chmod(0o755)
        bundle = shutil.copytree(find_bundle(artifacts), Path(above) / "bundle")
        for path in (bundle / "items.parquet", bundle):
            mode = path.stat().st_mode
            path.chmod(0)
            with as_nobody():
                (found,) = check_bundle(bundle)
            path.chmod(mode)
            assert found.level is Level.PROBLEM
            assert f"{path} (mode 0000" in found.text
            assert "chmod -R a+rX" in found.text


def test_a_bundle_that_others_may_not_read_is_a_warning(bundle: Path) -> None:
    (bundle / "items.parquet").chmod(0o600)
    found = check_bundle(bundle)
    assert unwell(found) == [(Level.WARNING, "bundle: modes")]
    assert "items.parquet (mode 0600" in found[0].text


def test_missing_folders_are_problems(tmp_path: Path) -> None:
    missing = tmp_path / "none"
    assert unwell(check_bundle(missing)) == [(Level.PROBLEM, "bundle")]
    assert unwell(check_data(missing)) == [(Level.PROBLEM, "data set")]
    assert "recgpt export" in check_bundle(tmp_path)[0].text


def test_a_damaged_data_set_is_a_problem(data: Path) -> None:
    assert not unwell(check_data(data))
    np.save(data / "offsets.npy", np.array([0], dtype=np.int64))
    (found,) = check_data(data)
    assert found.level is Level.PROBLEM
    assert "recgpt data prepare" in found.text


def test_a_wrong_password_is_a_problem_and_not_shown(
    redis_server: RedisServer, capsys: pytest.CaptureFixture[str]
) -> None:
    url = redis_server.url.replace("redis://", "redis://someone:very-secret@")
    assert doctor("--store", url) == 1
    shown = capsys.readouterr()
    assert "check user and password" in shown.out
    assert "very-secret" not in shown.out + shown.err


def test_the_cache_of_compiled_loops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def found(value: str) -> Finding:
        monkeypatch.setenv(VARIABLE, value)
        cache_folder.cache_clear()
        return machine.check_cache()

    private, public = tmp_path / "private", tmp_path / "public"
    public.mkdir(mode=0o755)
    try:
        assert found(OFF).level is Level.WARNING
        assert found(str(public)).level is Level.PROBLEM
        assert "first start compiles" in found(str(private)).text
        (key,) = private.iterdir()
        (key / "loop.nbi").touch()
        assert found(str(private)).text == f"1 in {key}"
    finally:
        cache_folder.cache_clear()


def test_limits_of_the_process_and_clock() -> None:
    assert machine.check_open_files(1024).level is Level.WARNING
    assert machine.check_open_files(65_536).level is Level.OK
    assert machine.check_open_files(resource.RLIM_INFINITY).level is Level.OK
    assert machine.check_clock(datetime(1970, 1, 1, tzinfo=UTC)).level is Level.PROBLEM


def test_little_space_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    for free, level in ((1 << 20, Level.PROBLEM), (1 << 29, Level.WARNING), (1 << 40, Level.OK)):
        left = usage._replace(free=free)
        monkeypatch.setattr(shutil, "disk_usage", lambda folder, left=left: left)
        (found,) = machine.check_space([tmp_path / "not" / "yet", tmp_path / "not" / "yet"])
        assert found.level is level


def test_a_package_that_cannot_be_loaded_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert unwell(machine.check_versions()) == [(Level.PROBLEM, "faiss")]
