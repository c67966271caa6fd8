"""Checks of the machine: versions, processor, compiled loops, limits, clock and free space."""

import os
import resource
import shutil
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as package_version
from pathlib import Path
from platform import python_version

from index.kernels.code_cache import OFF, VARIABLE, cache_folder
from index.kernels.int8_layout import cpu_has
from service.doctor.findings import Finding, ok, problem, warning

PACKAGES = {
    "recgpt": ("service", "recgpt"),
    "torch": ("torch", "torch"),
    "faiss": ("faiss", "faiss-cpu", "faiss-gpu-cu12"),
    "numba": ("numba", "numba"),
    "redis client": ("redis", "redis"),
}
"""The module of each package, and the names under which it is distributed."""
MIN_OPEN_FILES = 4096
MIN_YEAR, MAX_YEAR = 2025, 2100
LITTLE_SPACE, TOO_LITTLE_SPACE = 1 << 30, 100 << 20
"""Free bytes below which a folder gets a warning, and below which it is a problem."""


def check_machine() -> list[Finding]:
    """Checks everything that needs no option."""
    now = datetime.now(UTC)
    open_files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    checks = [check_processor(), check_cache(), check_open_files(open_files), check_clock(now)]
    return [*check_versions(), *checks]


def check_versions() -> list[Finding]:
    """Imports each package, because an installed one may lack a system library."""
    found = [ok("python", python_version())]
    for name, (module, *distributions) in PACKAGES.items():
        try:
            import_module(module)
            found.append(ok(name, _version(distributions)))
        except Exception as error:  # a package that loads native code can raise anything
            advice = "install the project again: pip install 'recgpt[cpu]' in this environment"
            words = str(error).partition("\n")[0]
            found.append(problem(name, f"it cannot be used ({words}): {advice}"))
    return found


def _version(distributions: Iterable[str]) -> str:
    """Returns the version of the first distribution that is installed, with its name."""
    for name in distributions:
        try:
            return f"{package_version(name)} ({name})"
        except PackageNotFoundError:
            continue
    raise PackageNotFoundError(next(iter(distributions)))


def check_processor() -> Finding:
    """Checks for the instructions that multiply 8-bit integers."""
    cores = len(os.sched_getaffinity(0))
    if cpu_has("avx512vnni"):
        return ok("processor", f"AVX-512 VNNI, {cores} cores for this process")
    if cpu_has("avx2"):
        return ok("processor", f"AVX2 without AVX-512 VNNI, {cores} cores for this process")
    return warning(
        "processor",
        f"neither AVX2 nor AVX-512 VNNI, {cores} cores for this process: searches are several "
        "times slower. Let the virtual machine show the host's processor, or use another machine",
    )


def check_cache() -> Finding:
    """Checks whether compiled loops can be kept, and whether there are any."""
    subject = "compiled loops"
    try:
        folder = cache_folder()
    except ValueError as error:
        return problem(subject, str(error))
    if folder is None:
        if os.environ.get(VARIABLE) == OFF:
            reason = f"{VARIABLE}={OFF}: every start compiles, for up to a minute. Unset it"
        else:
            reason = "the default folder cannot be used, so that every start compiles"
        return warning(subject, f"{reason}, or name a private folder as {VARIABLE}")
    kept = sum(1 for _ in folder.glob("*.nbi")) if folder.is_dir() else 0
    if kept:
        return ok(subject, f"{kept} in {folder}")
    if not os.access(folder, os.W_OK):
        return warning(
            subject,
            f"{folder} holds none and cannot be written: every start compiles, for up to a minute. "
            f"Name another folder as {VARIABLE}",
        )
    return ok(subject, f"none in {folder} yet: the first start compiles, for up to a minute")


def check_open_files(limit: int) -> Finding:
    """Checks the hard limit of open files, to which front ends raise their own."""
    if limit == resource.RLIM_INFINITY:
        return ok("open files", "no limit")
    if limit >= MIN_OPEN_FILES:
        return ok("open files", f"up to {limit:,}")
    return warning(
        "open files",
        f"only up to {limit:,}, and each connection takes one: raise the hard limit to "
        "65,536 (ulimit -Hn, LimitNOFILE= of systemd, --ulimit nofile= of docker)",
    )


def check_clock(now: datetime) -> Finding:
    """Checks that the year is a possible one."""
    if MIN_YEAR <= now.year < MAX_YEAR:
        return ok("clock", f"{now:%Y-%m-%d %H:%M:%S} UTC")
    return problem(
        "clock",
        f"it is {now:%Y-%m-%d} here: set it (timedatectl set-ntp true). Versions of bundles hold "
        "the time, and TLS fails without it",
    )


def check_space(folders: Iterable[Path]) -> list[Finding]:
    """Checks the free space of each folder, or of the first one above it that exists."""
    found = []
    for folder in dict.fromkeys(folders):
        subject = "free space"
        try:
            existing = next(f for f in (folder, *folder.absolute().parents) if f.exists())
            free = shutil.disk_usage(existing).free
        except OSError as error:
            found.append(problem(subject, f"{folder} cannot be reached: {error.strerror}"))
            continue
        text = f"{free / (1 << 30):,.1f} GiB for {folder}"
        if free < TOO_LITTLE_SPACE:
            found.append(problem(subject, f"{text}: nothing can be written soon; free some"))
        elif free < LITTLE_SPACE:
            found.append(warning(subject, f"{text}: an export needs the size of a bundle"))
        else:
            found.append(ok(subject, text))
    return found
