"""Machine code on disk: kept, found again, and neither stale nor anybody else's."""

import ast
import errno
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from index.kernels import code_cache
from index.kernels.code_cache import ROOT, SOURCES, LoopCache, cache_folder

INSIDE = """
from index.kernels.jit import inner
STEP = 1
@inner
def step(number):
    return number + STEP
"""
OUTSIDE = """
from index.kernels.jit import compiled
from loops.inside import step
@compiled
def run(number):
    return step(number)
"""
USES_A_LOOP = """
import sys
from pathlib import Path
from index.kernels import code_cache
code_cache.ROOT, code_cache.SOURCES = Path(sys.argv[1]), ("loops",)
sys.path.append(sys.argv[1])
from loops.outside import run
print(run(1), code_cache.LoopCache.compiled)
"""
Process = subprocess.Popen[str]


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A folder `loops` with a loop that calls another file's function."""
    (tmp_path / "loops").mkdir()
    (tmp_path / "loops/inside.py").write_text(INSIDE)
    (tmp_path / "loops/outside.py").write_text(OUTSIDE)
    return tmp_path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder that the variable names. It doesn't exist yet."""
    monkeypatch.setenv("RECGPT_CACHE_DIR", str(tmp_path / "compiled"))
    cache_folder.cache_clear()
    yield tmp_path / "compiled"
    cache_folder.cache_clear()


def start(program: Path, cache: str | None = None) -> Process:
    """A process that calls the loop."""
    return subprocess.Popen(
        [sys.executable, "-c", USES_A_LOOP, str(program)],
        env=os.environ | {"RECGPT_CACHE_DIR": cache or str(program / "compiled")},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def result_of(process: Process) -> tuple[int, int]:
    """Returns the result of the loop, and the number of loops that were compiled for it."""
    printed, complaints = process.communicate(timeout=60)
    assert process.returncode == 0, complaints
    returned, compiled = printed.split()
    return int(returned), int(compiled)


def test_only_the_first_process_compiles(program: Path) -> None:
    assert result_of(start(program)) == (2, 1)
    assert result_of(start(program)) == (2, 0)
    assert result_of(start(program, "off")) == (2, 1)


def test_processes_that_start_together_do_not_disturb_each_other(program: Path) -> None:
    together = [start(program) for _ in range(3)]
    assert {result_of(one)[0] for one in together} == {2}
    assert result_of(start(program)) == (2, 0)


def test_another_files_change_makes_no_stale_code(program: Path) -> None:
    """Neither of a function that became a part of the loop, nor of a constant."""
    assert result_of(start(program)) == (2, 1)
    (program / "loops/inside.py").write_text(INSIDE.replace("STEP = 1", "STEP = 5"))
    assert result_of(start(program)) == (6, 1)
    (program / "loops/inside.py").write_text(INSIDE)
    assert result_of(start(program)) == (2, 0)


@pytest.mark.parametrize("kind", ["nbi", "nbc"])
def test_damaged_files_are_compiled_again(program: Path, kind: str) -> None:
    assert result_of(start(program)) == (2, 1)
    (file,) = program.rglob(f"*.{kind}")
    file.write_bytes(file.read_bytes()[:-9])
    assert result_of(start(program)) == (2, 1)
    assert result_of(start(program)) == (2, 0)


def test_code_of_another_signature_is_compiled_again(
    inside: Path, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Two processes that compile at the same time can give their files the same name."""
    loop = fresh_loop(inside)
    assert [loop(-3), loop(-2.5)] == [3, 2.5]
    first, second = sorted(folder.rglob("*.nbc"))
    second.write_bytes(first.read_bytes())
    loop = fresh_loop(inside)
    assert [loop(-3), loop(-2.5)] == [3, 2.5]
    assert caplog.text.count("another signature") == 1


def fresh_loop(program: Path) -> Callable[[float], float]:
    """The loop, in this process and not compiled yet."""
    spec = importlib.util.spec_from_file_location("one_loop", program / "loops/one.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    loop: Callable[[float], float] = module.run
    return loop


@pytest.fixture
def inside(program: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same for loops of this process."""
    text = OUTSIDE.replace("from loops.inside import step", "step = abs")
    (program / "loops/one.py").write_text(text)
    monkeypatch.setattr(code_cache, "ROOT", program)
    monkeypatch.setattr(code_cache, "SOURCES", ("loops",))
    return program


def test_a_folder_that_cannot_be_written_is_told_once(
    inside: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Loops run all the same: the service may live in a read-only container."""

    def read_only(**_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("numba.core.caching.tempfile.TemporaryFile", read_only)
    monkeypatch.setattr(LoopCache, "kept", True)
    assert [fresh_loop(inside)(-number) for number in (3, 4)] == [3, 4]
    assert not [*folder.rglob("*.nb?")]
    assert caplog.text.count("Read-only file system") == 1


def test_without_a_place_for_a_default_folder_loops_run_all_the_same(
    inside: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder.write_text("no folder can be made below a file")
    monkeypatch.delenv("RECGPT_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    assert fresh_loop(inside)(-3) == 3
    assert caplog.text.count("compiled at every start") == 1


def test_the_folder_is_private(folder: Path) -> None:
    found = cache_folder()
    assert found
    assert found.parent == folder
    for one in (folder, found):
        assert one.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o701])
def test_a_named_folder_that_others_can_enter_is_refused(folder: Path, mode: int) -> None:
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(ValueError, match=f"{folder} has the mode {mode:04o}.*RECGPT_CACHE_DIR=off"):
        cache_folder()


def test_a_named_folder_of_another_user_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.mkdir(mode=0o700)
    monkeypatch.setattr(os, "geteuid", lambda: folder.stat().st_uid + 1)
    with pytest.raises(ValueError, match="belongs to user"):
        cache_folder()


def test_a_default_folder_that_others_can_enter_is_not_used(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("RECGPT_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    (folder / "recgpt").mkdir(parents=True)
    (folder / "recgpt").chmod(0o755)
    assert [cache_folder(), cache_folder()] == [None, None]
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_off_keeps_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECGPT_CACHE_DIR", "off")
    assert cache_folder() is None


def test_another_processor_or_version_is_another_key(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [code_cache._key(), code_cache._key()]
    for name in ("numba.config.CPU_NAME", "numba.config.CPU_FEATURES", "numba.__version__"):
        monkeypatch.setattr(name, "another")
        keys.append(code_cache._key())
    assert keys[0] == keys[1]
    assert len(set(keys)) == 4


def test_the_key_covers_what_compiled_code_is_made_of() -> None:
    """Loops, and the modules whose functions and constants they use, lie in the covered folders."""
    covered = tuple(folder.replace("/", ".") + "." for folder in SOURCES)
    for package in ("index", "model", "service"):
        for file in (ROOT / package).rglob("*.py"):
            tree = ast.parse(file.read_text(encoding="utf-8"))
            uses = [n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module]
            if "index.kernels.jit" not in uses:
                continue
            ours = [name for name in uses if name.split(".")[0] in ("index", "model", "service")]
            here = ".".join(file.relative_to(ROOT).with_suffix("").parts)
            assert not [name for name in (here, *ours) if not name.startswith(covered)], file


def test_old_keys_are_removed_and_the_newest_stay(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    others = [folder / f"key{age}" for age in range(code_cache.KEPT_KEYS + 3)]
    for age, other in enumerate(others):
        other.mkdir()
        os.utime(other, (1e9 - age, 1e9 - age))
    found = cache_folder()
    assert {*folder.iterdir()} == {found, *others[: code_cache.KEPT_KEYS]}
