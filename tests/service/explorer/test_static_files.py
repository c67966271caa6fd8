import hashlib
import re
import tomllib
from pathlib import Path

from service.explorer.static_files import FOLDER, PAGE, static_files

ROOT = Path(__file__).resolve().parents[3]
MAX_BYTES = 250_000


def test_libraries_are_as_their_authors_published_them() -> None:
    listed = (FOLDER / "vendor" / "SHA256SUMS").read_text().split()
    sums = dict(zip(listed[1::2], listed[::2], strict=True))
    libraries = {path.name for path in (FOLDER / "vendor").glob("*.min.*")}
    assert set(sums) == libraries
    for name, checksum in sums.items():
        assert hashlib.sha256((FOLDER / "vendor" / name).read_bytes()).hexdigest() == checksum
        assert name in (FOLDER / "vendor" / "README.md").read_text()
        assert name in (FOLDER / "vendor" / "LICENSES.txt").read_text()


def test_all_of_it_is_small() -> None:
    assert sum(len(file.content) for file in static_files().values()) < MAX_BYTES


def test_the_package_has_every_file() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["service"]
    packed = {path for pattern in patterns for path in (ROOT / "service").glob(pattern)}
    assert {FOLDER / name for name in static_files()} <= packed


def test_the_page_names_only_files_that_are_served() -> None:
    page = static_files()[PAGE].content.decode()
    named = re.findall(r'(?:href|src)="explorer/([^"]+)"', page)
    assert len(named) == 4
    assert set(named) <= set(static_files())
    for name, file in static_files().items():
        if name.endswith(".js") and "/" not in name:
            for imported in re.findall(r'from "\./([^"]+)"', file.content.decode()):
                assert imported in static_files()


def test_our_own_files_name_no_other_host() -> None:
    for name, file in static_files().items():
        if not name.startswith("vendor/"):
            addresses = re.findall(r"https?://[^\s\"'`)]+", file.content.decode())
            assert set(addresses) <= {"http://www.w3.org/2000/svg"}, name
