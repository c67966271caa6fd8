"""Machine code of compiled loops, kept on disk: only the first start of a version compiles.

RECGPT_CACHE_DIR          the folder; else $XDG_CACHE_HOME/recgpt, else ~/.cache/recgpt
└── KEY                   a hash of sources, versions and processor
    ├── LOOP.nbi          numba's index of a loop's signatures
    └── LOOP.1.nbc …      the machine code of each

numba writes pickles, and a pickle runs code when it is read. So does machine code, and so does a
`.pyc` file: a folder that nobody else can write is as trustworthy as the program itself. The folder
must therefore belong to the user and be closed to everybody else (mode 0700).

numba would look for changes in the file of a loop only. But a loop contains the machine code of all
functions that it calls, and the values of constants from other modules. KEY therefore covers every
file of the folders where these live (`SOURCES`). numba writes a file under another name and then
renames it, so processes that start at the same time do not disturb each other.
"""

import hashlib
import logging
import os
import platform
import shutil
import stat
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, cast

import llvmlite
import numba
from llvmlite.binding import get_host_cpu_features, get_host_cpu_name
from numba.core.caching import CompileResultCacheImpl, FunctionCache, NullCache, _CacheLocator
from numba.core.sigutils import normalize_signature

log = logging.getLogger(__name__)

VARIABLE = "RECGPT_CACHE_DIR"
OFF = "off"
ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("index", "model/network", "service/recall")
"""The folders of compiled functions and of all constants that they use, below `ROOT`."""
KEPT_KEYS = 8  # folders of other versions or processors that stay


@cache
def cache_folder() -> Path | None:
    """Returns the folder of this version's machine code; None if nothing is kept on disk.

    Raises ValueError if `RECGPT_CACHE_DIR` names a folder that must not be used. A default folder
    that must not be used is a warning, once: loops are compiled at every start then.
    """
    named = os.environ.get(VARIABLE, "")
    if named == OFF:
        return None
    try:
        root = Path(named) if named else _default_root()
        _make_private(root)
        folder = root / _key()
        if not folder.is_dir() and os.access(root, os.W_OK):
            folder.mkdir(mode=0o700, exist_ok=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: the user has no home
        reason = f"the cache of compiled code cannot be used: {error}"
        advice = f"name another folder as {VARIABLE}, or set {VARIABLE}={OFF}"
        if named:
            raise ValueError(f"{reason}; {advice}") from error
        log.warning("%s; loops are compiled at every start (%s)", reason, advice)
        return None
    _prune(root, folder)
    return folder


def _default_root() -> Path:
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path("~/.cache").expanduser()) / "recgpt"


def _make_private(root: Path) -> None:
    """Creates the folder if it is missing. Raises OSError if others own it or can enter it."""
    root.parent.mkdir(parents=True, exist_ok=True)
    root.mkdir(mode=0o700, exist_ok=True)
    found = root.stat()
    if found.st_uid != os.geteuid():
        raise PermissionError(f"{root} belongs to user {found.st_uid}, not to {os.geteuid()}")
    if found.st_mode & 0o077:
        mode = stat.S_IMODE(found.st_mode)
        raise PermissionError(f"{root} has the mode {mode:04o}, and must have 0700 (chmod 700)")


def _key() -> str:
    """A hash of everything that the machine code depends on."""
    config = cast(Any, numba.config)
    digest = hashlib.sha256()
    for part in (
        numba.__version__,
        llvmlite.__version__,
        sys.version,
        platform.machine(),
        config.CPU_NAME or get_host_cpu_name(),
        config.CPU_FEATURES or get_host_cpu_features().flatten(),
    ):
        digest.update(f"{part}\n".encode())
    for folder in SOURCES:
        for file in sorted((ROOT / folder).rglob("*.py")):
            digest.update(f"{file.relative_to(ROOT)} {file.stat().st_size}\n".encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()[:24]


def _prune(root: Path, used: Path) -> None:
    """Removes the folders of all keys but the `KEPT_KEYS` that were used last."""
    try:
        os.utime(used)
        others = [folder for folder in root.iterdir() if folder.is_dir() and folder != used]
        for old in sorted(others, key=lambda folder: -folder.stat().st_mtime)[KEPT_KEYS:]:
            shutil.rmtree(old, ignore_errors=True)
    except OSError:  # read-only, or another process prunes at the same time
        return


class _Locator(_CacheLocator):
    """Tells numba where a function's code is kept."""

    def __init__(self, function: Callable[..., Any], file: str) -> None:
        self._py_file = file  # numba names it in warnings
        folder = Path(file).resolve().parent.relative_to(ROOT)
        self._name = f"{'.'.join(folder.parts)}-{function.__code__.co_firstlineno}"

    @classmethod
    def from_function(cls, py_func: Callable[..., Any], py_file: str) -> "_Locator":
        return cls(py_func, py_file)

    def get_cache_path(self) -> str:
        return str(cache_folder())

    def get_source_stamp(self) -> str:
        return ""  # the folder's name is the stamp of all sources

    def get_disambiguator(self) -> str:
        return self._name


class _Files(CompileResultCacheImpl):
    """A compiled function as numba writes it, in our folder."""

    _locator_classes = [_Locator]  # noqa: RUF012 — numba's declaration


class _OnDisk(FunctionCache):
    """numba's cache of one function, in our folder."""

    _impl_class = _Files


class LoopCache(NullCache):
    """The cache of one function: numba asks it for machine code, and hands over what it compiled.

    A cache that cannot be read or written costs time, never an answer. The folder is looked for
    when the first loop is called, so that importing a module reads nothing.
    """

    compiled = 0  # functions that this process has compiled, each for one type of arguments
    seconds = 0.0  # that this took
    kept = True  # whether what is compiled can be written to disk

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._disk: Any = None
        self._started = 0.0

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Returns the machine code for a signature; None if it has to be compiled."""
        found = self._read(sig, target_context)
        if found is None:
            self._started = time.perf_counter()
            if not LoopCache.compiled:
                log.info("compiling loops for this processor, which takes up to a minute")
        return found

    def _read(self, sig: Any, target_context: Any) -> Any:
        """Returns what is on disk for a signature, if it is of use.

        numba numbers the files of a function's signatures. Two processes that compile different
        signatures at the same time can take the same number, so the signature is compared.
        """
        if not cache_folder() or not self._is_covered():
            return None
        self._disk = self._disk or cast(Any, _OnDisk)(self._function)
        try:
            found = self._disk.load_overload(sig, target_context)
            if found is None or found.signature.args == cast(Any, normalize_signature)(sig)[0]:
                return found
            problem = "it is of another signature"
        except Exception as error:  # unpickling a damaged file can raise anything
            problem = repr(error)
        log.warning("the cache of %s is not used: %s", self._name, problem)
        self._keep(self._disk.flush)
        return None

    def save_overload(self, sig: Any, cres: Any) -> None:
        """Keeps what was compiled."""
        seconds = time.perf_counter() - self._started
        LoopCache.compiled += 1
        LoopCache.seconds += seconds
        log.info("compiled loop %d: %s, %.1f s", LoopCache.compiled, self._name, seconds)
        if self._disk:
            self._keep(self._disk.save_overload, sig, cres)

    @staticmethod
    def _keep(write: Callable[..., object], *values: object) -> None:
        """Writes to disk unless that failed before."""
        try:
            if LoopCache.kept:
                write(*values)
        except OSError as error:  # read-only, full, or pruned by another process
            LoopCache.kept = False
            log.warning("compiled code is not kept, the next start compiles again: %s", error)

    @property
    def _name(self) -> str:
        return f"{self._function.__module__}.{self._function.__qualname__}"

    def _is_covered(self) -> bool:
        """Tells whether the key covers the function; tests and benchmarks have loops, too."""
        file = Path(self._function.__code__.co_filename).resolve()
        return any(file.is_relative_to(ROOT / folder) for folder in SOURCES)


def log_compiled() -> None:
    """Says how long compiling took, if there was any."""
    if LoopCache.compiled:
        log.info("compiled %d loops in %.1f s", LoopCache.compiled, LoopCache.seconds)
